"""What each receiver's line can carry, and what it therefore gets: layers, held streams, pacing, probes, RED.

A line is left alone until its estimator has evidence of a bottleneck; from then on it is managed: every
200 ms its consumers are allocated anew, and only changes are carried out.  Voices are never limited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfu import allocation
from sfu.allocation import HELD, Demand
from sfu.consumer import LegConsumer
from sfu.drops import DropReason
from sfu.estimator import Outcome
from sfu.lines import ALL_TEMPORAL, BASE_SHARES, FeedRates, LineState, demand, options
from sfu.messages import Counter, StreamStates
from sfu.params import Kind
from sfu.rtcp import ReportBlock
from sfu.seams import LegHandle
from sfu.voices import RED_OFF, RedSwitch

if TYPE_CHECKING:
    from sfu.media import MediaPlane
    from sfu.producer import Producer

RATES_MS = 200.0
DECIDE_MS = 200.0
DECIDE_AT_LEAST_MS = 1000.0
SAME_ESTIMATE = 0.03
PACING = 1.25  # of the estimate: a key frame must not fill the queue that voices pass through
PACED_WAIT_MS = 400.0  # a queue of ours is let go faster than that
PACED_BELOW = 3.0  # times what is wanted
CALM_DOWN_MS = 1500.0  # from a step down to a step up, at least
MAX_CALM_DOWN_MS = 24_000.0
FLAP_MS = 8000.0  # a step down so soon after a step up was one step too far
AT_ONCE = 1.25  # a layer this much above the estimate isn't sent until the next one's key frame
CONTENT_MS = 30_000.0
MAX_REPEATED = 0.25  # of the rate
PROBE_MS = 120.0
PROBE_PAUSE_MS = 1000.0
MAX_PROBE_PAUSE_MS = 8000.0
MAX_PROBE_STEP = 2.0  # times the estimate: a failed probe must not stand long in the way of voices
PROBE_OVERSHOOT = 1.25
PROBE_BEYOND = 1.4
MIN_PROBE_BPS = 40e3
MIN_PROBE_BYTES, MAX_PROBE_BYTES = 1800, 60_000
REPORT_MS = 900.0
REPORT_PACKETS = 20


class Congestion:
    """Policy of all lines of a worker."""

    def __init__(self, media: MediaPlane) -> None:
        self._media = media
        self.rates = FeedRates()
        self.lines: dict[str, LineState] = {}
        self._rates_ms = self._voices_ms = -1e12
        self.shares = list(BASE_SHARES)
        self.probes = 0

    def line(self, leg: LegHandle) -> LineState:
        line = self.lines.get(leg.name)
        if line is None or line.leg is not leg:
            line = self.lines[leg.name] = LineState(leg)
        return line

    def forget(self, leg: LegHandle) -> None:
        self.lines.pop(leg.name, None)

    # ------------------------------------------------------------ what receivers say

    def on_feedback(self, leg: LegHandle, body: bytes, now_ms: float) -> None:
        """Transport-wide feedback, what follows the RTCP feedback header."""
        try:
            digest = leg.acknowledge(body, now_ms)
        except ValueError:
            self._media.relay.drops.count(DropReason.MALFORMED_RTCP)
            return
        line = self.line(leg)
        line.digests_ms = now_ms
        estimator = line.estimator
        before = estimator.estimate_bps
        estimator.on_digest(digest, now_ms, leg.rtt_ms)
        after = estimator.estimate_bps
        if after < before * (1 - SAME_ESTIMATE) or (after > before * 1.2):
            line.dirty = True
            if not line.managed or now_ms - line.decided_ms >= 50:
                self._decide(line, now_ms)

    def on_report(self, consumer: LegConsumer, block: ReportBlock, now_ms: float) -> None:
        """A report block of RFC 3550 §6.4.1 about what ``consumer`` sends."""
        known, lost = consumer.highest, consumer.lost
        consumer.highest = block.highest
        packets = (block.highest - known) & 0xFFFFFFFF
        if known < 0 or not 0 < packets < 10_000:
            return
        line = self.line(consumer.leg)
        line.packets += packets
        line.lost += min(packets, max(0, block.lost - lost))

    def on_remb(self, leg: LegHandle, bitrate_bps: float, now_ms: float) -> None:
        line = self.line(leg)
        if now_ms - line.digests_ms > 2000:
            line.estimator.on_remb(bitrate_bps, line.sent_bps, now_ms)

    # ------------------------------------------------------------ what is reported

    def estimate_of(self, leg: LegHandle) -> float:
        """bit/s, 0 while there is no evidence of a limit."""
        line = self.lines.get(leg.name)
        estimate = line.estimator.estimate_bps if line is not None else math.inf
        return 0.0 if math.isinf(estimate) else estimate

    def wanted_of(self, leg: LegHandle) -> float:
        """bit/s that the leg's consumers would take; on a line without limits just what they get."""
        line = self.lines.get(leg.name)
        if line is None:
            return 0.0
        return line.wanted_bps if line.managed else line.sent_bps

    def counters(self) -> list[Counter]:
        """Of all lines together: a label for each client would never end."""
        estimates = sorted(
            line.estimator.estimate_bps for line in self.lines.values() if line.estimator.constrained
        )
        held = sum(consumer.held for consumer in self._media.consumers.values())
        found = [
            Counter("lianxin_lines", (), float(len(self.lines))),
            Counter("lianxin_lines_constrained", (), float(len(estimates))),
            Counter("lianxin_consumers_held", (), float(held)),
            Counter("lianxin_probes_total", (), float(self.probes)),
        ]
        if estimates:
            for name, value in (("0", estimates[0]), ("0.5", estimates[len(estimates) // 2])):
                found.append(Counter("lianxin_worker_estimate_bps", (("quantile", name),), value))
        return found

    # ------------------------------------------------------------ what signalling wants

    def added(self, consumer: LegConsumer) -> None:
        """On a line that is known to be narrow a newcomer begins with the least."""
        line = self.lines.get(consumer.leg.name)
        if line is not None and line.managed and consumer.kind is Kind.VIDEO:
            consumer.allowed = (0, ALL_TEMPORAL)
            line.dirty = True

    def changed(self, consumer: LegConsumer) -> None:
        line = self.lines.get(consumer.leg.name)
        if line is not None:
            line.dirty = True

    def returned(self, leg: LegHandle, now_ms: float) -> None:
        """After an outage, perhaps by another way: ask soon what the line carries."""
        line = self.lines.get(leg.name)
        if line is not None:
            line.probe_pause_ms = line.patience_ms = 0.0
            line.next_probe_ms = now_ms

    # ------------------------------------------------------------ time

    def tick(self, now_ms: float) -> None:
        media = self._media
        if now_ms - self._rates_ms >= RATES_MS:
            self._rates_ms = now_ms
            for producer in media.producers.values():
                if producer.kind is Kind.VIDEO:
                    self.rates.measure(producer, now_ms)
        voices = now_ms - self._voices_ms >= 1000
        if voices:
            self._voices_ms = now_ms
        for line in self.lines.values():
            estimator = line.estimator
            if voices:
                self._look_after_voices(line, now_ms)
            if now_ms - line.counted_ms >= REPORT_MS:
                self._count(line, now_ms)
            if estimator.probing:
                estimator.expire_probe(now_ms, line.leg.rtt_ms)
            if not line.managed and not estimator.constrained:
                continue
            if now_ms - line.decided_ms >= DECIDE_MS:
                self._decide(line, now_ms)
            if line.managed:
                self._pace(line)
                self._probe(line, now_ms)

    def _count(self, line: LineState, now_ms: float) -> None:
        line.count_sent(now_ms)
        line.estimator.forget_remb(now_ms)
        if now_ms - line.digests_ms < 2000:
            line.packets = line.lost = 0
        elif line.packets >= REPORT_PACKETS:
            line.estimator.on_report(line.sent_bps, line.packets, line.lost, now_ms)
            line.packets = line.lost = 0

    # ------------------------------------------------------------ decisions

    def _decide(self, line: LineState, now_ms: float) -> None:
        estimator = line.estimator
        estimate = estimator.estimate_bps
        if math.isinf(estimate):
            if line.managed:
                self._free(line)
            return
        stale = now_ms - line.decided_ms >= DECIDE_AT_LEAST_MS
        same = abs(estimate - line.decided_bps) <= SAME_ESTIMATE * estimate
        if line.managed and same and not line.dirty and not stale:
            return
        if estimator.silent(now_ms) and line.managed and not line.dirty:
            return  # an outage: what was decided stands until something is heard
        line.managed, line.dirty = True, False
        line.decided_ms, line.decided_bps = now_ms, estimate
        consumers, demands = self._demands(line, now_ms)
        budget = max(0.0, estimate - line.voice_bps) * self._share_for_firsts(line, now_ms)
        levels = allocation.allocate(demands, budget, may_rise=self._may_rise(line, now_ms))
        self._carry_out(line, consumers, demands, levels, estimate, now_ms)
        line.wanted_bps = allocation.needed_bps(demands) + line.voice_bps
        if any(levels[one.consumer_id] < len(one.layers) - 1 for one in demands):
            line.content_ms = now_ms
        elif now_ms - line.content_ms > CONTENT_MS and now_ms - line.lowered_ms > CONTENT_MS:
            estimator.relax()  # all has been carried for long
            self._free(line)

    @staticmethod
    def _may_rise(line: LineState, now_ms: float) -> bool:
        return now_ms - line.lowered_ms >= max(CALM_DOWN_MS, line.patience_ms)

    def _share_for_firsts(self, line: LineState, now_ms: float) -> float:
        """What is lost is sent again, and takes its part of the line."""
        return 1 - min(MAX_REPEATED, self.loss_of(line, now_ms))

    def _demands(self, line: LineState, now_ms: float) -> tuple[dict[str, LegConsumer], list[Demand]]:
        consumers: dict[str, LegConsumer] = {}
        demands: list[Demand] = []
        voices = 0
        for consumer in self._media.consumers_of(line.leg):
            if consumer.kind is not Kind.VIDEO:
                voices += consumer.route.bytes
                continue
            if consumer.paused or consumer.producer.paused:
                continue
            layers = options(consumer, self.rates, self._shares_of(consumer.producer))
            if layers:
                consumers[consumer.consumer_id] = consumer
                demands.append(demand(consumer, layers))
        line.count_voices(voices, now_ms)
        return consumers, demands

    def _shares_of(self, producer: Producer) -> tuple[float, ...]:
        """Only VP8's temporal layers can be told from a single stream's packets."""
        codecs = producer.feeds[0].codecs.values()
        return tuple(self.shares) if any(codec.mime.lower() == "video/vp8" for codec in codecs) else ()

    def _carry_out(
        self,
        line: LineState,
        consumers: dict[str, LegConsumer],
        demands: Sequence[Demand],
        levels: dict[str, int],
        estimate_bps: float,
        now_ms: float,
    ) -> None:
        held: list[str] = []
        freed: list[str] = []
        for one in demands:
            consumer, level = consumers[one.consumer_id], levels[one.consumer_id]
            if level == HELD:
                if not consumer.held:
                    consumer.held = True
                    held.append(one.consumer_id)
                    consumer.select()
                continue
            layer = one.layers[level]
            # the highest that is wanted is no limit: another layer may come alive above it
            top = level == len(one.layers) - 1
            allowed = None if top else (layer.spatial, layer.temporal)
            was_held, consumer.held = consumer.held, False
            if was_held:
                freed.append(one.consumer_id)
            if was_held or allowed != consumer.allowed:
                consumer.allowed = allowed
                if level < one.level:
                    self._leave_what_is_too_much(consumer, layer.spatial, estimate_bps)
                consumer.select()
        before = allocation.granted_bps(demands, {one.consumer_id: one.level for one in demands})
        after = allocation.granted_bps(demands, levels)
        if after < before:
            if line.raised_ms > line.lowered_ms and now_ms - line.raised_ms < FLAP_MS:
                self._rest_from_probes(line, now_ms)
                line.patience_ms = min(MAX_CALM_DOWN_MS, max(CALM_DOWN_MS, line.patience_ms) * 2)
            line.lowered_ms = now_ms
        elif now_ms - line.raised_ms > FLAP_MS:
            line.patience_ms = line.probe_pause_ms = 0.0  # what was dared has proved true
        if after > before:
            line.raised_ms = now_ms
        if held or freed:
            self._media.emit(StreamStates(line.leg.name, tuple(held), tuple(freed)))

    def _leave_what_is_too_much(self, consumer: LegConsumer, spatial: int, estimate_bps: float) -> None:
        """The old layer would go on until the new one's key frame, and drown the voices meanwhile."""
        feed = consumer.route.feed
        if feed is None or consumer.producer.layered or feed.index <= spatial:
            return
        if self.rates.of(feed) > AT_ONCE * estimate_bps:
            consumer.route.stop()

    def _free(self, line: LineState) -> None:
        """The line is wide again."""
        line.managed = False
        line.patience_ms = line.probe_pause_ms = 0.0
        if line.pacing_bps:
            line.pacing_bps = 0.0
            line.leg.set_pacing(0)
        freed: list[str] = []
        for consumer in self._media.consumers_of(line.leg):
            if consumer.held:
                freed.append(consumer.consumer_id)
            if consumer.held or consumer.allowed is not None:
                consumer.held, consumer.allowed = False, None
                consumer.select()
        if freed:
            self._media.emit(StreamStates(line.leg.name, (), tuple(freed)))

    # ------------------------------------------------------------ pacing and probes

    def _pace(self, line: LineState) -> None:
        estimate = line.estimator.estimate_bps
        if math.isinf(estimate) or estimate > PACED_BELOW * max(line.wanted_bps, 1.0):
            rate = 0.0
        else:
            rate = max(PACING * estimate, line.leg.queued * 8.8e6 / PACED_WAIT_MS)
        if abs(rate - line.pacing_bps) > SAME_ESTIMATE * line.pacing_bps:
            line.pacing_bps = rate
            line.leg.set_pacing(rate)

    def _probe(self, line: LineState, now_ms: float) -> None:
        estimator = line.estimator
        outcome = estimator.take_outcome()
        if outcome is Outcome.CARRIED:
            line.lowered_ms, line.dirty = -1e12, True  # this is what we waited for
            line.next_probe_ms = now_ms
            self._decide(line, now_ms)
            if estimator.estimate_bps < 1.1 * line.probed_from_bps:
                line.next_probe_ms = now_ms + PROBE_PAUSE_MS
        elif outcome is Outcome.FAILED:
            self._rest_from_probes(line, now_ms)
        if now_ms < line.next_probe_ms or not estimator.calm(now_ms):
            return
        if now_ms - line.lowered_ms < CALM_DOWN_MS or line.leg.queued:
            return
        _, demands = self._demands(line, now_ms)
        levels = {one.consumer_id: one.level for one in demands}
        step = allocation.next_step_bps(demands, levels)
        # silence is an outage, or all that there was is held: then only a probe can find out
        if not step or (estimator.silent(now_ms) and HELD not in levels.values()):
            return
        granted = allocation.granted_bps(demands, levels)
        share = allocation.UP_SHARE * self._share_for_firsts(line, now_ms)
        needed = (granted + step) / share + line.voice_bps
        if estimator.estimate_bps >= needed:
            if self._may_rise(line, now_ms):
                return  # the next decision goes there without a question
            needed = PROBE_BEYOND * estimator.estimate_bps  # patience ends when the line is much wider
        target = min(needed * PROBE_OVERSHOOT, MAX_PROBE_STEP * estimator.estimate_bps)
        extra = max(MIN_PROBE_BPS, target - min(estimator.sent_bps, granted + line.voice_bps))
        size = int(max(MIN_PROBE_BYTES, min(MAX_PROBE_BYTES, extra * PROBE_MS / 8000)))
        line.cluster = line.cluster % 0xFFFF + 1
        if line.leg.probe(line.cluster, extra, size):
            self.probes += 1
            line.probed_from_bps = estimator.estimate_bps
            estimator.begin_probe(line.cluster, size, now_ms)
        elif line.leg.ready:
            estimator.dare(target)
            line.dirty = True
            self._rest_from_probes(line, now_ms)
            return
        line.next_probe_ms = now_ms + max(PROBE_PAUSE_MS, line.probe_pause_ms)

    @staticmethod
    def _rest_from_probes(line: LineState, now_ms: float) -> None:
        pause = max(PROBE_PAUSE_MS, line.probe_pause_ms * 2)
        line.probe_pause_ms = min(MAX_PROBE_PAUSE_MS, pause)
        line.next_probe_ms = now_ms + line.probe_pause_ms

    # ------------------------------------------------------------ voices

    def _look_after_voices(self, line: LineState, now_ms: float) -> None:
        loss = self.loss_of(line, now_ms)
        if line.managed:
            # what a full line drops would be more with every packet sent twice
            inherent = line.estimator.losses.inherent
            loss = min(loss, inherent)
            if line.red.on and inherent < RED_OFF:
                line.red = RedSwitch()  # it was turned on before anybody knew that the line is full
        line.red.update(loss, now_ms)
        # On a line without room the second copy of each voice packet would take the picture's place.
        strip = line.managed and not line.red.on
        if (line.red.on, strip) == line.red_told and not (line.red.on or strip):
            return
        line.red_told = line.red.on, strip
        for consumer in self._media.consumers_of(line.leg):  # who has come since, too
            if consumer.kind is Kind.AUDIO:
                consumer.set_red(line.red.on, strip)

    def loss_of(self, line: LineState, now_ms: float) -> float:
        return line.estimator.losses.loss if not line.estimator.silent(now_ms) else 0.0
