"""One WebSocket of a participant: a bounded outbox, a reader, and nothing that outlives the link."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import WebSocketError, WSMsgType, web
from livekit.protocol import rtc

from core import counters
from core.clock import Clock
from signaling.livekit import messages
from signaling.livekit.limits import Bucket, Limits

log = structlog.get_logger(__name__)
POLICY_VIOLATION = 1008  # RFC 6455 §7.4.1
TOO_BIG = 1009
OK = 1000
GOING_AWAY = 1001


class Session:
    """``send`` never waits: a client that does not read is closed, and may resume."""

    def __init__(self, ws: web.WebSocketResponse, limits: Limits, clock: Clock) -> None:
        self._ws = ws
        self._limits = limits
        self._clock = clock
        self._outbox: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._rate = Bucket(limits.messages_per_s, limits.message_burst, clock.monotonic())
        self._trickles = Bucket(limits.trickles_per_s, limits.trickles_per_s * 4, clock.monotonic())
        self._closing: tuple[int, str] | None = None
        self.heard_at = clock.monotonic()
        self.left = False  # the client said goodbye

    def send(self, message: rtc.SignalResponse) -> None:
        self.send_encoded(message.SerializeToString())

    def send_encoded(self, message: bytes) -> None:
        """For what many get: encoded once."""
        if self._closing is not None:
            return
        if len(self._outbox) >= self._limits.send_queue:
            counters.refused("livekit_slow_client")
            self._outbox.clear()
            self.close(POLICY_VIOLATION, "too slow")
            return
        self._outbox.append(message)
        self._wake.set()

    def close(self, code: int = OK, reason: str = "") -> None:
        """After what is queued has been sent."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()

    @property
    def closing(self) -> bool:
        return self._closing is not None

    async def run(self, handle: Callable[[rtc.SignalRequest], Awaitable[None]]) -> None:
        """Until either side closes.  ``handle`` is awaited message by message, in order."""
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(handle))
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if self._closing is not None and not writer.done():
                await asyncio.wait({writer}, timeout=self._limits.send_timeout_s)  # the Leave goes out
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            code, reason = self._closing or (OK, "")
            self._closing = (code, reason)
            try:
                await asyncio.wait_for(self._ws.close(code=code, message=reason.encode()), 5)
            except (TimeoutError, ConnectionError, RuntimeError):
                counters.refused("livekit_close_failed")

    async def _write(self) -> None:
        while True:
            while self._outbox:
                data = self._outbox.popleft()
                try:
                    await asyncio.wait_for(self._ws.send_bytes(data), self._limits.send_timeout_s)
                except TimeoutError:
                    counters.refused("livekit_slow_client")
                    return
                except (ConnectionError, RuntimeError):
                    return
            if self._closing is not None:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _read(self, handle: Callable[[rtc.SignalRequest], Awaitable[None]]) -> None:
        async for frame in self._ws:
            now = self._clock.monotonic()
            self.heard_at = now
            if frame.type is not WSMsgType.BINARY:
                if frame.type is WSMsgType.TEXT:
                    self._refuse("livekit_text", "text messages are not served")
                elif frame.type is WSMsgType.ERROR and isinstance(frame.data, WebSocketError):
                    big = frame.data.code == TOO_BIG
                    counters.refused("livekit_message_size" if big else "livekit_frame")
                return
            if not self._rate.take(now):
                self._refuse("livekit_rate", "too many messages")
                return
            try:
                request = messages.parse_request(frame.data)
            except messages.MessageError as error:
                self._refuse("livekit_malformed", str(error))
                return
            if request.HasField("trickle") and not self._trickles.take(now):
                counters.refused("livekit_trickle_rate")
                continue
            await handle(request)
            if self._closing is not None:
                return

    def _refuse(self, reason: str, text: str) -> None:
        counters.refused(reason)
        log.info("a LiveKit client is disconnected", reason=reason)
        self.close(POLICY_VIOLATION, text)
