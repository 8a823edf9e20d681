"""Asking a publisher for key frames: throttled per source, never forgotten."""

from __future__ import annotations

INTERVAL_MS = 300.0  # bounds how long a newcomer waits, and how often everybody's picture grows
RETRY_MS = 800.0
MAX_RETRY_MS = 4000.0
TRANSIT_MS = 80.0  # a key frame's own length
MAX_TRANSIT_MS = 600.0


class KeyFrameRequests:
    """One feed's wish for a key frame.  ``due`` tells when a PLI (RFC 4585 §6.3.1) is to be sent."""

    __slots__ = ("_retry_ms", "asked", "came_ms", "sent_ms", "wanted")

    def __init__(self) -> None:
        self.wanted = False
        self.asked = False  # since the wish arose
        self.sent_ms = self.came_ms = -1e12
        self._retry_ms = RETRY_MS

    def want(self) -> None:
        """Someone needs a key frame.  Within the interval the wish stays pending."""
        if not self.wanted:
            self.wanted = True
            self.asked = False
            self._retry_ms = RETRY_MS

    def due(self, now_ms: float) -> bool:
        """True if a PLI is to be sent now; counts as sent."""
        if not self.wanted:
            return False
        if now_ms - self.sent_ms < (self._retry_ms if self.asked else INTERVAL_MS):
            return False
        if self.asked:
            # an encoder that doesn't answer is switched off or gone: ask ever more seldom
            self._retry_ms = min(MAX_RETRY_MS, self._retry_ms * 1.5)
        self.asked = True
        self.sent_ms = now_ms
        return True

    def came(self, now_ms: float) -> None:
        """A key frame begins: it serves everyone who asked before."""
        self.wanted = self.asked = False
        self.came_ms = now_ms

    def answered(self, now_ms: float, rtt_ms: float) -> bool:
        """A receiver's question that comes now was asked before it could see the last key frame.

        A hundred receivers that lost the same packet ask within some 100 ms: the first is enough.
        """
        return now_ms - self.came_ms < min(MAX_TRANSIT_MS, rtt_ms + TRANSIT_MS)
