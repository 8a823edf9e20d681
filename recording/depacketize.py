"""From RTP packets in order of arrival to frames in order of sequence: bounded, never trusting a byte.

``Reorder`` puts packets in sequence and says where some are missing.  A depacketizer builds frames of
one codec from them.  After a loss a video frame is worthless until the next key frame, so all frames
between are dropped and counted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

MAX_FRAME_BYTES = 8 << 20
# A packet may be this much newer than the one waited for before the wait is given up.
VIDEO_WINDOW = 512
AUDIO_WINDOW = 32
# Beyond this a sequence number is a new beginning, not a gap (RFC 3550 A.1: MAX_DROPOUT).
_RESTART = 3000
_SETTLE = 8
_RESTART_TICKS = 480_000  # the same for timestamps of audio: 10 s


@dataclass(slots=True)
class Packet:
    """``sequence`` and ``timestamp`` unwrapped; ``lost`` = packets are missing just before this one."""

    sequence: int
    timestamp: int
    payload_type: int
    marker: bool
    payload: bytes
    arrival_ms: float
    offset: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture or one audio packet.  ``offset`` and ``sequence`` say where in the dump it begins."""

    timestamp: int
    arrival_ms: float
    payload: bytes
    key: bool
    offset: int = 0
    sequence: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class RawRtp:
    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    payload: bytes


_HEADER = struct.Struct("!BBHII")


def parse_rtp(data: bytes) -> RawRtp | None:
    """RFC 3550 §5.1, header extension skipped and padding taken off; None when it is no RTP packet."""
    if len(data) < 12:
        return None
    first, second, sequence, timestamp, _ssrc = _HEADER.unpack_from(data)
    if first >> 6 != 2:
        return None
    begin, end = 12 + 4 * (first & 0x0F), len(data)
    if first & 0x10:
        if begin + 4 > end:
            return None
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4])
    if first & 0x20 and end:
        end -= data[-1]
    if begin > end:
        return None
    return RawRtp(second & 0x7F, bool(second & 0x80), sequence, timestamp, data[begin:end])


def unwrap(value: int, near: int, bits: int) -> int:
    """The ``bits`` wide ``value`` as an unbounded integer nearest to ``near``."""
    half = 1 << (bits - 1)
    return near + ((value - near + half) & ((1 << bits) - 1)) - half


class Reorder:
    """Sequence, duplicates out, at most ``window`` packets held back.

    ``start`` is the unwrapped sequence to begin with (a key frame's, from an index) and
    ``timestamp`` one near the first; without them the lowest of the first _SETTLE packets is the
    beginning, as the very first may have overtaken others.
    """

    def __init__(self, window: int, start: int | None = None, timestamp: int | None = None) -> None:
        self.window = window
        self.duplicates = self.lost = self.restarts = 0
        self._next = start
        self._highest = start
        self._timestamp = timestamp
        self._held: dict[int, Packet] = {}
        self._strange = 0
        self._gap = False

    def push(self, raw: RawRtp, arrival_ms: float, offset: int = 0) -> list[Packet]:
        sequence = raw.sequence if self._highest is None else unwrap(raw.sequence, self._highest, 16)
        out: list[Packet] = []
        if self._highest is not None and abs(sequence - self._highest) > _RESTART:
            # One strange number is noise, three in a row are a sender that began anew.
            self._strange += 1
            if self._strange < 3:
                return out
            out = self.flush()
            self.restarts += 1
            self._next, self._highest, self._gap = None, sequence, True
        self._strange = 0
        timestamp = raw.timestamp if self._timestamp is None else unwrap(raw.timestamp, self._timestamp, 32)
        self._timestamp = timestamp
        self._highest = sequence if self._highest is None else max(self._highest, sequence)
        if (self._next is not None and sequence < self._next) or sequence in self._held:
            self.duplicates += 1
            return out
        self._held[sequence] = Packet(
            sequence, timestamp, raw.payload_type, raw.marker, raw.payload, arrival_ms, offset
        )
        if self._next is None:
            if len(self._held) < _SETTLE:
                return out
            self._next = min(self._held)
        while self._held:
            packet = self._held.pop(self._next, None)
            if packet is None:
                if self._highest - self._next < self.window:
                    break
                self._skip_gap()
                continue
            out.append(self._give(packet))
        return out

    def flush(self) -> list[Packet]:
        """Everything that is still held, gaps and all."""
        out = []
        if self._next is None and self._held:
            self._next = min(self._held)
        while self._held:
            assert self._next is not None
            packet = self._held.pop(self._next, None)
            if packet is None:
                self._skip_gap()
                continue
            out.append(self._give(packet))
        return out

    def _skip_gap(self) -> None:
        assert self._next is not None
        first = min(self._held)
        self.lost += first - self._next
        self._next = first
        self._gap = True

    def _give(self, packet: Packet) -> Packet:
        packet.lost, self._gap = self._gap, False
        self._next = packet.sequence + 1
        return packet


class Depacketizer(Protocol):
    """``push`` takes packets in sequence; ``dropped`` counts frames given up."""

    dropped: int

    def push(self, packet: Packet) -> Iterable[Frame]: ...

    def flush(self) -> Iterable[Frame]: ...


# ---------------------------------------------------------------- video


class _VideoAssembler:
    """What VP8 and H.264 share: a frame is the packets of one timestamp, complete by its marker."""

    def __init__(self) -> None:
        self.dropped = 0
        self._packets: list[Packet] = []
        self._size = 0
        self._broken = False  # the frame in the making
        self._synced = False  # a key frame has come since the last loss

    def push(self, packet: Packet) -> list[Frame]:
        out: list[Frame] = []
        if packet.lost:
            self._lose()
        elif self._packets and packet.timestamp != self._packets[0].timestamp:
            out += self._complete()  # the marker is only a help; a new timestamp ends a frame too
        if not packet.payload:
            return out  # padding: probing for bandwidth
        self._packets.append(packet)
        self._size += len(packet.payload)
        if self._size > MAX_FRAME_BYTES:
            self._lose()
            self._broken = True
        elif packet.marker:
            out += self._complete()
        return out

    def flush(self) -> list[Frame]:
        return []  # a frame without its end is of no use

    def _lose(self) -> None:
        if self._packets:
            self.dropped += 1
        self._packets, self._size, self._synced = [], 0, False

    def _complete(self) -> list[Frame]:
        packets, self._packets, self._size = self._packets, [], 0
        broken, self._broken = self._broken, False
        frame = None if broken or not packets else self._assemble(packets)
        if frame is None:
            self._synced = False
        elif frame.key:
            self._synced = True
        if frame is None or not self._synced:
            self.dropped += 1
            return []
        return [frame]

    def _assemble(self, packets: list[Packet]) -> Frame | None:
        raise NotImplementedError


def vp8_payload(payload: bytes) -> tuple[bool, bytes] | None:
    """(begins a frame, bytes of the frame) of an RFC 7741 §4.2 payload; None when it is too short."""
    if not payload:
        return None
    first, at = payload[0], 1
    if first & 0x80:
        if len(payload) < 2:
            return None
        flags, at = payload[1], 2
        if flags & 0x80:
            if len(payload) <= at:
                return None
            at += 2 if payload[at] & 0x80 else 1
        if flags & 0x40:
            at += 1
        if flags & 0x30:
            at += 1
    if len(payload) <= at:
        return None
    return bool(first & 0x10) and first & 0x0F == 0, payload[at:]


class Vp8Depacketizer(_VideoAssembler):
    """RFC 7741."""

    def _assemble(self, packets: list[Packet]) -> Frame | None:
        parts: list[bytes] = []
        for packet in packets:
            found = vp8_payload(packet.payload)
            # The first packet must begin the frame, no other may.
            if found is None or found[0] != (not parts):
                return None
            parts.append(found[1])
        data = b"".join(parts)
        if len(data) < 3:
            return None
        key, width, height = not data[0] & 1, 0, 0
        if key:
            # RFC 6386 §9.1: start code, then 14 bits of size each with 2 of scale
            if len(data) < 10 or data[3:6] != b"\x9d\x01\x2a":
                return None
            width = int.from_bytes(data[6:8], "little") & 0x3FFF
            height = int.from_bytes(data[8:10], "little") & 0x3FFF
            if not width or not height:
                return None
        first = min(packets, key=lambda packet: packet.offset)
        return Frame(
            packets[0].timestamp,
            first.arrival_ms,
            data,
            key,
            first.offset,
            packets[0].sequence,
            width,
            height,
        )


_START_CODE = b"\x00\x00\x00\x01"


class H264Depacketizer(_VideoAssembler):
    """RFC 6184, packetization modes 0 and 1: single NAL units, STAP-A, FU-A.  Frames are in Annex B.

    Parameter sets are kept and put before an IDR picture that comes without them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sps: bytes | None = None
        self._pps: bytes | None = None

    def _assemble(self, packets: list[Packet]) -> Frame | None:
        units = self._units(packets)
        if not units:
            return None
        types = {unit[0] & 0x1F for unit in units}
        for unit in units:
            if unit[0] & 0x1F == 7:
                self._sps = unit
            elif unit[0] & 0x1F == 8:
                self._pps = unit
        key = 5 in types
        if key:
            if self._sps is None or self._pps is None:
                return None
            if 8 not in types:
                units.insert(0, self._pps)
            if 7 not in types:
                units.insert(0, self._sps)
        pictures = [unit for unit in units if unit[0] & 0x1F in (1, 5)]
        # first_mb_in_slice of the first slice must be 0 (one set bit): otherwise its beginning is missing.
        if pictures and not (len(pictures[0]) > 1 and pictures[0][1] & 0x80):
            return None
        if not pictures:
            # Parameter sets alone: kept above, no picture.  Not a loss either.
            return Frame(packets[0].timestamp, packets[0].arrival_ms, b"", False)
        data = b"".join(_START_CODE + unit for unit in units)
        first = min(packets, key=lambda packet: packet.offset)
        return Frame(packets[0].timestamp, first.arrival_ms, data, key, first.offset, packets[0].sequence)

    def push(self, packet: Packet) -> list[Frame]:
        return [frame for frame in super().push(packet) if frame.payload]

    def _units(self, packets: list[Packet]) -> list[bytes] | None:
        units: list[bytes] = []
        fragment: list[bytes] | None = None
        for packet in packets:
            payload = packet.payload
            kind = payload[0] & 0x1F
            if kind == 28:
                if len(payload) < 3:
                    return None
                start, end = payload[1] & 0x80, payload[1] & 0x40
                if bool(start) != (fragment is None):
                    return None
                if fragment is None:
                    fragment = [bytes([payload[0] & 0xE0 | payload[1] & 0x1F])]
                fragment.append(payload[2:])
                if end:
                    units.append(b"".join(fragment))
                    fragment = None
                continue
            if fragment is not None:
                return None
            if 1 <= kind <= 23:
                units.append(payload)
            elif kind == 24:
                found = _stap(payload)
                if found is None:
                    return None
                units += found
            else:
                return None
        return None if fragment is not None else units


def _stap(payload: bytes) -> list[bytes] | None:
    units, at = [], 1
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 2])
        unit = payload[at + 2 : at + 2 + size]
        if len(payload) < at + 2 or not size or len(unit) != size:
            return None
        units.append(unit)
        at += 2 + size
    return units


# ---------------------------------------------------------------- audio


class OpusDepacketizer:
    """RFC 7587: a packet is a frame."""

    def __init__(self) -> None:
        self.dropped = 0

    def push(self, packet: Packet) -> Iterator[Frame]:
        if packet.payload:
            yield Frame(
                packet.timestamp, packet.arrival_ms, packet.payload, True, packet.offset, packet.sequence
            )

    def flush(self) -> Iterator[Frame]:
        return iter(())


def red_blocks(payload: bytes) -> list[tuple[int, int, bytes]] | None:
    """(payload type, timestamp offset back, bytes) of an RFC 2198 payload, oldest first; None: malformed."""
    headers: list[tuple[int, int, int]] = []
    at = 0
    while True:
        if at >= len(payload) or len(headers) > 8:
            return None
        first = payload[at]
        if not first & 0x80:
            headers.append((first & 0x7F, 0, -1))
            at += 1
            break
        if at + 4 > len(payload):
            return None
        word = int.from_bytes(payload[at + 1 : at + 4])
        headers.append((first & 0x7F, word >> 10, word & 0x3FF))
        at += 4
    blocks = []
    for payload_type, back, size in headers:
        end = len(payload) if size < 0 else at + size
        if end > len(payload):
            return None
        blocks.append((payload_type, back, payload[at:end]))
        at = end
    return blocks


class RedDepacketizer:
    """RFC 2198 around Opus, and plain Opus between: what was lost is taken from a later packet's copy."""

    def __init__(self, opus_type: int, red_type: int) -> None:
        self.dropped = 0
        self.recovered = 0
        self._opus_type, self._red_type = opus_type, red_type
        self._newest: int | None = None

    def push(self, packet: Packet) -> Iterator[Frame]:
        if packet.payload_type == self._red_type:
            blocks = red_blocks(packet.payload)
            if blocks is None:
                self.dropped += 1
                return
        else:
            blocks = [(packet.payload_type, 0, packet.payload)]
        for payload_type, back, data in blocks:
            timestamp = packet.timestamp - back
            if payload_type != self._opus_type or not data or self._is_old(timestamp):
                continue
            # Copies fill holes only: without a loss, what is older than the newest has been heard.
            if back:
                if not packet.lost:
                    continue
                self.recovered += 1
            self._newest = timestamp
            yield Frame(timestamp, packet.arrival_ms, data, True, packet.offset, packet.sequence)

    def _is_old(self, timestamp: int) -> bool:
        # Far behind is a sender that began anew, not a late copy.
        return self._newest is not None and -_RESTART_TICKS < timestamp - self._newest <= 0

    def flush(self) -> Iterator[Frame]:
        return iter(())


class FrameReader:
    """Packets of one stream with several payload types → frames, through the right depacketizer.

    ``depacketizers`` maps payload type → (mime in lower case, depacketizer).  Unknown types are counted.
    """

    def __init__(self, depacketizers: dict[int, tuple[str, Depacketizer]], reorder: Reorder) -> None:
        self.reorder = reorder
        self.unknown = 0
        self.malformed = 0
        self._depacketizers = depacketizers
        self._last: int | None = None

    def push(self, data: bytes, arrival_ms: float, offset: int = 0) -> Iterator[tuple[str, Frame]]:
        raw = parse_rtp(data)
        if raw is None:
            self.malformed += 1
            return
        for packet in self.reorder.push(raw, arrival_ms, offset):
            yield from self._frames(packet)

    def flush(self) -> Iterator[tuple[str, Frame]]:
        for packet in self.reorder.flush():
            yield from self._frames(packet)

    def _frames(self, packet: Packet) -> Iterator[tuple[str, Frame]]:
        found = self._depacketizers.get(packet.payload_type)
        if found is None:
            self.unknown += 1
            return
        mime, depacketizer = found
        for frame in depacketizer.push(packet):
            yield mime, frame


__all__ = [
    "AUDIO_WINDOW", "VIDEO_WINDOW", "Depacketizer", "Frame", "FrameReader", "H264Depacketizer",
    "OpusDepacketizer", "Packet", "RawRtp", "RedDepacketizer", "Reorder", "Vp8Depacketizer", "parse_rtp",
    "red_blocks", "unwrap", "vp8_payload",
]  # fmt: skip
