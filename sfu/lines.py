"""What is known of one line to a receiver, and how fast its feeds and voices are; no decisions here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sfu.allocation import HELD, Demand, Layer
from sfu.consumer import LegConsumer
from sfu.estimator import Estimator
from sfu.producer import Producer
from sfu.seams import FeedHandle, LegHandle
from sfu.voices import RedSwitch

RISE, FALL = 0.25, 0.1  # in 200 ms: slow enough that a key frame is no higher rate, and a rest no lower one
MIN_LAYER_BPS = 15_000.0  # a still picture may move again any time
BASE_SHARES = (0.55, 0.8)  # of a VP8 stream in its lowest and two lowest temporal layers, until measured
NO_LAYERS = 0.95
ALL_TEMPORAL = 7


class FeedRates:
    """Bit rates of all feeds, from their counters."""

    def __init__(self) -> None:
        self._seen: dict[FeedHandle, tuple[float, int, tuple[int, ...]]] = {}
        self._rates: dict[FeedHandle, tuple[float, ...]] = {}

    def forget(self, producer: Producer) -> None:
        for feed in producer.feeds:
            self._seen.pop(feed, None)
            self._rates.pop(feed, None)

    def measure(self, producer: Producer, now_ms: float) -> None:
        for feed in producer.feeds:
            layers = tuple(feed.layer_bytes) if producer.layered else ()
            before = self._seen.get(feed)
            size = feed.bytes
            if before is None:
                self._seen[feed] = now_ms, size, layers
                continue
            elapsed_ms = now_ms - before[0]
            if elapsed_ms < 100:
                continue
            self._seen[feed] = now_ms, size, layers
            fresh = [(size - before[1]) * 8000 / elapsed_ms]
            if layers and len(before[2]) == len(layers):
                fresh = [max(0, b - a) * 8000 / elapsed_ms for a, b in zip(before[2], layers, strict=True)]
            known = self._rates.get(feed, ())
            if len(known) != len(fresh) or not any(known):
                known = tuple(fresh)
            weight = min(1.0, elapsed_ms / 200)
            self._rates[feed] = tuple(
                old + (new - old) * min(1.0, (RISE if new > old else FALL) * weight)
                for old, new in zip(known, fresh, strict=True)
            )

    def of(self, feed: FeedHandle) -> float:
        return sum(self._rates.get(feed, (0.0,)))

    def layers_of(self, feed: FeedHandle) -> tuple[float, ...]:
        """Of each spatial layer alone, where the feed holds several."""
        return self._rates.get(feed, (0.0,))


@dataclass(slots=True)
class LineState:
    """One leg that receives."""

    leg: LegHandle
    estimator: Estimator = field(default_factory=Estimator)
    managed: bool = False  # its consumers have limits
    dirty: bool = True
    decided_ms: float = -1e12
    decided_bps: float = 0.0
    lowered_ms: float = -1e12
    raised_ms: float = -1e12
    patience_ms: float = 0.0  # to wait after a step down before a step up
    content_ms: float = 0.0  # since when all that is wanted is sent
    cluster: int = 0
    next_probe_ms: float = 0.0
    probe_pause_ms: float = 0.0
    probed_from_bps: float = 0.0
    digests_ms: float = -1e12
    pacing_bps: float = 0.0
    # what it was sent, for receivers without transport-wide feedback
    counted_ms: float = -1e12
    counted_bytes: int = 0
    sent_bps: float = 0.0
    voices: tuple[float, int] = (0.0, 0)  # when, bytes of all voices
    voice_bps: float = 0.0
    packets: int = 0
    lost: int = 0
    red: RedSwitch = field(default_factory=RedSwitch)
    red_told: tuple[bool, bool] = (False, False)  # made, stripped: as the consumers know it
    wanted_bps: float = 0.0

    def count_sent(self, now_ms: float) -> None:
        size, elapsed_ms = self.leg.bytes_out, now_ms - self.counted_ms
        if 0 < elapsed_ms < 10_000:
            self.sent_bps = max(0, size - self.counted_bytes) * 8000 / elapsed_ms
        self.counted_ms, self.counted_bytes = now_ms, size

    def count_voices(self, size: int, now_ms: float) -> None:
        elapsed_ms = now_ms - self.voices[0]
        if elapsed_ms > 5000 or size < self.voices[1]:
            self.voices = now_ms, size
        elif elapsed_ms >= 400:
            self.voice_bps = (size - self.voices[1]) * 8000 / elapsed_ms
            self.voices = now_ms, size


def options(consumer: LegConsumer, rates: FeedRates, shares: tuple[float, ...]) -> tuple[Layer, ...]:
    """What the consumer can be given, from the least to what it wants; empty while nothing comes."""
    producer = consumer.producer
    if producer.layered:
        own = rates.layers_of(producer.feeds[0])
        found, total = [], 0.0
        for spatial, rate in enumerate(own):
            if rate <= 0 and spatial:
                continue
            total += rate
            if spatial <= max(0, consumer.spatial):
                found.append((spatial, total))
        if not producer.alive[0]:
            return ()
    else:
        living = [index for index, alive in enumerate(producer.alive) if alive]
        if not living:
            return ()
        wanted = [index for index in living if index <= consumer.spatial] or living[:1]
        found = [(index, rates.of(producer.feeds[index])) for index in wanted]
    layers: list[Layer] = []
    highest = 0.0
    for place, (spatial, rate) in enumerate(found):
        rate = max(rate, MIN_LAYER_BPS, highest * 1.01)
        if place == 0:
            layers += [
                Layer(spatial, temporal, rate * share)
                for temporal, share in enumerate(shares)
                if share < NO_LAYERS and temporal < consumer.temporal
            ]
        layers.append(Layer(spatial, ALL_TEMPORAL, rate))
        highest = rate
    return tuple(layers)


def demand(consumer: LegConsumer, layers: tuple[Layer, ...]) -> Demand:
    return Demand(consumer.consumer_id, consumer.priority, layers, _level(consumer, layers))


def _level(consumer: LegConsumer, layers: tuple[Layer, ...]) -> int:
    """Where in its options the consumer is now."""
    if consumer.held:
        return HELD
    spatial, temporal = consumer.allowed or (math.inf, ALL_TEMPORAL)
    at = HELD
    for place, layer in enumerate(layers):
        if layer.spatial < spatial or (layer.spatial == spatial and layer.temporal <= temporal):
            at = place
    return max(at, 0)
