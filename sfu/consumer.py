"""A Consumer: what one client (or a tap) receives of a Producer, and which layer of it."""

from __future__ import annotations

from sfu import layers, ortc
from sfu.messages import StartTap
from sfu.params import Kind, RtpParameters
from sfu.producer import Producer
from sfu.route import Binding
from sfu.seams import LegHandle, LegRouteHandle, RouteHandle, TapRouteHandle, TapSink

HIGHEST = 9
MAX_SPATIAL = 7
ALL_TEMPORAL = 7
REPORT_VALID_MS = 12_000.0  # audio receivers report every 5 s


class Consumer:
    """Policy of one route: aims it at the layer that is wanted and alive."""

    route: RouteHandle

    def __init__(self, consumer_id: str, producer: Producer) -> None:
        self.consumer_id = consumer_id
        self.producer = producer
        self.paused = False
        self.spatial = HIGHEST  # wanted
        self.temporal = ALL_TEMPORAL  # wanted
        self.priority = 0
        self.allowed: tuple[int, int] | None = None  # (spatial, temporal) that the line carries, None = all
        self.held = False  # the line does not even carry the lowest
        self.rtt_ms = 0.0
        self.binding: Binding | None = None

    @property
    def kind(self) -> Kind:
        return self.producer.kind

    @property
    def layer(self) -> int:
        """The spatial layer that is sent, -1 = nothing."""
        feed = self.route.feed
        if feed is None:
            return -1
        if not self.producer.layered:
            return feed.index
        highest = max((layer for layer, size in enumerate(feed.layer_bytes) if size), default=0)
        return min(self.route.spatial, highest)

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
        if self.paused or self.held or producer.paused or not self.ready():
            route.stop()
            return
        spatial, temporal = self.spatial, self.temporal
        if self.allowed is not None:
            spatial, temporal = min(spatial, self.allowed[0]), min(temporal, self.allowed[1])
        route.max_temporal = temporal
        if producer.layered:
            limit = max(0, min(spatial, MAX_SPATIAL))
            if limit > route.max_spatial and route.feed is not None:
                producer.want_key_frame(0)  # upper layers can only be entered there
            route.max_spatial = limit
        index = layers.choose(producer.alive, spatial)
        if index is None:
            if route.feed is not None or route.target is not None:
                return  # all silent: stay where we are until something moves
            # the nearest guess; the first packet of any layer corrects it
            index = min(spatial, len(producer.feeds) - 1)
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

    def want_key_frame(self, now_ms: float) -> None:
        """The receiver can't decode (PLI, FIR)."""
        if self.paused or self.producer.paused:
            return
        for feed in (self.route.feed, self.route.target):
            if feed is None or feed.source != self.producer.producer_id:
                continue
            wish = self.producer.key_frames[feed.index]
            if feed is self.route.target or not wish.answered(now_ms, self.rtt_ms):
                self.producer.want_key_frame(feed.index)

    def close(self) -> None:
        self.route.stop()


class LegConsumer(Consumer):
    """Sends to a client."""

    route: LegRouteHandle

    def __init__(
        self, consumer_id: str, producer: Producer, leg: LegHandle, rtp: RtpParameters, route: LegRouteHandle
    ) -> None:
        super().__init__(consumer_id, producer)
        self.leg = leg
        self.rtp = rtp
        self.route = route
        self.loss = 0.0  # by the receiver's newest report
        self.loss_ms = -1e12  # when that came
        self.lost = 0
        self.highest = -1  # by the newest report, extended
        self.jitter_ms = 0.0
        self.make_red = False  # its line loses so much that each voice packet is sent twice
        self.strip_red = False  # its line is narrow, and loses nothing by itself

    def ready(self) -> bool:
        return self.leg.ready

    def loss_at(self, now_ms: float) -> float:
        """Fraction lost (0…1) while something is sent and reported; an old report says nothing."""
        if self.route.feed is None or now_ms - self.loss_ms > REPORT_VALID_MS:
            return 0.0
        return self.loss

    def jitter_at(self, now_ms: float) -> float:
        """In ms, as ``loss_at``."""
        if self.route.feed is None or now_ms - self.loss_ms > REPORT_VALID_MS:
            return 0.0
        return self.jitter_ms

    def bind(self) -> Binding:
        return ortc.bind(
            self.producer.rtp, self.producer.leg, self.rtp, make_red=self.make_red, strip_red=self.strip_red
        )

    def set_red(self, make_red: bool, strip_red: bool = False) -> None:
        """Neither: what the publisher sends is passed on as it is."""
        if (self.make_red, self.strip_red) == (make_red, strip_red):
            return
        self.make_red, self.strip_red = make_red, strip_red
        self.binding = None
        feed = self.route.feed
        if feed is not None:
            self.binding = self.bind()
            self.route.aim(feed, self.binding)

    def close(self) -> None:
        self.route.close()


class Tap(Consumer):
    """Writes the best layer of a producer to a file."""

    route: TapRouteHandle

    def __init__(self, request: StartTap, producer: Producer, sink: TapSink, route: TapRouteHandle) -> None:
        super().__init__(request.tap_id, producer)
        self.sink = sink
        self.route = route

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
