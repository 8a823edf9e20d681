"""A Route: a Consumer's way through the relay.  Which packets go on, and under which numbers.

``forward`` runs once per packet and receiver; ``emit``, by kind of receiver, writes the packet.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from sfu.codecs import opus
from sfu.drops import DropReason, Drops
from sfu.rtp import U16, ExtensionPlan, Packet
from sfu.seq import NumberMap

if TYPE_CHECKING:
    from sfu.feed import Feed

_pack_u16 = U16.pack_into
HUSH_FRAMES = 3  # one would do; a lost one must not bring the sound back


class OutCodec(NamedTuple):
    """How a receiver knows one payload type of the producer."""

    payload_type: int
    clock_rate: int
    strip_red: bool = False  # the receiver has no RED: it gets the primary block as Opus
    red_inner: int = -1  # the receiver's Opus number inside RED, -1 = as it is
    rtx_type: int = -1
    make_red: int = -1  # the receiver's RED: Opus goes out in it, each packet with the one before


class Binding(NamedTuple):
    """One producer's numbers in one receiver's terms."""

    codecs: Mapping[int, OutCodec]
    plan: ExtensionPlan
    rtx_plan: ExtensionPlan


def signed32(number: int) -> int:
    return ((number + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class Route:
    """The mapping half: which packets go on and under which numbers.  ``emit`` is the other half."""

    __slots__ = (
        "_report", "binding", "bytes", "drops", "feed", "frame_shift", "is_video", "last_feed", "last_frame",
        "last_picture", "last_sent_ms", "last_timestamp", "last_tl0", "max_spatial", "max_temporal",
        "numbers", "octets", "packets", "red_payload", "red_timestamp", "spatial", "started", "target",
        "target_binding", "temporal", "timestamp_shift",
    )  # fmt: skip

    def __init__(self, *, is_video: bool, drops: Drops) -> None:
        self.is_video = is_video
        self.drops = drops
        # 15 bits: a start near the roll-over and a first packet lost would make SRTP receivers guess wrong
        self.numbers = NumberMap(random.getrandbits(15) + 1)
        self.feed: Feed | None = None  # what is sent now
        self.target: Feed | None = None  # what is sent from its next key frame (audio: packet) on
        self.binding: Binding | None = None
        self.target_binding: Binding | None = None
        self.last_feed: Feed | None = None
        self._report: tuple[float, int, int] | None = None  # last feed's sender report: local_ms, rtp, shift
        self.timestamp_shift = 0
        self.last_timestamp = 0
        self.last_sent_ms = 0.0
        self.started = False
        self.last_picture = -1
        self.last_tl0 = -1
        self.max_spatial = 7  # wanted of a feed that holds all layers (VP9, AV1)
        self.spatial = 7  # in force
        self.max_temporal = 7  # wanted
        self.temporal = 7  # in force
        self.frame_shift = 0  # of the frame numbers in dependency descriptors
        self.last_frame = -1
        self.red_payload = b""  # the newest Opus packet and its time, for the next one's redundancy
        self.red_timestamp = 0
        self.packets = self.bytes = self.octets = 0

    # ------------------------------------------------------------ policy's side

    def aim(self, feed: Feed, binding: Binding) -> None:
        """Go over to ``feed`` at its next key frame (audio: at once); the old one goes on until then."""
        if feed is self.feed:
            self._set_target(None)
            self.binding = binding
            return
        self.target_binding = binding
        self._set_target(feed)

    def stop(self) -> None:
        """Nothing is forwarded until the next ``aim``."""
        self._set_target(None)
        self._leave()

    def close(self) -> None:
        self.stop()

    def hush(self, now_ms: float) -> None:
        """Speech ends here by order: the receiver is sent a few frames of silence, else its jitter buffer
        would stretch the last sound for another while.  To be called before ``stop``.
        """
        feed, binding, numbers = self.feed, self.binding, self.numbers
        if self.is_video or feed is None or binding is None or not self.started:
            return
        for payload_type, codec in feed.codecs.items():
            if codec.mime.lower() == "audio/opus" and payload_type in binding.codecs:
                break
        else:
            return
        silence = Packet()
        silence.payload_type = payload_type
        silence.payload = opus.SILENCE
        silence.arrival_ms = now_ms
        for _ in range(HUSH_FRAMES):
            numbers.insert()  # not the feed's next number: that may still come before the stop
            self.last_timestamp = (self.last_timestamp + opus.SILENCE_TICKS) & 0xFFFFFFFF
            self.emit(silence, False, numbers.last_out & 0xFFFF, self.last_timestamp, 0, 0)

    def restart(self, feed: Feed) -> None:
        """The feed's numbers have begun anew: from here on it is only aimed at.  Its list stays as it is."""
        if feed is self.feed:
            self._remember(feed)
            self.last_feed = None
            self._set_target(None)
            self.feed, self.target = None, feed
            self.target_binding = self.binding

    def _leave(self) -> None:
        feed = self.feed
        if feed is None:
            return
        self.feed = None
        self._remember(feed)
        if feed is not self.target:
            feed.routes = tuple(route for route in feed.routes if route is not self)

    def _remember(self, feed: Feed) -> None:
        self.last_feed = feed
        if feed.report_ntp:
            self._report = (feed.report_local_ms, feed.report_rtp, self.timestamp_shift)
        else:
            self._report = None

    def _set_target(self, feed: Feed | None) -> None:
        old = self.target
        if old is feed:
            return
        self.target = feed
        if old is not None and old is not self.feed:
            old.routes = tuple(route for route in old.routes if route is not self)
        if feed is not None and self not in feed.routes:
            feed.routes = (*feed.routes, self)

    # ------------------------------------------------------------ hot path

    def forward(self, packet: Packet, feed: Feed, is_red: bool) -> None:
        if feed is not self.feed:
            if feed is not self.target:
                return
            if (
                self.is_video
                and not (packet.key_frame and packet.ext_seq == feed.highest)
                and feed.codecs[packet.payload_type].read is not None  # else we can't tell a key frame
            ):
                if self.feed is None:
                    self.drops.count(DropReason.WAITING_FOR_KEY_FRAME)
                return  # the old layer is still being sent: nothing is lost
            self._switch(feed, packet)
        if packet.layered:
            self._forward_layered(packet, is_red)
            return
        numbers = self.numbers
        ext_seq = packet.ext_seq
        if ext_seq > numbers.high:
            if packet.temporal > self.temporal or self.temporal != self.max_temporal:
                self._choose_temporal(packet)
                if packet.temporal > self.temporal:
                    picture = packet.picture_id if packet.picture_at >= 0 else -1
                    numbers.skip(ext_seq, picture)
                    self.drops.count(DropReason.TEMPORAL_LAYER)
                    return
            numbers.high = ext_seq
            sequence = (ext_seq - numbers.shift) & 0xFFFF
            timestamp = (packet.timestamp + self.timestamp_shift) & 0xFFFFFFFF
            self.last_timestamp = timestamp
            self.last_sent_ms = packet.arrival_ms
            if packet.picture_at >= 0:
                picture = (packet.picture_id - numbers.picture_shift) & packet.picture_mask
                self.last_picture = picture
                tl0 = (packet.tl0 - numbers.tl0_shift) & 0xFF
                self.last_tl0 = tl0
                self.emit(packet, is_red, sequence, timestamp, picture, tl0)
            else:
                self.emit(packet, is_red, sequence, timestamp, 0, 0)
            return
        shifts = numbers.late(ext_seq)
        if shifts is None:
            self.drops.count(DropReason.TOO_OLD)
            return
        if packet.temporal > self.temporal:
            self.drops.count(DropReason.TEMPORAL_LAYER)
            return
        self.emit(
            packet,
            is_red,
            (ext_seq - shifts[0]) & 0xFFFF,
            (packet.timestamp + self.timestamp_shift) & 0xFFFFFFFF,
            (packet.picture_id - shifts[1]) & packet.picture_mask,
            (packet.tl0 - shifts[2]) & 0xFF,
        )

    def _forward_layered(self, packet: Packet, is_red: bool) -> None:
        """A packet of a feed that holds several layers (VP9, AV1)."""
        numbers = self.numbers
        ext_seq = packet.ext_seq
        newest = ext_seq > numbers.high
        shift, picture_shift, tl0_shift = numbers.shift, numbers.picture_shift, numbers.tl0_shift
        if newest:
            if packet.first:
                self._choose_layers(packet)
        else:
            shifts = numbers.late(ext_seq)
            if shifts is None:
                self.drops.count(DropReason.TOO_OLD)
                return
            shift, picture_shift, tl0_shift = shifts
        spatial = self.spatial
        if packet.spatial > spatial or packet.temporal > self.temporal:
            if newest:
                numbers.skip(ext_seq)  # picture ids stay: references of VP9 are told by their distance
            too_high = packet.spatial > spatial
            self.drops.count(DropReason.SPATIAL_LAYER if too_high else DropReason.TEMPORAL_LAYER)
            return
        timestamp = (packet.timestamp + self.timestamp_shift) & 0xFFFFFFFF
        picture = (packet.picture_id - picture_shift) & packet.picture_mask
        tl0 = (packet.tl0 - tl0_shift) & 0xFF
        descriptor, elements, marker = packet.descriptor, packet.elements, packet.marker
        frame = 0
        if descriptor is not None:
            frame = ((descriptor[1] << 8 | descriptor[2]) - self.frame_shift) & 0xFFFF
            if self.frame_shift and elements is not None:
                renumbered = descriptor[:1] + U16.pack(frame) + descriptor[3:]
                packet.elements = [
                    (number, renumbered if value is descriptor else value) for number, value in elements
                ]
        if newest:
            numbers.high = ext_seq
            self.last_timestamp = timestamp
            self.last_sent_ms = packet.arrival_ms
            if packet.picture_at >= 0:
                self.last_picture = picture
                self.last_tl0 = tl0
            if descriptor is not None:
                self.last_frame = frame
        if packet.last and packet.spatial == spatial:
            packet.marker = 0x80  # what else belongs to this picture is not sent
        self.emit(packet, is_red, (ext_seq - shift) & 0xFFFF, timestamp, picture, tl0)
        packet.marker, packet.elements = marker, elements

    def skip(self, packet: Packet, feed: Feed) -> None:
        """A packet of padding or rubbish: the receiver shall see no gap."""
        if feed is self.feed and packet.ext_seq > self.numbers.high:
            self.numbers.skip(packet.ext_seq)

    def emit(
        self, packet: Packet, is_red: bool, sequence: int, timestamp: int, picture: int, tl0: int
    ) -> None:
        raise NotImplementedError

    def _choose_temporal(self, packet: Packet) -> None:
        """Down at any frame, up where it is decodable (RFC 7741 Y bit) or at a key frame."""
        if not packet.first:
            return
        wanted = self.max_temporal
        if wanted <= self.temporal or packet.key_frame:
            self.temporal = wanted
        elif packet.temporal > self.temporal and packet.sync:
            self.temporal = min(wanted, packet.temporal)

    def _choose_layers(self, packet: Packet) -> None:
        """At a picture's first packet: down at once, spatial layers up at a key frame, temporal ones where
        the sender says that it is possible (RFC 9628 U bit, decode target indications)."""
        if packet.key_frame:
            self.spatial = self.max_spatial
            self.temporal = self.max_temporal
            return
        if self.max_spatial < self.spatial:
            self.spatial = self.max_spatial
        wanted = self.max_temporal
        if wanted < self.temporal:
            self.temporal = wanted
        elif wanted > self.temporal and packet.sync:
            if packet.temporal <= self.temporal:
                self.temporal = wanted
            elif packet.descriptor is None:  # libwebrtc sets U like VP8's Y: this one needs lower layers only
                self.temporal = min(wanted, packet.temporal)

    def _switch(self, feed: Feed, packet: Packet) -> None:
        old = self.feed
        if old is not None:
            self._remember(old)
            old.routes = tuple(route for route in old.routes if route is not self)
        self.feed, self.target = feed, None
        self.binding = self.target_binding
        self.numbers.begin(packet.ext_seq)
        if packet.picture_at >= 0:
            picture_shift = tl0_shift = 0
            if self.last_picture >= 0:
                picture_shift = packet.picture_id - self.last_picture - 1
                tl0_shift = packet.tl0 - self.last_tl0 - 1
            self.numbers.begin_pictures(picture_shift, tl0_shift)
        if packet.descriptor is not None and self.last_frame >= 0:
            number = packet.descriptor[1] << 8 | packet.descriptor[2]
            self.frame_shift = (number - self.last_frame - 1) & 0xFFFF
        if self.is_video:
            self.spatial = self.max_spatial
            self.temporal = self.max_temporal
        if self.started:
            if feed is not self.last_feed:
                self.timestamp_shift = self._shift_for(feed, packet)
            # a resumed feed keeps its shift: its clock went on meanwhile
        else:
            self.started = True
            self.timestamp_shift = 0

    def _shift_for(self, feed: Feed, packet: Packet) -> int:
        """Timestamp shift that lets ``packet`` follow what was sent: by capture time where both feeds' sender
        reports tell it, else by arrival (RFC 3550 §6.4.1 on the relation of NTP and RTP time)."""
        rate = feed.codecs[packet.payload_type].clock_rate
        elapsed = int((packet.arrival_ms - self.last_sent_ms) * rate / 1000)
        by_arrival = self.last_timestamp + max(1, elapsed)
        wanted = by_arrival
        if self._report is not None and feed.report_ntp:
            old_ms, old_rtp, old_shift = self._report
            captured_ms = feed.report_local_ms + signed32(packet.timestamp - feed.report_rtp) * 1000 / rate
            by_capture = old_rtp + old_shift + int((captured_ms - old_ms) * rate / 1000)
            if abs(signed32(by_capture - by_arrival)) < rate:
                wanted = by_capture
        if signed32(wanted - self.last_timestamp) <= 0:
            wanted = self.last_timestamp + 1
        return signed32(wanted - packet.timestamp)

    def redundant(self, payload: bytes, payload_type: int, timestamp: int) -> bytes:
        """``payload`` (Opus, sent with ``timestamp``) as RED with the one before it, if that was lately."""
        step = signed32(timestamp - self.red_timestamp)
        made = opus.make_red(payload, payload_type, self.red_payload, step)
        if step > 0 or not self.red_payload:
            self.red_payload, self.red_timestamp = payload, timestamp
        return made

    def out_timestamp(self, now_ms: float) -> int | None:
        """The receiver's RTP timestamp of ``now_ms`` by the publisher's sender report; None when unknown."""
        feed = self.feed
        if feed is None or not feed.report_ntp or not self.started:
            return None
        elapsed = int((now_ms - feed.report_local_ms) * feed.clock_rate / 1000)
        return (feed.report_rtp + self.timestamp_shift + elapsed) & 0xFFFFFFFF


def outgoing_payload(packet: Packet, codec: OutCodec, is_red: bool) -> bytes:
    """The payload in the receiver's terms.  Raises opus.RedError."""
    if not is_red:
        return packet.payload
    if codec.strip_red:
        if packet.primary is None:
            packet.primary = opus.primary(packet.payload)
        return packet.primary
    if codec.red_inner >= 0:
        return opus.renumber(packet.payload, codec.red_inner)
    return packet.payload


def patch_pictures(
    view: memoryview, at: int, picture_at: int, picture: int, mask: int, tl0_at: int, tl0: int
) -> None:
    """Write VP8 picture id and TL0PICIDX into the payload that begins at ``at``."""
    if picture_at >= 0:
        if mask == 0x7F:
            view[at + picture_at] = picture
        else:
            _pack_u16(view, at + picture_at, picture | 0x8000)
        if tl0_at >= 0:
            view[at + tl0_at] = tl0
