"""Opus with redundancy (RED, RFC 2198 and RFC 7587): making it, taking it off, renumbering its blocks."""

from __future__ import annotations

MAX_BLOCKS = 8
MAX_OFFSET = 1 << 14  # ticks that a block header can tell
MAX_BLOCK = 1 << 10  # bytes that it can tell
MAX_MADE = 1200  # bytes of a payload that we make


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


def make_red(payload: bytes, payload_type: int, previous: bytes, offset: int) -> bytes:
    """RED of ``payload`` and, where a block header can tell it, ``previous``: ``offset`` ticks older."""
    size = len(previous)
    if not size or not 0 < offset < MAX_OFFSET or size >= MAX_BLOCK or 5 + size + len(payload) > MAX_MADE:
        return bytes((payload_type,)) + payload
    head = (0x80 | payload_type) << 24 | offset << 10 | size
    return head.to_bytes(4, "big") + bytes((payload_type,)) + previous + payload
