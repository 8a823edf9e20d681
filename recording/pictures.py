"""A venue's camera as a function of time: the picture that was there at a moment, decoded when asked for.

Only the venue on stage is decoded.  Key frames are rare in a meeting, so a decoder keeps its place and
goes on from it; a newer key frame before the wanted moment is a short cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import av
import av.error
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from recording.segments import KeyPoint, Segment, TimedFrame

# A camera that sends nothing this long shows nothing (paused, line down).
STALE_MS = 2000.0
_AFTER_END_MS = 500.0
# Rather wait this long for the next key frame …
SOON_MS = 400.0
# … than decode this much that nobody sees.
_LONG_WAY_MS = 10_000.0
_DECODERS = {"video/vp8": "vp8", "video/h264": "h264"}


class Reading:
    """One segment being decoded forward."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.broken_frames = 0
        self._frames: Iterator[TimedFrame] | None = None
        self._waiting: TimedFrame | None = None
        self._decoder: VideoCodecContext | None = None
        self._mime = ""
        self._picture: VideoFrame | None = None
        self._picture_ms = 0.0
        self._at: KeyPoint | None = None  # the key frame that decoding began at
        self._walls = [key.wall_ms for key in segment.keys]

    def at(self, at_ms: float) -> tuple[VideoFrame | None, bool]:
        """(picture of that moment or None, whether one comes within SOON_MS).  Time must not go back."""
        index = bisect_right(self._walls, at_ms) - 1
        soon = index + 1 < len(self._walls) and self._walls[index + 1] - at_ms < SOON_MS
        if index < 0:
            return None, soon
        key = self.segment.keys[index]
        position_ms = max(self._picture_ms, self._at.wall_ms if self._at else 0.0)
        if self._at is None or key.wall_ms > position_ms + 200:
            if soon and at_ms - key.wall_ms > _LONG_WAY_MS:
                return None, True
            self._open(key)
        self._advance(at_ms)
        limit = STALE_MS if at_ms <= self.segment.last_ms else _AFTER_END_MS
        if self._picture is None or at_ms - self._picture_ms > limit:
            return None, soon
        return self._picture, soon

    def _open(self, key: KeyPoint) -> None:
        self._at = key
        self._frames = self.segment.frames(key)
        self._waiting = None
        self._decoder = None

    def _advance(self, at_ms: float) -> None:
        assert self._frames is not None
        while True:
            if self._waiting is None:
                self._waiting = next(self._frames, None)
            if self._waiting is None or self._waiting.wall_ms > at_ms:
                return
            timed, self._waiting = self._waiting, None
            self._decode(timed)

    def _decode(self, timed: TimedFrame) -> None:
        if self._decoder is None or timed.mime != self._mime:
            self._decoder, self._mime = _decoder(timed.mime), timed.mime
        try:
            frames = self._decoder.decode(av.Packet(timed.frame.payload))
        except (av.error.FFmpegError, ValueError):
            self.broken_frames += 1
            return
        for frame in frames:
            if frame.width and frame.height:
                self._picture, self._picture_ms = frame, timed.wall_ms


def _decoder(mime: str) -> VideoCodecContext:
    decoder: Any = av.CodecContext.create(_DECODERS[mime], "r")
    decoder.thread_count = 1  # frame threads would hold pictures back
    decoder.flags |= int(av.codec.context.Flags.low_delay)
    return decoder  # type: ignore[no-any-return]


def _begin(segment: Segment) -> float:
    # Pictures are timed by their taking, which is before their arrival.
    return min(segment.first_ms, segment.keys[0].wall_ms)


class Camera:
    """All camera segments of one venue."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = sorted((s for s in segments if s.keys), key=_begin)
        self._firsts = [_begin(s) for s in self._segments]
        self._reading: Reading | None = None
        self.broken_frames = 0

    def at(self, at_ms: float) -> tuple[VideoFrame | None, bool]:
        """As Reading.at, of the newest segment of that moment."""
        index = bisect_right(self._firsts, at_ms) - 1
        coming = (
            index + 1 < len(self._segments) and self._segments[index + 1].keys[0].wall_ms - at_ms < SOON_MS
        )
        if index < 0:
            return None, coming
        segment = self._segments[index]
        # The new segment waits for its key frame: the one before it may still have the picture.
        if index and segment.keys[0].wall_ms > at_ms:
            before, soon = self._read(self._segments[index - 1]).at(at_ms)
            return before, soon or segment.keys[0].wall_ms - at_ms < SOON_MS
        if at_ms > segment.last_ms + STALE_MS:
            self.release()
            return None, coming
        picture, soon = self._read(segment).at(at_ms)
        return picture, soon or coming

    def release(self) -> None:
        """Gives the decoder back; the next picture begins at a key frame again."""
        if self._reading is not None:
            self.broken_frames += self._reading.broken_frames
            self._reading = None

    def _read(self, segment: Segment) -> Reading:
        if self._reading is None or self._reading.segment is not segment:
            self.release()
            self._reading = Reading(segment)
        return self._reading
