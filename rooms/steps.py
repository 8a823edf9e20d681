"""Small steps that the rules are made of: each takes a room and gives the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from rooms.model import Reason, Room, Seat, Status
from rooms.refusals import Refused


def named(venue: str | None) -> str:
    if venue is None:
        raise Refused("venue_required")
    return venue


def listed(room: Room, venue: str) -> Seat:
    try:
        return room.seats[venue]
    except KeyError:
        raise Refused("not_in_meeting") from None


def seat_with(room: Room, venue: str, **changes: Any) -> Room:
    seat = replace(room.seats[venue], **changes)
    if seat == room.seats[venue]:
        return room
    return replace(room, seats={**room.seats, venue: seat})


def add_seat(room: Room, venue: str, now: float) -> Room:
    """A venue that comes in while the floor is given enters muted, like all others then."""
    if room.mute_new and room.muted_before_floor is not None:
        room = replace(room, muted_before_floor=(*room.muted_before_floor, venue))
    seat = Seat(venue, since=now, muted_by_chair=room.mute_new or room.floor is not None)
    return replace(room, seats={**room.seats, venue: seat})


def vacate(room: Room, venue: str, reason: Reason, now: float) -> Room:
    """Out for good: floor, broadcast, content and request end with it.  The mute stays: it is law."""
    if room.floor == venue:
        room = end_floor(room)
    if room.broadcast == venue:
        room = replace(room, broadcast=room.floor)
    room = replace(without_request(room, venue), sharing=without(room.sharing, venue))
    return seat_with(
        room, venue, status=Status.LEFT, reason=reason, since=now, rings=0, ring_until=0.0, answered=False,
        belongs=False, camera_off=False, tracks=(),
    )  # fmt: skip


def end_floor(room: Room) -> Room:
    """Every microphone as it was before the floor was first given."""
    if room.floor is None:
        return room
    before = room.muted_before_floor or ()
    return set_mutes(replace(room, floor=None, muted_before_floor=None), lambda v: v in before)


def set_mutes(room: Room, muted: Callable[[str], bool]) -> Room:
    seats = {
        venue: seat if seat.muted_by_chair == muted(venue) else replace(seat, muted_by_chair=muted(venue))
        for venue, seat in room.seats.items()
    }
    return replace(room, seats=seats)


def muted_venues(room: Room) -> tuple[str, ...]:
    return tuple(venue for venue, seat in room.seats.items() if seat.muted_by_chair)


def remember_mute(room: Room, venue: str, muted: bool) -> Room:
    """What the chair says about one microphone while the floor is given holds after it too."""
    before = room.muted_before_floor
    if before is None or (venue in before) == muted:
        return room
    return replace(room, muted_before_floor=(*before, venue) if muted else without(before, venue))


def without(items: tuple[str, ...], item: str) -> tuple[str, ...]:
    return tuple(i for i in items if i != item)


def without_request(room: Room, venue: str) -> Room:
    if not room.queued(venue):
        return room
    return replace(room, queue=tuple(r for r in room.queue if r.venue != venue))


def leave(room: Room, venue: str, now: float) -> Room:
    seat = listed(room, venue)
    if seat.status in (Status.CONNECTED, Status.CALLING) or seat.belongs:
        return vacate(room, venue, Reason.LEFT, now)
    return room
