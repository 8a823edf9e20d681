"""The seam towards the meeting rules: wanted state is asked for, facts are told."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol


class RoomPolicy(Protocol):
    """Asked whenever anything changes; must answer at once and without side effects."""

    def governs(self, room: str) -> bool:
        """False: a plain LiveKit room, its clients decide."""

    def admits(self, room: str, identity: str) -> str | None:
        """The reason of a refusal, None = welcome."""

    def wants(self, room: str, viewer: str, publisher: str, source: str) -> bool:
        """May ``viewer`` receive this track now?"""

    def unasked(self, room: str, viewer: str, publisher: str, source: str) -> bool:
        """Does it receive a wanted track without having subscribed to it?"""

    def priority(self, room: str, viewer: str, publisher: str, source: str) -> int:
        """Who comes first when the viewer's line can't carry all pictures; 0: its size decides (see
        ``evaluation.TILE``).  Pure."""

    def audience(self, room: str, viewer: str) -> Hashable:
        """Viewers with an equal value get equal answers about every publisher that is neither of them."""

    def silenced(self, room: str, publisher: str, source: str) -> bool:
        """The producer is paused in the relay and shown as muted."""

    def tap(self, room: str, publisher: str, source: str) -> str | None:
        """The dump that this track is wanted in now, or None."""


class RoomObserver(Protocol):
    """Told synchronously, from the event loop; must not block."""

    def participant_joined(self, room: str, identity: str) -> None: ...
    def participant_left(self, room: str, identity: str, reason: str) -> None: ...
    def track_published(self, room: str, identity: str, source: str, track_sid: str, mime: str) -> None: ...
    def track_unpublished(self, room: str, identity: str, source: str, track_sid: str) -> None: ...
    def local_mute(self, room: str, identity: str, source: str, muted: bool) -> None: ...
    def levels(self, room: str, levels: Mapping[str, float]) -> None:
        """dBov by identity."""

    def quality(self, room: str, quality: Mapping[str, Mapping[str, object]]) -> None:
        """Once a second by identity: ``reports.facts``."""

    def tap_started(
        self, room: str, identity: str, source: str, track_sid: str, path: str, mime: str
    ) -> None: ...
    def tap_stopped(self, room: str, identity: str, source: str, track_sid: str, path: str) -> None: ...
