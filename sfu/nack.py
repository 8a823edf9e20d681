"""Asking publishers for lost packets (RFC 4585 §6.2.1 generic NACK): which, when, how often."""

from __future__ import annotations

MAX_MISSING = 256  # more is no loss but an outage: a key frame mends it
MAX_TRIES = 8
MAX_AGE_MS = 1500.0
REORDER_PACKETS = 3  # reordering beyond that is rarer than loss
REORDER_MS = 20.0
MIN_INTERVAL_MS = 40.0
FIRST_RTT_MS = 60.0
MAX_RTT_MS = 500.0


class NackTracker:
    """Missing packets of one feed, by unwrapped sequence number."""

    __slots__ = ("given_up", "missing", "newly_missing", "overflowed", "rtt_ms")

    def __init__(self) -> None:
        self.missing: dict[int, list[float]] = {}  # ext_seq → [since_ms, asked_ms, tries]
        self.newly_missing = False  # some were never asked for
        self.overflowed = False
        self.given_up = 0
        self.rtt_ms = FIRST_RTT_MS  # a client that only sends never tells it: learnt from our own questions

    def gap(self, first: int, end: int, now_ms: float) -> None:
        """Numbers ``first`` … ``end - 1`` have been jumped over."""
        if end - first + len(self.missing) > MAX_MISSING:
            self.given_up += end - first + len(self.missing)
            self.missing.clear()
            self.newly_missing = False
            self.overflowed = True
            return
        for ext_seq in range(first, end):
            self.missing[ext_seq] = [now_ms, 0.0, 0]
        self.newly_missing = True

    def found(self, ext_seq: int, now_ms: float) -> bool:
        """A late packet came; True if it was missed."""
        state = self.missing.pop(ext_seq, None)
        if state is None:
            return False
        _, asked_ms, tries = state
        if tries == 1:
            self.rtt_ms += (now_ms - asked_ms - self.rtt_ms) / 4
        elif tries > 1:  # which question was answered is unknown (Karn): perhaps we ask too soon
            self.rtt_ms = min(MAX_RTT_MS, self.rtt_ms * 1.1)
        return True

    def due(self, highest: int, now_ms: float, rtt_ms: float) -> list[int]:
        """16-bit numbers to ask for now, oldest first.  ``rtt_ms`` by reports, 0 = unknown."""
        if not self.missing:
            return []
        asked: list[int] = []
        gone: list[int] = []
        # a little more than a round trip, or we ask again for what is already coming
        interval_ms = max(MIN_INTERVAL_MS, (rtt_ms or self.rtt_ms) * 1.2)
        waiting = False
        for ext_seq, state in self.missing.items():
            since_ms, asked_ms, tries = state
            if tries == 0:
                if highest - ext_seq < REORDER_PACKETS and now_ms - since_ms < REORDER_MS:
                    waiting = True
                    continue
            elif tries >= MAX_TRIES or now_ms - since_ms > MAX_AGE_MS:
                gone.append(ext_seq)
                continue
            elif now_ms - asked_ms < interval_ms:
                continue
            state[1] = now_ms
            state[2] = tries + 1
            asked.append(ext_seq & 0xFFFF)
        for ext_seq in gone:
            del self.missing[ext_seq]
        self.given_up += len(gone)
        self.newly_missing = waiting
        return asked

    def take_overflow(self) -> bool:
        """True once after an outage that NACK can't mend."""
        overflowed, self.overflowed = self.overflowed, False
        return overflowed

    def clear(self) -> None:
        self.missing.clear()
        self.newly_missing = False


class ResendBudget:
    """Token bucket over the retransmissions to one receiver: a hostile or drowning one can't amplify."""

    __slots__ = ("_at_ms", "_tokens", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float = 300.0, burst: float = 200.0) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self._tokens, self._at_ms = burst, 0.0

    def take(self, now_ms: float) -> bool:
        gained = max(0.0, now_ms - self._at_ms) * self.rate_per_s / 1000
        self._tokens = min(self.burst, self._tokens + gained)
        self._at_ms = now_ms
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
