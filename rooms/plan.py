"""The media that a room wants: ``plan(room) → MediaPlan``, and the difference between two plans.

The plan holds rules in few sets instead of a pair per viewer and track (122 venues would make 15,000
pairs); ``wants`` and ``silences`` answer for one pair.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from dataclasses import dataclass

from rooms.model import AUDIO_SOURCES, CAMERA, CONSOLE_PREFIX, MICROPHONE, SCREEN, SCREEN_AUDIO, Room

STAGE, CONTENT, MAIN = 100, 80, 60  # priorities; pictures among others have 10 to 40, by size
CAMERAS_UNASKED = 25  # beyond as many, who may watch all gets only the cameras that its page asks for


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """``members`` send and receive; ``silenced`` are not heard, also when they are yet to come;
    ``entry_silenced``: nor is who has no seat yet.  ``taps``: every member's tracks are recorded.
    """

    main: str
    members: frozenset[str] = frozenset()
    silenced: frozenset[str] = frozenset()
    seated: frozenset[str] = frozenset()
    entry_silenced: bool = False
    stage: str | None = None
    content: str | None = None
    taps: str | None = None  # recording_id
    closed: bool = False
    crowded: bool = False

    def silences(self, publisher: str, source: str) -> bool:
        """Nobody hears this venue: neither its microphone nor the sound of its screen."""
        if source not in AUDIO_SOURCES:
            return False
        return publisher in self.silenced or (self.entry_silenced and publisher not in self.seated)

    def wants(self, viewer: str, publisher: str, source: str, heard: Set[str] | None = None) -> bool:
        """Should ``viewer`` receive this track now.  ``heard``: of ``rooms.audible``, None = everybody.

        A silenced microphone stays wanted: the relay pauses it at its source, so that lifting the mute
        costs no new negotiation.  Guests (identities without a seat) hear all and see the stage.
        """
        if self.closed or viewer == publisher or publisher not in self.members:
            return False
        if viewer in self.seated and viewer not in self.members:
            return False
        match source:
            case "microphone":
                return heard is None or publisher in heard
            case "screen_share" | "screen_share_audio":
                return publisher == self.content
            case "camera":
                return self._watches_all(viewer) or publisher == self._shown_to(viewer)
        return False

    def unasked(self, viewer: str, publisher: str, source: str) -> bool:
        """Does the viewer get a wanted track without asking for it?  The stage always."""
        return (
            not self.crowded
            or source != CAMERA
            or not self._watches_all(viewer)
            or publisher in (self.main, self.stage)
        )

    def priority(self, viewer: str, publisher: str, source: str) -> int:
        """Who comes first on a line that can't carry all pictures.  0: a picture among others."""
        if publisher == self.stage:
            return STAGE
        if source == SCREEN:
            return CONTENT
        return MAIN if publisher == self.main else 0

    def audience(self, viewer: str) -> Hashable:
        """Viewers with the same value are wanted the same tracks, each its own excepted."""
        if viewer in self.seated and viewer not in self.members:
            return "outside"
        return "all" if self._watches_all(viewer) else ("camera of", self._shown_to(viewer))

    def _watches_all(self, viewer: str) -> bool:
        return viewer == self.main or viewer.startswith(CONSOLE_PREFIX)

    def _shown_to(self, viewer: str) -> str:
        """The one camera that a branch sees.  Who is on stage sees the main venue (mode A)."""
        return self.main if self.stage in (None, viewer) else str(self.stage)

    def recorded(self, publisher: str, source: str) -> bool:
        return (
            self.taps is not None
            and publisher in self.members
            and source in (CAMERA, MICROPHONE, SCREEN, SCREEN_AUDIO)
        )


def plan(room: Room) -> MediaPlan:
    if not room.active:
        return MediaPlan(room.main_venue, closed=True)
    seats = room.seats.values()
    return MediaPlan(
        main=room.main_venue,
        members=frozenset(s.venue_id for s in seats if s.connected),
        silenced=frozenset(s.venue_id for s in seats if s.muted_by_chair),
        seated=frozenset(room.seats),
        entry_silenced=room.mute_new or room.floor is not None,
        stage=room.stage,
        content=room.content,
        taps=(room.recording.recording_id or None) if room.recording else None,
        crowded=sum(s.connected and CAMERA in s.tracks for s in seats) > CAMERAS_UNASKED,
    )


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What turns one plan into another.  ``turned`` holds the single values that differ, by name."""

    came: frozenset[str] = frozenset()
    went: frozenset[str] = frozenset()
    muted: frozenset[str] = frozenset()
    opened: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()
    unlisted: frozenset[str] = frozenset()
    turned: tuple[tuple[str, str | bool | None], ...] = ()

    def __bool__(self) -> bool:
        return self != _NOTHING


_NOTHING = PlanChange()
_SINGLE = ("main", "entry_silenced", "stage", "content", "taps", "closed", "crowded")


def diff(old: MediaPlan, new: MediaPlan) -> PlanChange:
    return PlanChange(
        came=new.members - old.members,
        went=old.members - new.members,
        muted=new.silenced - old.silenced,
        opened=old.silenced - new.silenced,
        listed=new.seated - old.seated,
        unlisted=old.seated - new.seated,
        turned=tuple(
            (name, getattr(new, name)) for name in _SINGLE if getattr(old, name) != getattr(new, name)
        ),
    )


def patch(old: MediaPlan, change: PlanChange) -> MediaPlan:
    """``patch(a, diff(a, b)) == b``."""
    values: dict[str, object] = {name: getattr(old, name) for name in _SINGLE}
    values.update(change.turned)
    return MediaPlan(
        members=(old.members | change.came) - change.went,
        silenced=(old.silenced | change.muted) - change.opened,
        seated=(old.seated | change.listed) - change.unlisted,
        **values,  # type: ignore[arg-type]
    )
