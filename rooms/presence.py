"""Which venues have a page open, in a meeting or in standby.  Lives in memory: a page that is there says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


class Presence:
    """``on_change`` is called with the venue whenever its line in a view may differ."""

    def __init__(self) -> None:
        self._pages: Counter[str] = Counter()
        self._devices: dict[str, dict[str, bool]] = {}
        self.on_change: list[Callable[[str], None]] = []

    def online(self, venue: str) -> bool:
        return self._pages[venue] > 0

    def devices(self, venue: str) -> dict[str, bool] | None:
        """What the page found before the meeting: {"camera": …, "microphone": …}; None when it has not said."""
        return self._devices.get(venue)

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
