"""Which encoding of a simulcast stream a receiver gets: the nearest one that is alive."""

from __future__ import annotations

from collections.abc import Sequence


def choose(alive: Sequence[bool], wanted: int) -> int | None:
    """The highest living layer not above ``wanted``, else the lowest above it; None when all are silent.

    A stream of one encoding is always that one: a still screen share may send next to nothing.
    """
    if len(alive) == 1:
        return 0
    for layer in range(min(wanted, len(alive) - 1), -1, -1):
        if alive[layer]:
            return layer
    for layer in range(max(0, wanted + 1), len(alive)):
        if alive[layer]:
            return layer
    return None
