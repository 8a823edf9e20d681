"""The dump: truncated anywhere it reads its prefix, damaged anywhere it raises nothing but DumpError."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recording.dump import (
    DropsRecord,
    DumpError,
    DumpHeader,
    DumpReader,
    EndRecord,
    Record,
    RecordType,
    RtpRecord,
    SenderReportRecord,
    encode_drops,
    encode_end,
    encode_header,
    encode_record,
    encode_sender_report,
    is_ended,
)
from recording.segments import index_segment
from sfu.params import CodecParameters

HEADER = DumpHeader(
    "video",
    "340100",
    "camera",
    1.7e12,
    (CodecParameters("video/VP8", 96, 90_000, fmtp=(("a", "1"),)),),
    "tap_1",
)
walls = st.floats(1.6e12, 1.9e12)
pieces = st.one_of(
    st.tuples(st.just("rtp"), walls, st.binary(max_size=300)),
    st.tuples(st.just("report"), walls, st.integers(0, 2**32 - 1)),
    st.tuples(st.just("drops"), walls, st.integers(0, 2**32 - 1)),
)
KEEP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def built(entries: list[tuple[str, float, object]], *, ended: bool = True) -> list[bytes]:
    parts = [encode_header(HEADER)]
    for kind, wall, value in entries:
        if kind == "rtp":
            assert isinstance(value, bytes)
            parts.append(encode_record(RecordType.RTP, wall, value))
        else:
            assert isinstance(value, int)
            parts.append(
                encode_sender_report(wall - 5, value, wall) if kind == "report" else encode_drops(value, wall)
            )
    if ended:
        parts.append(encode_end("closed", 1.7e12))
    return parts


def told(records: list[Record]) -> list[tuple[str, float, object]]:
    out: list[tuple[str, float, object]] = []
    for record in records:
        match record:
            case RtpRecord(arrival_ms=at, packet=packet):
                out.append(("rtp", at, packet))
            case SenderReportRecord(arrival_ms=at, rtp_timestamp=stamp):
                out.append(("report", at, stamp))
            case DropsRecord(arrival_ms=at, count=count):
                out.append(("drops", at, count))
            case EndRecord():
                pass
    return out


@KEEP
@given(entries=st.lists(pieces, max_size=12), data=st.data())
def test_truncated_anywhere_it_reads_its_prefix(
    tmp_path: Path, entries: list[tuple[str, float, object]], data: st.DataObject
) -> None:
    parts = built(entries)
    whole = b"".join(parts)
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path / "a.lxd"
    path.write_bytes(whole[:cut])
    if cut < len(parts[0]):
        with pytest.raises(DumpError):
            DumpReader(path)
        return
    ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
    complete = sum(1 for end in ends if end <= cut) - 1
    reader = DumpReader(path)
    assert reader.header == HEADER
    assert told(list(reader.records())) == entries[:complete]
    assert is_ended(path) == (cut == len(whole))


@KEEP
@given(
    entries=st.lists(pieces, min_size=1, max_size=12),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_raises_only_its_own_error(
    tmp_path: Path, entries: list[tuple[str, float, object]], changes: list[tuple[int, int]]
) -> None:
    data = bytearray(b"".join(built(entries)))
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path / "a.lxd"
    path.write_bytes(data)
    try:
        read = told(list(DumpReader(path).records()))
        index_segment(path)
    except DumpError:
        return
    assert all(entry in entries for entry in read)


@KEEP
@given(data=st.binary(max_size=400))
def test_any_bytes_raise_only_its_own_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.lxd"
    path.write_bytes(data)
    with pytest.raises(DumpError):
        DumpReader(path)


def test_what_follows_damage_is_found_again(tmp_path: Path) -> None:
    entries: list[tuple[str, float, object]] = [("rtp", 1.7e12, bytes([n]) * 50) for n in range(5)]
    parts = built(entries)
    parts[2] = bytes(len(parts[2]))
    path = tmp_path / "a.lxd"
    path.write_bytes(b"".join(parts))
    reader = DumpReader(path)
    assert told(list(reader.records())) == [entries[0], *entries[2:]]
    assert reader.skipped_bytes == len(parts[2])


def test_reading_can_begin_at_a_packet(tmp_path: Path) -> None:
    entries: list[tuple[str, float, object]] = [("rtp", 1.7e12, bytes([n]) * 50) for n in range(5)]
    path = tmp_path / "a.lxd"
    path.write_bytes(b"".join(built(entries)))
    reader = DumpReader(path)
    offsets = [record.offset for record in reader.records() if isinstance(record, RtpRecord)]
    assert told(list(reader.records(offsets[3]))) == entries[3:]
