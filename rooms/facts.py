"""What happens to a meeting without anybody's command: lines come and drop, time passes.  Never raises."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from rooms.commands import (
    Departed,
    Fact,
    Joined,
    LocalMute,
    MovedAway,
    Published,
    RecordingFailed,
    RecordingOpened,
    Restarted,
    Tick,
    Unpublished,
)  # fmt: skip
from rooms.model import CAMERA, MICROPHONE, SCREEN, SOURCES, Reason, Room, Status
from rooms.steps import add_seat, leave, seat_with, without


def take(room: Room, fact: Fact, now: float) -> Room:
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
            return leave(room, venue, now) if venue in room.seats else room
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
        room = add_seat(room, venue, now)
    if room.seats[venue].connected:
        return room
    return seat_with(
        room, venue, status=Status.CONNECTED, reason=None, since=now, rings=0, ring_until=0.0,
        answered=False, belongs=True, camera_off=False, tracks=(),
    )  # fmt: skip


def _departed(room: Room, venue: str, now: float) -> Room:
    """Floor, broadcast, mutes and place in the queue stay: the chair decides."""
    seat = room.seats.get(venue)
    if seat is None or not seat.connected:
        return room
    room = replace(room, sharing=without(room.sharing, venue))
    return seat_with(
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
    return seat_with(room, venue, tracks=tuple(sorted((*seat.tracks, source))))


def _unpublished(room: Room, venue: str, source: str) -> Room:
    seat = room.seats.get(venue)
    if seat is None or source not in seat.tracks:
        return room
    if source == SCREEN:
        room = replace(room, sharing=without(room.sharing, venue))
    if source == CAMERA:
        room = seat_with(room, venue, camera_off=False)
    return seat_with(room, venue, tracks=without(seat.tracks, source))


def _local_mute(room: Room, fact: LocalMute) -> Room:
    if fact.venue not in room.seats:
        return room
    if fact.source == MICROPHONE:
        return seat_with(room, fact.venue, muted_locally=fact.muted)
    if fact.source == CAMERA:
        return seat_with(room, fact.venue, camera_off=fact.muted)
    return room


def _restarted(room: Room, now: float) -> Room:
    for seat in room.seats.values():
        if seat.connected:
            room = _departed(room, seat.venue_id, now)
        elif seat.status is Status.CALLING:
            room = seat_with(room, seat.venue_id, answered=False, ring_until=now + room.rules.ring_s)
    return room


def _tick(room: Room, now: float) -> Room:
    """Rings again, or gives up.  A venue whose line was lost stays free to come back by itself."""
    for seat in room.seats.values():
        if seat.status is not Status.CALLING or seat.ring_until > now:
            continue
        if seat.rings <= room.rules.redials:
            room = seat_with(
                room, seat.venue_id, rings=seat.rings + 1, ring_until=now + room.rules.ring_s,
                answered=False, reason=Reason.NO_ANSWER,
            )  # fmt: skip
        else:
            reason = Reason.NETWORK_LOST if seat.belongs else Reason.NO_ANSWER
            room = seat_with(
                room, seat.venue_id, status=Status.LEFT, reason=reason, since=now, rings=0, ring_until=0.0,
                answered=False,
            )  # fmt: skip
    return room
