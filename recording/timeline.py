"""The notes of a recording, in the order of writing: one JSON object a line, the last possibly torn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMELINE = "timeline.jsonl"


@dataclass(slots=True)
class Timeline:
    """Times in ms since the epoch.  ``stages``: (when, venue or None for the loudest), sorted."""

    title: str = ""
    started_ms: float | None = None
    stopped_ms: float | None = None
    main_venue: str | None = None
    stages: list[tuple[float, str | None]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    last_ms: float = 0.0

    def name(self, venue_id: str) -> str:
        return self.names.get(venue_id, venue_id)


def read_timeline(directory: Path) -> Timeline:
    """What can't be understood is passed over: a recording must not be lost for a torn line."""
    timeline = Timeline()
    try:
        text = (directory / TIMELINE).read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return timeline
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            _apply(timeline, event)
    timeline.stages.sort(key=lambda entry: entry[0])
    return timeline


def _apply(timeline: Timeline, event: dict[str, Any]) -> None:
    at = event.get("at")
    at_ms = float(at) if isinstance(at, int | float) and 0 <= at < 1e15 else timeline.last_ms
    timeline.last_ms = max(timeline.last_ms, at_ms)
    venue = event.get("venue")
    match event.get("type"):
        case "started":
            timeline.started_ms = at_ms if timeline.started_ms is None else timeline.started_ms
            timeline.title = str(event.get("title", ""))
        case "stopped":
            timeline.stopped_ms = at_ms
        case "resumed":
            timeline.stopped_ms = None
        case "stage" if venue is None or isinstance(venue, str):
            timeline.stages.append((at_ms, venue))
        case "main" if isinstance(venue, str):
            timeline.main_venue = venue
        case "names" if isinstance(event.get("names"), dict):
            timeline.names.update({str(key): str(value) for key, value in event["names"].items()})
        case "name" if isinstance(venue, str):
            timeline.names[venue] = str(event.get("name", venue))
        case _:
            name = event.get("name")
            if isinstance(venue, str) and isinstance(name, str):
                timeline.names.setdefault(venue, name)
