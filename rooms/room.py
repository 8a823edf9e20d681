"""The chair's rules: ``apply(room, command or fact, now) → (room, events)``.  Pure; nothing here waits.

A command that asks for what already is changes nothing and raises no revision.  A command against a rule
raises ``Refused``.  Facts never raise: what can no longer matter (a line that drops after the venue was
hung up) is ignored.  Events are what differs between the two rooms, so no rule can forget to tell one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, assert_never

from msgspec.structs import replace

from rooms.commands import (
    Answer,
    Broadcast,
    Call,
    Command,
    Departed,
    End,
    Fact,
    FreeDiscussion,
    GiveFloor,
    HangUp,
    Joined,
    Leave,
    LocalMute,
    Lock,
    MovedAway,
    Mute,
    MuteAll,
    Published,
    RecordingFailed,
    RecordingOpened,
    RequestFloor,
    Restarted,
    StartRecording,
    StopBroadcast,
    StopRecording,
    Tick,
    Unlock,
    Unmute,
    Unpublished,
    WithdrawRequest,
)
from rooms.events import Event, observe
from rooms.model import (
    CAMERA,
    MICROPHONE,
    SCREEN,
    SOURCES,
    AfterFloor,
    FloorRequest,
    MeetingStatus,
    Reason,
    Recording,
    Room,
    Rules,
    Seat,
    Status,
)
from rooms.refusals import Refused

FACTS = (
    Joined, Departed, Published, Unpublished, LocalMute, MovedAway, Restarted, Tick, RecordingOpened,
    RecordingFailed,
)  # fmt: skip


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
        after = _take(room, word, now) if room.active else room
    else:
        if not room.active:
            if isinstance(word, End):
                return room, []
            raise Refused("meeting_ended")
        after = _obey(room, word, now)
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
            return _request_floor(room, _named(command.venue), now)
        case WithdrawRequest():
            return _withdraw(room, _named(command.venue))
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
            return _answer(room, _named(command.venue), command.accept, now)
        case Leave():
            return _leave(room, _named(command.venue), now)
    raise AssertionError(f"no rule for {command!r}")  # a Command without a rule is our own mistake


def _call(room: Room, venue: str, now: float) -> Room:
    """The chair may call a venue that was not listed, also when the meeting is locked."""
    if venue not in room.seats:
        room = _add_seat(room, venue, now)
    if room.seats[venue].status in (Status.CALLING, Status.CONNECTED):
        return room
    return _seat(
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
    seat = _listed(room, venue)
    if venue == room.main_venue:
        raise Refused("main_venue")
    if seat.status is Status.IDLE or (seat.status is Status.LEFT and not seat.belongs):
        return room
    return _vacate(room, venue, Reason.HUNG_UP, now)


def _broadcast(room: Room, venue: str) -> Room:
    seat = _listed(room, venue)
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
    if not _listed(room, venue).connected:
        raise Refused("not_connected")
    room = _without_request(room, venue)
    if room.floor == venue:
        return _unmute(replace(room, broadcast=venue), venue)
    before = _muted(room) if room.muted_before_floor is None else room.muted_before_floor
    room = replace(room, floor=venue, broadcast=venue, muted_before_floor=before)
    return _set_mutes(
        room, lambda v: False if v == venue else v in before if v == room.main_venue else True
    )  # fmt: skip


def _free_discussion(room: Room) -> Room:
    room = replace(_end_floor(room), broadcast=None)
    return _unmute_all(room) if room.rules.after_floor is AfterFloor.OPEN else room


def _request_floor(room: Room, venue: str, now: float) -> Room:
    if not _listed(room, venue).connected:
        raise Refused("not_connected")
    if room.floor == venue:
        raise Refused("has_floor")
    if room.queued(venue):
        return room
    return replace(room, queue=(*room.queue, FloorRequest(venue, now)))


def _withdraw(room: Room, venue: str) -> Room:
    _listed(room, venue)
    return _without_request(room, venue)


def _mute(room: Room, venue: str) -> Room:
    _listed(room, venue)
    return _remember(_seat(room, venue, muted_by_chair=True), venue, muted=True)


def _unmute(room: Room, venue: str) -> Room:
    _listed(room, venue)
    return _remember(_seat(room, venue, muted_by_chair=False), venue, muted=False)


def _mute_all(room: Room) -> Room:
    """Spares the main venue and who has the floor.  Who comes later enters muted until all are unmuted."""
    spared = {room.main_venue, room.floor}
    if room.muted_before_floor is not None:
        before = tuple(v for v in room.seats if v not in spared or v in room.muted_before_floor)
        room = replace(room, muted_before_floor=before)
    room = replace(room, mute_new=True)
    return _set_mutes(room, lambda v: v not in spared or room.seats[v].muted_by_chair)


def _unmute_all(room: Room) -> Room:
    if room.muted_before_floor is not None:
        room = replace(room, muted_before_floor=())
    return _set_mutes(replace(room, mute_new=False), lambda v: False)


def _end(room: Room, now: float) -> Room:
    for seat in room.seats.values():
        if seat.status in (Status.CALLING, Status.CONNECTED) or seat.belongs:
            room = _vacate(room, seat.venue_id, Reason.HUNG_UP, now)
    return replace(
        room, status=MeetingStatus.ENDED, ended_at=now, broadcast=None, floor=None, muted_before_floor=None,
        queue=(), sharing=(), recording=None,
    )  # fmt: skip


def _answer(room: Room, venue: str, accept: bool, now: float) -> Room:
    """After yes the venue still counts as called until its media comes, or the call rings again."""
    seat = _listed(room, venue)
    if accept and (seat.connected or seat.rejoins):
        return room
    if seat.status is not Status.CALLING:
        raise Refused("not_calling")
    if not accept:
        return _vacate(room, venue, Reason.REFUSED, now)
    if seat.answered:
        return room
    return _seat(room, venue, answered=True, ring_until=now + room.rules.ring_s)


def _leave(room: Room, venue: str, now: float) -> Room:
    seat = _listed(room, venue)
    if seat.status in (Status.CONNECTED, Status.CALLING) or seat.belongs:
        return _vacate(room, venue, Reason.LEFT, now)
    return room


# ---------------------------------------------------------------- facts


def _take(room: Room, fact: Fact, now: float) -> Room:
    match fact:
        case Joined(venue=venue):
            return _joined(room, venue, now)
        case Departed(venue=venue):
            return _departed(room, venue, now)
        case Published(venue=venue, source=source):
            return _published(room, venue, source)
        case Unpublished(venue=venue, source=source):
            return _unpublished(room, venue, source)
        case LocalMute():
            return _local_mute(room, fact)
        case MovedAway(venue=venue):
            return _leave(room, venue, now) if venue in room.seats else room
        case Restarted():
            return _restarted(room, now)
        case Tick():
            return _tick(room, now)
        case RecordingOpened(recording_id=recording_id):
            recording = room.recording
            if recording is None or recording.recording_id:
                return room
            return replace(room, recording=replace(recording, recording_id=recording_id))
        case RecordingFailed():
            return replace(room, recording=None)
        case _:
            assert_never(fact)


def may_enter(room: Room, venue: str) -> str | None:
    """The refusal code for a venue that wants to bring its media in, None when it is welcome.

    Locked: a venue that was in, or that is called, may still come; a new one may not.
    """
    if not room.active:
        return "meeting_ended"
    seat = room.seats.get(venue)
    if seat is None:
        return "locked" if room.locked else None
    if seat.status is Status.LEFT and seat.reason in (Reason.HUNG_UP, Reason.REMOVED):
        return "hung_up"
    if seat.status is Status.IDLE and room.locked and venue != room.main_venue:
        return "locked"
    return None


def _joined(room: Room, venue: str, now: float) -> Room:
    if may_enter(room, venue) is not None:
        return room
    if venue not in room.seats:
        room = _add_seat(room, venue, now)
    if room.seats[venue].connected:
        return room
    return _seat(
        room, venue, status=Status.CONNECTED, reason=None, since=now, rings=0, ring_until=0.0,
        answered=False, belongs=True, camera_off=False, tracks=(),
    )  # fmt: skip


def _departed(room: Room, venue: str, now: float) -> Room:
    """Floor, broadcast, mutes and place in the queue stay: the chair decides."""
    seat = room.seats.get(venue)
    if seat is None or not seat.connected:
        return room
    room = replace(room, sharing=_without(room.sharing, venue))
    return _seat(
        room, venue, status=Status.LEFT, reason=Reason.NETWORK_LOST, since=now, camera_off=False, tracks=()
    )


def _published(room: Room, venue: str, source: str) -> Room:
    seat = room.seats.get(venue)
    if seat is None or not seat.connected or source not in SOURCES:
        return room
    if source == SCREEN and venue not in room.sharing:
        room = replace(room, sharing=(*room.sharing, venue))
    if source in seat.tracks:
        return room
    return _seat(room, venue, tracks=tuple(sorted((*seat.tracks, source))))


def _unpublished(room: Room, venue: str, source: str) -> Room:
    seat = room.seats.get(venue)
    if seat is None or source not in seat.tracks:
        return room
    if source == SCREEN:
        room = replace(room, sharing=_without(room.sharing, venue))
    if source == CAMERA:
        room = _seat(room, venue, camera_off=False)
    return _seat(room, venue, tracks=_without(seat.tracks, source))


def _local_mute(room: Room, fact: LocalMute) -> Room:
    if fact.venue not in room.seats:
        return room
    if fact.source == MICROPHONE:
        return _seat(room, fact.venue, muted_locally=fact.muted)
    if fact.source == CAMERA:
        return _seat(room, fact.venue, camera_off=fact.muted)
    return room


def _restarted(room: Room, now: float) -> Room:
    for seat in room.seats.values():
        if seat.connected:
            room = _departed(room, seat.venue_id, now)
        elif seat.status is Status.CALLING:
            room = _seat(room, seat.venue_id, answered=False, ring_until=now + room.rules.ring_s)
    return room


def _tick(room: Room, now: float) -> Room:
    """Rings again, or gives up.  A venue whose line was lost stays free to come back by itself."""
    for seat in room.seats.values():
        if seat.status is not Status.CALLING or seat.ring_until > now:
            continue
        if seat.rings <= room.rules.redials:
            room = _seat(
                room, seat.venue_id, rings=seat.rings + 1, ring_until=now + room.rules.ring_s,
                answered=False, reason=Reason.NO_ANSWER,
            )  # fmt: skip
        else:
            reason = Reason.NETWORK_LOST if seat.belongs else Reason.NO_ANSWER
            room = _seat(
                room, seat.venue_id, status=Status.LEFT, reason=reason, since=now, rings=0, ring_until=0.0,
                answered=False,
            )  # fmt: skip
    return room


# ---------------------------------------------------------------- parts


def _named(venue: str | None) -> str:
    if venue is None:
        raise Refused("venue_required")
    return venue


def _listed(room: Room, venue: str) -> Seat:
    try:
        return room.seats[venue]
    except KeyError:
        raise Refused("not_in_meeting") from None


def _seat(room: Room, venue: str, **changes: Any) -> Room:
    seat = replace(room.seats[venue], **changes)
    if seat == room.seats[venue]:
        return room
    return replace(room, seats={**room.seats, venue: seat})


def _add_seat(room: Room, venue: str, now: float) -> Room:
    """A venue that comes in while the floor is given enters muted, like all others then."""
    if room.mute_new and room.muted_before_floor is not None:
        room = replace(room, muted_before_floor=(*room.muted_before_floor, venue))
    seat = Seat(venue, since=now, muted_by_chair=room.mute_new or room.floor is not None)
    return replace(room, seats={**room.seats, venue: seat})


def _vacate(room: Room, venue: str, reason: Reason, now: float) -> Room:
    """Out for good: floor, broadcast, content and request end with it.  The mute stays: it is law."""
    if room.floor == venue:
        room = _end_floor(room)
    if room.broadcast == venue:
        room = replace(room, broadcast=room.floor)
    room = replace(_without_request(room, venue), sharing=_without(room.sharing, venue))
    return _seat(
        room, venue, status=Status.LEFT, reason=reason, since=now, rings=0, ring_until=0.0, answered=False,
        belongs=False, camera_off=False, tracks=(),
    )  # fmt: skip


def _end_floor(room: Room) -> Room:
    """Every microphone as it was before the floor was first given."""
    if room.floor is None:
        return room
    before = room.muted_before_floor or ()
    return _set_mutes(replace(room, floor=None, muted_before_floor=None), lambda v: v in before)


def _set_mutes(room: Room, muted: Callable[[str], bool]) -> Room:
    seats = {
        venue: seat if seat.muted_by_chair == muted(venue) else replace(seat, muted_by_chair=muted(venue))
        for venue, seat in room.seats.items()
    }
    return replace(room, seats=seats)


def _muted(room: Room) -> tuple[str, ...]:
    return tuple(venue for venue, seat in room.seats.items() if seat.muted_by_chair)


def _remember(room: Room, venue: str, muted: bool) -> Room:
    """What the chair says about one microphone while the floor is given holds after it too."""
    before = room.muted_before_floor
    if before is None or (venue in before) == muted:
        return room
    return replace(room, muted_before_floor=(*before, venue) if muted else _without(before, venue))


def _without(items: tuple[str, ...], item: str) -> tuple[str, ...]:
    return tuple(i for i in items if i != item)


def _without_request(room: Room, venue: str) -> Room:
    if not room.queued(venue):
        return room
    return replace(room, queue=tuple(r for r in room.queue if r.venue != venue))
