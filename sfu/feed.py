"""A Feed: one encoding of a Producer as the relay sees it.  Numbers, statistics, loss, then its routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sfu.codecs import h264, svc, vp8
from sfu.codecs.dependency import Dependencies
from sfu.drops import DropReason, Drops
from sfu.nack import NackTracker
from sfu.params import CodecParameters, Kind
from sfu.rtp import Packet

if TYPE_CHECKING:
    from sfu.route import Route
    from sfu.seams import MediaSide

SEEN = 1024  # numbers remembered to tell duplicates (RTX of what has come, probing with old packets)
MAX_JUMP = 3000  # packets; a larger step is a restart (RFC 3550 A.1 MAX_DROPOUT)
ALIVE_MS = 1500.0

LAYERED = frozenset({"video/vp9", "video/av1"})  # one feed may hold all layers
MAX_LAYERS = 4  # that are counted apart
_READERS: dict[str, tuple[Callable[[Packet], None], Callable[[Packet], tuple[int, int] | None] | None]] = {
    "video/vp8": (vp8.read, vp8.picture_size),
    "video/h264": (h264.read, h264.picture_size),
    "video/vp9": (svc.read_vp9, svc.vp9_picture_size),
    "video/av1": (svc.read_av1, None),
}


class FeedCodec:
    """One payload type of a feed."""

    __slots__ = ("clock_rate", "is_layered", "is_red", "mime", "picture_size", "read")

    def __init__(self, parameters: CodecParameters) -> None:
        self.mime = parameters.mime
        self.clock_rate = parameters.clock_rate
        self.is_red = parameters.mime.lower() == "audio/red"
        self.is_layered = parameters.mime.lower() in LAYERED
        self.read: Callable[[Packet], None] | None
        self.picture_size: Callable[[Packet], tuple[int, int] | None] | None
        self.read, self.picture_size = _READERS.get(parameters.mime.lower(), (None, None))


class Feed:
    """Owned by one producer; ``ssrc`` is 0 until a packet tells it."""

    __slots__ = (
        "_bad_next", "_expected_prior", "_key_timestamp", "_received_prior", "_seen", "_transit", "base_seq",
        "bytes", "clock_rate", "codecs", "dependencies", "drops", "frames", "height", "highest", "index",
        "jitter", "kind", "last_ms", "layer_bytes", "level_count", "level_power", "nack", "packets", "paused",
        "received", "recovered",
        "report_arrival_ms", "report_local_ms", "report_ntp", "report_rtp", "rid", "routes", "rtx_bytes",
        "rtx_packets", "rtx_ssrc", "rtx_types", "side", "source", "ssrc", "width",
    )  # fmt: skip

    def __init__(
        self,
        source: str,
        index: int,
        kind: Kind,
        codecs: tuple[CodecParameters, ...],
        side: MediaSide,
        drops: Drops,
    ) -> None:
        self.source = source  # producer id
        self.index = index  # spatial layer, 0 = lowest
        self.kind = kind
        self.codecs: Mapping[int, FeedCodec] = {c.payload_type: FeedCodec(c) for c in codecs}
        self.rtx_types = {
            c.rtx_payload_type: c.payload_type for c in codecs if c.rtx_payload_type is not None
        }
        asks_again = any("nack" in c.rtcp_feedback for c in codecs)
        self.nack: NackTracker | None = NackTracker() if asks_again else None
        self.clock_rate = codecs[0].clock_rate
        self.side = side
        self.drops = drops
        self.ssrc = 0
        self.rtx_ssrc = 0
        self.rid: str | None = None
        self.paused = False
        self.routes: tuple[Route, ...] = ()
        self.packets = self.bytes = self.rtx_packets = self.rtx_bytes = 0
        self.layer_bytes = [0] * MAX_LAYERS  # by spatial layer, where the feed holds several
        self.frames = self.width = self.height = 0
        self.received = 0  # originals, for reports
        self.recovered = 0  # by retransmission
        self.last_ms = -1e12
        self.level_power = 0.0
        self.level_count = 0
        self.report_ntp = 0  # newest sender report; 0 = none
        self.report_rtp = 0
        self.report_local_ms = 0.0  # its NTP time on our clock
        self.report_arrival_ms = 0.0
        self.dependencies = Dependencies()
        self.renew()

    def renew(self) -> None:
        """Another stream of numbers begins: a new SSRC, or a restart."""
        self.highest = -1
        self.base_seq = 0
        self._bad_next = -1
        self._seen = [-1] * SEEN
        self._transit = 0.0
        self.jitter = 0.0
        self._expected_prior = self._received_prior = 0
        self.received = 0
        self._key_timestamp = -1
        self.report_ntp = 0
        self.dependencies.clear()
        if self.nack is not None:
            self.nack.clear()

    def bind(self, ssrc: int) -> None:
        """The encoding has this SSRC from now on; with another one its numbers have begun anew."""
        restarted = self.ssrc != 0
        self.ssrc = ssrc
        self.renew()
        if restarted:
            for route in self.routes:
                route.restart(self)
            self.side.on_restart(self)

    def close(self) -> None:
        for route in self.routes:
            route.stop()
        self.routes = ()

    @property
    def wanted(self) -> bool:
        """A route sends it or waits for its next key frame."""
        return bool(self.routes)

    def take_level(self) -> tuple[float, int]:
        """Audio since the last call: summed power (1 = 0 dBov) and number of packets with a level."""
        taken = self.level_power, self.level_count
        self.level_power, self.level_count = 0.0, 0
        return taken

    def alive(self, now_ms: float) -> bool:
        return now_ms - self.last_ms < ALIVE_MS

    # ------------------------------------------------------------ hot path

    def receive(self, packet: Packet, recovered: bool) -> None:
        """A packet of this feed; ``recovered``: unwrapped from RTX."""
        codec = self.codecs.get(packet.payload_type)
        if codec is None:
            self.drops.count(DropReason.UNKNOWN_PAYLOAD_TYPE)
            return
        now_ms = packet.arrival_ms
        sequence = packet.sequence
        highest = self.highest
        if highest < 0:
            if recovered:  # probing before any original
                self.drops.count(DropReason.DUPLICATE)
                return
            ext = sequence + 0x10000  # room below for a reordered start
            self.highest = self.base_seq = ext
        else:
            step = ((sequence - highest + 0x8000) & 0xFFFF) - 0x8000
            ext = highest + step
            if step == 1:
                self.highest = ext
            elif step > 0:
                if step > MAX_JUMP and not self._restarts(sequence):
                    return
                if self.highest < 0:
                    self.receive(packet, recovered)
                    return
                if self.nack is not None:
                    self.nack.gap(highest + 1, ext, now_ms)
                self.highest = ext
            else:
                if self._seen[ext & (SEEN - 1)] == ext:
                    self.drops.count(DropReason.DUPLICATE)
                    return
                if step <= -SEEN:
                    if recovered:
                        self.drops.count(DropReason.TOO_OLD)
                    elif self._restarts(sequence):
                        self.receive(packet, recovered)
                    return
                if self.nack is not None and self.nack.found(ext, now_ms) and recovered:
                    self.recovered += 1
        self._seen[ext & (SEEN - 1)] = ext
        packet.ext_seq = ext
        if not recovered:
            self.received += 1
            # RFC 3550 A.8
            rate = codec.clock_rate / 1000
            transit = now_ms * rate - packet.timestamp
            difference = abs(transit - self._transit)
            self._transit = transit
            if difference < 450_000:  # the first packet and wraps are no jitter
                self.jitter += (difference - self.jitter) / 16
        if now_ms - self.last_ms > ALIVE_MS:
            self.clock_rate = codec.clock_rate
            self.last_ms = now_ms
            self.side.on_alive(self, packet.payload_type, now_ms)
        self.last_ms = now_ms
        if packet.start == packet.end:
            self._skip(packet, DropReason.PADDING)
            return
        packet.payload = packet.data[packet.start : packet.end]
        packet.primary = None
        if codec.read is not None:
            packet.layered = False
            try:
                codec.read(packet)
                if codec.is_layered:
                    self._read_layers(packet)
            except ValueError:
                self._skip(packet, DropReason.MALFORMED_PAYLOAD)
                return
            if packet.marker:
                self.frames += 1
            if packet.key_frame and ext == self.highest and packet.timestamp != self._key_timestamp:
                self._key_timestamp = packet.timestamp
                if codec.picture_size is not None:
                    size = codec.picture_size(packet)
                    if size is not None:
                        self.width, self.height = size
                structure = self.dependencies.structure
                if structure is not None and structure.width:
                    self.width, self.height = structure.width, structure.height
                self.side.on_key_frame(self)
        else:
            packet.forget_payload()  # it is used again: audio must not inherit the picture id of a VP8 packet
            if packet.level >= 0 and not self.paused:
                self.level_power += 10.0 ** (packet.level / -10)
                self.level_count += 1
        if self.paused:
            self.drops.count(DropReason.PRODUCER_PAUSED)
            return
        is_red = codec.is_red
        for route in self.routes:
            route.forward(packet, self, is_red)

    def _read_layers(self, packet: Packet) -> None:
        """Layers by the dependency descriptor where there is one, else by the payload."""
        if packet.descriptor is not None:
            self.dependencies.read(packet)
        if packet.layered:
            layer = packet.spatial
            self.layer_bytes[layer if layer < MAX_LAYERS else MAX_LAYERS - 1] += packet.size

    def _restarts(self, sequence: int) -> bool:
        """RFC 3550 A.1: two packets in a row after a large jump are a restart.  True when renewed."""
        if sequence != self._bad_next:
            self._bad_next = (sequence + 1) & 0xFFFF
            self.drops.count(DropReason.TOO_OLD)
            return False
        self.renew()
        for route in self.routes:
            route.restart(self)
        self.side.on_restart(self)
        return True

    def _skip(self, packet: Packet, reason: DropReason) -> None:
        self.drops.count(reason)
        for route in self.routes:
            route.skip(packet, self)

    # ------------------------------------------------------------ reports

    @property
    def lost(self) -> int:
        """Cumulative number lost (RFC 3550 §6.4.1); may be negative after duplicates."""
        if self.highest < 0:
            return 0
        return self.highest - self.base_seq + 1 - self.received

    def take_fraction(self) -> int:
        """Fraction lost since the last call, 0…255 (RFC 3550 A.3)."""
        if self.highest < 0:
            return 0
        expected = self.highest - self.base_seq + 1
        expected_now = expected - self._expected_prior
        received_now = self.received - self._received_prior
        self._expected_prior, self._received_prior = expected, self.received
        lost = expected_now - received_now
        if expected_now <= 0 or lost <= 0:
            return 0
        return min(255, (lost << 8) // expected_now)

    def note_report(self, ntp: int, rtp_timestamp: int, local_ms: float, arrival_ms: float) -> None:
        """The publisher's clock: ``ntp`` is 64-bit, ``local_ms`` the same instant on our clock."""
        self.report_ntp, self.report_rtp = ntp, rtp_timestamp
        self.report_local_ms, self.report_arrival_ms = local_ms, arrival_ms
