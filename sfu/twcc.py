"""Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01): writer and reader."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from sfu.seq import unwrap

TICKS_PER_MS = 4  # deltas are multiples of 250 µs
REFERENCE_TICKS = 256  # the reference time is a multiple of 64 ms
HISTORY_MS = 500.0  # late packets are reported together with what is known around them
MAX_HELD = 8192  # arrivals
MAX_GAP = 2000  # beyond it the sender has started anew
MAX_STATUS = 2000  # statuses in one message: keeps it below an MTU even in the worst case
MAX_DELTAS = 400
MAX_BODY = 1600  # bytes
HEAD = struct.Struct("!HH")

NOT_RECEIVED, SMALL_DELTA, LARGE_DELTA = 0, 1, 2


class TwccError(ValueError):
    """Bytes that are no transport-wide feedback."""


@dataclass(frozen=True, slots=True)
class TransportFeedback:
    """``arrivals_ms[i]`` belongs to ``base + i``: ms after an arbitrary epoch, None = not received."""

    base: int
    count: int  # of feedback messages, wraps at 256
    arrivals_ms: tuple[float | None, ...]


class ArrivalRecorder:
    """Arrival times of one leg's packets until they are reported."""

    __slots__ = ("_arrivals", "_count", "_highest", "_late", "_next")

    def __init__(self) -> None:
        self._arrivals: dict[int, float] = {}
        self._highest = -1
        self._next = -1  # first number that no report has covered, -1 = nothing yet
        self._late = -1  # oldest number that came after it had been reported as lost
        self._count = 0

    def record(self, sequence: int, now_ms: float) -> None:
        """A packet with this 16-bit transport-wide number came."""
        highest = self._highest
        if highest < 0:
            # room below, so that a reordered start doesn't become negative
            self._highest = self._next = ext = sequence + 0x10000
        else:
            ext = unwrap(sequence, highest)
            if ext > highest:
                self._highest = ext
            elif ext in self._arrivals or ext < 0:
                return
            elif ext < self._next and (self._late < 0 or ext < self._late):
                self._late = ext
        arrivals = self._arrivals
        arrivals[ext] = now_ms
        if len(arrivals) > MAX_HELD:  # of a client that publishes nothing: nobody takes them
            oldest = self._highest - MAX_HELD // 2
            self._arrivals = {ext: ms for ext, ms in arrivals.items() if ext > oldest}

    def take(self, now_ms: float) -> list[bytes]:
        """Feedback contents (what follows the RTCP feedback header) for all that is unreported, if any."""
        arrivals = self._arrivals
        start, end = self._next, self._highest + 1
        if self._late >= 0:
            start = min(start, self._late)
            self._late = -1
        if start >= end:
            return []
        start = max(start, end - MAX_GAP)
        received = sorted(ext for ext in arrivals if start <= ext < end)
        messages: list[bytes] = []
        if received:
            if received[0] - start > MAX_GAP // 2:
                start = received[0]
            at = start
            index = 0
            while index < len(received):
                body, at, index = _write(arrivals, received, index, at, self._count)
                messages.append(body)
                self._count = (self._count + 1) & 0xFF
        self._next = end
        oldest_ms = now_ms - HISTORY_MS
        self._arrivals = {ext: ms for ext, ms in arrivals.items() if ext >= end - MAX_GAP and ms >= oldest_ms}
        return messages


def _write(
    arrivals: dict[int, float], received: list[int], index: int, base: int, count: int
) -> tuple[bytes, int, int]:
    """One message from ``base`` and ``received[index]`` on; returns it, the next base and the next index."""
    reference = int(arrivals[received[index]] * TICKS_PER_MS) // REFERENCE_TICKS
    tick = reference * REFERENCE_TICKS
    symbols: list[int] = []
    deltas = bytearray()
    written = 0
    at = base
    while index < len(received):
        ext = received[index]
        arrival = int(arrivals[ext] * TICKS_PER_MS)
        delta = arrival - tick
        full = len(symbols) + ext - at + 1 > MAX_STATUS or written >= MAX_DELTAS
        if written and (full or not -32768 <= delta <= 32767):
            break
        symbols.extend([NOT_RECEIVED] * (ext - at))
        if 0 <= delta <= 255:
            symbols.append(SMALL_DELTA)
            deltas.append(delta)
        else:
            symbols.append(LARGE_DELTA)
            deltas += delta.to_bytes(2, "big", signed=True)
        tick = arrival
        at = ext + 1
        written += 1
        index += 1
    body = bytearray(HEAD.pack(base & 0xFFFF, len(symbols)))
    body += (reference & 0xFFFFFF).to_bytes(3, "big")
    body.append(count)
    body += _chunks(symbols)
    body += deltas
    body += bytes(-len(body) % 4)
    return bytes(body), at, index


def _chunks(symbols: list[int]) -> bytes:
    out = bytearray()
    at, size = 0, len(symbols)
    while at < size:
        symbol = symbols[at]
        run = 1
        while at + run < size and run < 0x1FFF and symbols[at + run] == symbol:
            run += 1
        if run >= 7 or at + run == size:
            out += (symbol << 13 | run).to_bytes(2, "big")
            at += run
            continue
        window = symbols[at : at + 14]
        if LARGE_DELTA not in window:
            word = 0x8000
            for place, one in enumerate(window):
                word |= one << (13 - place)
            at += 14
        else:
            word = 0xC000
            for place, one in enumerate(window[:7]):
                word |= one << (12 - 2 * place)
            at += 7
        out += word.to_bytes(2, "big")
    return bytes(out)


class Arrivals(NamedTuple):
    """A feedback without the places of what is missing."""

    base: int
    total: int  # numbers that it speaks of
    reference: int  # 24 bits of 64 ms
    arrivals: list[tuple[int, int]]  # (number - base, arrival in ticks of 250 µs), in order of number


def read(body: bytes) -> Arrivals:
    """Read the contents that follow the RTCP feedback header, in time bounded by their length.

    A feedback after an outage may speak of 32,768 numbers in a few bytes.  Raises TwccError.
    """
    size = len(body)
    if not 8 <= size <= MAX_BODY:
        raise TwccError("feedback is cut off or longer than a datagram")
    base, total = HEAD.unpack_from(body)
    reference = int.from_bytes(body[4:7], "big")
    at = 8
    offset = 0
    received: list[tuple[int, int]] = []  # (offset, symbol)
    while offset < total:
        if at + 2 > size:
            raise TwccError("chunks are cut off")
        word = body[at] << 8 | body[at + 1]
        at += 2
        if not word & 0x8000:
            symbol, run = word >> 13 & 3, min(word & 0x1FFF, total - offset)
            if not run:
                raise TwccError("empty run")
            if symbol:
                if len(received) + run > size:  # each has a byte of delta at least
                    raise TwccError("deltas are cut off")
                received.extend((place, symbol) for place in range(offset, offset + run))
            offset += run
        elif word & 0x4000:
            for shift in range(12, -1, -2):
                if word >> shift & 3:
                    received.append((offset, word >> shift & 3))
                offset += 1
        else:
            for shift in range(13, -1, -1):
                if word >> shift & 1:
                    received.append((offset, SMALL_DELTA))
                offset += 1
    tick = reference * REFERENCE_TICKS
    arrivals: list[tuple[int, int]] = []
    for offset, symbol in received:
        if offset >= total:
            break
        if symbol == SMALL_DELTA:
            if at >= size:
                raise TwccError("deltas are cut off")
            tick += body[at]
            at += 1
        else:
            if symbol == 3 or at + 2 > size:
                raise TwccError("deltas are cut off")
            tick += int.from_bytes(body[at : at + 2], "big", signed=True)
            at += 2
        arrivals.append((offset, tick))
    return Arrivals(base, total, reference, arrivals)


def parse(body: bytes) -> TransportFeedback:
    """As ``read``, with a place for each number, received or not.  Raises TwccError."""
    feedback = read(body)
    arrivals: list[float | None] = [None] * feedback.total
    for offset, tick in feedback.arrivals:
        arrivals[offset] = tick / TICKS_PER_MS
    return TransportFeedback(feedback.base, body[7], tuple(arrivals))
