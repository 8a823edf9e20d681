"""Opus with redundancy (RED, RFC 2198 and RFC 7587): taking the primary block out, renumbering the blocks."""

from __future__ import annotations

MAX_BLOCKS = 8


class RedError(ValueError):
    """Bytes that are no RED payload."""


# 20 ms of nothing (RFC 6716 §3.1: CELT, fullband, mono, code 0), which a decoder takes over without a click
SILENCE = b"\xf8\xff\xfe"
SILENCE_TICKS = 960  # of the 48 kHz RTP clock (RFC 7587 §4.1)


def primary(payload: bytes) -> bytes:
    """The primary (newest) block of a RED payload.  Raises RedError."""
    at, skipped = 0, 0
    size = len(payload)
    for _ in range(MAX_BLOCKS):
        if at >= size:
            raise RedError("headers are cut off")
        if not payload[at] & 0x80:
            at += 1 + skipped
            if at > size:
                raise RedError("blocks are longer than the packet")
            return payload[at:]
        if at + 4 > size:
            raise RedError("headers are cut off")
        skipped += (payload[at + 2] & 0x03) << 8 | payload[at + 3]
        at += 4
    raise RedError("too many blocks")


def renumber(payload: bytes, payload_type: int) -> bytes:
    """The same payload whose blocks carry ``payload_type``, the receiver's Opus.  Raises RedError."""
    changed = bytearray(payload)
    at = 0
    for _ in range(MAX_BLOCKS):
        if at >= len(changed):
            raise RedError("headers are cut off")
        more = changed[at] & 0x80
        changed[at] = more | payload_type
        if not more:
            return bytes(changed)
        at += 4
    raise RedError("too many blocks")
