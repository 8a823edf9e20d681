"""What a line loses by itself and what it loses because we send too much.

A radio link loses its share whatever we send; a full line loses what is beyond its capacity.  Observations at
different rates tell them apart: loss = p + (1 - p) · max(0, 1 - C / rate), fitted by least squares for a few
capacities C.  The thought is that of libwebrtc's second loss-based estimator; when one rate alone has been
seen, a short experiment with less shows it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

OBSERVATIONS = 20
DECAY = 0.93
MIN_LOSS = 0.02  # RFC-like 2 %: below it nobody is harmed
MAX_INHERENT = 0.5
REJECT = 8.0  # a fit this much worse than the best is wrong
DISPERSION = 3.0  # losses come in bursts: a third of the evidence that independent ones would be
SAME_RATE = 1.2
AMBIGUOUS_LOSS = 0.15  # of all that was seen: less is mended by retransmission
EXPERIMENT = 0.75
EXPERIMENT_MS = 1500.0
EXPERIMENT_EVERY_MS = 20_000.0
EXPERIMENT_AT_MOST_EVERY_MS = 160_000.0
GROWTH_PER_S = 1.12
MARGIN = 0.95
FORGET = 0.9
FREE = 2.0  # a bound this far above what is sent binds nothing


class Observation(NamedTuple):
    sent_bps: float
    packets: int
    loss: float
    delivered_bps: float


class LossModel:
    """``bound_bps``: what the line carries by its losses, infinite while they tell nothing."""

    __slots__ = ("_asked_ms", "_every_ms", "_grown_ms", "_seen", "_until_ms", "bound_bps", "inherent", "loss")

    def __init__(self) -> None:
        self._every_ms = EXPERIMENT_EVERY_MS
        self._asked_ms = -1e12
        self.reset()

    def reset(self) -> None:
        self._seen: deque[Observation] = deque(maxlen=OBSERVATIONS)
        self.bound_bps = float("inf")
        self.inherent = 0.0
        self.loss = 0.0  # lately, 0…1
        self._until_ms = -1.0  # of the experiment
        self._grown_ms = -1.0

    @property
    def experiments(self) -> bool:
        """The bound is no finding, but a question to the line."""
        return self._until_ms >= 0

    def add(self, sent_bps: float, packets: int, lost: int, now_ms: float, arrived_bps: float = 0.0) -> None:
        """A quarter of a second or so: what was sent, in how many packets, and how many of them were lost.

        ``arrived_bps``: how fast they came by the receiver's clock, 0 = unknown.
        """
        if packets <= 0 or not 0 < sent_bps < 1e12:
            return
        share = min(1.0, max(0.0, lost / packets))
        delivered = sent_bps * (1 - share)
        if arrived_bps > 0:
            delivered = min(delivered, arrived_bps)
        self._seen.append(Observation(sent_bps, packets, share, delivered))
        self.loss += (share - self.loss) * min(0.6, max(0.1, packets / 50))
        self._decide(now_ms)

    def _decide(self, now_ms: float) -> None:
        seen = self._seen
        newest = seen[-1]
        elapsed_s = min(1.0, max(0.0, now_ms - self._grown_ms) / 1000) if self._grown_ms >= 0 else 0.0
        self._grown_ms = now_ms
        capacity = float("inf")
        if max(self.loss, newest.loss) >= MIN_LOSS:
            capacity = self._fit()
        else:
            self.inherent *= FORGET
        if capacity == float("inf"):
            if newest.loss < self.inherent + MIN_LOSS:
                self.bound_bps *= GROWTH_PER_S**elapsed_s
            if self.bound_bps > FREE * newest.sent_bps and self._until_ms < 0:
                self.bound_bps = float("inf")
        else:
            self.bound_bps = min(self.bound_bps, MARGIN * capacity)
        self._experiment(newest, capacity, now_ms)

    def _experiment(self, newest: Observation, capacity: float, now_ms: float) -> None:
        if self._until_ms >= 0:
            if now_ms < self._until_ms:
                return
            self._until_ms = -1.0
            if capacity == float("inf"):  # less was lost no less: it is the line's own
                self.bound_bps = float("inf")
                self._every_ms = min(EXPERIMENT_AT_MOST_EVERY_MS, self._every_ms * 2)
            else:
                self._every_ms = EXPERIMENT_EVERY_MS
            return
        seen = self._seen
        packets = sum(one.packets for one in seen)
        if (
            len(seen) < OBSERVATIONS // 2
            or sum(one.loss * one.packets for one in seen) < AMBIGUOUS_LOSS * packets
            or capacity != float("inf")
            or now_ms - self._asked_ms < self._every_ms
        ):
            return
        rates = [one.sent_bps for one in seen]
        if max(rates) > SAME_RATE * min(rates):
            return
        self._asked_ms, self._until_ms = now_ms, now_ms + EXPERIMENT_MS
        self.bound_bps = EXPERIMENT * newest.sent_bps

    def _fit(self) -> float:
        """The capacity that explains what was seen; infinite = the line may well lose by itself."""
        newest = self._seen[-1]
        delivered = sorted(one.delivered_bps for one in list(self._seen)[-5:])
        middle = delivered[len(delivered) // 2]
        if newest.loss > MAX_INHERENT and self.loss > MAX_INHERENT / 2:
            return min(middle, newest.delivered_bps)  # no radio is that bad
        candidates = [float("inf"), middle * 1.1, middle, middle * 0.9, delivered[0]]
        if self.bound_bps < float("inf"):
            candidates.append(self.bound_bps)
        fits = [(self._misfit(capacity), capacity) for capacity in candidates]
        (best, inherent), capacity = min(fits)
        (free, _), _ = fits[0]
        if free <= best + REJECT:
            capacity, inherent = float("inf"), fits[0][0][1]
        self.inherent += (inherent - self.inherent) * 0.2
        return capacity

    def _misfit(self, capacity: float) -> tuple[float, float]:
        """(weighted chi square, inherent loss) of this capacity."""
        above = below = 0.0
        weight = 1.0
        rows: list[tuple[float, float, int, float]] = []
        for one in reversed(self._seen):
            excess = max(0.0, 1 - capacity / one.sent_bps)
            kept = 1 - excess
            above += weight * one.packets * (one.loss - excess) * kept
            below += weight * one.packets * kept * kept
            rows.append((excess, one.loss, one.packets, weight))
            weight *= DECAY
        inherent = min(MAX_INHERENT, max(0.0, above / below)) if below > 0 else 0.0
        total = 0.0
        for excess, loss, packets, weight in rows:
            expected = inherent + (1 - inherent) * excess
            spread = max(expected * (1 - expected), 0.005)
            total += weight * packets * (loss - expected) ** 2 / spread
        return total / DISPERSION, inherent
