"""What people ask of a meeting (commands, parsed once at the edge) and what happens to it (facts).

Commands come from strangers and are pydantic models, discriminated by ``type``.  Facts come from our own
code (LiveKit edge, recorder, timers) and are plain frozen dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

VenueId = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,32}$")]


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _ToVenue(_Words):
    venue: VenueId


class _OwnVenue(_Words):
    """Without ``venue``: the speaker's own."""

    venue: VenueId | None = None


class Call(_Words):
    """Without ``venue``: every listed venue that is not connected."""

    type: Literal["call"] = "call"
    venue: VenueId | None = None


class HangUp(_ToVenue):
    type: Literal["hang_up"] = "hang_up"


class Broadcast(_ToVenue):
    type: Literal["broadcast"] = "broadcast"


class StopBroadcast(_Words):
    type: Literal["stop_broadcast"] = "stop_broadcast"


class GiveFloor(_ToVenue):
    type: Literal["give_floor"] = "give_floor"


class FreeDiscussion(_Words):
    type: Literal["free_discussion"] = "free_discussion"


class RequestFloor(_OwnVenue):
    type: Literal["request_floor"] = "request_floor"


class WithdrawRequest(_OwnVenue):
    type: Literal["withdraw_request"] = "withdraw_request"


class Mute(_ToVenue):
    type: Literal["mute"] = "mute"


class Unmute(_Words):
    """Without ``venue``: everybody, also those who come later."""

    type: Literal["unmute"] = "unmute"
    venue: VenueId | None = None


class MuteAll(_Words):
    type: Literal["mute_all"] = "mute_all"


class Lock(_Words):
    type: Literal["lock"] = "lock"


class Unlock(_Words):
    type: Literal["unlock"] = "unlock"


class End(_Words):
    type: Literal["end"] = "end"


class StartRecording(_Words):
    type: Literal["start_recording"] = "start_recording"


class StopRecording(_Words):
    type: Literal["stop_recording"] = "stop_recording"


class Answer(_OwnVenue):
    type: Literal["answer"] = "answer"
    accept: bool


class Leave(_OwnVenue):
    type: Literal["leave"] = "leave"


Command = (
    Call
    | HangUp
    | Broadcast
    | StopBroadcast
    | GiveFloor
    | FreeDiscussion
    | RequestFloor
    | WithdrawRequest
    | Mute
    | Unmute
    | MuteAll
    | Lock
    | Unlock
    | End
    | StartRecording
    | StopRecording
    | Answer
    | Leave
)
AnyCommand = Annotated[Command, Field(discriminator="type")]
COMMAND: TypeAdapter[Command] = TypeAdapter(AnyCommand)


# ---------------------------------------------------------------- facts


@dataclass(frozen=True, slots=True)
class Joined:
    """A browser of this venue has a media session."""

    venue: str


@dataclass(frozen=True, slots=True)
class Departed:
    """The media session is gone.  That alone is a lost line: leaving is said by ``Leave``."""

    venue: str


@dataclass(frozen=True, slots=True)
class Published:
    venue: str
    source: str


@dataclass(frozen=True, slots=True)
class Unpublished:
    venue: str
    source: str


@dataclass(frozen=True, slots=True)
class LocalMute:
    venue: str
    source: str
    muted: bool


@dataclass(frozen=True, slots=True)
class MovedAway:
    """The venue came into another meeting."""

    venue: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The server is up again: no media session has survived."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline may have passed."""


@dataclass(frozen=True, slots=True)
class RecordingOpened:
    recording_id: str


@dataclass(frozen=True, slots=True)
class RecordingFailed:
    """The recorder could not begin, or stopped by itself."""


Fact = (
    Joined
    | Departed
    | Published
    | Unpublished
    | LocalMute
    | MovedAway
    | Restarted
    | Tick
    | RecordingOpened
    | RecordingFailed
)
