"""The chair's rules: ``apply(room, command or fact, now) → (room, events)``.  Pure; nothing here waits.

A command that asks for what already is changes nothing and raises no revision.  A command against a rule
raises ``Refused``.  Facts never raise: what can no longer matter (a line that drops after the venue was
hung up) is ignored.  Events are what differs between the two rooms, so no rule can forget to tell one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast, get_args

from msgspec.structs import replace

from rooms import facts
from rooms.commands import (
    Answer,
    Broadcast,
    Call,
    Command,
    End,
    Fact,
    FreeDiscussion,
    GiveFloor,
    HangUp,
    Leave,
    Lock,
    Mute,
    MuteAll,
    RequestFloor,
    StartRecording,
    StopBroadcast,
    StopRecording,
    Unlock,
    Unmute,
    WithdrawRequest,
)  # fmt: skip
from rooms.events import Event, observe
from rooms.model import AfterFloor, FloorRequest, MeetingStatus, Reason, Recording, Room, Rules, Seat, Status
from rooms.refusals import Refused
from rooms.steps import (
    add_seat,
    end_floor,
    leave,
    listed,
    muted_venues,
    named,
    remember_mute,
    seat_with,
    set_mutes,
    vacate,
    without_request,
)  # fmt: skip

FACTS = get_args(Fact)


def open_room(
    meeting_id: str,
    title: str,
    main_venue: str,
    venues: Iterable[str],
    now: float,
    rules: Rules | None = None,
) -> Room:
    """A meeting in which nobody has been called yet.  The main venue always has a seat."""
    seats = {venue: Seat(venue, since=now) for venue in dict.fromkeys([main_venue, *venues])}
    return Room(meeting_id, title, main_venue, now, seats, rules=rules or Rules())


def apply(room: Room, word: Command | Fact, now: float) -> tuple[Room, list[Event]]:
    """The next room and what changed.  Returns the same object when nothing did.

    Raises ``Refused`` for commands only.  Who may say ``word`` is asked before, in ``rooms.policy``.
    """
    if isinstance(word, FACTS):
        after = facts.take(room, word, now) if room.active else room
    else:
        if not room.active:
            if isinstance(word, End):
                return room, []
            raise Refused("meeting_ended")
        after = _obey(room, cast(Command, word), now)
    if after == room:
        return room, []
    after = replace(after, revision=room.revision + 1)
    return after, observe(room, after, now)


def next_deadline(room: Room) -> float | None:
    """When ``Tick`` is due (epoch seconds): the first call that will have rung long enough."""
    if not room.active:
        return None
    return min((s.ring_until for s in room.seats.values() if s.status is Status.CALLING), default=None)


# ---------------------------------------------------------------- commands


def _obey(room: Room, command: Command, now: float) -> Room:
    match command:
        case Call(venue=None):
            return _call_all(room, now)
        case Call(venue=str(venue)):
            return _call(room, venue, now)
        case HangUp(venue=venue):
            return _hang_up(room, venue, now)
        case Broadcast(venue=venue):
            return _broadcast(room, venue)
        case StopBroadcast():
            return _stop_broadcast(room)
        case GiveFloor(venue=venue):
            return _give_floor(room, venue)
        case FreeDiscussion():
            return _free_discussion(room)
        case RequestFloor():
            return _request_floor(room, named(command.venue), now)
        case WithdrawRequest():
            return _withdraw(room, named(command.venue))
        case Mute(venue=venue):
            return _mute(room, venue)
        case Unmute(venue=None):
            return _unmute_all(room)
        case Unmute(venue=str(venue)):
            return _unmute(room, venue)
        case MuteAll():
            return _mute_all(room)
        case Lock():
            return replace(room, locked=True)
        case Unlock():
            return replace(room, locked=False)
        case End():
            return _end(room, now)
        case StartRecording():
            return room if room.recording else replace(room, recording=Recording(since=now))
        case StopRecording():
            return replace(room, recording=None)
        case Answer():
            return _answer(room, named(command.venue), command.accept, now)
        case Leave():
            return leave(room, named(command.venue), now)
    raise AssertionError(f"no rule for {command!r}")  # a Command without a rule is our own mistake


def _call(room: Room, venue: str, now: float) -> Room:
    """The chair may call a venue that was not listed, also when the meeting is locked."""
    if venue not in room.seats:
        room = add_seat(room, venue, now)
    if room.seats[venue].status in (Status.CALLING, Status.CONNECTED):
        return room
    return seat_with(
        room, venue, status=Status.CALLING, reason=None, since=now,
        rings=1, ring_until=now + room.rules.ring_s, answered=False,
    )  # fmt: skip


def _call_all(room: Room, now: float) -> Room:
    """Every venue that is out, but not the main venue: there sits who is calling."""
    for venue in room.seats:
        if venue != room.main_venue:
            room = _call(room, venue, now)
    return room


def _hang_up(room: Room, venue: str, now: float) -> Room:
    """Stays listed and callable, but does not come in by itself any more."""
    seat = listed(room, venue)
    if venue == room.main_venue:
        raise Refused("main_venue")
    if seat.status is Status.IDLE or (seat.status is Status.LEFT and not seat.belongs):
        return room
    return vacate(room, venue, Reason.HUNG_UP, now)


def _broadcast(room: Room, venue: str) -> Room:
    seat = listed(room, venue)
    if room.broadcast == venue:
        return room
    if not seat.connected:
        raise Refused("not_connected")
    if not seat.has_picture:
        raise Refused("no_picture")
    return replace(room, broadcast=venue)


def _stop_broadcast(room: Room) -> Room:
    """While a venue has the floor, its picture is what everybody returns to."""
    if room.floor is None:
        return replace(room, broadcast=None)
    if room.broadcast == room.floor:
        raise Refused("floor_held")
    return replace(room, broadcast=room.floor)


def _give_floor(room: Room, venue: str) -> Room:
    """Broadcast and heard alone with the main venue.  A venue without a picture may speak all the same."""
    if not listed(room, venue).connected:
        raise Refused("not_connected")
    room = without_request(room, venue)
    if room.floor == venue:
        return seat_with(replace(room, broadcast=venue), venue, muted_by_chair=False)
    before = muted_venues(room) if room.muted_before_floor is None else room.muted_before_floor
    room = replace(room, floor=venue, broadcast=venue, muted_before_floor=before)
    return set_mutes(
        room, lambda v: False if v == venue else v in before if v == room.main_venue else True
    )  # fmt: skip


def _free_discussion(room: Room) -> Room:
    room = replace(end_floor(room), broadcast=None)
    return _unmute_all(room) if room.rules.after_floor is AfterFloor.OPEN else room


def _request_floor(room: Room, venue: str, now: float) -> Room:
    if not listed(room, venue).connected:
        raise Refused("not_connected")
    if room.floor == venue:
        raise Refused("has_floor")
    if room.queued(venue):
        return room
    return replace(room, queue=(*room.queue, FloorRequest(venue, now)))


def _withdraw(room: Room, venue: str) -> Room:
    listed(room, venue)
    return without_request(room, venue)


def _mute(room: Room, venue: str) -> Room:
    listed(room, venue)
    return remember_mute(seat_with(room, venue, muted_by_chair=True), venue, muted=True)


def _unmute(room: Room, venue: str) -> Room:
    listed(room, venue)
    return remember_mute(seat_with(room, venue, muted_by_chair=False), venue, muted=False)


def _mute_all(room: Room) -> Room:
    """Spares the main venue and who has the floor.  Who comes later enters muted until all are unmuted."""
    spared = {room.main_venue, room.floor}
    if room.muted_before_floor is not None:
        before = tuple(v for v in room.seats if v not in spared or v in room.muted_before_floor)
        room = replace(room, muted_before_floor=before)
    room = replace(room, mute_new=True)
    return set_mutes(room, lambda v: v not in spared or room.seats[v].muted_by_chair)


def _unmute_all(room: Room) -> Room:
    if room.muted_before_floor is not None:
        room = replace(room, muted_before_floor=())
    return set_mutes(replace(room, mute_new=False), lambda v: False)


def _end(room: Room, now: float) -> Room:
    for seat in room.seats.values():
        if seat.status in (Status.CALLING, Status.CONNECTED) or seat.belongs:
            room = vacate(room, seat.venue_id, Reason.HUNG_UP, now)
    return replace(
        room, status=MeetingStatus.ENDED, ended_at=now, broadcast=None, floor=None, muted_before_floor=None,
        queue=(), sharing=(), recording=None,
    )  # fmt: skip


def _answer(room: Room, venue: str, accept: bool, now: float) -> Room:
    """After yes the venue still counts as called until its media comes, or the call rings again."""
    seat = listed(room, venue)
    if accept and (seat.connected or seat.rejoins):
        return room
    if seat.status is not Status.CALLING:
        raise Refused("not_calling")
    if not accept:
        return vacate(room, venue, Reason.REFUSED, now)
    if seat.answered:
        return room
    return seat_with(room, venue, answered=True, ring_until=now + room.rules.ring_s)
