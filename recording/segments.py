"""What one dump holds, found in one bounded pass: span, clock, key frames; then read from any key frame.

Clocks.  A packet's RTP timestamp becomes wall-clock time by the publisher's sender reports: they tie
it to the publisher's own clock, which audio and video of a venue share (so lips match), and the
quickest reports tell how far that clock is from ours.  Without reports the arrival times serve.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recording.depacketize import (
    AUDIO_WINDOW,
    VIDEO_WINDOW,
    Depacketizer,
    Frame,
    FrameReader,
    H264Depacketizer,
    OpusDepacketizer,
    RedDepacketizer,
    Reorder,
    Vp8Depacketizer,
    unwrap,
)
from recording.dump import DropsRecord, DumpHeader, DumpReader, EndRecord, RtpRecord, SenderReportRecord

# A time from sender reports that is this far from the arrival is not believed.
_EARLIEST_MS, _LATEST_MS = 3000.0, 300.0
_JUMP_MS = 1500.0  # the timestamps went on without the time (or the reverse): a new beginning
_OFFSET_WINDOW_MS = 30_000.0
_SAME_CLOCK_MS = 2000.0
_REPORT_EVERY_MS = 900.0  # closer ones add nothing
# Crystals differ by far less, but a busy browser's reports of audio wander by tens of ms; beyond this a
# slope is a jump between two reports.
_MAX_SKEW = 0.02


@dataclass(frozen=True, slots=True)
class Report:
    """A sender report whose RTP timestamp is unwrapped."""

    timestamp: int
    ntp_ms: float
    arrival_ms: float


class ArrivalClock:
    """Timestamps → wall clock by arrival alone: the quickest packets of late count."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._offset: float | None = None

    def wall(self, timestamp: int, arrival_ms: float) -> float:
        at = timestamp * 1000 / self._rate
        late = 0.0 if self._offset is None else arrival_ms - at - self._offset
        if self._offset is None or abs(late) > _JUMP_MS:
            self._offset = arrival_ms - at
        elif late < 0:
            self._offset += late
        else:
            self._offset += late * 0.001  # follows a slower clock of the publisher
        return at + self._offset


class ReportClock:
    """Timestamps → wall clock by sender reports, linear between them, nominal rate outside."""

    def __init__(self, rate: int, anchors: list[tuple[int, float]]) -> None:
        self._rate = rate
        self._stamps = [stamp for stamp, _ in anchors]
        self._walls = [wall for _, wall in anchors]

    def wall(self, timestamp: int) -> float | None:
        if not self._stamps:
            return None
        at = max(0, bisect_right(self._stamps, timestamp) - 1)
        slope = 1000 / self._rate
        if at + 1 < len(self._stamps) and self._stamps[at + 1] > self._stamps[at]:
            found = (self._walls[at + 1] - self._walls[at]) / (self._stamps[at + 1] - self._stamps[at])
            if abs(found / slope - 1) < _MAX_SKEW:
                slope = found
        return self._walls[at] + (timestamp - self._stamps[at]) * slope


@dataclass(frozen=True, slots=True)
class KeyPoint:
    """Where decoding can begin."""

    wall_ms: float
    offset: int
    sequence: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class TimedFrame:
    mime: str  # lower case
    frame: Frame
    wall_ms: float


@dataclass(slots=True)
class Segment:
    """One dump.  ``first_ms``/``last_ms``: arrival of its first and last packet."""

    path: Path
    header: DumpHeader
    venue_id: str
    source: str
    first_ms: float = 0.0
    last_ms: float = 0.0
    packets: int = 0
    lost: int = 0
    tap_drops: int = 0
    damaged_bytes: int = 0
    end: str | None = None  # None: the writer was killed
    mimes: set[str] = field(default_factory=set)
    keys: list[KeyPoint] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    clock: ReportClock | None = None

    @property
    def kind(self) -> str:
        return self.header.kind

    @property
    def rate(self) -> int:
        return self.header.codecs[0].clock_rate if self.header.codecs else 90_000

    def frames(self, key: KeyPoint | None = None) -> Iterator[TimedFrame]:
        """All frames, or those from ``key`` on, in order of sequence."""
        reorder = _reorder(self.kind, key)
        reader = FrameReader(_depacketizers(self.header), reorder)
        arrivals = ArrivalClock(self.rate)
        for record in DumpReader(self.path).records(key.offset if key else 0):
            if isinstance(record, RtpRecord):
                for mime, frame in reader.push(record.packet, record.arrival_ms, record.offset):
                    yield TimedFrame(mime, frame, self._wall(frame, arrivals))
        for mime, frame in reader.flush():
            yield TimedFrame(mime, frame, self._wall(frame, arrivals))

    def _wall(self, frame: Frame, arrivals: ArrivalClock) -> float:
        fallback = arrivals.wall(frame.timestamp, frame.arrival_ms)
        found = self.clock.wall(frame.timestamp) if self.clock else None
        if found is None or not -_LATEST_MS < frame.arrival_ms - found < _EARLIEST_MS:
            return fallback
        return found


def index_segment(path: Path, venue_id: str = "", source: str = "") -> Segment:
    """Raises DumpError when the file is no dump.  The clock comes with ``align``."""
    reader = DumpReader(path)
    header = reader.header
    segment = Segment(path, header, header.venue_id or venue_id, header.source or source)
    reorder = _reorder(header.kind, None)
    frames = FrameReader(_depacketizers(header), reorder)
    arrivals = ArrivalClock(segment.rate)
    newest: int | None = None
    for record in reader.records():
        if isinstance(record, RtpRecord):
            if not segment.packets:
                segment.first_ms = segment.last_ms = record.arrival_ms
            segment.packets += 1
            segment.last_ms = max(segment.last_ms, record.arrival_ms)
            for mime, frame in frames.push(record.packet, record.arrival_ms, record.offset):
                newest = frame.timestamp
                wall_ms = arrivals.wall(frame.timestamp, frame.arrival_ms)
                _note(segment, mime, frame, wall_ms)
        elif isinstance(record, SenderReportRecord):
            if newest is not None:
                _add_report(segment, record, newest, arrivals)
        elif isinstance(record, DropsRecord):
            segment.tap_drops += record.count
        elif isinstance(record, EndRecord):
            segment.end = record.reason
    for mime, frame in frames.flush():
        _note(segment, mime, frame, arrivals.wall(frame.timestamp, frame.arrival_ms))
    segment.lost = reorder.lost
    segment.damaged_bytes = reader.skipped_bytes
    return segment


def align(segments: list[Segment]) -> None:
    """Gives each segment its clock from its own reports and those of its venue's other segments."""
    for segment in segments:
        if not segment.reports:
            continue
        peers = [
            report
            for other in segments
            if other.venue_id == segment.venue_id and _together(other, segment)
            for report in other.reports
        ]
        own = min(r.arrival_ms - r.ntp_ms for r in segment.reports)
        samples = sorted(
            (r.arrival_ms, r.arrival_ms - r.ntp_ms)
            for r in peers
            if abs(r.arrival_ms - r.ntp_ms - own) < _SAME_CLOCK_MS
        )
        anchors = _anchors(segment.reports, samples)
        segment.clock = ReportClock(segment.rate, anchors)
        clock = segment.clock
        for index, key in enumerate(segment.keys):
            found = clock.wall(key.timestamp)
            if found is not None and abs(found - key.wall_ms) < _EARLIEST_MS:
                segment.keys[index] = KeyPoint(found, key.offset, key.sequence, key.timestamp)


def _anchors(reports: list[Report], samples: list[tuple[float, float]]) -> list[tuple[int, float]]:
    """Each report's timestamp with its wall clock: its NTP time plus the least delay seen around it."""
    anchors: list[tuple[int, float]] = []
    times = [at for at, _ in samples]
    for report in sorted(reports, key=lambda r: r.timestamp):
        begin = bisect_right(times, report.arrival_ms - _OFFSET_WINDOW_MS)
        end = bisect_right(times, report.arrival_ms + _OFFSET_WINDOW_MS)
        near = [offset for _, offset in samples[begin:end]]
        if near:
            anchors.append((report.timestamp, report.ntp_ms + min(near)))
    return anchors


def _together(one: Segment, other: Segment) -> bool:
    """Taken at the same time, so surely from the same machine: a seat may be taken over by another."""
    if one is other:
        return True
    shared = min(one.last_ms, other.last_ms) - max(one.first_ms, other.first_ms)
    shorter = min(one.last_ms - one.first_ms, other.last_ms - other.first_ms)
    return shared > 0 and shared >= 0.5 * shorter


def _note(segment: Segment, mime: str, frame: Frame, wall_ms: float) -> None:
    segment.mimes.add(mime)
    if segment.kind == "video" and frame.key:
        segment.keys.append(KeyPoint(wall_ms, frame.offset, frame.sequence, frame.timestamp))


def _add_report(segment: Segment, record: SenderReportRecord, newest: int, arrivals: ArrivalClock) -> None:
    timestamp = unwrap(record.rtp_timestamp & 0xFFFFFFFF, newest, 32)
    # The report's timestamp is that of its sending, near that of the packets just received.
    ahead_ms = (timestamp - newest) * 1000 / segment.rate
    if not -60_000 < ahead_ms < 600_000:
        return
    if segment.reports and record.arrival_ms - segment.reports[-1].arrival_ms < _REPORT_EVERY_MS:
        return
    segment.reports.append(Report(timestamp, record.ntp_ms, record.arrival_ms))


def _reorder(kind: str, key: KeyPoint | None) -> Reorder:
    window = VIDEO_WINDOW if kind == "video" else AUDIO_WINDOW
    return Reorder(window, key.sequence, key.timestamp) if key else Reorder(window)


def _depacketizers(header: DumpHeader) -> dict[int, tuple[str, Depacketizer]]:
    found: dict[int, tuple[str, Depacketizer]] = {}
    red: int | None = None
    opus: int | None = None
    for codec in header.codecs:
        mime = codec.mime.lower()
        if mime == "video/vp8":
            found[codec.payload_type] = (mime, Vp8Depacketizer())
        elif mime == "video/h264":
            found[codec.payload_type] = (mime, H264Depacketizer())
        elif mime == "audio/opus":
            opus = codec.payload_type
        elif mime == "audio/red":
            red = codec.payload_type
    if opus is not None and red is not None:
        # One for both: redundancy may be switched on and off while the stream goes on.
        both = RedDepacketizer(opus, red)
        found[opus] = found[red] = ("audio/opus", both)
    elif opus is not None:
        found[opus] = ("audio/opus", OpusDepacketizer())
    return found
