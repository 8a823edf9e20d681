"""/ws: what every page is told.  A snapshot, then numbered changes; commands come back the same way.

A page is never sent a history, only the difference between what it was last sent and what holds now,
worked out when its socket can take it.  So a slow page skips states instead of filling a queue, and what
waits for it is bounded: one difference, one set of levels, and the answers to its own commands.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core import counters
from core.clock import Clock
from core.errors import LianxinError, TooMany
from rooms import views
from rooms.commands import COMMAND, StartRecording
from rooms.directory import Change, RoomDirectory
from rooms.model import Room
from rooms.policy import Actor, sees
from signaling import keys
from signaling.livekit.limits import Bucket
from signaling.sessions import User, require_user, token_of, user_json

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024
MAX_ANSWERS = 256  # unsent answers to one page; more means it does not read
MAX_CHANGES = 256  # differing paths in one message; more are sent as a snapshot
MAX_PER_USER = 32
MESSAGES_PER_S = 20.0
MESSAGE_BURST = 80.0
MAX_REFUSALS = 100  # messages over the rate or unreadable, then the socket is closed
HEARTBEAT_S = 12.0  # aiohttp gives a page half of it to answer: dead after 18 s
LEVELS_EVERY_S = 0.25
SESSION_CHECK_S = 5.0
SIGNED_OUT = 4401  # close code: sign in again


# ---------------------------------------------------------------- what pages say


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")


class CommandMessage(_Message):
    type: Literal["command"]
    id: Annotated[str, Field(max_length=64)]
    meeting: Annotated[str, Field(max_length=64)]
    command: dict[str, Any]


class WatchMessage(_Message):
    type: Literal["watch"]
    meeting: Annotated[str, Field(max_length=64)] | None = None


class ResyncMessage(_Message):
    type: Literal["resync"]


class PingMessage(_Message):
    type: Literal["ping"]


class Devices(BaseModel):
    model_config = ConfigDict(extra="ignore")

    camera: bool
    microphone: bool


class ProfileMessage(_Message):
    type: Literal["profile"]
    devices: Devices


Message = CommandMessage | WatchMessage | ResyncMessage | PingMessage | ProfileMessage
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])

_ERRORS = {
    "invalid_message": ("消息格式不正确。", "The message can't be read."),
    "invalid_command": ("命令格式不正确。", "The command can't be read."),
    "too_fast": ("操作过于频繁，请稍候。", "Too many messages; slow down."),
    "forbidden": ("您没有这项操作的权限。", "You are not allowed to do this."),
    "internal": ("服务器内部错误。", "The server failed; see its log."),
}


def _error(code: str) -> dict[str, str]:
    message, message_en = _ERRORS[code]
    return {"code": code, "message": message, "message_en": message_en}


# ---------------------------------------------------------------- one page


class Page:
    """One socket.  ``shown`` is what it holds after everything sent so far; None: it needs a snapshot."""

    def __init__(self, user: User, token: str, socket: web.WebSocketResponse, now: float) -> None:
        self.user = user
        self.token = token
        self.socket = socket
        self.actor = Actor(user.user_id, user.username, user.role, user.venue_id)
        self.watched: Room | None = None
        self.shown: views.Json | None = None
        self.rev = 0
        self.dirty = True
        self.levels: dict[str, float] = {}
        self.quality: dict[str, Mapping[str, object]] = {}
        self.answers: deque[dict[str, Any]] = deque()
        self.woken = asyncio.Event()
        self.bucket = Bucket(MESSAGES_PER_S, MESSAGE_BURST, now)
        self.refusals = 0

    @property
    def is_console(self) -> bool:
        return self.user.role != "venue"

    @property
    def meeting_id(self) -> str | None:
        """The meeting that it was last shown."""
        meeting = self.shown["meeting"] if self.shown else None
        return meeting["id"] if meeting else None

    def touch(self) -> None:
        self.dirty = True
        self.woken.set()

    def answer(self, message: dict[str, Any]) -> None:
        self.answers.append(message)
        self.woken.set()


class Hub:
    """All pages.  Listens to the directory and to presence; the LiveKit edge's measurements pass through."""

    def __init__(self, directory: RoomDirectory, clock: Clock) -> None:
        self._directory = directory
        self._presence = directory.presence
        self._clock = clock
        self._pages: set[Page] = set()
        self._levels: dict[str, dict[str, float]] = {}
        self._levels_at: dict[str, float] = {}
        self._check: asyncio.Task[None] | None = None
        self._user_of: Callable[[str], Any] | None = None
        directory.listeners.append(self._on_change)
        directory.presence.on_change.append(self._on_presence)

    async def start(self, user_of: Callable[[str], Any]) -> None:
        """``user_of(token)`` is awaited again and again: None closes the socket."""
        self._user_of = user_of
        self._check = asyncio.create_task(self._check_sessions(), name="ws sessions")

    async def close(self) -> None:
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)
        await asyncio.gather(
            *(page.socket.close(code=WSCloseCode.SERVICE_RESTART) for page in list(self._pages)),
            return_exceptions=True,
        )

    @property
    def pages(self) -> int:
        return len(self._pages)

    async def signed_out(self, token: str) -> None:
        """Closes the pages of a session that has just ended."""
        for page in [page for page in self._pages if page.token == token]:
            await page.socket.close(code=SIGNED_OUT, message=b"signed out")

    async def _check_sessions(self) -> None:
        """Sessions also end by expiry or a new password: nobody tells us, so we ask."""
        assert self._user_of is not None
        while True:
            await self._clock.sleep(SESSION_CHECK_S)
            try:
                for token in {page.token for page in self._pages}:
                    if await self._user_of(token) is None:
                        await self.signed_out(token)
            except Exception:  # the database may be away for a moment; pages stay
                log.exception("sessions not checked")

    # ------------------------------------------------------------------ what has changed

    def _on_change(self, change: Change) -> None:
        room = change.new
        listing = change.old is None or change.old.active != room.active
        for page in self._pages:
            if page.watched is not None and page.watched.meeting_id == room.meeting_id:
                page.watched = room
                page.touch()
            elif listing or (not page.is_console and page.user.venue_id in room.seats):
                page.touch()
        if not room.active:
            self._levels.pop(room.meeting_id, None)
            self._levels_at.pop(room.meeting_id, None)

    def _on_presence(self, venue: str) -> None:
        for page in self._pages:
            meeting = page.shown["meeting"] if page.shown else None
            if meeting and venue in meeting["venues"]:
                page.touch()

    def levels(self, meeting_id: str, venues: Mapping[str, float]) -> None:
        """dBov by venue; passed on at most four times a second, newest values."""
        pending = self._levels.setdefault(meeting_id, {})
        pending.update(venues)
        now = self._clock.monotonic()
        if now - self._levels_at.get(meeting_id, float("-inf")) < LEVELS_EVERY_S:
            return
        self._levels_at[meeting_id] = now
        self._levels[meeting_id] = {}
        for page, known in self._watching(meeting_id):
            page.levels.update({v: round(dbov, 1) for v, dbov in pending.items() if v in known})
            page.woken.set()

    def quality(self, meeting_id: str, venues: Mapping[str, Mapping[str, object]]) -> None:
        for page, known in self._watching(meeting_id):
            page.quality.update({v: values for v, values in venues.items() if v in known})
            page.woken.set()

    def _watching(self, meeting_id: str) -> list[tuple[Page, Mapping[str, object]]]:
        return [
            (page, page.shown["meeting"]["venues"])
            for page in self._pages
            if page.shown is not None and page.meeting_id == meeting_id
        ]

    # ------------------------------------------------------------------ what a page sees

    def view(self, page: Page) -> views.Json:
        rooms = [room for room in self._directory.active if sees(page.actor, room)]
        return {
            "me": user_json(page.user),
            "meetings": {
                room.meeting_id: views.summary(room.meeting_id, room.title, room.status, room.created_at)
                for room in rooms
            },
            "meeting": self._meeting_view(page),
        }

    def _meeting_view(self, page: Page) -> views.Json | None:
        venues = self._directory.venues
        if page.is_console:
            if page.watched is None:
                return None
            return views.meeting_view(page.watched, venues, self._presence)
        venue = page.user.venue_id
        room = self._directory.meeting_of(venue) if venue is not None else None
        if room is None or venue is None:
            return None
        return views.venue_view(room, venue, venues, self._presence)

    async def _watch(self, page: Page, meeting_id: str | None) -> None:
        page.watched = await self._directory.find(meeting_id) if meeting_id else None
        page.touch()

    # ------------------------------------------------------------------ one socket's life

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        user = await require_user(request)
        if sum(page.user.user_id == user.user_id for page in self._pages) >= MAX_PER_USER:
            counters.refused("ws_per_user")
            raise TooMany("too_many_websockets", "连接数过多。", "Too many WebSockets.", retry_after_s=5)
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES, timeout=2.0)
        await socket.prepare(request)
        page = Page(user, token_of(request), socket, self._clock.monotonic())
        if page.is_console:
            try:
                await self._watch(page, request.query.get("meeting"))
            except LianxinError as error:
                page.answer(_problem(error))
        self._pages.add(page)
        counters.ws_opened("page")
        venue = None if page.is_console else user.venue_id
        if venue is not None:
            self._presence.came(venue)
        page.touch()
        writer = asyncio.create_task(self._write(page), name="ws writer")
        try:
            await self._read(page)
        finally:
            self._pages.discard(page)
            counters.ws_closed("page")
            if venue is not None:
                self._presence.went(venue)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return socket

    async def _write(self, page: Page) -> None:
        try:
            while True:
                await page.woken.wait()
                page.woken.clear()
                if page.dirty or page.shown is None:
                    await self._send_difference(page)
                while page.answers:
                    await _send(page, page.answers.popleft())
                if page.levels:
                    levels, page.levels = page.levels, {}
                    await _send(page, {"type": "levels", "venues": levels})
                if page.quality:
                    quality, page.quality = page.quality, {}
                    await _send(page, {"type": "quality", "venues": quality})
        except (ConnectionError, RuntimeError):
            pass  # the socket has closed under us; the reader ends too
        except Exception:
            log.exception("page not served", user=page.user.username)
            await page.socket.close(code=WSCloseCode.INTERNAL_ERROR)

    async def _send_difference(self, page: Page) -> None:
        page.dirty = False
        view = self.view(page)
        found = [] if page.shown is None else views.changes(page.shown, view)
        if page.shown is None or len(found) > MAX_CHANGES:
            page.rev += 1
            page.shown = view
            now = views.ms(self._clock.now())
            await _send(page, {"type": "snapshot", "rev": page.rev, "now": now, "view": view})
        elif found:
            page.rev += 1
            page.shown = view
            await _send(page, {"type": "change", "rev": page.rev, "changes": found})

    async def _read(self, page: Page) -> None:
        async for frame in page.socket:
            if frame.type is WSMsgType.ERROR:
                if getattr(frame.data, "code", None) == WSCloseCode.MESSAGE_TOO_BIG:
                    counters.refused("ws_message_too_big")
                return
            if not page.bucket.take(self._clock.monotonic()):
                if await self._refuse(page, "too_fast"):
                    return
                continue
            if frame.type is not WSMsgType.TEXT:
                if await self._refuse(page, "invalid_message"):
                    return
                continue
            try:
                message = _MESSAGE.validate_json(frame.data)
            except ValidationError:
                if await self._refuse(page, "invalid_message"):
                    return
                continue
            await self._hear(page, message)
            if len(page.answers) > MAX_ANSWERS:
                counters.refused("ws_unread")
                await page.socket.close(code=WSCloseCode.POLICY_VIOLATION)
                return

    async def _refuse(self, page: Page, code: str) -> bool:
        """True: it was once too often."""
        counters.refused(f"ws_{code}")
        page.refusals += 1
        page.answer({"type": "error", **_error(code)})
        if page.refusals <= MAX_REFUSALS:
            return False
        await page.socket.close(code=WSCloseCode.POLICY_VIOLATION)
        return True

    async def _hear(self, page: Page, message: Message) -> None:
        match message:
            case PingMessage():
                page.answer({"type": "pong", "now": views.ms(self._clock.now())})
            case ResyncMessage():
                page.shown = None
                page.touch()
            case CommandMessage():
                page.answer(await self._obey(page, message))
            case WatchMessage():
                await self._hear_watch(page, message.meeting)
            case ProfileMessage():
                if not page.is_console and page.user.venue_id is not None:
                    self._presence.profile(page.user.venue_id, message.devices.model_dump())

    async def _hear_watch(self, page: Page, meeting_id: str | None) -> None:
        if not page.is_console:
            page.answer({"type": "error", **_error("forbidden")})
            return
        try:
            await self._watch(page, meeting_id)
        except LianxinError as error:
            page.answer(_problem(error))

    async def _obey(self, page: Page, message: CommandMessage) -> dict[str, Any]:
        result: dict[str, Any] = {"type": "result", "id": message.id}
        try:
            command = COMMAND.validate_python(message.command)
            await self._directory.command(message.meeting, page.actor, command)
            if isinstance(command, StartRecording):
                await self._directory.recording_opened(message.meeting)
        except ValidationError:
            counters.refused("ws_invalid_command")
            return {**result, "ok": False, "error": _error("invalid_command")}
        except LianxinError as error:
            refusal = {"code": error.code, "message": error.message, "message_en": error.message_en}
            return {**result, "ok": False, "error": refusal}
        except Exception:
            log.exception("command failed", user=page.user.username)
            return {**result, "ok": False, "error": _error("internal")}
        return {**result, "ok": True}


def _problem(error: LianxinError) -> dict[str, Any]:
    return {"type": "error", "code": error.code, "message": error.message, "message_en": error.message_en}


async def _send(page: Page, message: dict[str, Any]) -> None:
    await page.socket.send_str(json.dumps(message, ensure_ascii=False, separators=(",", ":")))


async def _serve(request: web.Request) -> web.StreamResponse:
    return await request.app[keys.HUB].serve(request)


def routes() -> list[web.RouteDef]:
    return [web.get("/ws", _serve)]
