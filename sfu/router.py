"""A Router: one room's forwarding table in one worker."""

from __future__ import annotations

from sfu.messages import Level, Levels
from sfu.producer import Producer


class Router:
    """Knows the legs and producers of its room; they close with it."""

    def __init__(self, router_id: str) -> None:
        self.router_id = router_id
        self.legs: set[str] = set()
        self.producers: dict[str, Producer] = {}
        self.fallen_silent: list[Level] = []  # of producers that were closed while audible

    def measure(self) -> Levels | None:
        """Every 300 ms; None when there is nothing to say."""
        levels = [level for producer in self.producers.values() if (level := _measure(producer))]
        levels += self.fallen_silent
        self.fallen_silent = []
        if not levels:
            return None
        levels.sort(key=lambda level: -level.dbov)
        return Levels(self.router_id, tuple(levels))


def _measure(producer: Producer) -> Level | None:
    return producer.measure() if producer.kind == "audio" else None
