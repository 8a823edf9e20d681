"""Per-track files: pictures copied as they came (VP8 → WebM, H.264 → MP4), voices as AAC in M4A.

All segments of one venue's source are one file, on the wall clock: a gap stays a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import numpy as np

from recording.audio import RATE, Chorus, Limiter, Samples
from recording.compose import sound_frame
from recording.segments import Segment, TimedFrame

_CONTAINERS = {
    "video/vp8": ("webm", "webm", "vp8", "video/webm"),
    "video/h264": ("mp4", "mp4", "h264", "video/mp4"),
}
_MS = Fraction(1, 1000)
_MP4_CLOCK = Fraction(1, 90_000)
_STEP = 1920  # samples a step, 40 ms
_AAC_FRAME = 1024
_PEEK = 64  # bytes of H.264 searched for its size


@dataclass(frozen=True, slots=True)
class TrackFile:
    """``offset_ms``: where the file's beginning lies after the recording's."""

    venue_id: str
    source: str
    path: Path
    mime: str
    duration_s: float
    offset_ms: float


def mux_tracks(
    segments: list[Segment],
    span_ms: tuple[float, float],
    directory: Path,
    progress: Callable[[float], None],
) -> list[TrackFile]:
    """One file per venue and source (per codec for pictures).  Raises av errors and OSError."""
    files: list[TrackFile] = []
    ordered = sorted(segments, key=lambda s: (s.venue_id, s.source, s.kind, s.first_ms))
    groups = [list(found) for _, found in groupby(ordered, key=lambda s: (s.venue_id, s.source, s.kind))]
    for number, group in enumerate(groups):
        progress(number / len(groups))
        name = f"{group[0].venue_id or 'venue'}-{group[0].source or group[0].kind}"
        if group[0].kind == "audio":
            file = _voice(group, span_ms, directory / f"{name}.m4a")
            files += [file] if file else []
        else:
            files += _pictures(group, span_ms, directory, name)
    return files


def _pictures(
    group: list[Segment], span_ms: tuple[float, float], directory: Path, name: str
) -> list[TrackFile]:
    """A file for each run of the same codec: a container's track can't change it."""
    files: list[TrackFile] = []
    frames = (timed for segment in group for timed in segment.frames())
    wanted = (t for t in frames if t.mime in _CONTAINERS and t.wall_ms <= span_ms[1])
    for mime, run in groupby(wanted, key=lambda timed: timed.mime):
        suffix, form, codec, media_type = _CONTAINERS[mime]
        number = f"-{len(files) + 1}" if files else ""
        path = directory / f"{name}{number}.{suffix}"
        written = _copy(run, path, form, codec)
        if written is None:
            path.unlink(missing_ok=True)
            continue
        first_ms, duration_s = written
        files.append(
            TrackFile(
                group[0].venue_id,
                group[0].source,
                path,
                media_type,
                duration_s,
                max(0.0, first_ms - span_ms[0]),
            )
        )
    return files


def _copy(run: Iterator[TimedFrame], path: Path, form: str, codec: str) -> tuple[float, float] | None:
    """(wall clock of the first picture, length in s); None when there was no key frame."""
    first = next((timed for timed in run if timed.frame.key), None)
    if first is None:
        return None
    width, height = picture_size(first)
    clock = _MP4_CLOCK if form == "mp4" else _MS
    options = {"movflags": "+faststart"} if form == "mp4" else {}
    with av.open(str(path), "w", format=form, options=options) as container:
        stream: Any = container.add_mux_stream(codec, rate=30, width=width, height=height, time_base=clock)
        last_pts, newest_ms = -1, first.wall_ms
        timed: TimedFrame | None = first
        while timed is not None:
            # The clock may be mended backwards by a report, a file's may not.
            pts = max(last_pts + 1, round((timed.wall_ms - first.wall_ms) / 1000 / clock))
            packet = av.Packet(timed.frame.payload)
            packet.stream, packet.time_base = stream, clock
            packet.pts = packet.dts = pts
            packet.is_keyframe = timed.frame.key
            container.mux(packet)
            last_pts, newest_ms = pts, max(newest_ms, timed.wall_ms)
            timed = next(run, None)
    return first.wall_ms, float((last_pts + 1) * clock)


def picture_size(timed: TimedFrame) -> tuple[int, int]:
    """Of a key frame; H.264 is asked by decoding it, (640, 360) when even that fails."""
    if timed.frame.width:
        return timed.frame.width, timed.frame.height
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    try:
        for frame in [*decoder.decode(av.Packet(timed.frame.payload)), *decoder.decode(None)]:
            return frame.width, frame.height
    except (av.error.FFmpegError, ValueError):
        pass
    return 640, 360


def _voice(group: list[Segment], span_ms: tuple[float, float], path: Path) -> TrackFile | None:
    begin_ms = max(span_ms[0], min(segment.first_ms for segment in group))
    end_ms = min(span_ms[1], max(segment.last_ms for segment in group) + 100)
    steps = int((end_ms - begin_ms) * RATE / 1000 / _STEP)
    if steps <= 0:
        return None
    sound, limiter = Chorus(group, begin_ms), Limiter()
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream: Any = container.add_stream("aac", rate=RATE)
        # A room's microphone is mono; what a screen plays is not.
        layout = "stereo" if group[0].source == "screen_share_audio" else "mono"
        stream.codec_context.layout = layout
        stream.codec_context.bit_rate = 96_000 if layout == "stereo" else 64_000
        stream.options = {"aac_coder": "fast"}  # half the time of the default, for speech as good
        stream.codec_context.time_base = Fraction(1, RATE)
        pending = np.zeros((0, 2), np.float32)
        written = 0
        for number in range(steps + 1):
            if number < steps:
                mixed = np.zeros((_STEP, 2), np.float32)
                for _, samples in sound.read(number * _STEP, _STEP):
                    mixed += samples
                fresh: Samples = limiter.feed(mixed)
            else:
                fresh = limiter.flush()
            pending = np.concatenate([pending, fresh])
            size = _AAC_FRAME if number < steps else max(1, min(_AAC_FRAME, len(pending)))
            while len(pending) >= size and len(pending):
                container.mux(stream.encode(sound_frame(pending[:size], written, layout)))
                written += min(size, len(pending))
                pending = pending[size:]
                if number == steps:
                    size = max(1, min(_AAC_FRAME, len(pending)))
        container.mux(stream.encode(None))
    return TrackFile(
        group[0].venue_id, group[0].source, path, "audio/mp4", written / RATE, max(0.0, begin_ms - span_ms[0])
    )
