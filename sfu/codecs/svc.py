"""Where a key frame begins in VP9 (RFC 9628) and AV1 (AOM RTP payload format); both are forwarded whole."""

from __future__ import annotations

from sfu.rtp import Packet


class SvcError(ValueError):
    """Bytes that are no VP9 or AV1 payload."""


def _forget(packet: Packet) -> None:
    packet.picture_at = packet.tl0_at = -1
    packet.temporal = 0
    packet.sync = False


def read_vp9(packet: Packet) -> None:
    """Fill the packet's payload fields.  Raises SvcError."""
    payload = packet.payload
    if not payload:
        raise SvcError("empty payload")
    _forget(packet)
    head = payload[0]
    at = 1
    spatial = 0
    try:
        if head & 0x80:  # I: picture id of 7 or 15 bits
            at += 2 if payload[at] & 0x80 else 1
        if head & 0x20:  # L: layer indices
            spatial = payload[at] >> 1 & 0x07
    except IndexError:
        raise SvcError("descriptor is cut off") from None
    packet.first = bool(head & 0x08) and spatial == 0  # B: begins a frame
    packet.key_frame = packet.first and not head & 0x40  # P: predicted from earlier pictures


def read_av1(packet: Packet) -> None:
    """Fill the packet's payload fields.  Raises SvcError."""
    payload = packet.payload
    if not payload:
        raise SvcError("empty payload")
    _forget(packet)
    head = payload[0]
    packet.first = not head & 0x80  # Z: goes on with the last packet's unit
    packet.key_frame = bool(head & 0x08)  # N: a coded video sequence begins
