"""Spreading one leg's video over time, and padding that asks the line whether it carries more."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfu.leg_route import LegRoute

RELEASE_S = 0.005  # between two looks while anything waits
MAX_QUEUE = 512  # packets; a key frame of 4 Mbit/s has 100
BURST_MS = 40.0  # of the rate may leave at once
MIN_BURST = 3000.0  # bytes: two full packets
MAX_STEP_MS = 20.0  # a late look must not turn a probe into a burst
PADDING = 255  # bytes, the most that RFC 3550 §5.1 can say


@dataclass(slots=True)
class Probe:
    """Padding at ``rate_bps`` until ``left`` bytes are out."""

    cluster: int
    rate_bps: float
    left: float
    credit: float = 1.0
    at_ms: float | None = None


class Pacer:
    """Token bucket of one leg, in bytes of plain RTP.  Off (rate 0) nothing waits."""

    __slots__ = ("_at_ms", "_tokens", "probe", "queue", "rate_bps")

    def __init__(self) -> None:
        self.rate_bps = 0.0
        self._tokens = 0.0
        self._at_ms: float | None = None
        # route, packet without its transport-wide number, start of its payload, the number's place (0 = none)
        self.queue: deque[tuple[LegRoute, bytes, int, int]] = deque()
        self.probe: Probe | None = None

    @property
    def waits(self) -> bool:
        return bool(self.queue) or self.probe is not None

    def set_rate(self, rate_bps: float) -> None:
        was, self.rate_bps = self.rate_bps, max(0.0, rate_bps)
        if not was:
            self._tokens, self._at_ms = self._cap(), None

    def admits(self, size: int, now_ms: float) -> bool:
        """True when a packet may leave at once; its tokens are taken."""
        if self.queue:
            return False
        if not self.rate_bps:
            return True
        self._refill(now_ms)
        if self._tokens <= 0:
            return False
        self._tokens -= size
        return True

    def put(self, route: LegRoute, packet: bytes, start: int, transport_at: int) -> bool:
        """False: the queue is full."""
        if len(self.queue) >= MAX_QUEUE:
            return False
        self.queue.append((route, packet, start, transport_at))
        return True

    def affords(self, now_ms: float) -> bool:
        """May something be sent again?  Repetitions go before what waits, but no faster than the line's rate:
        a receiver that misses a hundred packets asks for them every round trip, and would drown its voices.
        """
        if not self.rate_bps:
            return True
        self._refill(now_ms)
        return self._tokens > -self._cap()

    def charge(self, size: int, now_ms: float) -> None:
        """A retransmission has left: it doesn't wait, but the line has to carry it."""
        if self.rate_bps:
            self._refill(now_ms)
            self._tokens = max(-self._cap(), self._tokens - size)

    def release(self, now_ms: float) -> None:
        """Let go what is due."""
        queue = self.queue
        if self.rate_bps:
            self._refill(now_ms)
        while queue and (not self.rate_bps or self._tokens > 0):
            route, packet, start, transport_at = queue.popleft()
            self._tokens -= len(packet)
            route.depart_late(packet, start, transport_at, now_ms)

    def clear(self) -> None:
        self.queue.clear()
        self.probe = None

    def _cap(self) -> float:
        return max(MIN_BURST, self.rate_bps * BURST_MS / 8000)

    def _refill(self, now_ms: float) -> None:
        if self._at_ms is not None and now_ms > self._at_ms:
            gained = (now_ms - self._at_ms) * self.rate_bps / 8000
            self._tokens = min(self._cap(), self._tokens + gained)
        self._at_ms = now_ms
