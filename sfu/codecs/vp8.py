"""VP8 payload descriptor (RFC 7741 §4.2) and the first bytes of a key frame (RFC 6386 §9.1)."""

from __future__ import annotations

from sfu.rtp import Packet


class Vp8Error(ValueError):
    """Bytes that are no VP8 payload."""


def read(packet: Packet) -> None:
    """Fill the packet's payload fields.  Raises Vp8Error."""
    payload = packet.payload
    size = len(payload)
    if size < 1:
        raise Vp8Error("empty payload")
    head = payload[0]
    packet.picture_at = packet.tl0_at = -1
    packet.temporal = packet.tl0 = 0
    packet.sync = False
    at = 1
    if head & 0x80:  # X
        if size < 2:
            raise Vp8Error("descriptor is cut off")
        bits = payload[1]
        at = 2
        try:
            if bits & 0x80:  # I: picture id
                picture_id = payload[at]
                packet.picture_at = at
                if picture_id & 0x80:
                    packet.picture_id = (picture_id & 0x7F) << 8 | payload[at + 1]
                    packet.picture_mask = 0x7FFF
                    at += 2
                else:
                    packet.picture_id = picture_id
                    packet.picture_mask = 0x7F
                    at += 1
            if bits & 0x40:  # L: TL0PICIDX
                packet.tl0 = payload[at]
                packet.tl0_at = at
                at += 1
            if bits & 0x30:  # T or K: TID, Y, KEYIDX
                layer = payload[at]
                if bits & 0x20:
                    packet.temporal = layer >> 6
                    packet.sync = bool(layer & 0x20)
                at += 1
        except IndexError:
            raise Vp8Error("descriptor is cut off") from None
    if at > size:
        raise Vp8Error("descriptor is cut off")
    # S bit and partition 0: the frame's first packet
    first = packet.first = head & 0x17 == 0x10
    packet.key_frame = first and at < size and not payload[at] & 0x01


def picture_size(packet: Packet) -> tuple[int, int] | None:
    """(width, height) from the first packet of a key frame; None when it is too short or broken."""
    payload = packet.payload
    at = payload.find(b"\x9d\x01\x2a", 4, 12)  # after descriptor (at most 6 bytes) and frame tag (3 bytes)
    if at < 0 or at + 7 > len(payload):
        return None
    width = (payload[at + 3] | payload[at + 4] << 8) & 0x3FFF
    height = (payload[at + 5] | payload[at + 6] << 8) & 0x3FFF
    return (width, height) if width and height else None
