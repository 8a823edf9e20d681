"""What the LiveKit edge asks of the media plane; ``sfu.node.MediaNode`` provides it, tests a double of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sfu.messages import Event, Reply, Report, Request


class Node(Protocol):
    on_event: list[Callable[[str, Event], None]]
    on_worker_lost: list[Callable[[str], None]]

    @property
    def worker_ids(self) -> Sequence[str]: ...

    @property
    def reports(self) -> Mapping[str, Report]: ...

    def place(self) -> str:
        """The worker for a new room."""

    async def request(self, worker_id: str, msg: Request, timeout_s: float = 5) -> Reply:
        """Raises SfuError or WorkerLost."""

    def post(self, worker_id: str, msg: Request) -> None:
        """No answer wanted, never raises."""
