"""Which venues have a page open, in a meeting or in standby, and who sits at a main venue.  Not stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from rooms.model import Room


class Presence:
    """``on_change`` is called with the venue whenever its line in a view may differ."""

    def __init__(self) -> None:
        self._pages: Counter[str] = Counter()
        self._devices: dict[str, dict[str, bool]] = {}
        self._sitting: dict[str, str] = {}  # meeting → user at its main venue
        self.on_change: list[Callable[[str], None]] = []

    def online(self, venue: str) -> bool:
        return self._pages[venue] > 0

    def devices(self, venue: str) -> dict[str, bool] | None:
        """What the page found: {"camera": …, "microphone": …}; None while it has not said."""
        return self._devices.get(venue)

    def sits(self, meeting_id: str, user_id: str) -> None:
        """This user's page takes the main venue's seat."""
        self._sitting[meeting_id] = user_id

    def may_sit(self, room: Room, user_id: str) -> bool:
        """The main venue's seat is free, or the same user's older page has it (a reload takes it over)."""
        taken = room.seats[room.main_venue].connected
        return not taken or self._sitting.get(room.meeting_id) == user_id

    def forget(self, meeting_id: str) -> None:
        self._sitting.pop(meeting_id, None)

    def came(self, venue: str) -> None:
        self._pages[venue] += 1
        if self._pages[venue] == 1:
            self._tell(venue)

    def went(self, venue: str) -> None:
        self._pages[venue] -= 1
        if self._pages[venue] <= 0:
            del self._pages[venue]
            self._devices.pop(venue, None)
            self._tell(venue)

    def profile(self, venue: str, devices: dict[str, bool]) -> None:
        if self._devices.get(venue) != devices:
            self._devices[venue] = devices
            self._tell(venue)

    def _tell(self, venue: str) -> None:
        for listener in self.on_change:
            listener(venue)
