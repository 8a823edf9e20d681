"""What happened to a meeting, found by comparing two rooms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rooms.model import Room, Seat, Status


class Happened(StrEnum):
    CALLED = "called"
    CONNECTED = "connected"
    OUT = "out"  # value: the reason
    MUTED = "muted"
    UNMUTED = "unmuted"
    STAGE = "stage"  # venue: the new one, or None
    FLOOR = "floor"
    REQUESTED = "requested"
    WITHDRAWN = "withdrawn"  # also: granted
    CONTENT = "content"
    LOCKED = "locked"
    UNLOCKED = "unlocked"
    RECORDING_ON = "recording_on"
    RECORDING_OFF = "recording_off"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Event:
    """``at`` in epoch seconds."""

    happened: Happened
    at: float
    venue: str | None = None
    value: str | None = None


def observe(old: Room, new: Room, at: float) -> list[Event]:
    """Everything that people would call an event; levels, tracks and timers are none."""
    events: list[Event] = []
    for venue, seat in new.seats.items():
        before = old.seats.get(venue)
        if before is not seat:
            events.extend(_of_seat(before or Seat(venue), seat, at))
    queued, wanted = {r.venue for r in old.queue}, {r.venue for r in new.queue}
    events.extend(Event(Happened.REQUESTED, at, r.venue) for r in new.queue if r.venue not in queued)
    events.extend(Event(Happened.WITHDRAWN, at, r.venue) for r in old.queue if r.venue not in wanted)
    if old.floor != new.floor:
        events.append(Event(Happened.FLOOR, at, new.floor))
    if old.stage != new.stage:
        events.append(Event(Happened.STAGE, at, new.stage))
    if old.content != new.content:
        events.append(Event(Happened.CONTENT, at, new.content))
    if old.locked != new.locked:
        events.append(Event(Happened.LOCKED if new.locked else Happened.UNLOCKED, at))
    if (old.recording is None) != (new.recording is None):
        events.append(Event(Happened.RECORDING_ON if new.recording else Happened.RECORDING_OFF, at))
    if old.active and not new.active:
        events.append(Event(Happened.ENDED, at))
    return events


def _of_seat(old: Seat, new: Seat, at: float) -> list[Event]:
    events = []
    if old.status is not new.status:
        match new.status:
            case Status.CALLING:
                events.append(Event(Happened.CALLED, at, new.venue_id))
            case Status.CONNECTED:
                events.append(Event(Happened.CONNECTED, at, new.venue_id))
            case Status.LEFT:
                events.append(Event(Happened.OUT, at, new.venue_id, new.reason))
            case Status.IDLE:
                pass
    elif old.reason is not new.reason and new.status is Status.LEFT:
        events.append(Event(Happened.OUT, at, new.venue_id, new.reason))
    if old.muted_by_chair != new.muted_by_chair:
        events.append(Event(Happened.MUTED if new.muted_by_chair else Happened.UNMUTED, at, new.venue_id))
    return events
