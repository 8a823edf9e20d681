"""How much one line carries, from what its receiver reports.  Pure: times are arguments, in ms.

The estimate is infinite until there is evidence of a bottleneck, so a local network is never slowed down by
caution.  From then on: a growing queue lowers it to a part of what arrives, a drained line lets it grow,
losses bound it only where they depend on the rate, and probes lift it at once.
(draft-ietf-rmcat-gcc-02; libwebrtc's later practice for application-limited senders and probes)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from enum import StrEnum

from sfu.losses import MIN_LOSS, LossModel
from sfu.queueing import QueueDetector, Use
from sfu.seams import Cluster, Digest, Group

MIN_BPS = 20_000.0
MAX_BPS = 1e9
DECREASE = 0.85
DRAIN_MS = 2000.0  # a queue of this length would take a whole part of the rate off
MAX_DRAIN = 0.3
DRAINED_MS = 30.0
GROWTH_PER_S = 1.08
PACKET_BITS = 9600.0
KNOWN_RTT_MS = 100.0  # until the receiver tells
APPLICATION_LIMITED = 0.7
ROOM = 1.5  # of what arrives; what was never tried isn't known
ROOM_BPS = 20_000.0
CLEAN_MS = 12.0  # of delay is scheduling
SILENCE_MS = 1200.0  # libwebrtc reports at least each 250 ms
OBSERVE_MS = 250.0
OBSERVE_AT_MOST_MS = 3000.0
OBSERVE_PACKETS = 10
FLOOD_MS = 80.0  # when so much is lost that a short look is enough
FLOOD_LOSS = 0.3
WINDOW_MS = 1000.0
SHORT_MS = 300.0
PROBE_PACKETS = 5
PROBE_KEPT = 0.9  # arriving more slowly than this share of sending is a queue
PROBE_TRUST = 0.95
PROBE_WAIT_MS = 1000.0
PATIENCE_MS = 400.0
LONG_PATIENCE_MS, LONG_QUEUE_MS = 1000.0, 100.0
SPILL = 0.04  # loss beyond the line's own while a queue stands: it is full
REMB_MS = 10_000.0
REMB_FREE = 1.3


class Throughput:
    """Bursts of the last second: how fast they were sent and how fast they came."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: deque[Group] = deque()

    def clear(self) -> None:
        self._groups.clear()

    def add(self, fresh: Iterable[Group]) -> None:
        groups = self._groups
        for group in fresh:
            if groups and not 0 <= group.arrival_ms - groups[-1].arrival_ms < WINDOW_MS:
                groups.clear()
            groups.append(group)
        newest_ms = groups[-1].send_ms
        while newest_ms - groups[0].send_ms > WINDOW_MS:
            groups.popleft()

    def rates(self, window_ms: float) -> tuple[float, float]:
        """(sent, arrived) in bit/s over the last ``window_ms`` of arrivals; (0, 0) = too little is known."""
        groups = self._groups
        if len(groups) < 3:
            return 0.0, 0.0
        newest = groups[-1]
        size = 0
        oldest = newest
        for group in reversed(groups):
            oldest = group
            if newest.arrival_ms - group.arrival_ms >= window_ms:
                break
            size += group.size
        else:
            size -= oldest.size  # a burst's own time is its last packet's: the first one only marks the begin
        arrived_ms, sent_ms = newest.arrival_ms - oldest.arrival_ms, newest.send_ms - oldest.send_ms
        if arrived_ms < 50 or sent_ms < 20 or size <= 0:
            return 0.0, 0.0
        return size * 8000 / sent_ms, size * 8000 / arrived_ms


class Outcome(StrEnum):
    """Of a probe."""

    CARRIED = "carried"
    FAILED = "failed"


class _Probing:
    """A probe that is on its way."""

    __slots__ = ("begun_ms", "cluster", "seen", "size")

    def __init__(self, cluster: int, size: int, now_ms: float) -> None:
        self.cluster, self.size, self.begun_ms = cluster, size, now_ms
        self.seen: Cluster | None = None


class Estimator:
    """One line towards one receiver."""

    __slots__ = (
        "_acked_bytes", "_capacity_bps", "_capacity_spread", "_decreased_ms", "_delay_bps", "_grown_ms",
        "_heard_ms", "_lost", "_observed_ms", "_over_since_ms", "_probing", "_queue_at_decrease", "_received",
        "_remb_bps", "_remb_ms", "_watched", "losses", "outcome", "queue", "sent_bps", "throughput",
    )  # fmt: skip

    def __init__(self) -> None:
        self.queue = QueueDetector()
        self.throughput = Throughput()
        self.losses = LossModel()
        self.sent_bps = 0.0  # by what was acknowledged and lost
        self.outcome: Outcome | None = None  # of the last probe, until it is taken
        self._probing: _Probing | None = None
        self._delay_bps = math.inf
        self._capacity_bps = 0.0  # what arrived when queues grew, 0 = unknown
        self._capacity_spread = 0.0
        self._decreased_ms = -1e12
        self._queue_at_decrease = 0.0
        self._over_since_ms = -1.0
        self._grown_ms = -1e12
        self._heard_ms = -1e12
        self._watched = False
        self._remb_bps, self._remb_ms = math.inf, -1e12
        self._observed_ms = 0.0
        self._received = self._lost = self._acked_bytes = 0

    # ------------------------------------------------------------ what it says

    @property
    def estimate_bps(self) -> float:
        """Infinite while nothing speaks against it, else between MIN_BPS and MAX_BPS."""
        bound = min(self._delay_bps, self.losses.bound_bps, self._remb_bps)
        return bound if math.isinf(bound) else max(MIN_BPS, min(MAX_BPS, bound))

    @property
    def constrained(self) -> bool:
        return not math.isinf(self.estimate_bps)

    def calm(self, now_ms: float) -> bool:
        """No queue, as far as is known, and no other probe: one can be risked."""
        if self._probing is not None:
            return False
        queue = self.queue
        return self.silent(now_ms) or (queue.use is not Use.OVER and queue.queue_ms < DRAINED_MS)

    @property
    def probing(self) -> bool:
        return self._probing is not None

    def silent(self, now_ms: float) -> bool:
        """Nothing has been heard for a while: what was known is frozen."""
        return now_ms - self._heard_ms > SILENCE_MS

    def relax(self) -> None:
        """All that is wanted has been carried for long: forget the bottleneck."""
        self._delay_bps = math.inf
        self._capacity_bps = 0.0
        self.losses.reset()

    # ------------------------------------------------------------ transport-wide feedback

    def on_digest(self, digest: Digest, now_ms: float, rtt_ms: float) -> None:
        silence = now_ms - self._heard_ms
        self._heard_ms = now_ms
        if silence > SILENCE_MS + rtt_ms:
            # an outage: what was lost in it tells nothing about the line that is back
            self._begin_anew(digest.newest_send_ms)
            self._merge_clusters(digest, now_ms)  # nothing but a probe may have been sent
            return
        self._received += digest.received
        self._lost += digest.lost
        self._acked_bytes += digest.acked_bytes
        packets = self._received + self._lost
        floods = packets >= OBSERVE_PACKETS and self._lost > FLOOD_LOSS * packets
        self._observe(digest.newest_send_ms, FLOOD_MS if floods else OBSERVE_MS, now_ms)
        self._merge_clusters(digest, now_ms)
        queue = self.queue
        if math.isinf(self._delay_bps) and (
            queue.least_delay(digest.groups) < CLEAN_MS and not floods and self.losses.loss < FLOOD_LOSS / 2
        ):
            if self._watched and digest.groups:
                self._watched = False
                queue.forget_trend()
                self.throughput.clear()
            return
        self._watched = True
        if digest.groups:
            queue.add(digest.groups)
            self.throughput.add(digest.groups)
            self._react(now_ms, rtt_ms or KNOWN_RTT_MS)

    def _begin_anew(self, send_ms: float) -> None:
        self.queue.reset()
        self.throughput.clear()
        self._watched = False
        self._observed_ms = send_ms
        self._received = self._lost = self._acked_bytes = 0
        self._over_since_ms = -1.0

    def _observe(self, send_ms: float, least_ms: float, now_ms: float) -> None:
        """Once in a while: rate and losses of what was sent since."""
        packets = self._received + self._lost
        span_ms = send_ms - self._observed_ms
        if not send_ms or span_ms < least_ms or packets < OBSERVE_PACKETS:
            return
        if span_ms <= OBSERVE_AT_MOST_MS and self._received:
            sent = self._acked_bytes * packets / self._received
            self.sent_bps = sent * 8000 / span_ms
            _, arrived = self.throughput.rates(SHORT_MS) if self._watched else (0.0, 0.0)
            self.losses.add(self.sent_bps, packets, self._lost, now_ms, arrived)
            if not self.losses.experiments:  # evidence: it is not forgotten when losses end
                self._delay_bps = min(self._delay_bps, max(MIN_BPS, self.losses.bound_bps))
        self._observed_ms = send_ms
        self._received = self._lost = self._acked_bytes = 0

    def _react(self, now_ms: float, rtt_ms: float) -> None:
        use = self.queue.use
        sent, arrived = self.throughput.rates(SHORT_MS)
        spills = self.losses.loss > self.losses.inherent + SPILL and self.queue.queue_ms > self.queue.limit_ms
        if use is Use.OVER or spills:
            if self._over_since_ms < 0:
                self._over_since_ms = now_ms
            if now_ms - self._decreased_ms >= max(200.0, rtt_ms + 100.0):
                self._decrease(sent, arrived, now_ms, spills)
            return
        self._over_since_ms = -1.0
        if use is Use.NORMAL and not math.isinf(self._delay_bps):
            self._grow(now_ms, rtt_ms)
        self._grown_ms = now_ms

    def _decrease(self, sent: float, arrived: float, now_ms: float, spills: bool) -> None:
        if not arrived:
            return
        estimate, queue_ms = self._delay_bps, self.queue.queue_ms
        over_ms = now_ms - self._over_since_ms
        ours = spills or arrived < 0.95 * sent  # less comes than goes: the queue grows by us
        if not ours and self.losses.loss < MIN_LOSS:
            if math.isinf(estimate) and (over_ms < LONG_PATIENCE_MS or queue_ms < LONG_QUEUE_MS):
                return  # a receiver that is busy looks like this, too
            if over_ms > 2 * PATIENCE_MS and queue_ms > 0.8 * self._queue_at_decrease > 0:
                # it neither grows nor drains with what we send: the way itself is longer now
                self.queue.rebase()
                self._queue_at_decrease = 0.0
                self._over_since_ms = -1.0
                return
        limited = not math.isinf(estimate) and sent < APPLICATION_LIMITED * estimate
        if limited and not ours:
            fresh = DECREASE * estimate  # someone else's queue: what we sent was not what the line carries
        else:
            # less than the line carries for a while, or a long queue would stay long
            fresh = (DECREASE - min(MAX_DRAIN, queue_ms / DRAIN_MS)) * arrived
            self._note_capacity(arrived)
        self._delay_bps = max(MIN_BPS, min(MAX_BPS, estimate, fresh))
        self._decreased_ms = self._grown_ms = now_ms
        self._queue_at_decrease = queue_ms

    def _note_capacity(self, arrived: float) -> None:
        known = self._capacity_bps
        if not known or abs(arrived - known) > 3 * max(self._capacity_spread, 0.05 * known):
            self._capacity_bps, self._capacity_spread = arrived, 0.1 * arrived
            return
        off = abs(arrived - known)
        self._capacity_bps += 0.1 * (arrived - known)
        self._capacity_spread += 0.1 * (off - self._capacity_spread)

    def _grow(self, now_ms: float, rtt_ms: float) -> None:
        elapsed_ms = min(500.0, max(0.0, now_ms - self._grown_ms))
        if self.queue.queue_ms > DRAINED_MS:
            return  # let it drain first
        estimate = self._delay_bps
        _, arrived = self.throughput.rates(WINDOW_MS)
        if not arrived:
            return
        capacity = self._capacity_bps
        if capacity and arrived > capacity * 1.3:
            self._capacity_bps = capacity = 0.0  # the line has become wider
        if capacity and estimate < DECREASE * capacity and arrived > 0.8 * min(estimate, capacity):
            fresh = DECREASE * capacity  # the queue is gone
        elif capacity and abs(estimate - capacity) < 3 * max(self._capacity_spread, 0.05 * capacity):
            fresh = estimate + PACKET_BITS * 1000 / (rtt_ms + 100) * elapsed_ms / 1000
        else:
            fresh = estimate * GROWTH_PER_S ** (elapsed_ms / 1000)
        # what was never tried isn't known: beyond this only probes lead
        self._delay_bps = max(estimate, min(fresh, ROOM * arrived + ROOM_BPS))

    # ------------------------------------------------------------ probes

    def begin_probe(self, cluster: int, size: int, now_ms: float) -> None:
        """Padding of ``size`` bytes is sent as ``cluster``."""
        self._probing = _Probing(cluster, size, now_ms)

    def expire_probe(self, now_ms: float, rtt_ms: float) -> None:
        """To be called now and then: an answer may never come."""
        probing = self._probing
        if probing is not None and now_ms - probing.begun_ms > PROBE_WAIT_MS + rtt_ms:
            self._finish(probing)

    def take_outcome(self) -> Outcome | None:
        """Once after each probe."""
        outcome, self.outcome = self.outcome, None
        return outcome

    def dare(self, bitrate_bps: float) -> None:
        """Where padding can't be sent the media itself is the probe."""
        if not math.isinf(self._delay_bps):
            self._delay_bps = max(self._delay_bps, min(MAX_BPS, bitrate_bps))
            self._capacity_bps = 0.0

    def _merge_clusters(self, digest: Digest, now_ms: float) -> None:
        probing = self._probing
        if probing is None:
            return
        for one in digest.clusters:
            if one.cluster != probing.cluster:
                continue
            seen = probing.seen
            if seen is not None:
                one = Cluster(
                    one.cluster, seen.packets + one.packets, seen.size + one.size,
                    min(seen.first_send_ms, one.first_send_ms), max(seen.last_send_ms, one.last_send_ms),
                    min(seen.first_arrival_ms, one.first_arrival_ms),
                    max(seen.last_arrival_ms, one.last_arrival_ms),
                )  # fmt: skip
            probing.seen = one
        seen = probing.seen
        if seen is not None and digest.newest_send_ms > seen.last_send_ms:
            self._finish(probing)  # what left after it has arrived

    def _finish(self, probing: _Probing) -> None:
        self._probing = None
        self.outcome = Outcome.FAILED
        seen = probing.seen
        if seen is None or seen.packets < PROBE_PACKETS or seen.size < 0.5 * probing.size:
            return
        sent_ms = seen.last_send_ms - seen.first_send_ms
        arrived_ms = seen.last_arrival_ms - seen.first_arrival_ms
        if sent_ms < 10 or arrived_ms < 1:
            return
        size = seen.size * (seen.packets - 1) / seen.packets  # n packets have n - 1 distances
        sent, arrived = size * 8000 / sent_ms, size * 8000 / arrived_ms
        if arrived >= PROBE_KEPT * sent and seen.size >= 0.85 * probing.size:
            self.outcome = Outcome.CARRIED
            found = PROBE_TRUST * min(sent, arrived)
        else:
            found = DECREASE * min(sent, arrived)
            self._note_capacity(arrived)
        if math.isfinite(found) and found > self._delay_bps:
            self._delay_bps = min(MAX_BPS, found)
            if self.outcome is Outcome.CARRIED and self._capacity_bps < found:
                self._capacity_bps = 0.0
        if self.outcome is Outcome.CARRIED and self.losses.bound_bps < found:
            self.losses.bound_bps = found

    # ------------------------------------------------------------ receivers without it

    def on_report(self, sent_bps: float, packets: int, lost: int, now_ms: float) -> None:
        """A receiver that only counts (RFC 3550 §6.4): what it was sent since its last report, and lost."""
        self._heard_ms = now_ms
        self.sent_bps = sent_bps
        self.losses.add(sent_bps, packets, lost, now_ms)

    def on_remb(self, bitrate_bps: float, sent_bps: float, now_ms: float) -> None:
        """draft-alvestrand-rmcat-remb: binding where it is near to what we send; else it only follows us."""
        elapsed_s = min(2.0, max(0.0, now_ms - self._remb_ms) / 1000)
        self._remb_ms = self._heard_ms = now_ms
        if bitrate_bps < REMB_FREE * sent_bps:
            self._remb_bps = max(MIN_BPS, bitrate_bps)
        elif not math.isinf(self._remb_bps):
            self._remb_bps = max(bitrate_bps, self._remb_bps * GROWTH_PER_S**elapsed_s)
            if self._remb_bps > MAX_BPS:
                self._remb_bps = math.inf

    def forget_remb(self, now_ms: float) -> None:
        """A REMB holds for a while only."""
        if now_ms - self._remb_ms > REMB_MS:
            self._remb_bps = math.inf
