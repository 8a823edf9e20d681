"""The door of the HTTP port: bounds connections before any request has been read.

aiohttp waits for a first request for ever and knows no limit per address.  Here a connection that has
not sent a whole request head in time is closed, and an address can't hold more than its share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from core import counters

HEAD_TIMEOUT_S = 15.0
_HEAD_END = b"\r\n\r\n"


class Door:
    """Protocol factory: wraps the one of ``web.Server``."""

    def __init__(
        self,
        inner: Callable[[], asyncio.Protocol],
        per_address: int,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        exempt: Callable[[str], bool] = lambda _address: False,
    ) -> None:
        self._inner = inner
        self._per_address = per_address
        self._exempt = exempt
        self.head_timeout_s = head_timeout_s
        self._open: dict[str, int] = {}

    def __call__(self) -> asyncio.Protocol:
        return _Guarded(self, self._inner)

    def admit(self, address: str) -> bool:
        if self._open.get(address, 0) >= self._per_address and not self._exempt(address):
            counters.refused("connection_number")
            return False
        self._open[address] = self._open.get(address, 0) + 1
        return True

    def leave(self, address: str) -> None:
        left = self._open.get(address, 0) - 1
        if left > 0:
            self._open[address] = left
        else:
            self._open.pop(address, None)


class _Guarded(asyncio.Protocol):
    def __init__(self, door: Door, inner: Callable[[], asyncio.Protocol]) -> None:
        self._door = door
        self._make_inner = inner
        self._inner: asyncio.Protocol | None = None
        self._address = ""
        self._tail = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain = cast(asyncio.Transport, transport)
        peer = plain.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        if not self._door.admit(self._address):
            plain.abort()
            return
        self._inner = self._make_inner()
        self._timer = asyncio.get_running_loop().call_later(self._door.head_timeout_s, self._too_slow, plain)
        self._inner.connection_made(plain)

    def _too_slow(self, transport: asyncio.Transport) -> None:
        counters.refused("slow_request")
        transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        if self._timer is not None:
            seen = self._tail + data
            if _HEAD_END in seen:
                self._timer.cancel()
                self._timer, self._tail = None, b""
            else:
                self._tail = seen[-3:]
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._inner is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._door.leave(self._address)
        self._inner.connection_lost(error)
