"""Between the meetings' rules and the media: answers the LiveKit edge from the plan, tells the meeting facts.

One ``Reconciler`` is both ``RoomPolicy`` (wanted state, asked) and ``RoomObserver`` (facts, told).  It
holds no rule of its own: what a venue hears, sees and sends is in ``rooms.plan``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, Mapping
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core.clock import Clock
from core.errors import LianxinError
from rooms.audible import OPEN_MICROPHONES, Hearing, listen, microphones
from rooms.commands import (
    Departed,
    Joined,
    LocalMute,
    Published,
    RecordingFailed,
    RecordingOpened,
    Unpublished,
)
from rooms.directory import MEETING_PREFIX, Change, RoomDirectory
from rooms.events import Happened
from rooms.facts import may_enter
from rooms.model import CONSOLE_PREFIX, Recording, Room, Status
from rooms.plan import MediaPlan, diff

log = structlog.get_logger(__name__)

TAPS_CLOSE_S = 5.0  # how long the end of a recording waits for its dumps
_NO_PLAN = MediaPlan(main="", closed=True)


class MediaControl(Protocol):
    """What is asked of the LiveKit edge (``signaling.livekit.rooms.MediaRooms``)."""

    def refresh(self, room: str) -> None: ...

    async def remove(self, room: str, identity: str, reason: str) -> object: ...

    async def close(self, room: str) -> object: ...


class Recorder(Protocol):
    """What is asked of ``recording.sessions.RecordingSessions``."""

    async def start(self, meeting_id: str, title: str) -> str: ...

    async def stop(self, recording_id: str) -> object: ...

    def tap_path(self, recording_id: str, venue_id: str, source: str, track_sid: str) -> str: ...

    def note(self, recording_id: str, event: dict[str, Any]) -> object: ...


class Gauges(Protocol):
    """Where measurements go: the pages (``signaling.ws.Hub``)."""

    def levels(self, meeting_id: str, venues: Mapping[str, float]) -> None: ...

    def quality(self, meeting_id: str, venues: Mapping[str, Mapping[str, object]]) -> None: ...


class Reconciler:
    """Built before the LiveKit edge, which needs it; ``attach`` closes the circle."""

    def __init__(
        self,
        directory: RoomDirectory,
        clock: Clock,
        recorder: Recorder | None = None,
        gauges: Gauges | None = None,
        open_microphones: int = OPEN_MICROPHONES,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._recorder = recorder
        self._gauges = gauges
        self._media: MediaControl | None = None
        self._plans: dict[str, MediaPlan] = {}
        self._open_microphones = open_microphones
        self._hearings: dict[str, Hearing] = {}
        self._present: dict[str, set[str]] = {}  # meeting → identities with a media session
        self._tracks: dict[tuple[str, str], dict[str, str]] = {}  # meeting, identity → track sid → source
        self._tap_paths: dict[tuple[str, str, str], str] = {}  # recording, identity, track sid → path
        self._open_taps: dict[str, set[str]] = {}  # recording → paths
        self._taps_closed = asyncio.Event()
        self._recordings: dict[str, tuple[Recording, str]] = {}  # meeting → what runs, recording id
        self._following: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        directory.listeners.append(self.on_change)

    def attach(self, media: MediaControl) -> None:
        self._media = media

    async def close(self) -> None:
        """Waits for what is under way; recordings go on in the database and are finished or resumed later."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------ RoomPolicy

    def governs(self, room: str) -> bool:
        """The prefix is ours, so that the name of an ended meeting never opens a plain room."""
        return room.startswith(MEETING_PREFIX)

    def admits(self, room: str, identity: str) -> str | None:
        meeting = self._directory.room(room)
        if meeting is None:
            return "meeting_unknown"
        if not meeting.active:
            return "meeting_ended"
        if identity.startswith(CONSOLE_PREFIX):
            return None
        return may_enter(meeting, identity)

    def wants(self, room: str, viewer: str, publisher: str, source: str) -> bool:
        plan = self._directory.plan(room)
        if plan is None:
            return False
        hearing = self._hearings.get(room)
        return plan.wants(viewer, publisher, source, hearing.heard if hearing is not None else None)

    def unasked(self, room: str, viewer: str, publisher: str, source: str) -> bool:
        plan = self._directory.plan(room)
        return plan is not None and plan.unasked(viewer, publisher, source)

    def priority(self, room: str, viewer: str, publisher: str, source: str) -> int:
        plan = self._directory.plan(room)
        return plan.priority(viewer, publisher, source) if plan is not None else 0

    def audience(self, room: str, viewer: str) -> Hashable:
        plan = self._directory.plan(room)
        return plan.audience(viewer) if plan is not None else None

    def silenced(self, room: str, publisher: str, source: str) -> bool:
        plan = self._directory.plan(room)
        return plan is not None and plan.silences(publisher, source)

    def tap(self, room: str, publisher: str, source: str) -> str | None:
        plan = self._directory.plan(room)
        if (
            plan is None
            or plan.taps is None
            or self._recorder is None
            or not plan.recorded(publisher, source)
        ):
            return None
        sid = self._sid(room, publisher, source)
        if sid is None:
            return None  # track_published comes first, and asks again
        key = (plan.taps, publisher, sid)
        path = self._tap_paths.get(key)
        if path is None:
            path = self._tap_paths[key] = self._recorder.tap_path(plan.taps, publisher, source, sid)
        return path

    def _sid(self, room: str, identity: str, source: str) -> str | None:
        for sid, published in reversed(self._tracks.get((room, identity), {}).items()):
            if published == source:
                return sid
        return None

    # ------------------------------------------------------------------ RoomObserver

    def participant_joined(self, room: str, identity: str) -> None:
        self._present.setdefault(room, set()).add(identity)
        if identity.startswith(CONSOLE_PREFIX):
            return
        meeting = self._directory.room(room)
        if meeting is not None and may_enter(meeting, identity) is not None:
            self._remove(room, identity)  # refused between the question and the join
        self._directory.tell(room, Joined(identity))

    def participant_left(self, room: str, identity: str, reason: str) -> None:
        """Leaving the media is a lost line, whatever the client said: who leaves the meeting tells us so.

        A newer browser of the same venue ends the older one's session first and comes in after it.
        """
        present = self._present.get(room, set())
        present.discard(identity)
        if not present:
            self._present.pop(room, None)
        self._tracks.pop((room, identity), None)
        if not identity.startswith(CONSOLE_PREFIX):
            self._directory.tell(room, Departed(identity))

    def track_published(self, room: str, identity: str, source: str, track_sid: str, mime: str) -> None:
        self._tracks.setdefault((room, identity), {})[track_sid] = source
        self._directory.tell(room, Published(identity, source))
        plan = self._directory.plan(room)
        if plan is not None and plan.recorded(identity, source) and self._media is not None:
            self._media.refresh(room)

    def track_unpublished(self, room: str, identity: str, source: str, track_sid: str) -> None:
        tracks = self._tracks.get((room, identity), {})
        tracks.pop(track_sid, None)
        if source not in tracks.values():
            self._directory.tell(room, Unpublished(identity, source))

    def local_mute(self, room: str, identity: str, source: str, muted: bool) -> None:
        self._directory.tell(room, LocalMute(identity, source, muted))

    def levels(self, room: str, levels: Mapping[str, float]) -> None:
        """Who is muted by the chair is silent for everybody, also for the meters."""
        plan = self._directory.plan(room)
        meeting = self._directory.room(room)
        if plan is not None and meeting is not None:
            changed = self._listen(meeting, levels)
            if changed and self._media is not None:
                self._media.refresh(room)
        if plan is not None and self._gauges is not None:
            heard = {v: dbov for v, dbov in levels.items() if v in plan.seated}
            if heard:
                self._gauges.levels(room, heard)

    def _listen(self, room: Room, levels: Mapping[str, float]) -> bool:
        """True when others are heard than before."""
        before = self._hearings.get(room.meeting_id, Hearing())
        after = listen(before, microphones(room), levels, self._clock.monotonic(), self._open_microphones)
        self._hearings[room.meeting_id] = after
        return after.heard != before.heard

    def quality(self, room: str, quality: Mapping[str, Mapping[str, object]]) -> None:
        plan = self._directory.plan(room)
        if plan is not None and self._gauges is not None:
            known = {v: values for v, values in quality.items() if v in plan.seated}
            if known:
                self._gauges.quality(room, known)

    def tap_started(
        self, room: str, identity: str, source: str, track_sid: str, path: str, mime: str
    ) -> None:
        recording = self._recording_of(path)
        if recording is None:
            return
        self._open_taps.setdefault(recording, set()).add(path)
        self._note(
            recording, "tap_started", venue=identity, source=source, track_sid=track_sid, path=path, mime=mime
        )

    def tap_stopped(self, room: str, identity: str, source: str, track_sid: str, path: str) -> None:
        """The next tap of the same track gets a new file."""
        recording = self._recording_of(path)
        if recording is None:
            return
        self._tap_paths.pop((recording, identity, track_sid), None)
        self._open_taps.get(recording, set()).discard(path)
        self._taps_closed.set()
        self._note(recording, "tap_stopped", venue=identity, source=source, track_sid=track_sid, path=path)

    def _recording_of(self, path: str) -> str | None:
        return next((key[0] for key, known in self._tap_paths.items() if known == path), None)

    # ------------------------------------------------------------------ changes of a meeting

    def on_change(self, change: Change) -> None:
        room = change.new
        plan = self._directory.plan(room.meeting_id) or _NO_PLAN
        before = self._plans.get(room.meeting_id, _NO_PLAN)
        self._plans[room.meeting_id] = plan
        if room.active:
            self._remove_strays(room)
        others_heard = room.active and self._listen(room, {})
        if self._media is not None:
            if not room.active:
                self._spawn(self._media.close(room.meeting_id), "close media room")
            elif others_heard or diff(before, plan):
                self._media.refresh(room.meeting_id)
        self._note_events(change)
        was = change.old.recording if change.old is not None else None
        if was != room.recording:
            self._spawn(self._follow(room.meeting_id), "recording")
        if not room.active:
            self._forget(room.meeting_id)

    def _remove_strays(self, room: Room) -> None:
        """Who was hung up or left must not stay in the media room."""
        for identity in self._present.get(room.meeting_id, ()):
            seat = room.seats.get(identity)
            if seat is not None and seat.status is Status.LEFT and not seat.rejoins:
                self._remove(room.meeting_id, identity)

    def _remove(self, meeting_id: str, identity: str) -> None:
        if self._media is not None:
            self._spawn(self._media.remove(meeting_id, identity, "removed"), "remove participant")

    def _forget(self, meeting_id: str) -> None:
        self._plans.pop(meeting_id, None)
        self._hearings.pop(meeting_id, None)

    # ------------------------------------------------------------------ recording

    async def _follow(self, meeting_id: str) -> None:
        """Makes the recorder do what the meeting wants; one at a time per meeting, newest wish first."""
        if self._recorder is None:
            self._directory.tell(meeting_id, RecordingFailed())
            return
        async with self._following.setdefault(meeting_id, asyncio.Lock()):
            meeting = self._directory.room(meeting_id)
            wanted = meeting.recording if meeting is not None else None
            running = self._recordings.get(meeting_id)
            if running is not None and (wanted is None or wanted.since != running[0].since):
                del self._recordings[meeting_id]
                await self._stop(running[1])
                running = None
            if meeting is None or wanted is None or running is not None:
                return
            if wanted.recording_id:  # restored: the recorder goes on by itself
                self._recordings[meeting_id] = (wanted, wanted.recording_id)
                return
            try:
                recording_id = await self._recorder.start(meeting_id, meeting.title)
            except (LianxinError, OSError, SQLAlchemyError) as error:
                log.error("recording not started", meeting=meeting_id, error=str(error))
                self._directory.tell(meeting_id, RecordingFailed())
                return
            self._recordings[meeting_id] = (wanted, recording_id)
            self._note(recording_id, "stage", venue=meeting.stage)
            self._directory.tell(meeting_id, RecordingOpened(recording_id))
            now_wanted = self._directory.room(meeting_id)
        if now_wanted is None or now_wanted.recording != wanted:
            await self._follow(meeting_id)  # changed its mind while the recorder was opening

    async def _stop(self, recording_id: str) -> None:
        assert self._recorder is not None
        try:
            async with asyncio.timeout(TAPS_CLOSE_S):
                while self._open_taps.get(recording_id):
                    self._taps_closed.clear()
                    await self._taps_closed.wait()
        except TimeoutError:
            log.warning("recording closes before its dumps", recording=recording_id)
        self._open_taps.pop(recording_id, None)
        for key in [key for key in self._tap_paths if key[0] == recording_id]:
            del self._tap_paths[key]
        try:
            await self._recorder.stop(recording_id)
        except (LianxinError, OSError, SQLAlchemyError) as error:
            log.error("recording not closed", recording=recording_id, error=str(error))

    def _note_events(self, change: Change) -> None:
        running = self._recordings.get(change.new.meeting_id)
        if running is None:
            return
        for event in change.events:
            if event.happened is Happened.STAGE:
                self._note(running[1], "stage", at=event.at, venue=event.venue)
            elif event.happened in _ON_TIMELINE:
                self._note(running[1], event.happened.value, at=event.at, venue=event.venue)

    def _note(self, recording_id: str, kind: str, at: float | None = None, **more: object) -> None:
        """A line in the recording's time line; ``at`` in epoch seconds, written in milliseconds."""
        assert self._recorder is not None
        at_ms = round((self._clock.now() if at is None else at) * 1000)
        try:
            noted = self._recorder.note(recording_id, {"at": at_ms, "type": kind, **more})
        except (LianxinError, OSError) as error:
            log.error("time line not written", recording=recording_id, error=str(error))
            return
        if isinstance(noted, Coroutine):
            self._spawn(noted, "recording note")

    def _spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        task = asyncio.create_task(self._guarded(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, object], name: str) -> object:
        try:
            return await work
        except Exception:  # the media room may be gone meanwhile; nobody waits for this
            log.exception("work failed", work=name)
            return None


_ON_TIMELINE = frozenset(
    {Happened.FLOOR, Happened.CONTENT, Happened.CONNECTED, Happened.OUT, Happened.MUTED, Happened.UNMUTED}
)
