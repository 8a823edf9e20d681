"""The live meetings: each owned by one task; its words queue up, are applied, stored, and only then told.

A batch of waiting words is stored in one transaction, so 120 venues that come in together cost a few
writes.  Nothing is announced, and no command answered, before it would survive a kill -9.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import SQLAlchemyError

from core import counters
from core.clock import Clock
from core.ids import new_id
from rooms.commands import Call, Command, Fact, Joined, MovedAway, Restarted, Tick
from rooms.events import Event, Happened
from rooms.model import Room, Rules, Venue
from rooms.plan import MediaPlan, plan
from rooms.policy import Actor, may, settle
from rooms.presence import Presence
from rooms.refusals import Refused
from rooms.room import apply, next_deadline, open_room
from rooms.store import AuditNote, MeetingSummary, RoomStore

log = structlog.get_logger(__name__)

MAX_COMMANDS = 1_000  # waiting at one meeting; more are refused ("overloaded")
MAX_FACTS = 20_000  # waiting at one meeting; more are dropped and counted: only a flood comes here
MAX_VENUES = 1_000
KEPT_ENDED = 64  # meetings that ended lately stay readable without the database
MEETING_PREFIX = "mt_"
PATIENCE_S = 1.0  # between attempts to store what could not be stored


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a meeting, told after it was stored.  ``old`` is None for a new or restored one."""

    old: Room | None
    new: Room
    events: tuple[Event, ...] = ()


@dataclass(slots=True)
class _Word:
    """Something waiting to be applied; ``done`` gets the revision, or the exception."""

    word: Command | Fact
    actor: Actor | None = None
    done: asyncio.Future[int] | None = None

    def answer(self, revision: int) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(revision)

    def fail(self, error: Exception) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


@dataclass(slots=True)
class _Live:
    room: Room
    plan: MediaPlan
    waiting: list[_Word] = field(default_factory=list)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    unsaved: bool = False
    task: asyncio.Task[None] | None = None


class RoomDirectory:
    """``listeners`` are called synchronously, in order, with every ``Change``."""

    def __init__(self, store: RoomStore, clock: Clock, rules: Rules | None = None) -> None:
        self._store = store
        self._clock = clock
        self._rules = rules or Rules()
        self._live: dict[str, _Live] = {}
        self._ended: OrderedDict[str, Room] = OrderedDict()
        self._venues: dict[str, Venue] = {}
        self.presence = Presence()
        self.listeners: list[Callable[[Change], None]] = []

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Restores every active meeting; whoever was connected has lost the line and will come back."""
        await self.reload_venues()
        for room in await self._store.active():
            restored, events = apply(room, Restarted(), self._clock.now())
            if restored is not room:
                await self._store.save(restored)
            self._adopt(restored)
            self._announce(Change(None, restored, tuple(events)))
        if self._live:
            log.info("meetings restored", meetings=len(self._live))

    async def close(self) -> None:
        """Stops the tasks.  The meetings stay active in the database."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for live in self._live.values():
            for word in live.waiting:
                word.fail(Refused("overloaded"))
        self._live.clear()

    async def reload_venues(self) -> None:
        self._venues = await self._store.venues()

    # ------------------------------------------------------------------ reading

    @property
    def venues(self) -> Mapping[str, Venue]:
        """All, in protocol order."""
        return self._venues

    @property
    def active(self) -> list[Room]:
        """Newest first."""
        rooms = [live.room for live in self._live.values()]
        return sorted(rooms, key=lambda room: room.created_at, reverse=True)

    def room(self, meeting_id: str) -> Room | None:
        """An active meeting, or one that ended a short while ago."""
        live = self._live.get(meeting_id)
        return live.room if live is not None else self._ended.get(meeting_id)

    def plan(self, meeting_id: str) -> MediaPlan | None:
        """None: no such meeting is active."""
        live = self._live.get(meeting_id)
        return None if live is None else live.plan

    async def find(self, meeting_id: str) -> Room:
        """Any meeting, also a long ended one.  Raises ``Refused``: "meeting_unknown" or "storage_failed"."""
        room = self.room(meeting_id)
        if room is None and len(meeting_id) <= 32 and meeting_id.isprintable():
            try:
                room = await self._store.find(meeting_id)
            except (SQLAlchemyError, OSError) as error:
                log.error("meeting not looked up", error=str(error).partition("\n")[0])
                raise Refused("storage_failed") from error
        if room is None:
            raise Refused("meeting_unknown")
        return room

    async def summaries(self) -> list[MeetingSummary]:
        return await self._store.summaries()

    def meeting_of(self, venue: str) -> Room | None:
        """The newest active meeting that calls the venue, has it, or waits for it to come back."""
        for room in self.active:
            seat = room.seats.get(venue)
            if seat is not None and (seat.status in ("calling", "connected") or seat.rejoins):
                return room
        return None

    # ------------------------------------------------------------------ writing

    async def open(
        self, actor: Actor, title: str, main_venue: str, venues: Sequence[str] | None = None
    ) -> Room:
        """A new meeting; ``venues`` None: all that there are.  Raises ``Refused``."""
        if actor.role != "host":
            raise Refused("forbidden")
        listed = list(self._venues) if venues is None else list(venues)
        if main_venue not in self._venues or any(venue not in self._venues for venue in listed):
            raise Refused("unknown_venue")
        if len(listed) > MAX_VENUES:
            raise Refused("too_many_venues")
        order = {venue: place for place, venue in enumerate(self._venues)}
        listed.sort(key=lambda venue: order[venue])
        room = open_room(new_id(MEETING_PREFIX), title, main_venue, listed, self._clock.now(), self._rules)
        note = AuditNote(
            actor.username, "meeting.open", room.meeting_id, {"title": title, "venues": len(listed)}
        )
        await self._store.add(room, note)
        self._adopt(room)
        self._announce(Change(None, room))
        return room

    async def command(self, meeting_id: str, actor: Actor, command: Command) -> int:
        """The revision after it.  Raises ``Refused``; a command that changes nothing is answered too."""
        live = self._live.get(meeting_id)
        if live is None:
            await self.find(meeting_id)
            if actor.role == "it":
                raise Refused("forbidden")
            raise Refused("meeting_ended")
        if len(live.waiting) >= MAX_COMMANDS:
            counters.refused("room_overloaded")
            raise Refused("overloaded")
        word = _Word(command, actor, asyncio.get_running_loop().create_future())
        live.waiting.append(word)
        live.woken.set()
        assert word.done is not None
        return await word.done

    async def recording_opened(self, meeting_id: str, timeout_s: float = 5.0) -> None:
        """After start_recording: returns when the recorder has opened its files, or the wish was taken back.

        Raises ``Refused`` when the recorder could not.
        """
        looked_again = asyncio.Event()

        def look(change: Change) -> None:
            if change.new.meeting_id == meeting_id:
                looked_again.set()

        self.listeners.append(look)
        try:
            async with asyncio.timeout(timeout_s):
                while (live := self._live.get(meeting_id)) is not None and live.room.active:
                    recording = live.room.recording
                    if recording is None:
                        raise Refused("recording_failed")
                    if recording.recording_id:
                        return
                    looked_again.clear()
                    await looked_again.wait()
        except TimeoutError:
            return  # a slow disk: the page will be told by the meeting's next change
        finally:
            self.listeners.remove(look)

    def tell(self, meeting_id: str, fact: Fact) -> None:
        """Never raises and never waits.  Facts about meetings that are over are of no interest."""
        live = self._live.get(meeting_id)
        if live is None:
            return
        if len(live.waiting) >= MAX_FACTS:
            counters.refused("room_fact_flood")
            return
        live.waiting.append(_Word(fact))
        live.woken.set()

    # ------------------------------------------------------------------ one meeting's task

    def _adopt(self, room: Room) -> None:
        live = _Live(room, plan(room))
        self._live[room.meeting_id] = live
        live.task = asyncio.create_task(self._run(live), name=f"room {room.meeting_id}")

    async def _run(self, live: _Live) -> None:
        while live.room.active or live.unsaved:
            await self._wait(live)
            live.woken.clear()
            batch, live.waiting = live.waiting, []
            deadline = next_deadline(live.room)
            if deadline is not None and deadline <= self._clock.now():
                batch.append(_Word(Tick()))
            try:
                await self._serve(live, batch)
            except asyncio.CancelledError:
                for word in batch:
                    word.fail(Refused("overloaded"))
                raise
        self._retire(live)

    async def _wait(self, live: _Live) -> None:
        """Until there is a word, a call has rung long enough, or the state may be stored again."""
        if live.waiting and not live.unsaved:
            return
        now = self._clock.now()
        waits = [PATIENCE_S] if live.unsaved else []
        deadline = next_deadline(live.room)
        if deadline is not None:
            waits.append(max(0.0, deadline - now))
        if not waits:
            await live.woken.wait()
            return
        timer = asyncio.create_task(self._clock.sleep(min(waits)))
        word = asyncio.create_task(live.woken.wait())
        try:
            await asyncio.wait({timer, word}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (timer, word):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(timer, word, return_exceptions=True)

    async def _serve(self, live: _Live, batch: Sequence[_Word]) -> None:
        """Applies, stores, answers, announces.  When storing fails the commands are undone and refused;
        facts are facts: they stay, and are stored as soon as that works again.
        """
        obeyed: list[_Word] = []
        notes: list[AuditNote] = []
        room, events = self._apply_all(live.room, batch, obeyed, notes)
        if room is live.room and not notes and not live.unsaved:
            for word in obeyed:
                word.answer(room.revision)
            return
        try:
            changed = room is not live.room or live.unsaved
            await self._store.save(room if changed else None, notes)
            live.unsaved = False
        except (SQLAlchemyError, OSError) as error:
            log.error("meeting not stored", meeting=room.meeting_id, error=str(error).partition("\n")[0])
            counters.refused("room_not_stored")
            facts = [word for word in batch if word.actor is None]
            room, events = self._apply_all(live.room, facts, [], [])
            live.unsaved = live.unsaved or room is not live.room
            for word in obeyed:
                if word.actor is not None:
                    word.fail(Refused("storage_failed"))
        old, live.room = live.room, room
        if room is not old:
            live.plan = plan(room)
            if not room.active:
                self._retire(live)
            self._announce(Change(old, room, tuple(events)))
        for word in obeyed:
            word.answer(room.revision)

    def _apply_all(
        self, room: Room, batch: Sequence[_Word], obeyed: list[_Word], notes: list[AuditNote]
    ) -> tuple[Room, list[Event]]:
        events: list[Event] = []
        now = self._clock.now()
        for word in batch:
            before = room
            try:
                settled = self._allowed(word, room)
                room, happened = apply(room, settled, now)
            except Refused as refusal:
                if word.actor is not None:
                    notes.append(_note(word.actor, word.word, room, refusal.code))
                word.fail(refusal)
                continue
            except Exception as error:  # a rule that breaks must not take the meeting with it
                log.exception("rule failed", meeting=room.meeting_id, word=repr(word.word))
                word.fail(error)
                continue
            obeyed.append(word)
            events.extend(happened)
            if word.actor is not None:
                notes.append(_note(word.actor, settled, room, None, changed=room is not before))
        return room, events

    def _allowed(self, word: _Word, room: Room) -> Command | Fact:
        if word.actor is None:
            fact = word.word
            if isinstance(fact, Joined) and fact.venue not in room.seats and fact.venue not in self._venues:
                return Tick()  # a guest with an operator's token: no venue, no seat
            return fact
        command: Command = settle(word.actor, word.word, room)  # type: ignore[arg-type]
        code = may(word.actor, command, room)
        if code is not None:
            raise Refused(code)
        if isinstance(command, Call) and command.venue is not None and command.venue not in room.seats:
            if command.venue not in self._venues:
                raise Refused("unknown_venue")
            if len(room.seats) >= MAX_VENUES:
                raise Refused("too_many_venues")
        return command

    def _retire(self, live: _Live) -> None:
        if self._live.pop(live.room.meeting_id, None) is None:
            return
        self.presence.forget(live.room.meeting_id)
        self._ended[live.room.meeting_id] = live.room
        while len(self._ended) > KEPT_ENDED:
            self._ended.popitem(last=False)
        for word in live.waiting:
            if word.actor is not None:
                word.fail(Refused("meeting_ended"))
        live.waiting.clear()

    def _announce(self, change: Change) -> None:
        for listener in self.listeners:
            try:
                listener(change)
            except Exception:  # one deaf listener must not silence the others
                log.exception("listener failed", meeting=change.new.meeting_id)
        for event in change.events:
            if event.happened is Happened.CONNECTED and event.venue is not None:
                self._move(event.venue, change.new.meeting_id)

    def _move(self, venue: str, meeting_id: str) -> None:
        """A venue sits in one meeting: coming into this one, it has left the others."""
        for other, live in self._live.items():
            seat = live.room.seats.get(venue)
            if other != meeting_id and seat is not None and seat.belongs:
                self.tell(other, MovedAway(venue))


def _note(
    actor: Actor, word: Command | Fact, room: Room, refused: str | None, changed: bool = False
) -> AuditNote:
    command: Command = word  # type: ignore[assignment]
    detail = command.model_dump(exclude={"type"}, exclude_none=True)
    if refused is not None:
        detail["refused"] = refused
    else:
        detail["changed"] = changed
    return AuditNote(actor.username, f"meeting.{command.type}", room.meeting_id, detail)
