"""The Route into a file: plain packets, RED taken off, to a TapSink."""

from __future__ import annotations

from sfu.codecs import opus
from sfu.drops import DropReason, Drops
from sfu.route import Route, outgoing_payload, patch_pictures
from sfu.rtp import RTP_HEADER, Packet
from sfu.seams import TapSink


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
