"""Arithmetic of numbers that wrap, and the map from a feed's numbers to a receiver's."""

from __future__ import annotations

HISTORY = 64  # runs of skipped packets that late packets can still be mapped across


def distance(newer: int, older: int) -> int:
    """Signed distance of two 16-bit numbers, -32768…32767."""
    return ((newer - older + 0x8000) & 0xFFFF) - 0x8000


def unwrap(sequence: int, highest: int) -> int:
    """The 16-bit ``sequence`` as an unbounded integer near ``highest``."""
    return highest + ((sequence - highest + 0x8000) & 0xFFFF) - 0x8000


class NumberMap:
    """Sequence numbers, VP8 picture ids and TL0 indexes of one route, continuous for its receiver.

    Gaps by loss stay gaps, so the receiver asks for what is missing and late packets find their place;
    packets that we skip on purpose leave none.  All numbers are unwrapped integers; out = in - shift.
    """

    __slots__ = ("_runs", "first", "high", "picture_shift", "shift", "skipped_picture", "tl0_shift")

    def __init__(self, first_out: int) -> None:
        self.high = first_out - 1
        self.first = first_out
        self.shift = 0
        self.picture_shift = 0
        self.tl0_shift = 0
        self.skipped_picture = -1
        self._runs: list[tuple[int, int, int, int]] = [(first_out, 0, 0, 0)]

    @property
    def last_out(self) -> int:
        return self.high - self.shift

    def begin(self, ext_seq: int) -> None:
        """Another stream of numbers goes on from here: ``ext_seq`` follows what was sent last."""
        self.shift = ext_seq - (self.high - self.shift) - 1
        self.first = ext_seq
        self.high = ext_seq - 1
        self.skipped_picture = -1
        self._runs = [(ext_seq, self.shift, self.picture_shift, self.tl0_shift)]

    def begin_pictures(self, picture_shift: int, tl0_shift: int) -> None:
        """To be called right after ``begin``: the new stream's picture numbers."""
        self.picture_shift, self.tl0_shift = picture_shift, tl0_shift
        self._runs = [(self.first, self.shift, picture_shift, tl0_shift)]

    def skip(self, ext_seq: int, picture_id: int = -1) -> None:
        """``ext_seq`` (newer than all before) is not sent; its picture neither, if an id is given."""
        self.high = ext_seq
        self.shift += 1
        if picture_id >= 0 and picture_id != self.skipped_picture:
            self.skipped_picture = picture_id
            self.picture_shift += 1
        self._begin_run(ext_seq, ext_seq + 1)

    def insert(self) -> None:
        """A packet of ours follows what was sent last; what the stream brings later is numbered after it."""
        self.shift -= 1
        self._begin_run(self.high + 1, self.high + 1)

    def _begin_run(self, unused: int, start: int) -> None:
        """In place of the newest run if that begins at ``unused``, where no packet was."""
        run = (start, self.shift, self.picture_shift, self.tl0_shift)
        if self._runs[-1][0] == unused:
            self._runs[-1] = run
        else:
            self._runs.append(run)
            if len(self._runs) > HISTORY:
                del self._runs[0]

    def late(self, ext_seq: int) -> tuple[int, int, int] | None:
        """Shifts (sequence, picture, tl0) for a packet that isn't the newest; None when it is too old."""
        if ext_seq >= self.first:
            for start, shift, picture_shift, tl0_shift in reversed(self._runs):
                if start <= ext_seq:
                    return shift, picture_shift, tl0_shift
        return None
