"""Is a queue growing on the way to a receiver?  Delay gradient and standing delay, from bursts' times alone.

The trend follows draft-ietf-rmcat-gcc-02 §4 and its later practice (a line through the last delays instead of
a Kalman filter); the standing delay is CoDel's thought (RFC 8289): the least delay of an interval is a queue,
the rest is jitter.  A receiver that reads late lets packets pile up and fetches them at once: its trend
rises, but the least delay does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from enum import StrEnum

from sfu.seams import Group

WINDOW = 20  # bursts that the line is drawn through
SMOOTHING = 0.9
GAIN = 4.0
MAX_DELTAS = 60
THRESHOLD = 12.5  # ms, adapts
MIN_THRESHOLD, MAX_THRESHOLD = 6.0, 600.0
K_UP, K_DOWN = 0.0087, 0.039
MAX_ADAPT_MS = 15.0  # a sudden step is congestion, not the line's nature
BASE_MS = 15_000.0  # the least delay is that of the last one to two of these
STANDING_MS = 250.0
QUEUE_MS = 15.0  # with a rising trend
FULL_QUEUE_MS = 60.0  # without one
FLOOD_MS = 120.0  # a queue this long needs no patience
FLOOD_WINDOW_MS = 80.0
JITTER_STEP = 0.01  # a hundred bursts tell the line's own unrest
MAX_DELAY_MS = 10_000.0
MAX_JITTER_MS = 100.0
JUMP_MS = 3000.0  # a clock that was set, or an outage


class Use(StrEnum):
    NORMAL = "normal"
    OVER = "over"
    UNDER = "under"  # a queue drains


class QueueDetector:
    """Bursts in, ``use`` and ``queue_ms`` out.  All times in ms; the two clocks need not agree."""

    __slots__ = (
        "_base_ms", "_base_since_ms", "_count", "_first_arrival_ms", "_jitter_ms", "_last", "_last_trend",
        "_over_ms", "_points", "_previous_base_ms", "_recent", "_smoothed", "_threshold",
        "_threshold_ms", "queue_ms", "use",
    )  # fmt: skip

    def __init__(self) -> None:
        self._last: Group | None = None
        self.reset()

    def reset(self) -> None:
        """The past says nothing about the line any longer."""
        self._base_ms = self._previous_base_ms = float("inf")
        self._base_since_ms = 0.0
        self._recent: deque[tuple[float, float]] = deque()  # (arrival, delay)
        self._jitter_ms = 0.0
        self.forget_trend()
        self._threshold = THRESHOLD
        self._last = None

    def forget_trend(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # (arrival, smoothed delay)
        self._smoothed = 0.0
        self._count = 0
        self._first_arrival_ms = 0.0
        self._last_trend = 0.0
        self._over_ms = -1.0
        self._threshold_ms = -1.0
        self.queue_ms = 0.0
        self.use = Use.NORMAL

    def delay(self, group: Group) -> float:
        """How much later than the quickest lately, ms; cheap, for lines without trouble."""
        delay = group.arrival_ms - group.send_ms
        if group.send_ms - self._base_since_ms > BASE_MS:
            self._previous_base_ms, self._base_ms = self._base_ms, delay
            self._base_since_ms = group.send_ms
        elif delay < self._base_ms:
            self._base_ms = delay
        return min(MAX_DELAY_MS, delay - min(self._base_ms, self._previous_base_ms))

    @property
    def limit_ms(self) -> float:
        """A standing delay above it is a queue."""
        return max(QUEUE_MS, 1.5 * self._jitter_ms)

    def rebase(self) -> None:
        """The delay that stands is the way's own: another route, not a queue."""
        if self._recent:
            shift = min(delay for _, delay in self._recent)
            base = min(self._base_ms, self._previous_base_ms) + shift
            self._base_ms, self._previous_base_ms = base, float("inf")
            self._recent.clear()
        self.forget_trend()

    def least_delay(self, groups: Iterable[Group]) -> float:
        """What all of them waited; cheap, for lines without trouble."""
        return min([self.delay(group) for group in groups], default=0.0)

    def add(self, groups: Sequence[Group]) -> None:
        """The bursts of one feedback, one at least."""
        recent, points = self._recent, self._points
        begun_ms = groups[0].arrival_ms
        for group in groups:
            last, self._last = self._last, group
            arrival_ms = group.arrival_ms
            if last is not None:
                arrived = arrival_ms - last.arrival_ms
                if abs(arrived - group.send_ms + last.send_ms) > JUMP_MS or arrived < -JUMP_MS:
                    self.reset()
                    self._last, begun_ms = group, arrival_ms
                    recent, points = self._recent, self._points
            delay = self.delay(group)
            recent.append((arrival_ms, delay))
            if not self._count:
                self._first_arrival_ms, self._smoothed = arrival_ms, delay
            self._count += 1
            self._smoothed = SMOOTHING * self._smoothed + (1 - SMOOTHING) * delay
            points.append((arrival_ms - self._first_arrival_ms, self._smoothed))
        newest_ms, newest = recent[-1]
        while not 0 <= newest_ms - recent[0][0] <= STANDING_MS:
            recent.popleft()
        delays = [delay for _, delay in recent]
        self.queue_ms = min(delays)
        self._judge(begun_ms, newest_ms, newest)
        if self.use is Use.NORMAL:
            spread = min(max(delays) - self.queue_ms, MAX_JITTER_MS)
            self._jitter_ms += (spread - self._jitter_ms) * min(1.0, JITTER_STEP * len(groups))

    def _judge(self, begun_ms: float, arrival_ms: float, delay: float) -> None:
        trend = self._slope()
        modified = min(self._count, MAX_DELTAS) * trend * GAIN
        limit = self.limit_ms
        flood = delay > FLOOD_MS + limit and self._floods(arrival_ms)
        full = flood or (self.queue_ms > max(FULL_QUEUE_MS, 2 * limit) and len(self._recent) >= 4)
        if modified > self._threshold:
            if self._over_ms < 0:
                self._over_ms = begun_ms
            long_enough = arrival_ms - self._over_ms >= 10.0
            if flood or (long_enough and trend >= self._last_trend * 0.9 and self.queue_ms > limit):
                self.use = Use.OVER
        else:
            self._over_ms = -1.0
            if modified < -self._threshold:
                self.use = Use.UNDER
            else:
                self.use = Use.OVER if full else Use.NORMAL
        self._last_trend = trend
        self._adapt(modified, arrival_ms)

    def _floods(self, arrival_ms: float) -> bool:
        """Nothing has come quickly for a while: not merely a receiver that read late."""
        for ms, delay in reversed(self._recent):
            if delay < FLOOD_MS + self.limit_ms:
                return arrival_ms - ms > FLOOD_WINDOW_MS
        return True

    def _slope(self) -> float:
        """Least squares through the smoothed delays: ms of queue per ms."""
        points = self._points
        count = len(points)
        if count < 4:
            return 0.0
        origin = points[0][0]  # the sums stay small
        sum_x = sum_y = sum_xx = sum_xy = 0.0
        for x, y in points:
            x -= origin
            sum_x += x
            sum_y += y
            sum_xx += x * x
            sum_xy += x * y
        square = sum_xx * count - sum_x * sum_x
        if square <= 0:
            return 0.0
        slope = (sum_xy * count - sum_x * sum_y) / square
        return max(-10.0, min(10.0, slope))

    def _adapt(self, modified: float, arrival_ms: float) -> None:
        size = abs(modified)
        if self._threshold_ms >= 0 and size <= self._threshold + MAX_ADAPT_MS:
            step = K_DOWN if size < self._threshold else K_UP
            elapsed = max(0.0, min(100.0, arrival_ms - self._threshold_ms))
            self._threshold += step * (size - self._threshold) * elapsed
            self._threshold = max(MIN_THRESHOLD, min(MAX_THRESHOLD, self._threshold))
        self._threshold_ms = arrival_ms
