"""Frames and layers in VP9 payloads (RFC 9628 §4.2), key frames in AV1 (AOM RTP payload format §4.4)."""

from __future__ import annotations

from sfu.rtp import Packet

MAX_REFERENCES = 3


class SvcError(ValueError):
    """Bytes that are no VP9 or AV1 payload."""


def read_vp9(packet: Packet) -> None:
    """Fill the packet's payload fields.  Raises SvcError."""
    payload = packet.payload
    if not payload:
        raise SvcError("empty payload")
    head = payload[0]
    at = 1
    spatial = temporal = 0
    packet.picture_at = packet.tl0_at = -1
    packet.sync = packet.layered = False
    packet.tl0 = 0
    try:
        if head & 0x80:  # I: picture id of 7 or 15 bits
            packet.picture_at = at
            picture_id = payload[at]
            if picture_id & 0x80:
                packet.picture_id = (picture_id & 0x7F) << 8 | payload[at + 1]
                packet.picture_mask = 0x7FFF
                at += 2
            else:
                packet.picture_id = picture_id
                packet.picture_mask = 0x7F
                at += 1
        if head & 0x20:  # L: TID, U, SID, D
            layer = payload[at]
            temporal = layer >> 5
            spatial = layer >> 1 & 0x07
            packet.layered = True
            packet.sync = layer & 0x10 != 0
            at += 1
            if not head & 0x10:  # not F: TL0PICIDX
                packet.tl0 = payload[at]
                packet.tl0_at = at
    except IndexError:
        raise SvcError("descriptor is cut off") from None
    packet.temporal = temporal
    packet.spatial = spatial
    packet.last = head & 0x04 != 0  # E: ends a layer's frame
    packet.first = head & 0x08 != 0 and spatial == 0  # B: begins one
    packet.key_frame = packet.first and not head & 0x40  # P: predicted from earlier pictures


def vp9_picture_size(packet: Packet) -> tuple[int, int] | None:
    """(width, height) of the highest spatial layer by the scalability structure; None when it isn't told."""
    payload = packet.payload
    size = len(payload)
    head = payload[0]
    if not head & 0x02:  # V
        return None
    at = 1
    if head & 0x80:
        at += 2 if at < size and payload[at] & 0x80 else 1
    if head & 0x20:
        at += 1 if head & 0x10 else 2
    if head & 0x50 == 0x50:  # F and P: reference indices, the lowest bit says that another follows
        for _ in range(MAX_REFERENCES):
            at += 1
            if at > size or not payload[at - 1] & 0x01:
                break
    if at >= size or not payload[at] & 0x10:  # Y
        return None
    at += 1 + 4 * (payload[at] >> 5)  # N_S: the last one is the highest
    if at + 4 > size:
        return None
    width = payload[at] << 8 | payload[at + 1]
    height = payload[at + 2] << 8 | payload[at + 3]
    return (width, height) if width and height else None


def read_av1(packet: Packet) -> None:
    """Fill the packet's payload fields; only the dependency descriptor tells layers.  Raises SvcError."""
    payload = packet.payload
    if not payload:
        raise SvcError("empty payload")
    head = payload[0]
    packet.forget_payload()
    packet.first = not head & 0x80  # Z: goes on with the last packet's unit
    packet.key_frame = head & 0x08 != 0  # N: a coded video sequence begins
