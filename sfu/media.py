"""MediaPlane: the worker's producers and consumers, and the policy that runs beside the packets."""

from __future__ import annotations

from collections.abc import Callable

from sfu import congestion, feedback, ortc, stats
from sfu.consumer import ALL_TEMPORAL, Consumer, LegConsumer, Tap
from sfu.messages import (
    CloseConsumer,
    CloseProducer,
    Consume,
    ConsumerReport,
    Counter,
    Done,
    Failed,
    MediaRequest,
    Produce,
    ProducerLive,
    ProducerReport,
    Reply,
    RequestKeyFrame,
    SetConsumerPaused,
    SetConsumerPriority,
    SetConsumerSource,
    SetLayer,
    SetProducerPaused,
    StartTap,
    StopTap,
    TapStopped,
    TransportReport,
)
from sfu.params import Kind
from sfu.producer import Producer
from sfu.router import Router
from sfu.seams import Emit, FeedHandle, FirstPacket, LegHandle, Relay, TapFactory

LEVELS_MS = 300.0
ALIVE_CHECK_MS = 200.0
MAX_PRODUCERS_PER_LEG = 32
MAX_CONSUMERS_PER_LEG = 1024

_DONE = Done()


class MediaPlane:
    """Implements the relay's ``MediaSide``.  Single-threaded: all calls come from the worker's loop."""

    def __init__(
        self, relay: Relay, emit: Emit, clock_ms: Callable[[], float], tap_factory: TapFactory | None
    ) -> None:
        self.relay = relay
        self.emit = emit
        self.clock_ms = clock_ms
        self.tap_factory = tap_factory
        self.routers: dict[str, Router] = {}
        self.leg_router: dict[str, Router] = {}
        self.producers: dict[str, Producer] = {}
        self.consumers: dict[str, LegConsumer] = {}
        self.taps: dict[str, Tap] = {}
        self.by_ssrc: dict[tuple[str, int], LegConsumer] = {}  # (leg, media SSRC)
        self._by_leg: dict[str, dict[str, LegConsumer]] = {}
        self.wishes: set[Producer] = set()  # producers whose feeds wait for a key frame
        self.statistics = stats.Statistics()
        self.feedback = feedback.Feedback(self)
        self.congestion = congestion.Congestion(self)
        self._levels_ms = self._alive_ms = 0.0
        relay.attach(self)
        self._handlers: dict[type, Callable[..., Reply]] = {
            Produce: self._produce,
            SetProducerPaused: self._set_producer_paused,
            CloseProducer: self._close_producer,
            Consume: self._consume,
            SetConsumerPaused: self._set_consumer_paused,
            SetConsumerPriority: self._set_consumer_priority,
            SetLayer: self._set_layer,
            SetConsumerSource: self._set_consumer_source,
            RequestKeyFrame: self._request_key_frame,
            CloseConsumer: self._close_consumer,
            StartTap: self._start_tap,
            StopTap: self._stop_tap,
        }

    # ------------------------------------------------------------ routers and legs

    def open_router(self, router_id: str) -> None:
        self.routers.setdefault(router_id, Router(router_id))

    def close_router(self, router_id: str) -> None:
        router = self.routers.pop(router_id, None)
        if router is not None:
            for leg in [*router.legs]:
                self.close_leg(leg)

    def add_leg(self, router_id: str, transport_id: str) -> None:
        """The router is opened if need be."""
        self.open_router(router_id)
        router = self.routers[router_id]
        router.legs.add(transport_id)
        self.leg_router[transport_id] = router
        self.relay.leg(transport_id)

    def close_leg(self, transport_id: str) -> None:
        router = self.leg_router.pop(transport_id, None)
        if router is None:
            return
        for consumer in [*self._by_leg.get(transport_id, {}).values()]:
            self._drop_consumer(consumer)
        for producer in [p for p in router.producers.values() if p.leg.name == transport_id]:
            self._drop_producer(producer)
        self._by_leg.pop(transport_id, None)
        leg = self.relay.leg(transport_id)
        self.statistics.close_leg(leg)
        self.feedback.forget(leg)
        self.congestion.forget(leg)
        self.relay.close_leg(transport_id)
        router.legs.discard(transport_id)

    # ------------------------------------------------------------ requests

    def handle(self, request: MediaRequest) -> Reply:
        handler = self._handlers.get(type(request))
        if handler is None:
            return Failed("unknown_request", f"{type(request).__name__} is no media request")
        reply = handler(request)
        self.feedback.ask_for_key_frames(self.clock_ms())
        return reply

    def _produce(self, request: Produce) -> Reply:
        if request.producer_id in self.producers:
            return _DONE
        router = self.leg_router.get(request.transport_id)
        if router is None:
            return Failed("no_transport", f"no transport {request.transport_id}")
        if not any(c.mime.lower() not in ortc.AUXILIARY for c in request.rtp.codecs):
            return Failed("no_codec", "the section has no codec")
        leg = self.relay.leg(request.transport_id)
        if sum(p.leg is leg for p in router.producers.values()) >= MAX_PRODUCERS_PER_LEG:
            return Failed("too_many_producers", "this transport has too many producers")
        producer = Producer(
            request.producer_id, request.kind, request.rtp,
            leg=leg, router=router, relay=self.relay, wishes=self.wishes,
        )  # fmt: skip
        producer.set_paused(request.paused)
        self.producers[request.producer_id] = producer
        router.producers[request.producer_id] = producer
        return _DONE

    def _set_producer_paused(self, request: SetProducerPaused) -> Reply:
        producer = self.producers.get(request.producer_id)
        if producer is None:
            return Failed("no_producer", f"no producer {request.producer_id}")
        if producer.paused != request.paused:
            producer.set_paused(request.paused)
            # on resume each route aims anew and asks for a key frame
            for consumer in producer.consumers:
                if request.paused:
                    consumer.rest(self.clock_ms())
                else:
                    consumer.select()
        return _DONE

    def _close_producer(self, request: CloseProducer) -> Reply:
        producer = self.producers.get(request.producer_id)
        if producer is not None:
            self._drop_producer(producer)
        return _DONE

    def _consume(self, request: Consume) -> Reply:
        if request.consumer_id in self.consumers:
            return _DONE
        router = self.leg_router.get(request.transport_id)
        if router is None:
            return Failed("no_transport", f"no transport {request.transport_id}")
        producer = router.producers.get(request.producer_id)
        if producer is None:
            return Failed("no_producer", f"no producer {request.producer_id} in this router")
        if not request.rtp.encodings or not request.rtp.encodings[0].ssrc:
            return Failed("no_ssrc", "a consumer needs an SSRC")
        if not ortc.match(producer.rtp, request.rtp):
            return Failed("no_common_codec", "producer and receiver have no codec in common")
        leg = self.relay.leg(request.transport_id)
        if len(self._by_leg.get(leg.name, ())) >= MAX_CONSUMERS_PER_LEG:
            return Failed("too_many_consumers", "this transport has too many consumers")
        encoding = request.rtp.encodings[0]
        ssrc = encoding.ssrc or 0
        if (leg.name, ssrc) in self.by_ssrc:
            return Failed("ssrc_in_use", f"SSRC {ssrc} is another consumer's")
        is_video = producer.kind is Kind.VIDEO
        route = self.relay.open_route(
            leg, is_video=is_video, ssrc=ssrc, rtx_ssrc=encoding.rtx_ssrc or 0,
            resends=ortc.resends(request.rtp),
        )  # fmt: skip
        consumer = LegConsumer(request.consumer_id, producer, leg, request.rtp, route)
        consumer.paused = request.paused
        consumer.spatial = request.spatial_layer
        consumer.priority = request.priority
        consumer.temporal = request.temporal_layer if request.temporal_layer < 2 else ALL_TEMPORAL
        self.consumers[request.consumer_id] = consumer
        self.by_ssrc[leg.name, ssrc] = consumer
        self._by_leg.setdefault(leg.name, {})[request.consumer_id] = consumer
        producer.consumers = (*producer.consumers, consumer)
        self.congestion.added(consumer)
        consumer.select()
        return _DONE

    def _set_consumer_paused(self, request: SetConsumerPaused) -> Reply:
        consumer = self.consumers.get(request.consumer_id)
        if consumer is None:
            return Failed("no_consumer", f"no consumer {request.consumer_id}")
        if consumer.paused != request.paused:
            consumer.paused = request.paused
            self.congestion.changed(consumer)
            consumer.select()
        return _DONE

    def _set_consumer_priority(self, request: SetConsumerPriority) -> Reply:
        consumer = self.consumers.get(request.consumer_id)
        if consumer is None:
            return Failed("no_consumer", f"no consumer {request.consumer_id}")
        consumer.priority = request.priority
        self.congestion.changed(consumer)
        return _DONE

    def _set_layer(self, request: SetLayer) -> Reply:
        consumer = self.consumers.get(request.consumer_id)
        if consumer is None:
            return Failed("no_consumer", f"no consumer {request.consumer_id}")
        consumer.spatial = max(0, request.spatial_layer)
        consumer.temporal = request.temporal_layer if request.temporal_layer < 2 else ALL_TEMPORAL
        self.congestion.changed(consumer)
        consumer.select()
        return _DONE

    def _set_consumer_source(self, request: SetConsumerSource) -> Reply:
        consumer = self.consumers.get(request.consumer_id)
        if consumer is None:
            return Failed("no_consumer", f"no consumer {request.consumer_id}")
        producer = self.leg_router[consumer.leg.name].producers.get(request.producer_id)
        if producer is None:
            return Failed("no_producer", f"no producer {request.producer_id} in this router")
        if producer.kind is not consumer.kind:
            return Failed("wrong_kind", "audio can't take over from video, nor video from audio")
        if not ortc.match(producer.rtp, consumer.rtp):
            return Failed("no_common_codec", "producer and receiver have no codec in common")
        if producer is not consumer.producer:
            _leave(consumer)
            producer.consumers = (*producer.consumers, consumer)
            consumer.set_source(producer)
            self.congestion.changed(consumer)
        return _DONE

    def _request_key_frame(self, request: RequestKeyFrame) -> Reply:
        producer = self.producers.get(request.producer_id)
        if producer is None:
            return Failed("no_producer", f"no producer {request.producer_id}")
        if producer.kind is Kind.VIDEO:
            for index, feed in enumerate(producer.feeds):
                if feed.ssrc:
                    producer.want_key_frame(index)
        return _DONE

    def _close_consumer(self, request: CloseConsumer) -> Reply:
        consumer = self.consumers.get(request.consumer_id)
        if consumer is not None:
            self._drop_consumer(consumer)
        return _DONE

    def _start_tap(self, request: StartTap) -> Reply:
        if request.tap_id in self.taps:
            return _DONE
        producer = self.producers.get(request.producer_id)
        if producer is None:
            return Failed("no_producer", f"no producer {request.producer_id}")
        if self.tap_factory is None:
            return Failed("no_taps", "this worker can't write taps")
        try:
            sink = self.tap_factory(request, ortc.tap_codecs(producer.rtp))
        except OSError as error:
            return Failed("tap_failed", f"the tap can't be opened: {error}")
        route = self.relay.open_tap(sink, is_video=producer.kind is Kind.VIDEO)
        tap = Tap(request, producer, sink, route)
        self.taps[request.tap_id] = tap
        producer.consumers = (*producer.consumers, tap)
        tap.select()
        return _DONE

    def _stop_tap(self, request: StopTap) -> Reply:
        tap = self.taps.pop(request.tap_id, None)
        if tap is not None:
            _leave(tap)
            tap.close()
        return _DONE

    # ------------------------------------------------------------ closing

    def _drop_consumer(self, consumer: LegConsumer) -> None:
        del self.consumers[consumer.consumer_id]
        self._by_leg.get(consumer.leg.name, {}).pop(consumer.consumer_id, None)
        self.by_ssrc.pop((consumer.leg.name, consumer.route.ssrc), None)
        self.statistics.close_consumer(consumer)
        self.congestion.changed(consumer)
        _leave(consumer)
        consumer.close()

    def _drop_producer(self, producer: Producer) -> None:
        del self.producers[producer.producer_id]
        producer.router.producers.pop(producer.producer_id, None)
        self.statistics.close_producer(producer)
        self.congestion.rates.forget(producer)
        for consumer in producer.consumers:
            if isinstance(consumer, Tap):
                self._end_tap(consumer, "producer closed")
            else:
                consumer.route.stop()
        producer.consumers = ()
        if producer.loudness.silence():
            producer.paused = True
            producer.loudness.announced = True
            level = producer.measure()
            if level is not None:
                producer.router.fallen_silent.append(level)
        producer.close()

    def _end_tap(self, tap: Tap, reason: str) -> None:
        self.taps.pop(tap.consumer_id, None)
        _leave(tap)
        tap.close()
        self.emit(TapStopped(tap.consumer_id, reason))

    # ------------------------------------------------------------ the relay's calls

    def resolve(self, leg: LegHandle, packet: FirstPacket) -> bool:
        router = self.leg_router.get(leg.name)
        if router is None:
            return False
        mine = [p for p in router.producers.values() if p.leg is leg]
        if packet.mid:
            mid = packet.mid.decode("ascii", "replace")
            return any(p.resolve(packet) for p in mine if p.rtp.mid == mid)
        # without MID (old clients): the payload type, if it tells one section from all others
        fitting = [
            p for p in mine
            if packet.payload_type in p.feeds[0].codecs or packet.payload_type in p.feeds[0].rtx_types
        ]  # fmt: skip
        if len(fitting) == 1 and (len(fitting[0].feeds) > 1 or not fitting[0].feeds[0].ssrc):
            return fitting[0].resolve(packet)
        return False

    def on_alive(self, feed: FeedHandle, payload_type: int, now_ms: float) -> None:
        producer = self.producers.get(feed.source)
        if producer is None:
            return
        if not producer.live:
            producer.live = True
            self.emit(ProducerLive(producer.producer_id, feed.codecs[payload_type].mime))
        self._look_alive(producer, now_ms)

    def on_key_frame(self, feed: FeedHandle) -> None:
        producer = self.producers.get(feed.source)
        if producer is not None:
            producer.key_frames[feed.index].came(self.clock_ms())

    def on_restart(self, feed: FeedHandle) -> None:
        self.on_lost_feed(feed)

    def on_lost_feed(self, feed: FeedHandle) -> None:
        producer = self.producers.get(feed.source)
        if producer is not None and producer.kind is Kind.VIDEO and feed.wanted:
            producer.want_key_frame(feed.index)

    def on_leg_ready(self, leg: LegHandle) -> None:
        for consumer in self.consumers_of(leg):
            consumer.select()
        self.feedback.ask_for_key_frames(self.clock_ms())

    def on_leg_returned(self, transport_id: str) -> None:
        """The client's line was dead and lives again.  Key frames mend its pictures in both directions at
        once; to send again all that was lost would fill the line just when it is needed.
        """
        router = self.leg_router.get(transport_id)
        if router is None:
            return
        now_ms = self.clock_ms()
        self.feedback.mend_by_key_frames(transport_id, now_ms)
        self.congestion.returned(self.relay.leg(transport_id), now_ms)
        for consumer in self._by_leg.get(transport_id, {}).values():
            if consumer.kind is Kind.VIDEO:
                consumer.want_key_frame(now_ms)
        for producer in router.producers.values():
            if producer.leg.name == transport_id and producer.kind is Kind.VIDEO:
                for feed in producer.feeds:
                    if feed.wanted:
                        producer.want_key_frame(feed.index)
        self.feedback.ask_for_key_frames(now_ms)

    def on_rtcp(self, leg: LegHandle, data: bytes, now_ms: float) -> None:
        self.feedback.on_rtcp(leg, data, now_ms)

    # ------------------------------------------------------------ time

    def tick(self, now_ms: float) -> None:
        """Every 50 ms: feedback, repeated NACKs, key frames; now and then layers, reports and levels."""
        self.feedback.tick(now_ms)
        self.congestion.tick(now_ms)
        if now_ms - self._alive_ms >= ALIVE_CHECK_MS:
            self._alive_ms = now_ms
            for producer in self.producers.values():
                if len(producer.feeds) > 1:
                    self._look_alive(producer, now_ms)
            for tap in [tap for tap in self.taps.values() if tap.route.broken]:
                self._end_tap(tap, tap.route.broken)
        if now_ms - self._levels_ms >= LEVELS_MS:
            self._levels_ms = now_ms
            for router in self.routers.values():
                levels = router.measure()
                if levels is not None:
                    self.emit(levels)
        self.feedback.ask_for_key_frames(now_ms)

    def _look_alive(self, producer: Producer, now_ms: float) -> None:
        alive = tuple(feed.alive(now_ms) for feed in producer.feeds)
        if alive != producer.alive:
            producer.alive = alive
            for consumer in producer.consumers:
                consumer.select()

    def report(
        self,
    ) -> tuple[list[ProducerReport], list[ConsumerReport], dict[str, TransportReport], list[Counter]]:
        """Once a second; rates and loss are since the last call."""
        return self.statistics.report(self, self.clock_ms())

    def consumers_of(self, leg: LegHandle) -> list[LegConsumer]:
        return [*self._by_leg.get(leg.name, {}).values()]


def _leave(consumer: Consumer) -> None:
    producer = consumer.producer
    producer.consumers = tuple(other for other in producer.consumers if other is not consumer)
