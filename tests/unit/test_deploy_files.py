"""What lies in deploy/ agrees with the program."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

from prometheus_client import generate_latest

import signaling.http
from core import counters
from signaling.metrics import FAMILIES

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
ELSEWHERE = {  # from collectors that live with the application
    "lianxin_meetings",
    "lianxin_participants",
    "lianxin_rooms",
    "lianxin_start_time_seconds",
    "lianxin_control_cpu_seconds_total",
    "lianxin_control_memory_bytes",
    "lianxin_worker_up",
    "lianxin_worker_restarts_total",
    "lianxin_recordings",
    "lianxin_recording_seconds_total",
}


def test_dashboard_and_rules_ask_for_metrics_that_exist() -> None:
    assert signaling.http.REQUEST_SECONDS is not None
    shown = re.findall(r"^# TYPE (\w+)", generate_latest(counters.REGISTRY).decode(), re.MULTILINE)
    known = {*shown, *(name for name, _ in FAMILIES.values()), *ELSEWHERE}
    for file in ("grafana/lianxin.json", "prometheus/rules.yml"):
        asked = set(re.findall(r"\blianxin_\w+", (DEPLOY / file).read_text("utf-8")))
        bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
        assert bare - known == set(), file
        assert len(bare) > 4


def test_the_dashboard_is_importable() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "lianxin.json").read_text("utf-8"))
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["targets"] and panel["title"] for panel in dashboard["panels"])
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in dashboard["panels"])


def test_the_unit_is_confined() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "lianxin.service", "utf-8")
    service = unit["Service"]
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert "lianxin serve" in service["ExecStart"]
