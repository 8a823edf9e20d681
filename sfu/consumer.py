"""A Consumer: what one client (or a tap) receives of a Producer, and which layer of it."""

from __future__ import annotations

from sfu import layers, ortc
from sfu.codecs import opus
from sfu.drops import DropReason, Drops
from sfu.leg_route import LegRoute
from sfu.legs import Leg
from sfu.messages import StartTap
from sfu.params import Kind, RtpParameters
from sfu.producer import Producer
from sfu.route import Binding, Route, outgoing_payload, patch_pictures
from sfu.rtp import RTP_HEADER, Packet
from sfu.seams import TapSink

HIGHEST = 9
REPORT_VALID_MS = 12_000.0  # audio receivers report every 5 s


class Consumer:
    """Policy of one route: aims it at the layer that is wanted and alive."""

    route: Route

    def __init__(self, consumer_id: str, producer: Producer) -> None:
        self.consumer_id = consumer_id
        self.producer = producer
        self.paused = False
        self.spatial = HIGHEST
        self.priority = 0
        self.binding: Binding | None = None

    @property
    def kind(self) -> Kind:
        return self.producer.kind

    def ready(self) -> bool:
        return True

    def bind(self) -> Binding:
        raise NotImplementedError

    def rest(self, now_ms: float) -> None:
        """Nothing more is sent, and a voice ends at once."""
        self.route.hush(now_ms)
        self.route.stop()

    def select(self) -> None:
        """Aim the route at the best feed; ask for a key frame when that is a change."""
        producer, route = self.producer, self.route
        if self.paused or producer.paused or not self.ready():
            route.stop()
            return
        index = layers.choose(producer.alive, self.spatial)
        if index is None:
            if route.feed is not None or route.target is not None:
                return  # all silent: stay where we are until something moves
            # the nearest guess; the first packet of any layer corrects it
            index = min(self.spatial, len(producer.feeds) - 1)
        feed = producer.feeds[index]
        if feed is route.target:
            return
        if self.binding is None:
            self.binding = self.bind()
        changed = feed is not route.feed
        route.aim(feed, self.binding)
        if changed and self.kind is Kind.VIDEO:
            producer.want_key_frame(index)

    def set_source(self, producer: Producer) -> None:
        self.producer = producer
        self.binding = None
        # what comes of the old source would hide the switch: the picture rests until the key frame is here
        self.route.stop()
        self.select()

    def want_key_frame(self) -> None:
        """The receiver can't decode (PLI, FIR)."""
        if self.paused or self.producer.paused:
            return
        for feed in (self.route.feed, self.route.target):
            if feed is not None and feed.source == self.producer.producer_id:
                self.producer.want_key_frame(feed.index)

    def close(self) -> None:
        self.route.stop()


class LegConsumer(Consumer):
    """Sends to a client."""

    route: LegRoute

    def __init__(
        self, consumer_id: str, producer: Producer, leg: Leg, rtp: RtpParameters, route: LegRoute
    ) -> None:
        super().__init__(consumer_id, producer)
        self.leg = leg
        self.rtp = rtp
        self.route = route
        self.loss = 0.0  # by the receiver's newest report
        self.loss_ms = -1e12  # when that came
        self.lost = 0
        self.rtt_ms = 0.0

    def ready(self) -> bool:
        return self.leg.ready

    def loss_at(self, now_ms: float) -> float:
        """Fraction lost (0…1) while something is sent and reported; an old report says nothing."""
        if self.route.feed is None or now_ms - self.loss_ms > REPORT_VALID_MS:
            return 0.0
        return self.loss

    def bind(self) -> Binding:
        return ortc.bind(self.producer.rtp, self.producer.leg, self.rtp)

    def close(self) -> None:
        self.route.close()


class TapRoute(Route):
    """A route into a file."""

    __slots__ = ("broken", "buffer", "sink", "ssrc")

    def __init__(self, *, is_video: bool, drops: Drops, sink: TapSink, ssrc: int) -> None:
        super().__init__(is_video=is_video, drops=drops)
        self.sink = sink
        self.ssrc = ssrc
        self.buffer = memoryview(bytearray(2048))
        self.broken = ""  # why the sink takes no more

    def emit(
        self, packet: Packet, is_red: bool, sequence: int, timestamp: int, picture: int, tl0: int
    ) -> None:
        binding = self.binding
        if binding is None or self.broken:
            return
        codec = binding.codecs.get(packet.payload_type)
        if codec is None:
            self.drops.count(DropReason.NO_CODEC)
            return
        try:
            payload = outgoing_payload(packet, codec, is_red)
        except opus.RedError:
            self.drops.count(DropReason.MALFORMED_PAYLOAD)
            return
        view, end = self.buffer, 12 + len(payload)
        RTP_HEADER.pack_into(
            view, 0, 0x80, packet.marker | codec.payload_type, sequence, timestamp, self.ssrc
        )
        view[12:end] = payload
        patch_pictures(view, 12, packet.picture_at, picture, packet.picture_mask, packet.tl0_at, tl0)
        self.packets += 1
        self.bytes += end
        try:
            self.sink.send_rtp(bytes(view[:end]), packet.arrival_ms)
        except Exception as error:  # a full disk must not stop the relay
            self.broken = f"{type(error).__name__}: {error}"


class Tap(Consumer):
    """Writes the best layer of a producer to a file."""

    route: TapRoute

    def __init__(self, request: StartTap, producer: Producer, sink: TapSink, drops: Drops) -> None:
        super().__init__(request.tap_id, producer)
        self.sink = sink
        self.route = TapRoute(is_video=producer.kind is Kind.VIDEO, drops=drops, sink=sink, ssrc=1)

    def bind(self) -> Binding:
        return ortc.bind_tap(self.producer.rtp, self.producer.leg)

    def send_report(self, ntp_ms: float, rtp_timestamp: int, arrival_ms: float) -> None:
        """The publisher's clock in the tap's timestamps."""
        if self.route.broken:
            return
        mapped = (rtp_timestamp + self.route.timestamp_shift) & 0xFFFFFFFF
        try:
            self.sink.send_sender_report(ntp_ms, mapped, arrival_ms)
        except Exception as error:
            self.route.broken = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        self.route.stop()
        try:
            self.sink.close()
        except Exception as error:
            self.route.broken = f"{type(error).__name__}: {error}"
