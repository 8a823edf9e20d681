"""Reports and counters of the media plane, once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfu.consumer import LegConsumer
from sfu.messages import ConsumerReport, Counter, LayerReport, ProducerReport, TransportReport
from sfu.metrics import Traffic, by_direction, gauges
from sfu.params import Kind
from sfu.producer import Producer
from sfu.seams import FeedHandle, LegHandle

if TYPE_CHECKING:
    from sfu.media import MediaPlane


class _Since:
    """Counters of one stream at the last report."""

    __slots__ = ("at_ms", "bytes", "expected", "frames", "lost")

    def __init__(self, at_ms: float) -> None:
        self.at_ms = at_ms
        self.bytes = self.frames = self.expected = self.lost = 0


class _Share:
    """Lost and expected packets of one leg, added up over its streams."""

    __slots__ = ("expected", "lost")

    def __init__(self) -> None:
        self.lost = self.expected = 0.0

    def add(self, lost: float, expected: float) -> None:
        self.lost += lost
        self.expected += expected

    @property
    def fraction(self) -> float:
        return min(1.0, self.lost / self.expected) if self.expected > 0 else 0.0


class Statistics:
    """Keeps what closed streams have counted, so that totals never go back."""

    def __init__(self) -> None:
        self._in = Traffic()
        self._out = Traffic()
        self._lost_in = self._lost_out = 0
        self._feeds: dict[FeedHandle, _Since] = {}
        self._consumers: dict[str, _Since] = {}

    # ------------------------------------------------------------ closing

    def close_producer(self, producer: Producer) -> None:
        for feed in producer.feeds:
            _add_feed(self._in, feed)
            self._lost_in += max(0, feed.lost - feed.recovered)
            self._feeds.pop(feed, None)

    def close_consumer(self, consumer: LegConsumer) -> None:
        _add_consumer(self._out, consumer)
        self._lost_out += consumer.lost
        self._consumers.pop(consumer.consumer_id, None)

    def close_leg(self, leg: LegHandle) -> None:
        self._in.add("other", leg.other_packets, leg.other_bytes)

    # ------------------------------------------------------------ reporting

    def report(
        self, media: MediaPlane, now_ms: float
    ) -> tuple[list[ProducerReport], list[ConsumerReport], dict[str, TransportReport], list[Counter]]:
        up: dict[str, _Share] = {}
        down: dict[str, _Share] = {}
        producers = [
            self._producer(producer, now_ms, up.setdefault(producer.leg.name, _Share()))
            for producer in media.producers.values()
        ]
        consumers = [
            self._consumer(consumer, now_ms, down.setdefault(consumer.leg.name, _Share()))
            for consumer in media.consumers.values()
        ]
        nothing = _Share()
        congestion = media.congestion
        transports = {
            leg.name: TransportReport(
                leg.name, leg.rtt_ms, up.get(leg.name, nothing).fraction,
                down.get(leg.name, nothing).fraction, leg.bytes_in, leg.bytes_out,
                jitter_up_ms=_jitter_up_ms(leg, now_ms),
                jitter_down_ms=max((c.jitter_at(now_ms) for c in media.consumers_of(leg)), default=0.0),
                estimate_bps=congestion.estimate_of(leg),
                wanted_bps=congestion.wanted_of(leg),
                held=sum(consumer.held for consumer in media.consumers_of(leg)),
            )
            for leg in media.relay.legs()
        }  # fmt: skip
        return producers, consumers, transports, self._counters(media)

    def _producer(self, producer: Producer, now_ms: float, share: _Share) -> ProducerReport:
        layers: list[LayerReport] = []
        expected_all = lost_all = 0
        for feed in producer.feeds:
            since = self._feeds.get(feed)
            if since is None:
                since = self._feeds[feed] = _Since(now_ms - 1000)
            seconds = max(0.05, (now_ms - since.at_ms) / 1000)
            size = feed.bytes + feed.rtx_bytes
            # loss is what retransmission didn't mend in time for the report
            expected = feed.highest - feed.base_seq + 1 if feed.highest >= 0 else 0
            lost = feed.lost
            if expected >= since.expected:
                expected_all += expected - since.expected
                lost_all += max(0, lost - since.lost)
            if feed.ssrc:
                layers.append(
                    LayerReport(
                        feed.index, feed.ssrc, (size - since.bytes) * 8 / seconds, feed.packets, feed.bytes,
                        max(0, lost), feed.jitter * 1000 / feed.clock_rate,
                        (feed.frames - since.frames) / seconds, feed.width, feed.height,
                    )
                )  # fmt: skip
            since.at_ms, since.bytes, since.frames = now_ms, size, feed.frames
            since.expected, since.lost = expected, lost
        loss = min(1.0, lost_all / expected_all) if expected_all > 0 else 0.0
        share.add(lost_all, expected_all)
        return ProducerReport(producer.producer_id, producer.kind, loss, tuple(layers))

    def _consumer(self, consumer: LegConsumer, now_ms: float, share: _Share) -> ConsumerReport:
        since = self._consumers.get(consumer.consumer_id)
        if since is None:
            since = self._consumers[consumer.consumer_id] = _Since(now_ms - 1000)
        route = consumer.route
        seconds = max(0.05, (now_ms - since.at_ms) / 1000)
        size = route.bytes + route.resent_bytes
        rate = (size - since.bytes) * 8 / seconds
        loss = consumer.loss_at(now_ms)
        share.add(loss * (route.packets - since.expected), route.packets - since.expected)
        since.at_ms, since.bytes, since.expected = now_ms, size, route.packets
        return ConsumerReport(
            consumer.consumer_id, consumer.kind, rate, route.packets, route.bytes, loss,
            consumer.rtt_ms, consumer.layer,
        )  # fmt: skip

    def _counters(self, media: MediaPlane) -> list[Counter]:
        into, out = self._in.copy(), self._out.copy()
        lost_in, lost_out = self._lost_in, self._lost_out
        for producer in media.producers.values():
            for feed in producer.feeds:
                _add_feed(into, feed)
                lost_in += max(0, feed.lost - feed.recovered)
        for leg in media.relay.legs():
            into.add("other", leg.other_packets, leg.other_bytes)
        for consumer in media.consumers.values():
            _add_consumer(out, consumer)
            lost_out += consumer.lost
        feedback = media.feedback
        return [
            *into.counters("in"),
            *out.counters("out"),
            *by_direction(
                "lianxin_nack_total", feedback.nacks_in + media.relay.nacks_in, media.relay.nacks_sent
            ),
            *by_direction("lianxin_pli_total", feedback.plis_in, feedback.plis_out),
            *by_direction("lianxin_packets_lost_total", lost_in, lost_out),
            *media.relay.drops.counters(),
            *media.congestion.counters(),
            *gauges(
                [
                    ("lianxin_producers", len(media.producers)),
                    ("lianxin_consumers", len(media.consumers)),
                    ("lianxin_routers", len(media.routers)),
                ]
            ),
        ]


def _jitter_up_ms(leg: LegHandle, now_ms: float) -> float:
    living = (feed for feed in leg.feeds.values() if feed.alive(now_ms))
    return max((feed.jitter * 1000 / feed.clock_rate for feed in living), default=0.0)


def _add_feed(traffic: Traffic, feed: FeedHandle) -> None:
    traffic.add("audio" if feed.kind is Kind.AUDIO else "video", feed.packets, feed.bytes)
    traffic.add("rtx", feed.rtx_packets, feed.rtx_bytes)


def _add_consumer(traffic: Traffic, consumer: LegConsumer) -> None:
    route = consumer.route
    traffic.add("audio" if consumer.kind is Kind.AUDIO else "video", route.packets, route.bytes)
    traffic.add("rtx", route.resent, route.resent_bytes)
