"""What people get to see of a meeting (plain JSON), and the difference between two such pictures.

Times are epoch milliseconds here, as browsers count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rooms.model import MICROPHONE, Room, Seat, Venue
from rooms.presence import Presence

Json = dict[str, Any]


def summary(meeting_id: str, title: str, status: str, created_at: float) -> Json:
    return {"id": meeting_id, "title": title, "status": str(status), "created_at": ms(created_at)}


def meeting_view(room: Room, venues: Mapping[str, Venue], presence: Presence) -> Json:
    """Everything: for consoles."""
    return _view(room, room.seats, venues, presence)


def venue_view(room: Room, venue: str, venues: Mapping[str, Venue], presence: Presence) -> Json:
    """The same shape with few venues: itself, the main venue, who is on stage, shares, speaks or asks."""
    shown = {venue, room.main_venue, room.stage, room.floor, room.content, *(r.venue for r in room.queue)}
    return _view(room, (v for v in room.seats if v in shown), venues, presence)


def _view(room: Room, shown: Iterable[str], venues: Mapping[str, Venue], presence: Presence) -> Json:
    recording = room.recording
    return {
        "id": room.meeting_id,
        "title": room.title,
        "status": str(room.status),
        "main_venue": room.main_venue,
        "created_at": ms(room.created_at),
        "ended_at": None if room.ended_at is None else ms(room.ended_at),
        "locked": room.locked,
        "broadcast": room.broadcast,
        "floor": room.floor,
        "stage": room.stage,
        "mode": room.mode,
        "recording": {
            "state": "on" if recording else "off",
            "since": ms(recording.since) if recording else None,
            "recording_id": (recording.recording_id or None) if recording else None,
        },
        "content": {"venue": room.content} if room.content else None,
        "queue": [{"venue": request.venue, "at": ms(request.at)} for request in room.queue],
        "venues": {v: _line(room.seats[v], venues.get(v), presence) for v in shown},
    }


def _line(seat: Seat, venue: Venue | None, presence: Presence) -> Json:
    return {
        "id": seat.venue_id,
        "name": venue.name if venue else seat.venue_id,
        "short": venue.short if venue else seat.venue_id,
        "pinyin": venue.pinyin if venue else "",
        "parent": venue.parent_id if venue else None,
        "tier": venue.tier if venue else 2,
        "order": venue.order_no if venue else 1_000_000,
        "status": str(seat.status),
        "reason": None if seat.reason is None else str(seat.reason),
        "answered": seat.answered,
        "rings": seat.rings,
        "online": presence.online(seat.venue_id),
        "devices": presence.devices(seat.venue_id),
        "muted_by_chair": seat.muted_by_chair,
        "muted_locally": seat.muted_locally,
        "camera": seat.has_picture,
        "microphone": MICROPHONE in seat.tracks,
        "sharing": "screen_share" in seat.tracks,
        "since": ms(seat.since),
    }


def venue_line(venue: Venue, presence: Presence) -> Json:
    """A venue outside any meeting."""
    return {
        "id": venue.venue_id,
        "name": venue.name,
        "short": venue.short,
        "pinyin": venue.pinyin,
        "parent": venue.parent_id,
        "tier": venue.tier,
        "order": venue.order_no,
        "online": presence.online(venue.venue_id),
        "devices": presence.devices(venue.venue_id),
    }


def ms(seconds: float) -> int:
    return round(seconds * 1000)


# ---------------------------------------------------------------- differences


def changes(old: Any, new: Any) -> list[Json]:
    """The paths at which two JSON values differ.  Objects are compared key by key, all else as a whole."""
    found: list[Json] = []
    _compare(old, new, [], found)
    return found


def _compare(old: Any, new: Any, path: list[str], found: list[Json]) -> None:
    if old is new or old == new:  # mostly: a whole venue's line is equal at the speed of C
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        found.append({"path": path, "value": new})
        return
    found.extend({"path": [*path, key], "value": None, "gone": True} for key in old if key not in new)
    for key, value in new.items():
        if key not in old:
            found.append({"path": [*path, key], "value": value})
        elif old[key] is not value and old[key] != value:
            _compare(old[key], value, [*path, key], found)


def patched(old: Any, differences: Iterable[Json]) -> Any:
    """What the page does with the changes: ``patched(a, changes(a, b)) == b``."""
    root: Json = {"root": old}
    for change in differences:
        path = ["root", *change["path"]]
        target = root
        for key in path[:-1]:
            target[key] = dict(target[key])
            target = target[key]
        if change.get("gone"):
            target.pop(path[-1], None)
        else:
            target[path[-1]] = change["value"]
    return root["root"]
