"""Who is heard in a large meeting: a bounded set that follows the speakers without flapping.

``microphones(room)`` says who could be heard, ``listen`` (pure) turns the last set, the newest levels and
the time into the next one.  Times in seconds of one monotonic clock, levels in dBov.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rooms.model import MICROPHONE, Room

OPEN_MICROPHONES = 12  # heard besides main venue, stage and floor
ACTIVE_DBOV = -50.0  # as the relay's own threshold for speakers
HOLD_S = 5.0  # who was taken in stays at least this long
SILENCE_S = 2.0  # a pause between sentences costs nobody the place


@dataclass(frozen=True, slots=True)
class Microphones:
    """``members``: connected venues; ``always``: heard whatever they do; ``open``: neither muted by the
    chair nor by themselves."""

    members: frozenset[str] = frozenset()
    always: frozenset[str] = frozenset()
    open: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hearing:
    """``heard`` None: the meeting is small, everybody is heard.  ``since``: when each of the others was
    taken in; ``active_at``: when a member was last loud."""

    heard: frozenset[str] | None = None
    since: Mapping[str, float] = field(default_factory=dict)
    active_at: Mapping[str, float] = field(default_factory=dict)


def microphones(room: Room) -> Microphones:
    seats = [seat for seat in room.seats.values() if seat.connected]
    members = frozenset(seat.venue_id for seat in seats)
    return Microphones(
        members=members,
        always=members & {room.main_venue, room.stage, room.floor},
        open=frozenset(
            seat.venue_id
            for seat in seats
            if MICROPHONE in seat.tracks and not seat.muted_by_chair and not seat.muted_locally
        ),
    )


def listen(
    before: Hearing,
    mics: Microphones,
    levels: Mapping[str, float],
    now: float,
    limit: int = OPEN_MICROPHONES,
) -> Hearing:
    """The next set: ``always`` and at most ``limit`` others.

    Up to ``limit`` others in the room: all of them, also the muted, so that unmuting needs no negotiation.
    Beyond it open microphones come before muted ones; who keeps a place keeps it until somebody needs it.
    A speaker without a place takes that of the one who has been silent longest, if that one was heard for
    ``HOLD_S`` and has been silent for ``SILENCE_S``; a muted one makes room at once.
    """
    active = {who: at for who, at in before.active_at.items() if who in mics.members}
    active.update({who: now for who, dbov in levels.items() if who in mics.members and dbov > ACTIVE_DBOV})
    others = mics.members - mics.always
    if len(others) <= limit:
        # The times are kept: when the meeting grows, the places are theirs already.
        return Hearing(None, {who: before.since.get(who, now) for who in others}, active)

    since = {who: at for who, at in before.since.items() if who in others}
    outside = sorted(
        (mics.open & others) - since.keys(), key=lambda who: (-active.get(who, float("-inf")), who)
    )
    for who in outside:
        if len(since) < limit:
            since[who] = now
            continue
        leaving = _replaceable(since, active, mics.open, now, speaking=active.get(who) == now)
        if leaving is None:
            break
        del since[leaving]
        since[who] = now
    return Hearing(mics.always | since.keys(), since, active)


def _replaceable(
    since: Mapping[str, float],
    active: Mapping[str, float],
    opened: frozenset[str],
    now: float,
    speaking: bool,
) -> str | None:
    """Whose place may be taken; only a muted one's unless the newcomer speaks."""
    muted = [who for who in since if who not in opened]
    if muted:
        return _longest_silent(muted, active)
    if not speaking:
        return None
    silent = [
        who
        for who, taken in since.items()
        if now - taken >= HOLD_S and now - active.get(who, float("-inf")) >= SILENCE_S
    ]
    return _longest_silent(silent, active)


def _longest_silent(candidates: Iterable[str], active: Mapping[str, float]) -> str | None:
    return min(candidates, key=lambda who: (active.get(who, float("-inf")), who), default=None)
