"""The JSON that pages and programs read about meetings, for OpenAPI.  Times are epoch milliseconds.

``rooms.views`` makes it; a test holds both against each other.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

MeetingStatus = Literal["active", "ended"]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DevicesView(_Shape):
    camera: bool
    microphone: bool


class VenueView(_Shape):
    """``online``: a signed-in page of the venue is open.  ``devices``: what that page found."""

    id: str
    name: str
    short: str
    pinyin: str
    parent: str | None
    tier: int
    order: int
    status: Literal["idle", "calling", "connected", "left"]
    reason: Literal["hung_up", "refused", "network_lost", "no_answer", "left", "removed"] | None
    answered: bool
    rings: int
    online: bool
    devices: DevicesView | None
    muted_by_chair: bool
    muted_locally: bool
    camera: bool
    microphone: bool
    sharing: bool
    since: int


class FloorRequestView(_Shape):
    venue: str
    at: int


class RecordingView(_Shape):
    state: Literal["off", "on"]
    since: int | None
    recording_id: str | None


class ContentView(_Shape):
    venue: str


class MeetingView(_Shape):
    """``stage``: the venue that everybody sees, None while each sees the main venue."""

    id: str
    title: str
    status: MeetingStatus
    main_venue: str
    created_at: int
    ended_at: int | None
    locked: bool
    broadcast: str | None
    floor: str | None
    stage: str | None
    mode: Literal["free", "broadcast", "floor"]
    recording: RecordingView
    content: ContentView | None
    queue: list[FloorRequestView]
    venues: dict[str, VenueView]


class MeetingEntry(_Shape):
    id: str
    title: str
    status: MeetingStatus
    created_at: int
    main_venue: str | None = None
    ended_at: int | None = None


class MeetingList(_Shape):
    items: list[MeetingEntry]


class VenueEntry(_Shape):
    id: str
    name: str
    short: str
    pinyin: str
    parent: str | None
    tier: int
    order: int
    online: bool
    devices: DevicesView | None


class VenueList(_Shape):
    items: list[VenueEntry]


class Done(_Shape):
    ok: bool
    revision: int


class MediaToken(_Shape):
    """``occupies``: the venue whose seat this is, None for who only watches."""

    url: str
    token: str
    identity: str
    occupies: str | None
