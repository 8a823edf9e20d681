"""A meeting as a value: seats, stage, floor, queue, recording.  Frozen; ``rooms.room`` makes the next one.

Times are epoch seconds.  Structs leave out default values when stored, so a state written by an older
version reads into a newer one, and a meeting of 122 venues that nobody has called yet stays small.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

CAMERA = "camera"
MICROPHONE = "microphone"
SCREEN = "screen_share"
SCREEN_AUDIO = "screen_share_audio"
SOURCES = frozenset({CAMERA, MICROPHONE, SCREEN, SCREEN_AUDIO})
AUDIO_SOURCES = frozenset({MICROPHONE, SCREEN_AUDIO})

CONSOLE_PREFIX = "console-"  # LiveKit identities of consoles that only watch


class Status(StrEnum):
    """Where a venue stands in a meeting."""

    IDLE = "idle"  # listed, never called
    CALLING = "calling"
    CONNECTED = "connected"
    LEFT = "left"


class Reason(StrEnum):
    """Why a venue is not connected."""

    HUNG_UP = "hung_up"
    REFUSED = "refused"
    NETWORK_LOST = "network_lost"
    NO_ANSWER = "no_answer"
    LEFT = "left"
    REMOVED = "removed"


class MeetingStatus(StrEnum):
    ACTIVE = "active"
    ENDED = "ended"


class AfterFloor(StrEnum):
    """What free discussion does with the microphones that the floor closed."""

    RESTORE = "restore"  # each as it was before the floor was given
    OPEN = "open"  # all open


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """The choices of a meeting that the specification leaves configurable (P)."""

    ring_s: float = 30.0
    redials: int = 3
    after_floor: AfterFloor = AfterFloor.RESTORE


class Venue(msgspec.Struct, frozen=True):
    """A place in the organisation tree; it exists whether or not anybody occupies it."""

    venue_id: str
    name: str
    short: str
    pinyin: str
    parent_id: str | None
    tier: int
    order_no: int
    org_id: str = ""


class Seat(msgspec.Struct, frozen=True, omit_defaults=True):
    """One venue in one meeting.

    ``belongs`` says that the venue came in and neither left nor was hung up: when its line drops, the
    seat stays its own and it comes back without a call.  ``muted_by_chair`` changes by a chair's command
    only; ``muted_locally`` by the venue's own browser only.
    """

    venue_id: str
    status: Status = Status.IDLE
    reason: Reason | None = None
    since: float = 0.0
    rings: int = 0
    ring_until: float = 0.0
    answered: bool = False
    belongs: bool = False
    muted_by_chair: bool = False
    muted_locally: bool = False
    camera_off: bool = False
    tracks: tuple[str, ...] = ()

    @property
    def connected(self) -> bool:
        return self.status is Status.CONNECTED

    @property
    def rejoins(self) -> bool:
        """Comes back by itself: the line was lost while the venue belonged to the meeting."""
        return self.status is Status.LEFT and self.reason is Reason.NETWORK_LOST

    @property
    def has_picture(self) -> bool:
        return CAMERA in self.tracks and not self.camera_off


class FloorRequest(msgspec.Struct, frozen=True):
    venue: str
    at: float


class Recording(msgspec.Struct, frozen=True, omit_defaults=True):
    """``recording_id`` is empty until the recorder has opened its folder."""

    since: float
    recording_id: str = ""


class Room(msgspec.Struct, frozen=True, omit_defaults=True):
    """A live meeting.  ``seats`` and the tuples are replaced, never edited.

    ``muted_before_floor`` is kept while the floor is given: the venues that a chair had muted before.
    ``mute_new`` lets venues that are added later enter muted.  ``sharing`` lists the venues that send a
    screen, oldest first; the last one holds the content.
    """

    meeting_id: str
    title: str
    main_venue: str
    created_at: float
    seats: dict[str, Seat]
    status: MeetingStatus = MeetingStatus.ACTIVE
    revision: int = 0
    rules: Rules = Rules()
    locked: bool = False
    broadcast: str | None = None
    floor: str | None = None
    queue: tuple[FloorRequest, ...] = ()
    mute_new: bool = False
    muted_before_floor: tuple[str, ...] | None = None
    sharing: tuple[str, ...] = ()
    recording: Recording | None = None
    ended_at: float | None = None

    @property
    def active(self) -> bool:
        return self.status is MeetingStatus.ACTIVE

    @property
    def stage(self) -> str | None:
        """What everybody sees.  Giving the floor broadcasts its holder; a later broadcast may differ."""
        return self.broadcast or self.floor

    @property
    def mode(self) -> str:
        if self.floor:
            return "floor"
        return "broadcast" if self.broadcast else "free"

    @property
    def content(self) -> str | None:
        return self.sharing[-1] if self.sharing else None

    def queued(self, venue: str) -> bool:
        return any(request.venue == venue for request in self.queue)


def encode(room: Room) -> str:
    return msgspec.json.encode(room).decode()


def decode(text: str) -> Room:
    """Raises ``msgspec.ValidationError`` (or ``DecodeError``) when the text is not a room."""
    return msgspec.json.decode(text, type=Room)
