"""``python -m recording.jobs DIR``: makes a stopped recording's files, in a process of low priority.

One at a time (a lock on the recordings' folder), repeatable: everything is made under ``making/`` and
renamed when whole, ``result.json`` last.  Lines of JSON on stdout tell the progress.  Exit status 0:
done (or had been); 1: failed, with the reason in the last line.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av.error

from recording.compose import ComposeOptions, compose
from recording.dump import SUFFIX, DumpError, is_ended
from recording.folder import RESULT, TAPS, read_result
from recording.mux import mux_tracks
from recording.segments import Segment, align, index_segment
from recording.timeline import Timeline, read_timeline

_MAKING = "making"
_LOCK = ".job.lock"
PROGRAM = "program.mp4"
# How long to wait for taps to close after the recording was stopped, and when to take them for dead.
_SETTLE_S = 5.0
_QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class MadeFile:
    """``path`` is relative to the recording's folder; ``offset_s`` after the recording's beginning."""

    kind: str
    venue_id: str | None
    source: str | None
    name: str
    path: str
    mime: str
    size_bytes: int
    duration_s: float
    offset_s: float
    sha256: str


class JobError(Exception):
    """The recording can't be made; the text is for people."""


def run_job(directory: Path, options: ComposeOptions, settle_s: float = _SETTLE_S) -> dict[str, Any]:
    """Makes all files of the recording in ``directory`` and returns the result (also in result.json)."""
    done = read_result(directory)
    if done is not None:
        return done
    making = directory / _MAKING
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    _settle(directory / TAPS, settle_s)
    tell(0.0)
    timeline = read_timeline(directory)
    segments, unreadable = _load(directory / TAPS)
    span_ms = _span(timeline, segments)
    composed = compose(
        segments, timeline, span_ms, making / PROGRAM, options, lambda part: tell(0.05 + 0.75 * part)
    )
    tracks = mux_tracks(segments, span_ms, making, lambda part: tell(0.8 + 0.15 * part))
    tell(0.95)
    title = timeline.title or "recording"
    files = [_made(making / PROGRAM, "program", None, None, title, "video/mp4", composed.duration_s, 0.0)]
    for track in tracks:
        name = f"{timeline.name(track.venue_id)} {track.source}"
        files.append(
            _made(
                track.path,
                "track",
                track.venue_id,
                track.source,
                name,
                track.mime,
                track.duration_s,
                track.offset_ms / 1000,
            )
        )
    for file in files:
        os.replace(making / file.path, directory / file.path)
    result = {
        "started_ms": span_ms[0],
        "duration_s": composed.duration_s,
        "shown": [{"at_s": at, "venue": venue} for at, venue in composed.shown],
        "files": [asdict(file) for file in files],
        "broken_frames": composed.broken_frames,
        "unreadable": unreadable,
        "segments": [_told(segment) for segment in segments],
    }
    _write_whole(directory / RESULT, json.dumps(result, ensure_ascii=False).encode())
    shutil.rmtree(making, ignore_errors=True)
    tell(1.0)
    return result


def tell(progress: float, **more: Any) -> None:
    """A line for the control process; nobody may be listening any more."""
    try:
        print(json.dumps({"progress": round(progress, 4), **more}), flush=True)
    except (BrokenPipeError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for the rest of the process


def _settle(taps: Path, timeout_s: float) -> None:
    """Waits until the worker has closed the dumps; one that nobody writes any more is done too."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        open_still = [
            path
            for path in taps.glob(f"*{SUFFIX}")
            if not is_ended(path) and time.time() - path.stat().st_mtime < _QUIET_S
        ]
        if not open_still:
            return
        time.sleep(0.1)


def _load(taps: Path) -> tuple[list[Segment], list[str]]:
    segments: list[Segment] = []
    unreadable: list[str] = []
    for path in sorted(taps.glob(f"*{SUFFIX}")):
        try:
            segment = index_segment(path)
        except DumpError as error:
            unreadable.append(f"{path.name}: {error}")
            continue
        if segment.packets:
            segments.append(segment)
    align(segments)
    return segments, unreadable


def _span(timeline: Timeline, segments: list[Segment]) -> tuple[float, float]:
    """Begin and end of the film, ms since the epoch.  Raises JobError when there is nothing at all."""
    begin = timeline.started_ms
    if begin is None:
        if not segments:
            raise JobError("the recording holds nothing")
        begin = min(segment.first_ms for segment in segments)
    end = timeline.stopped_ms
    if end is None:
        end = max([timeline.last_ms, *(segment.last_ms for segment in segments)])
    return begin, max(end, begin + 1000)


def _made(
    path: Path, kind: str, venue_id: str | None, source: str | None, name: str, mime: str,
    duration_s: float, offset_s: float,
) -> MadeFile:  # fmt: skip
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return MadeFile(
        kind, venue_id or None, source, name + path.suffix, path.name, mime, path.stat().st_size,
        round(duration_s, 3), round(offset_s, 3), digest,
    )  # fmt: skip


def _told(segment: Segment) -> dict[str, Any]:
    return {
        "file": segment.path.name, "venue": segment.venue_id, "source": segment.source,
        "first_ms": segment.first_ms, "last_ms": segment.last_ms, "packets": segment.packets,
        "lost": segment.lost, "tap_drops": segment.tap_drops, "damaged_bytes": segment.damaged_bytes,
        "end": segment.end, "key_frames": len(segment.keys), "reports": len(segment.reports),
        "codecs": sorted(segment.mimes),
    }  # fmt: skip


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Waits for an earlier job: one that outlived its server may still be at work on the same folder."""
    with (directory.parent / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recording.jobs", description="Make a recording's files.")
    parser.add_argument("directory", type=Path)
    usual = ComposeOptions()
    parser.add_argument("--width", type=int, default=usual.width)
    parser.add_argument("--height", type=int, default=usual.height)
    parser.add_argument("--fps", type=int, default=usual.fps)
    parser.add_argument("--preset", default=usual.preset)
    parser.add_argument("--threads", type=int, default=usual.threads)
    chosen = parser.parse_args(arguments)
    os.nice(10)  # the meeting that is on goes first
    options = ComposeOptions(chosen.width, chosen.height, chosen.fps, chosen.preset, threads=chosen.threads)
    try:
        with _alone(chosen.directory.resolve()):
            run_job(chosen.directory, options)
    except (JobError, DumpError, OSError, ValueError, av.error.FFmpegError) as error:
        tell(0.0, error=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
