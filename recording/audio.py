"""Voices on one clock: Opus in its place in time, levels, the loudest venue, a mix that never clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import av.error
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from numpy.typing import NDArray

from recording.segments import Segment, TimedFrame

Samples = NDArray[np.float32]  # (n, 2), full scale ±1

RATE = 48_000
_FADE = 120  # samples: a beginning or an end in 2.5 ms makes no click
_AHEAD = 4_800  # decoded this far beyond what is asked, so that an end can still be faded
_JUMP = 2_880  # 60 ms off its place: moved at once; less is drift
_DRIFT = 240  # 5 ms off its place: stretched by STRETCH a frame until it is right again
_STRETCH = 4
_FAR = 960  # 20 ms off: STRETCH_FAR, one percent
_STRETCH_FAR = 10
_MAX_GAP = 10 * RATE
SILENCE_DB = -90.0


class Voice:
    """One audio segment, read in step with the output: ``read`` gives the next n samples or None for silence.

    Never holds more than a second.  ``origin_ms`` is the wall clock of the output's first sample.
    """

    def __init__(self, segment: Segment, origin_ms: float) -> None:
        self.segment = segment
        self.finished = False
        self.broken_frames = 0
        self._origin_ms = origin_ms
        self._frames: Iterator[TimedFrame] = segment.frames()
        self._decoder = _opus_decoder()
        self._chunks: deque[tuple[int, Samples]] = deque()
        self._position = 0  # next sample to give
        self._end: int | None = None  # where the last decoded chunk ends
        self._due: int | None = None  # timestamp that would follow without a gap
        self._exhausted = False

    def read(self, position: int, count: int) -> Samples | None:
        """Samples ``position`` … ``position + count``; positions must not go back."""
        end = position + count
        while not self._exhausted and (self._end is None or self._end < end + _AHEAD):
            timed = next(self._frames, None)
            if timed is None:
                self._exhausted = True
                self._fade_out()
            else:
                self._place(timed)
        out: Samples | None = None
        while self._chunks and self._chunks[0][0] < end:
            begin, samples = self._chunks[0]
            stop = begin + len(samples)
            low, high = max(begin, position), min(stop, end)
            if low < high:
                if out is None:
                    out = np.zeros((count, 2), np.float32)
                out[low - position : high - position] = samples[low - begin : high - begin]
            if stop > end:
                break
            self._chunks.popleft()
        self.finished = self._exhausted and not self._chunks
        return out

    def _place(self, timed: TimedFrame) -> None:
        samples = self._decode(timed.frame.payload)
        if samples is None:
            return
        wanted = round((timed.wall_ms - self._origin_ms) * RATE / 1000)
        timestamp, length = timed.frame.timestamp, len(samples)
        if self._end is None:
            begin, fresh = wanted, True
        else:
            gap = timestamp - self._due if self._due is not None else 0
            fresh = gap != 0
            # A gap that the timestamps tell of (loss, DTX) is silence of just that length.
            begin = self._end + gap if 0 < gap <= _MAX_GAP else self._end
            off = wanted - begin
            if abs(off) > _JUMP:
                begin, fresh = max(wanted, self._end), True
                if wanted + length <= self._end:
                    self._due = timestamp + length
                    return  # wholly in a time that has been filled
            elif abs(off) > _DRIFT and length > 100:
                step = _STRETCH_FAR if abs(off) > _FAR else _STRETCH
                samples = _stretched(samples, length + (step if off > 0 else -step))
        if fresh:
            self._fade_out()
            samples = samples.copy()
            edge = min(_FADE, len(samples))
            samples[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)[:, None]
        self._chunks.append((begin, samples))
        self._end = begin + len(samples)
        self._due = timestamp + length

    def _fade_out(self) -> None:
        if self._chunks:
            begin, samples = self._chunks.pop()
            samples = samples.copy()
            edge = min(_FADE, len(samples))
            samples[-edge:] *= np.linspace(1, 0, edge, dtype=np.float32)[:, None]
            self._chunks.append((begin, samples))

    def _decode(self, payload: bytes) -> Samples | None:
        try:
            frames = self._decoder.decode(av.Packet(payload))
        except (av.error.FFmpegError, ValueError):
            self.broken_frames += 1
            return None
        parts: list[Samples] = [
            np.asarray(frame.to_ndarray().reshape(-1, 2), np.float32) / np.float32(32768)
            for frame in frames
            if frame.format.name == "s16" and len(frame.layout.channels) == 2
        ]
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _opus_decoder() -> AudioCodecContext:
    # libopus, not FFmpeg's own: it keeps its timing when speech and music modes alternate.
    decoder: Any = av.CodecContext.create("libopus", "r")
    decoder.sample_rate = RATE
    decoder.layout = "stereo"
    return decoder  # type: ignore[no-any-return]


def _stretched(samples: Samples, length: int) -> Samples:
    at = np.linspace(0, len(samples) - 1, length)
    known = np.arange(len(samples))
    return np.stack([np.interp(at, known, samples[:, c]) for c in (0, 1)], axis=1).astype(np.float32)


class Chorus:
    """All voices of some segments: opened when their time comes, dropped when they end."""

    def __init__(self, segments: list[Segment], origin_ms: float) -> None:
        self._waiting = sorted(segments, key=lambda s: s.first_ms, reverse=True)
        self._origin_ms = origin_ms
        self._voices: list[Voice] = []
        self.broken_frames = 0

    def read(self, position: int, count: int) -> list[tuple[str, Samples]]:
        """(venue_id, samples) of every voice that is not silent."""
        now_ms = self._origin_ms + (position + count) * 1000 / RATE
        # A second early: the publisher's clock may put the first packets before their arrival.
        while self._waiting and self._waiting[-1].first_ms - 1000 <= now_ms:
            self._voices.append(Voice(self._waiting.pop(), self._origin_ms))
        heard = []
        for voice in self._voices:
            samples = voice.read(position, count)
            if samples is not None:
                heard.append((voice.segment.venue_id, samples))
        if any(voice.finished for voice in self._voices):
            self.broken_frames += sum(v.broken_frames for v in self._voices if v.finished)
            self._voices = [voice for voice in self._voices if not voice.finished]
        return heard

    @property
    def finished(self) -> bool:
        return not self._waiting and not self._voices


def level_db(samples: Samples) -> float:
    """RMS in dB below full scale."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(SILENCE_DB, 10 * float(np.log10(power + 1e-12)))


@dataclass(slots=True)
class Loudest:
    """Who speaks, with hysteresis: a short cough or a near-equal neighbour does not move the picture."""

    current: str | None = None
    audible_db: float = -50.0
    margin_db: float = 6.0
    confirm_ms: float = 300.0
    hold_ms: float = 1500.0
    _rival: str | None = None
    _rival_since: float = 0.0
    _changed_ms: float = -1e12
    _levels: dict[str, float] = field(default_factory=dict)

    def update(self, at_ms: float, step_ms: float, levels: dict[str, float]) -> str | None:
        """``levels``: dB of the venues heard in the step that ends at ``at_ms``."""
        for venue in self._levels.keys() | levels.keys():
            known, now = self._levels.get(venue, SILENCE_DB), levels.get(venue, SILENCE_DB)
            # Quick up (100 ms), slow down (800 ms): pauses between words are speech.
            weight = min(1.0, step_ms / (100 if now > known else 800))
            self._levels[venue] = known + (now - known) * weight
        if not self._levels:
            return self.current
        rival, level = max(self._levels.items(), key=lambda entry: entry[1])
        held = self._levels.get(self.current, SILENCE_DB) if self.current else SILENCE_DB
        beats = rival != self.current and level > self.audible_db and level > held + self.margin_db
        if not beats:
            self._rival = None
        elif rival != self._rival:
            self._rival, self._rival_since = rival, at_ms
        elif at_ms - self._rival_since >= self.confirm_ms and (
            self.current is None or at_ms - self._changed_ms >= self.hold_ms
        ):
            self.current, self._rival, self._changed_ms = rival, None, at_ms
        return self.current


class Limiter:
    """Look-ahead peak limiter: never above ``ceiling``, 5 ms of attack, about 200 ms of release.

    The gain is linear between the edges of 5 ms pieces, and at both edges of a piece no higher than
    the piece bears, so no sample can pass the ceiling.
    """

    PIECE = 240

    def __init__(self, ceiling: float = 0.95) -> None:
        self._ceiling = ceiling
        self._held: Samples | None = None
        self._need = 1.0  # gain that the held piece bears
        self._gain = 1.0  # at the held piece's begin

    def feed(self, samples: Samples) -> Samples:
        """``samples``: a multiple of PIECE.  Gives as many, one PIECE later (the first call: one less)."""
        if len(samples) % self.PIECE:
            raise ValueError("the limiter takes whole pieces")
        out = [self._step(samples[at : at + self.PIECE]) for at in range(0, len(samples), self.PIECE)]
        return np.concatenate([piece for piece in out if piece is not None] or [np.zeros((0, 2), np.float32)])

    def flush(self) -> Samples:
        held = self._step(np.zeros((self.PIECE, 2), np.float32))
        self._held = None
        return held if held is not None else np.zeros((0, 2), np.float32)

    def _step(self, piece: Samples) -> Samples | None:
        peak = float(np.abs(piece).max(initial=0.0))
        need = 1.0 if peak <= self._ceiling else self._ceiling / peak
        held, self._held = self._held, piece
        if held is None:
            self._need, self._gain = need, need
            return None
        edge = min(self._need, need, self._gain + 0.025)
        if edge == 1.0 and self._gain == 1.0:
            out = held
        else:
            ramp = np.linspace(self._gain, edge, self.PIECE, endpoint=False, dtype=np.float32)
            out = held * ramp[:, None]
        self._need, self._gain = need, edge
        return out
