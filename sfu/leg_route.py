"""The Route to a client: header patch, ring, protect, send; and its retransmissions.

``emit`` runs once per packet and receiver.  It makes no object but one tuple for the ring.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from socket import htonl
from typing import TYPE_CHECKING

from sfu.codecs import opus
from sfu.drops import DropReason, Drops
from sfu.nack import ResendBudget
from sfu.pacer import PADDING
from sfu.ring import AUDIO_SLOTS, VIDEO_SLOTS, Ring
from sfu.route import Binding, Route, outgoing_payload, patch_pictures
from sfu.rtp import RTP_HEADER, U16, ExtensionPlan, Packet
from sfu.seq import NumberMap
from sfu.srtp import BUFFER_SIZE, OK, TRAILER_ROOM, SrtpBuffer, lib

if TYPE_CHECKING:
    from sfu.legs import Leg

Send = Callable[[memoryview, tuple[str, int]], object]
MAX_PLAIN = BUFFER_SIZE - TRAILER_ROOM
FORGET_BELOW = 49_152  # a successor's first packets may be lost in the pacer: far enough from 65536
MIN_RESEND_INTERVAL_MS, MAX_RESEND_INTERVAL_MS = 20.0, 100.0

_pack_header = RTP_HEADER.pack_into
_pack_u16 = U16.pack_into
_protect = lib.srtp_protect
_PADDING = bytes(PADDING - 1) + bytes((PADDING,))


def send_time(now_ms: float) -> int:
    """Absolute send time: seconds, 6 bits and 18 after the point."""
    return int(now_ms * 262.144) & 0xFFFFFF


def _write_send_time(view: memoryview, at: int, value: int) -> None:
    view[at] = value >> 16
    _pack_u16(view, at + 1, value & 0xFFFF)


class LegRoute(Route):
    """A route to a client."""

    __slots__ = (
        "budget",
        "buffer",
        "clock_ms",
        "leg",
        "paced",
        "resent",
        "resent_bytes",
        "ring",
        "rtx_sequence",
        "rtx_ssrc",
        "send",
        "ssrc",
    )  # fmt: skip

    def __init__(
        self,
        *,
        is_video: bool,
        drops: Drops,
        leg: Leg,
        ssrc: int,
        rtx_ssrc: int,
        buffer: SrtpBuffer,
        send: Send,
        resends: bool,
        clock_ms: Callable[[], float],
    ) -> None:
        super().__init__(is_video=is_video, drops=drops)
        self.leg = leg
        self.ssrc = ssrc
        self.rtx_ssrc = rtx_ssrc
        self.buffer = buffer
        self.send = send
        self.clock_ms = clock_ms
        self.paced = is_video and rtx_ssrc != 0  # without RTX a packet must keep the number it was given
        self.ring = Ring(VIDEO_SLOTS if is_video else AUDIO_SLOTS) if resends else None
        self.budget = ResendBudget()
        self.rtx_sequence = random.getrandbits(15)  # unwrapped
        self.resent = self.resent_bytes = 0
        # SRTP state of an SSRC outlives its consumer: go on with its numbers, or nonces would repeat
        last = leg.last_numbers.get(ssrc)
        if last is not None:
            self.numbers = NumberMap(last[0] + 1)
            self.rtx_sequence = last[1]
        leg.routes.append(self)

    def stop(self) -> None:
        """Nothing more until the next ``aim``, which begins with a key frame: what was sent before that is
        not sent again, however often the receiver asks.
        """
        if self.is_video and self.ring is not None and (self.feed is not None or self.target is not None):
            self.ring.clear()
        super().stop()

    def close(self) -> None:
        self.stop()
        if self in self.leg.routes:
            self.leg.routes.remove(self)
        self.leg.last_numbers[self.ssrc] = (self.numbers.last_out, self.rtx_sequence)
        self._forget_streams()

    def _forget_streams(self) -> None:
        """libsrtp looks for a packet's SSRC in a list: 1,000 that nobody uses any more cost 2 µs per packet.

        A stream may be forgotten while its roll-over counter (RFC 3711 §3.3.1) is zero and its successor,
        who goes on with its numbers, begins there too: then no index, so no nonce, can come twice.
        """
        srtp = self.leg.srtp
        if srtp is None:
            return
        if self.numbers.last_out < FORGET_BELOW:
            lib.srtp_remove_stream(srtp.send, htonl(self.ssrc))
        if self.rtx_ssrc and self.rtx_sequence < FORGET_BELOW:
            lib.srtp_remove_stream(srtp.send, htonl(self.rtx_ssrc))

    def emit(
        self, packet: Packet, is_red: bool, sequence: int, timestamp: int, picture: int, tl0: int
    ) -> None:
        binding, leg = self.binding, self.leg
        if leg.srtp is None or binding is None:
            self.drops.count(DropReason.NOT_CONNECTED)
            return
        codec = binding.codecs.get(packet.payload_type)
        if codec is None:
            self.drops.count(DropReason.NO_CODEC)
            return
        payload = packet.payload
        if is_red:
            try:
                payload = outgoing_payload(packet, codec, is_red)
            except opus.RedError:
                self.drops.count(DropReason.MALFORMED_PAYLOAD)
                return
        payload_type = codec.payload_type
        if codec.make_red >= 0 and not is_red:
            payload = self.redundant(payload, payload_type, timestamp)
            payload_type = codec.make_red
        plan = binding.plan
        block = plan.plain if packet.elements is None else plan.block(packet.elements)
        start = 12 + len(block)
        end = start + len(payload)
        if end > MAX_PLAIN:
            self.drops.count(DropReason.OVERSIZE)
            return
        buffer = self.buffer
        view = buffer.view
        marker_type = packet.marker | payload_type
        transport_at = transport_seq = 0
        paced = self.paced and codec.rtx_type >= 0
        now_ms = self.clock_ms()
        if block:
            _pack_header(view, 0, 0x90, marker_type, sequence, timestamp, self.ssrc)
            view[12:start] = block
            if plan.transport_at:
                transport_at = 17 if block[0] == 0xBE else 18
                transport_seq = (leg.transport_seq + 1) & 0xFFFF
            elif plan.send_time_at:
                transport_at = -17 if block[0] == 0xBE else -18
                transport_seq = send_time(now_ms)
            if paced and transport_at:
                transport_seq = -1  # given when it leaves
        else:
            _pack_header(view, 0, 0x80, marker_type, sequence, timestamp, self.ssrc)
        view[start:end] = payload
        picture_at = packet.picture_at
        if picture_at >= 0:
            if packet.picture_mask == 0x7F:
                view[start + picture_at] = picture
            else:
                _pack_u16(view, start + picture_at, picture | 0x8000)
            if packet.tl0_at >= 0:
                view[start + packet.tl0_at] = tl0
        ring = self.ring
        if ring is not None:
            ring.slots[sequence & ring.mask] = (
                sequence, marker_type, timestamp, payload, picture_at, picture, packet.picture_mask,
                packet.tl0_at, tl0, block, transport_seq,
            )  # fmt: skip
        pacer = leg.pacer
        if pacer is not None and paced and not pacer.admits(end, now_ms):
            if pacer.put(self, bytes(view[:end]), start, transport_at):
                leg.wake(leg)
            else:
                self.drops.count(DropReason.PACER_FULL)
            return
        self._depart(start, end, transport_at, now_ms)

    # ------------------------------------------------------------ leaving

    def depart_late(self, packet: bytes, start: int, transport_at: int, now_ms: float) -> None:
        """A packet that has waited in the pacer leaves."""
        if self.leg.srtp is None:
            self.drops.count(DropReason.NOT_CONNECTED)
            return
        end = len(packet)
        self.buffer.view[:end] = packet
        self._depart(start, end, transport_at, now_ms)

    def _depart(self, start: int, end: int, transport_at: int, now_ms: float) -> None:
        self.packets += 1
        self.bytes += end
        self.octets += end - start
        self._send(end, transport_at, now_ms)

    def _send(self, end: int, transport_at: int, now_ms: float) -> bool:
        """Number, remember, protect and send the plain packet that is in the buffer.

        ``transport_at`` is the place of its transport-wide number or, negative, of its absolute send time.
        """
        leg, buffer = self.leg, self.buffer
        if transport_at < 0:
            _write_send_time(buffer.view, -transport_at, send_time(now_ms))
        elif transport_at:
            leg.transport_seq = number = (leg.transport_seq + 1) & 0xFFFF
            _pack_u16(buffer.view, transport_at, number)
            leg.history.record(number, now_ms, end, leg.cluster)
        srtp, size = leg.srtp, buffer.size
        size[0] = end
        assert srtp is not None
        if _protect(srtp.send, buffer.memory, size) != OK:
            self.drops.count(DropReason.SRTP_FAILED)
            return False
        leg.bytes_out += end
        self.send(buffer.view[: size[0]], leg.address)
        return True

    # ------------------------------------------------------------ retransmission

    def resend(self, sequence: int, now_ms: float) -> bool:
        """Answer a NACK for this number: by RTX (RFC 4588), or without RTX by the very same packet."""
        ring, binding, srtp = self.ring, self.binding, self.leg.srtp
        sent = ring.find(sequence) if ring is not None else None
        if ring is None or sent is None or srtp is None or binding is None:
            self.drops.count(DropReason.NACK_MISS)
            return False
        rtx_type = self._rtx_type(sent.marker_type & 0x7F, binding)
        if rtx_type < 0 and sent.transport_seq < 0:  # of a source before: other bytes would use a nonce twice
            self.drops.count(DropReason.NACK_MISS)
            return False
        pacer = self.leg.pacer
        if self.paced and pacer is not None and not pacer.affords(now_ms):
            self.drops.count(DropReason.NACK_LIMIT)
            return False
        # half a round trip: with jitter a receiver asks again before the first answer can have come
        interval_ms = min(MAX_RESEND_INTERVAL_MS, max(MIN_RESEND_INTERVAL_MS, self.leg.rtt_ms / 2))
        if not ring.may_resend(sequence, now_ms, interval_ms):
            self.drops.count(DropReason.NACK_TOO_SOON)
            return False
        if not self.budget.take(now_ms):
            self.drops.count(DropReason.NACK_LIMIT)
            return False
        view = self.buffer.view
        if rtx_type >= 0:
            plan = binding.rtx_plan
            # with what was passed on: dependency descriptor and rotation belong to the frame, not to its way
            block = sent.extension if plan.plain == binding.plan.plain else plan.plain
            at = 12 + len(block) + 2
            self.rtx_sequence += 1
            _pack_header(
                view, 0, 0x90 if block else 0x80, sent.marker_type & 0x80 | rtx_type,
                self.rtx_sequence & 0xFFFF, sent.timestamp, self.rtx_ssrc,
            )  # fmt: skip
            view[12 : at - 2] = block
            transport_at = 17 if block[:1] == b"\xbe" else 18
            if plan.send_time_at:
                transport_at = -transport_at
            elif not plan.transport_at:
                transport_at = 0
            _pack_u16(view, at - 2, sequence)
        else:
            transport_at = 0
            # byte for byte the same: another header under the same SRTP index would reuse a GCM nonce
            block = sent.extension
            at = 12 + len(block)
            _pack_header(
                view, 0, 0x90 if block else 0x80, sent.marker_type, sequence, sent.timestamp, self.ssrc
            )
            view[12:at] = block
            if block and binding.plan.transport_at:
                _pack_u16(view, 17 if block[0] == 0xBE else 18, sent.transport_seq)
            elif block and binding.plan.send_time_at:
                _write_send_time(view, 17 if block[0] == 0xBE else 18, sent.transport_seq)
        end = at + len(sent.payload)
        if end > MAX_PLAIN:
            self.drops.count(DropReason.OVERSIZE)
            return False
        view[at:end] = sent.payload
        patch_pictures(view, at, sent.picture_at, sent.picture_id, sent.picture_mask, sent.tl0_at, sent.tl0)
        if not self._send(end, transport_at, now_ms):
            return False
        self.resent += 1
        self.resent_bytes += end
        if self.leg.pacer is not None:
            self.leg.pacer.charge(end, now_ms)
        return True

    def _rtx_type(self, payload_type: int, binding: Binding) -> int:
        """-1: the same packet again."""
        if self.rtx_ssrc:
            for codec in binding.codecs.values():
                if codec.payload_type == payload_type:
                    return codec.rtx_type
        return -1

    # ------------------------------------------------------------ padding

    @property
    def pads(self) -> bool:
        """Whether padding can go out here: on a retransmission stream whose arrivals are reported."""
        return self.paced and self._padding_type() is not None

    def _padding_type(self) -> tuple[int, ExtensionPlan] | None:
        binding = self.binding or self.target_binding
        if binding is None or not binding.rtx_plan.transport_at:
            return None
        for codec in binding.codecs.values():
            if codec.rtx_type >= 0:
                return codec.rtx_type, binding.rtx_plan
        return None

    def send_padding(self, now_ms: float) -> int:
        """A packet of nothing on the retransmission stream; returns its bytes of plain RTP, 0 = none."""
        found = self._padding_type()
        if found is None or self.leg.srtp is None:
            return 0
        rtx_type, plan = found
        at = 12 + len(plan.plain)
        end = at + PADDING
        view = self.buffer.view
        self.rtx_sequence += 1
        _pack_header(view, 0, 0xB0, rtx_type, self.rtx_sequence & 0xFFFF, self.last_timestamp, self.rtx_ssrc)
        view[12:at] = plan.plain
        view[at:end] = _PADDING
        if not self._send(end, 12 + plan.transport_at, now_ms):
            return 0
        self.resent += 1
        self.resent_bytes += end
        return end
