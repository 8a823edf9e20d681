"""The record file of one tap: readable after truncation at any byte, and past damage in its middle.

Layout, big-endian::

    file   = MAGIC record*
    record = SYNC(2) type(1) length(2) wall(8, ms since the epoch, double) crc(4) body(length)

``crc`` is CRC-32 over type, length, wall and body.  The first record is the HEADER (JSON).  A writer
appends only, so whatever the kernel got is a prefix of whole records and at most one partial one.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from sfu.params import CodecParameters

MAGIC = b"LXDUMP1\n"
SYNC = b"\xd7R"
SUFFIX = ".lxd"
_HEAD = struct.Struct("!2sBHdI")
_SUMMED = struct.Struct("!BHd")
_REPORT = struct.Struct("!dI")
_DROPS = struct.Struct("!I")
MAX_BODY = 0xFFFF
_CHUNK = 1 << 18
# How far a reader looks for the next whole record after damage: beyond it the rest is given up.
MAX_DAMAGE_BYTES = 1 << 20


class DumpError(ValueError):
    """The file is no dump, or its header can't be read."""


class RecordType(IntEnum):
    HEADER = 1
    RTP = 2
    SENDER_REPORT = 3
    DROPS = 4
    END = 5


@dataclass(frozen=True, slots=True)
class DumpHeader:
    """``started_ms`` is the wall clock of the opening, ms since the epoch."""

    kind: str  # "audio" | "video"
    venue_id: str
    source: str
    started_ms: float
    codecs: tuple[CodecParameters, ...]
    tap_id: str = ""
    producer_id: str = ""


@dataclass(frozen=True, slots=True)
class RtpRecord:
    arrival_ms: float
    packet: bytes
    offset: int  # of the record in the file, for DumpReader.records(start=...)


@dataclass(frozen=True, slots=True)
class SenderReportRecord:
    """``ntp_ms`` is the publisher's clock (ms since the epoch) at ``rtp_timestamp`` (RFC 3550 §6.4.1)."""

    arrival_ms: float
    ntp_ms: float
    rtp_timestamp: int


@dataclass(frozen=True, slots=True)
class DropsRecord:
    """The tap's queue was full: this many packets in a row were not written."""

    arrival_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class EndRecord:
    """The writer closed the file.  ``reason``: "closed" or "disk_full"."""

    arrival_ms: float
    reason: str


Record = RtpRecord | SenderReportRecord | DropsRecord | EndRecord


# ---------------------------------------------------------------- writing


def encode_record(kind: RecordType, wall_ms: float, body: bytes) -> bytes:
    """Raises DumpError when ``body`` is longer than a record may be."""
    if len(body) > MAX_BODY:
        raise DumpError(f"a record holds at most {MAX_BODY} bytes, not {len(body)}")
    crc = zlib.crc32(body, zlib.crc32(_SUMMED.pack(kind, len(body), wall_ms)))
    return _HEAD.pack(SYNC, kind, len(body), wall_ms, crc) + body


def encode_header(header: DumpHeader) -> bytes:
    body = {
        "kind": header.kind,
        "venue": header.venue_id,
        "source": header.source,
        "tap_id": header.tap_id,
        "producer_id": header.producer_id,
        "codecs": [
            {
                "mime": codec.mime,
                "payload_type": codec.payload_type,
                "clock_rate": codec.clock_rate,
                "channels": codec.channels,
                "fmtp": [list(pair) for pair in codec.fmtp],
            }
            for codec in header.codecs
        ],
    }
    return MAGIC + encode_record(RecordType.HEADER, header.started_ms, json.dumps(body).encode())


def encode_sender_report(ntp_ms: float, rtp_timestamp: int, arrival_ms: float) -> bytes:
    return encode_record(
        RecordType.SENDER_REPORT, arrival_ms, _REPORT.pack(ntp_ms, rtp_timestamp & 0xFFFFFFFF)
    )


def encode_drops(count: int, wall_ms: float) -> bytes:
    return encode_record(RecordType.DROPS, wall_ms, _DROPS.pack(min(count, 0xFFFFFFFF)))


def encode_end(reason: str, wall_ms: float) -> bytes:
    return encode_record(RecordType.END, wall_ms, reason.encode())


# ---------------------------------------------------------------- reading


class DumpReader:
    """One pass at a time over a dump.  ``skipped_bytes`` says how much damage the last pass met.

    Raises DumpError when the file can't be opened or has no readable header; nothing else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped_bytes = 0
        try:
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise DumpError(f"{path.name} is no dump")
                found = next(_scan(file, len(MAGIC), self), None)
        except OSError as error:
            raise DumpError(f"{path.name} can't be read: {error.strerror}") from error
        if found is None or found[1] != RecordType.HEADER:
            raise DumpError(f"{path.name} has no header")
        self.header = _header(found[2], found[3])

    def records(self, start: int = 0) -> Iterator[Record]:
        """Whole records from byte ``start`` (an RtpRecord's offset; 0 = all).  Ends at the first torn one."""
        self.skipped_bytes = 0
        try:
            with self.path.open("rb") as file:
                for offset, kind, wall_ms, body in _scan(file, max(start, len(MAGIC)), self):
                    record = _record(offset, kind, wall_ms, body)
                    if record is not None:
                        yield record
        except OSError as error:
            raise DumpError(f"{self.path.name} can't be read: {error.strerror}") from error


def is_ended(path: Path) -> bool:
    """Whether the file's last record is a whole END: its writer is done with it."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - 256))
            tail = file.read(256)
    except OSError:
        return False
    at = tail.rfind(SYNC)
    found = _whole(tail, at) if at >= 0 else None
    return found is not None and found[0] == RecordType.END and found[3] == len(tail)


def _whole(buffer: bytes | bytearray, at: int) -> tuple[int, float, bytes, int] | None:
    """(type, wall, body, end) of the record at ``at``, None when it is torn or damaged."""
    if len(buffer) - at < _HEAD.size:
        return None
    sync, kind, length, wall_ms, crc = _HEAD.unpack_from(buffer, at)
    begin = at + _HEAD.size
    if sync != SYNC or len(buffer) - begin < length:
        return None
    body = bytes(buffer[begin : begin + length])
    if zlib.crc32(body, zlib.crc32(bytes(buffer[at + 2 : begin - 4]))) != crc:
        return None
    return kind, wall_ms, body, begin + length


def _scan(file: BinaryIO, start: int, reader: DumpReader) -> Iterator[tuple[int, int, float, bytes]]:
    """(offset, type, wall, body) of every whole record; looks a bounded way past damage."""
    file.seek(start)
    buffer, base, at, skipped, ended = b"", start, 0, 0, False
    while True:
        # Enough for the longest record, so that "too short" can only mean the end of the file.
        if not ended and len(buffer) - at < _HEAD.size + MAX_BODY:
            base, buffer, at = base + at, buffer[at:], 0
            chunk = file.read(_CHUNK)
            ended = not chunk
            buffer += chunk
            continue
        found = _whole(buffer, at)
        if found is not None:
            yield base + at, found[0], found[1], found[2]
            at, skipped = found[3], 0
            continue
        if at >= len(buffer):
            return
        jump = buffer.find(SYNC, at + 1)
        step = (jump if jump >= 0 else len(buffer)) - at
        at += step
        skipped += step
        reader.skipped_bytes += step
        if skipped > MAX_DAMAGE_BYTES:
            return


def _record(offset: int, kind: int, wall_ms: float, body: bytes) -> Record | None:
    if not 0 <= wall_ms < 1e15:  # also False for NaN
        return None
    if kind == RecordType.RTP:
        return RtpRecord(wall_ms, body, offset)
    if kind == RecordType.SENDER_REPORT and len(body) == _REPORT.size:
        ntp_ms, rtp_timestamp = _REPORT.unpack(body)
        return SenderReportRecord(wall_ms, ntp_ms, rtp_timestamp) if 0 <= ntp_ms < 1e15 else None
    if kind == RecordType.DROPS and len(body) == _DROPS.size:
        return DropsRecord(wall_ms, _DROPS.unpack(body)[0])
    if kind == RecordType.END:
        return EndRecord(wall_ms, body.decode("utf-8", "replace"))
    return None


def _header(wall_ms: float, body: bytes) -> DumpHeader:
    try:
        fields: Any = json.loads(body)
        return DumpHeader(
            kind=str(fields["kind"]),
            venue_id=str(fields["venue"]),
            source=str(fields["source"]),
            started_ms=float(wall_ms),
            codecs=tuple(_codec(entry) for entry in fields["codecs"]),
            tap_id=str(fields["tap_id"]),
            producer_id=str(fields["producer_id"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DumpError("the header can't be understood") from error


def _codec(entry: Any) -> CodecParameters:
    pairs: Iterable[Any] = entry["fmtp"]
    return CodecParameters(
        mime=str(entry["mime"]),
        payload_type=int(entry["payload_type"]),
        clock_rate=max(1, int(entry["clock_rate"])),
        channels=int(entry["channels"]),
        fmtp=tuple((str(key), str(value)) for key, value in pairs),
    )
