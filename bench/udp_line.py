"""A bad line on one machine: a UDP relay with loss, delay, jitter, a bottleneck and blackouts.

    async with UdpLine(("192.0.2.1", 7882), up=Weather(loss=0.05), down=Weather(delay_ms=30)) as line:
        ...  # clients send to ("127.0.0.1", line.port); the server sees one address per client
        line.black_out()
        line.heal()

Each direction is its own ``Weather``.  A datagram is lost at random (seeded, so that runs repeat), then waits
in the bottleneck's bounded queue (the oldest stay, newcomers are dropped: a plain router), then travels for
the delay and the jitter.  Jitter never reorders: it stretches.  This kernel has no netem; its place is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

Address = tuple[str, int]
MAX_DATAGRAM = 2048
READ_AT_ONCE = 64
IP_UDP_BYTES = 28  # headers count on a bottleneck


@dataclass(frozen=True, slots=True)
class Weather:
    """``loss`` 0 to 1; ``rate_bps`` 0 = no bottleneck; ``queue_ms``: what its queue holds at most."""

    loss: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_bps: float = 0.0
    queue_ms: float = 300.0


@dataclass(slots=True)
class Count:
    passed: int = 0
    lost: int = 0
    overflowed: int = 0
    blacked_out: int = 0
    bytes: int = 0


@dataclass
class Way:
    """One direction of the line.  ``send`` is called when a datagram has arrived at the far end."""

    weather: Weather
    seed: int
    count: Count = field(default_factory=Count)
    dark: bool = False

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._free_at = 0.0  # when the bottleneck has sent what is in its queue
        self._last = 0.0
        self._flying: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def carry(self, size: int, send: Callable[[], None]) -> None:
        """``size`` in bytes of the datagram's payload."""
        weather, loop = self.weather, asyncio.get_running_loop()
        now = loop.time()
        if self.dark:
            self.count.blacked_out += 1
            return
        if weather.loss and self._random.random() < weather.loss:
            self.count.lost += 1
            return
        at = now
        if weather.rate_bps:
            begins = max(now, self._free_at)
            if begins - now > weather.queue_ms / 1000:
                self.count.overflowed += 1
                return
            at = self._free_at = begins + (size + IP_UDP_BYTES) * 8 / weather.rate_bps
        at += weather.delay_ms / 1000
        if weather.jitter_ms:
            at += self._random.random() * weather.jitter_ms / 1000
        self._last = at = max(at, self._last)
        self.count.passed += 1
        self.count.bytes += size
        if at <= now and not self._flying:
            send()
            return
        self._flying.append((at, send))
        if self._timer is None:
            self._timer = loop.call_at(at, self._land)

    def _land(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time() + 0.0005  # what is due within the loop's own accuracy goes too
        self._timer = None
        while self._flying and self._flying[0][0] <= now:
            self._flying.popleft()[1]()
        if self._flying:
            self._timer = loop.call_at(self._flying[0][0], self._land)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._flying.clear()


class UdpLine:
    """Between any number of clients and one ``target``; every client gets a socket of its own towards it."""

    def __init__(
        self,
        target: Address,
        *,
        up: Weather | None = None,
        down: Weather | None = None,
        host: str = "127.0.0.1",
        seed: int = 1,
    ) -> None:
        self.target = target
        self.up = Way(up or Weather(), seed)
        self.down = Way(down or Weather(), seed + 1)
        self._host = host
        self._front: socket.socket | None = None
        self._backs: dict[Address, socket.socket] = {}

    async def __aenter__(self) -> UdpLine:
        self._front = _udp(self._host)
        asyncio.get_running_loop().add_reader(self._front, self._from_clients)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for sock in (self._front, *self._backs.values()):
            if sock is not None:
                loop.remove_reader(sock)
                sock.close()
        self._front = None
        self._backs.clear()
        self.up.close()
        self.down.close()

    @property
    def port(self) -> int:
        """Where clients send to."""
        assert self._front is not None
        return int(self._front.getsockname()[1])

    @property
    def clients(self) -> tuple[Address, ...]:
        return tuple(self._backs)

    def change(self, *, up: Weather | None = None, down: Weather | None = None) -> None:
        """The weather turns."""
        self.up.weather = up or self.up.weather
        self.down.weather = down or self.down.weather

    def black_out(self, *, up: bool = True, down: bool = True) -> None:
        """Nothing passes until ``heal``; what is under way arrives."""
        self.up.dark, self.down.dark = up, down

    def heal(self) -> None:
        self.up.dark = self.down.dark = False

    def _from_clients(self) -> None:
        assert self._front is not None
        for _ in range(READ_AT_ONCE):
            try:
                data, client = self._front.recvfrom(MAX_DATAGRAM)
            except (BlockingIOError, ConnectionError):
                return
            back = self._backs.get(client)
            if back is None:
                back = self._open(client)
            self.up.carry(len(data), lambda data=data, back=back: _send(back, data))  # type: ignore[misc]

    def _open(self, client: Address) -> socket.socket:
        back = self._backs[client] = _udp("0.0.0.0")
        back.connect(self.target)
        asyncio.get_running_loop().add_reader(back, self._from_server, client, back)
        return back

    def _from_server(self, client: Address, back: socket.socket) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                data = back.recv(MAX_DATAGRAM)
            except (BlockingIOError, ConnectionError):
                return
            self.down.carry(len(data), lambda data=data: self._to_client(data, client))  # type: ignore[misc]

    def _to_client(self, data: bytes, client: Address) -> None:
        if self._front is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._front.sendto(data, client)


def _udp(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind((host, 0))
    return sock


def _send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionError, OSError):
        sock.send(data)
