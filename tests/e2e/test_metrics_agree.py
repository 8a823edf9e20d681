"""The IT desk's numbers are what the browsers sent and received."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.province import STAGE, Province
from tests.fixtures.studio import HEFEI, HUAIBEI

pytestmark = [pytest.mark.timeout(240)]


def total(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items())
    )


async def test_metrics_agree_with_the_browsers(server: Any, seats: Any, record_property: Any) -> None:
    province = Province(server, seats)
    console = await province.open_console("指标")
    await province.open_venue(HEFEI)
    huaibei = await province.open_venue(HUAIBEI)
    await province.call_all()
    await province.press(HEFEI, "broadcast")
    await huaibei.shows(HEFEI, STAGE)
    await console.hears(HUAIBEI)

    everyone = [console, *province.venues.values()]

    async def seen_by_browsers() -> dict[str, float]:
        sums: dict[str, float] = {}
        for traffic in await asyncio.gather(*(s.page.evaluate("__senses.traffic()") for s in everyone)):
            for key, value in traffic.items():
                sums[key] = sums.get(key, 0) + value
        return sums

    async def seen_by_server() -> dict[str, float]:
        text = await (await console.context.request.get(f"{server.url}/metrics")).text()
        return {
            "packetsSent": total(text, "lianxin_rtp_packets_total", direction="in"),
            "bytesSent": total(text, "lianxin_rtp_bytes_total", direction="in"),
            "packetsReceived": total(text, "lianxin_rtp_packets_total", direction="out"),
            "bytesReceived": total(text, "lianxin_rtp_bytes_total", direction="out"),
        }

    # Some seconds of real traffic; then every sender falls silent, so that both sides' counts stand still.
    await asyncio.sleep(15)
    for seat in everyone:
        await seat.page.evaluate(
            """async () => {
                 for (const pc of __senses.connections)
                   for (const sender of pc.getSenders()) if (sender.track) await sender.replaceTrack(null);
               }"""
        )

    async def both_stand_still() -> tuple[dict[str, float], dict[str, float]]:
        before = None
        for _ in range(30):
            seen = (await seen_by_browsers(), await seen_by_server())
            if seen == before:
                return seen
            before = seen
            await asyncio.sleep(1.5)  # the workers report once a second
        raise AssertionError(f"traffic goes on: {before}")

    browsers, counted = await both_stand_still()
    for key in ("packetsSent", "bytesSent", "packetsReceived", "bytesReceived"):
        record_property(f"{key}_ratio", counted[key] / browsers[key])
        assert browsers[key] > 1000
        assert abs(counted[key] / browsers[key] - 1) < 0.02, (key, browsers, counted)

    text = await (await console.context.request.get(f"{server.url}/metrics")).text()
    checked = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=text,
        text=True,
        capture_output=True,
        timeout=30,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert total(text, "lianxin_participants") == 3
    assert total(text, "lianxin_ws_clients") == 3
