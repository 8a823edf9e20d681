"""One playable film of a meeting: the stage's picture and all voices, on the wall clock.

Reads the dumps forward in steps of one picture, so memory does not grow with the length.  Gaps in the
recording are slates and silence; the length is the meeting's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from recording.audio import RATE, Chorus, Limiter, Loudest, Samples, level_db
from recording.pictures import SOON_MS, Camera
from recording.segments import Segment
from recording.timeline import Timeline
from recording.titles import Plane, Titles, plane_views

Progress = Callable[[float], None]

_AAC_FRAME = 1024
_OPEN_CAMERAS = 8
_NO_PICTURE = "无画面"
# ITU-R BT.601 and limited range: what WebRTC's encoders send, so pictures need no conversion.
_BT601, _LIMITED = 6, 1


@dataclass(frozen=True, slots=True)
class ComposeOptions:
    """``fps`` must divide 48,000 into pieces of 5 ms (25 or 50, or 20); sizes even."""

    width: int = 1280
    height: int = 720
    fps: int = 25
    preset: str = "veryfast"
    crf: int = 23
    audio_bps: int = 128_000
    threads: int = 0  # 0: libx264 decides


@dataclass(slots=True)
class Composed:
    """What was made.  ``shown``: (seconds from the start, venue or None), each change of the picture."""

    duration_s: float = 0.0
    shown: list[tuple[float, str | None]] = field(default_factory=list)
    broken_frames: int = 0


def compose(
    segments: list[Segment],
    timeline: Timeline,
    span_ms: tuple[float, float],
    path: Path,
    options: ComposeOptions,
    progress: Progress,
) -> Composed:
    """Writes ``path`` (MP4, H.264 and AAC, index in front).  Raises av errors and OSError."""
    per_picture = RATE // options.fps
    if RATE % options.fps or per_picture % Limiter.PIECE:
        raise ValueError(f"{options.fps} pictures a second don't divide the sound")
    count = max(1, round((span_ms[1] - span_ms[0]) * options.fps / 1000))
    sound = Chorus([s for s in segments if s.kind == "audio"], span_ms[0])
    director = _Director(segments, timeline, options)
    result = Composed(duration_s=count / options.fps)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        film = _Film(container, options)
        limiter = Limiter()
        for number in range(count):
            heard = sound.read(number * per_picture, per_picture)
            mixed = np.zeros((per_picture, 2), np.float32)
            levels: dict[str, float] = {}
            for venue, samples in heard:
                mixed += samples
                levels[venue] = max(levels.get(venue, -200.0), level_db(samples))
            film.write_sound(limiter.feed(mixed))
            at_ms = span_ms[0] + number * 1000 / options.fps
            venue_now, picture = director.picture(at_ms, levels)
            if not result.shown or result.shown[-1][1] != venue_now:
                result.shown.append((number / options.fps, venue_now))
            film.write_picture(picture, number)
            if number % options.fps == 0:
                progress(number / count)
        film.write_sound(limiter.flush())
        film.finish()
    result.broken_frames = sound.broken_frames + director.broken_frames
    return result


class _Film:
    """The two encoders and their container."""

    def __init__(self, container: Any, options: ComposeOptions) -> None:
        self._container = container
        self._video: Any = container.add_stream("libx264", rate=options.fps)
        context = self._video.codec_context
        context.width, context.height, context.pix_fmt = options.width, options.height, "yuv420p"
        context.time_base = Fraction(1, options.fps)
        context.colorspace = context.color_primaries = context.color_trc = _BT601
        context.color_range = _LIMITED
        context.gop_size = 2 * options.fps  # a player's seek lands within 2 s
        context.thread_count = options.threads
        self._video.options = {"preset": options.preset, "crf": str(options.crf)}
        self._audio: Any = container.add_stream("aac", rate=RATE)
        self._audio.codec_context.layout = "stereo"
        self._audio.codec_context.bit_rate = options.audio_bps
        self._audio.codec_context.time_base = Fraction(1, RATE)
        self._fps = options.fps
        self._pending: list[Samples] = []
        self._pending_count = 0
        self._written = 0

    def write_picture(self, frame: VideoFrame, number: int) -> None:
        frame.pts, frame.time_base = number, Fraction(1, self._fps)
        frame.pict_type = 0
        self._container.mux(self._video.encode(frame))

    def write_sound(self, samples: Samples) -> None:
        if len(samples):
            self._pending.append(samples)
            self._pending_count += len(samples)
        if self._pending_count < _AAC_FRAME:
            return
        joined = np.concatenate(self._pending)
        whole = len(joined) // _AAC_FRAME * _AAC_FRAME
        for at in range(0, whole, _AAC_FRAME):
            self._encode(joined[at : at + _AAC_FRAME])
        self._pending, self._pending_count = [joined[whole:]], len(joined) - whole

    def finish(self) -> None:
        if self._pending_count:
            self._encode(np.concatenate(self._pending))
        self._container.mux(self._audio.encode(None))
        self._container.mux(self._video.encode(None))

    def _encode(self, samples: Samples) -> None:
        self._container.mux(self._audio.encode(sound_frame(samples, self._written)))
        self._written += len(samples)


def sound_frame(samples: Samples, at: int, layout: str = "stereo") -> AudioFrame:
    """``at``: number of the first sample.  ``layout`` "mono" mixes both channels."""
    planes = samples.T if layout == "stereo" else samples.mean(axis=1, keepdims=True).T
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(planes), format="fltp", layout=layout)
    frame.sample_rate = RATE
    frame.pts, frame.time_base = at, Fraction(1, RATE)
    return frame


class _Director:
    """Says which venue is to be seen, and draws the picture."""

    def __init__(self, segments: list[Segment], timeline: Timeline, options: ComposeOptions) -> None:
        self._timeline = timeline
        self._options = options
        self._titles = Titles(options.width, options.height)
        by_venue: dict[str, list[Segment]] = {}
        for segment in segments:
            if segment.kind == "video" and segment.source == "camera":
                by_venue.setdefault(segment.venue_id, []).append(segment)
        self._cameras = {venue: Camera(found) for venue, found in by_venue.items()}
        self._opened: dict[str, None] = {}  # in order of use, the latest last
        self._stage_times = [at for at, _ in timeline.stages]
        self._loudest = Loudest(current=timeline.main_venue or self._first_seen(segments))
        self._step_ms = 1000 / options.fps
        self._shown: str | None = None
        self._wanted: str | None = None
        self._wanted_since = 0.0
        self._drawn: tuple[object, str | None] | None = None
        self._frame: VideoFrame | None = None

    @property
    def broken_frames(self) -> int:
        for camera in self._cameras.values():
            camera.release()
        return sum(camera.broken_frames for camera in self._cameras.values())

    def picture(self, at_ms: float, levels: dict[str, float]) -> tuple[str | None, VideoFrame]:
        """(venue shown, picture to encode)."""
        loudest = self._loudest.update(at_ms, self._step_ms, levels)
        # Half a picture early: the picture shown at this moment stays for a whole one.
        index = bisect_right(self._stage_times, at_ms + self._step_ms / 2) - 1
        staged = self._timeline.stages[index][1] if index >= 0 else None
        wanted = staged or loudest
        if wanted != self._wanted:
            self._wanted, self._wanted_since = wanted, at_ms
        picture, soon = self._look(wanted, at_ms)
        venue = wanted
        # The next picture is nearly there: the last venue stays, rather than a flash of a slate.
        if picture is None and soon and self._shown != wanted and at_ms - self._wanted_since < SOON_MS:
            before, _ = self._look(self._shown, at_ms)
            if before is not None:
                picture, venue = before, self._shown
        if venue == wanted:
            self._shown = wanted
        return venue, self._draw(picture, venue)

    def _first_seen(self, segments: list[Segment]) -> str | None:
        seen = [(s.keys[0].wall_ms, s.venue_id) for s in segments if s.venue_id in self._cameras and s.keys]
        return min(seen)[1] if seen else None

    def _look(self, venue: str | None, at_ms: float) -> tuple[VideoFrame | None, bool]:
        camera = self._cameras.get(venue) if venue else None
        if camera is None or venue is None:
            return None, False
        self._opened.pop(venue, None)
        self._opened[venue] = None
        if len(self._opened) > _OPEN_CAMERAS:
            oldest = next(iter(self._opened))
            del self._opened[oldest]
            self._cameras[oldest].release()
        return camera.at(at_ms)

    def _draw(self, picture: VideoFrame | None, venue: str | None) -> VideoFrame:
        if self._frame is not None and self._drawn is not None:
            same = self._drawn[0] is picture and self._drawn[1] == venue
            if same:
                return self._frame
        width, height = self._options.width, self._options.height
        name = self._timeline.name(venue) if venue else ""
        frame = VideoFrame(width, height, "yuv420p")
        planes = plane_views(frame)
        if picture is None:
            title, line = (name, _NO_PICTURE) if name else (self._timeline.title, "")
            for plane, drawn in zip(planes, self._titles.slate(title, line), strict=True):
                plane[...] = drawn
        else:
            _letterbox(picture, planes, width, height)
            if name:
                self._titles.label(name).lay(planes)
        self._drawn, self._frame = (picture, venue), frame
        return frame


def _letterbox(picture: VideoFrame, planes: tuple[Plane, Plane, Plane], width: int, height: int) -> None:
    scale = min(width / picture.width, height / picture.height)
    # Even sizes and places, so that the half-size colour planes fit exactly.
    w = max(2, min(width, round(picture.width * scale / 2) * 2))
    h = max(2, min(height, round(picture.height * scale / 2) * 2))
    left, top = (width - w) // 4 * 2, (height - h) // 4 * 2
    fitted = plane_views(picture.reformat(w, h, "yuv420p", interpolation="BILINEAR", dst_color_range="MPEG"))
    for plane, part, black, half in zip(planes, fitted, (16, 128, 128), (1, 2, 2), strict=True):
        if (w, h) != (width, height):
            plane[...] = black
        plane[top // half : (top + h) // half, left // half : (left + w) // half] = part
