"""ICE over TCP for networks that drop UDP: passive candidates (RFC 6544), frames of RFC 4571.

A bridge beside the relay: each TCP connection gets a UDP socket of its own, connected to the worker's UDP
port on loopback, and frames are carried both ways.  Relay, ICE and DTLS see an ordinary UDP client.

    client ── TCP, 2-byte length + datagram ── Bridge ── UDP on loopback ── the worker's port

A connection proves itself by its first frame, a binding request for a ufrag of ours, and then by ICE
having validated it.  Whoever does neither is closed and counted.  A slow receiver loses whole datagrams
(as on a full UDP line), never a part of one, and holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections import Counter as Tally
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, cast

from sfu.drops import DropReason, Drops
from sfu.messages import Counter
from sfu.seams import Address

FRAME_HEADER_BYTES = 2
MAX_FRAME_BYTES = 4096  # as large as the largest datagram that DTLS takes
MAX_WAITING_BYTES = 192 * 1024  # towards one receiver, in our memory: a key frame and its neighbours
UNSENT_BYTES = 64 * 1024  # and as much in the kernel, beyond what is in flight: old pictures help nobody
SOCKET_BUFFER = 1 << 20
BATCH = 64  # datagrams per turn of the loop
MAX_CONNECTIONS = 1000
MAX_PER_ADDRESS = 250  # a county may sit behind one address
MAX_UNPROVED = 64  # beyond it the one that waits longest is closed: a flood can't lock anybody out
PROOF_MS = 5_000.0
IDLE_MS = 35_000.0  # longer than consent lasts (RFC 7675 §5.1)
TICK_MS = 500.0
FDS_PER_CONNECTION = 2
FDS_KEPT = 200  # for everything else in this process
TCP_NOTSENT_LOWAT = 25  # tcp(7), Linux
TCP_USER_TIMEOUT_MS = 30_000
TCP_RTO_MAX = 44  # Linux 6.15: TCP_RTO_MAX_MS
RTO_MAX_MS = 1000  # a line that returns must not wait for a retransmission that has backed off to seconds


class Refusal(StrEnum):
    """The ``reason`` label of ``lianxin_ice_tcp_refused_total``; values are stable for dashboards."""

    FULL = "full"
    ADDRESS_FULL = "address_full"
    FIRST_FRAME = "first_frame"  # no binding request for a ufrag of ours
    FRAME_SIZE = "frame_size"
    LATE = "late"  # no first frame in time, or crowded out while waiting for it
    UNVALIDATED = "unvalidated"  # ICE did not accept it in time
    IDLE = "idle"


class Checks(Protocol):
    """What the bridges ask of ICE."""

    def knows(self, data: bytes) -> bool:
        """Whether this is a binding request for one of our legs (not yet whether it is genuine)."""

    def leg_at(self, address: Address) -> str | None: ...

    def gone(self, address: Address) -> None:
        """Nobody is at this address any more."""


class Bridge(asyncio.Protocol):
    """One TCP connection and, once its first frame is accepted, its UDP socket."""

    def __init__(self, port: IceTcp) -> None:
        self._port = port
        self._buffer = bytearray()
        self._udp: socket.socket | None = None
        self._transport: asyncio.Transport | None = None
        self.peer: Address = ("", 0)
        self.inner: Address | None = None  # where ICE and the relay see this client
        self.opened_ms = self.heard_ms = port.clock_ms()
        self.valid = False

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = (str(peer[0]), int(peer[1])) if peer else ("", 0)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
                sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX, RTO_MAX_MS)
        refusal = self._port.admit(self)
        if refusal is not None:
            self.refuse(refusal)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= FRAME_HEADER_BYTES:
            size = buffer[at] << 8 | buffer[at + 1]
            if size > MAX_FRAME_BYTES:
                self.refuse(Refusal.FRAME_SIZE)
                return
            start = at + FRAME_HEADER_BYTES
            if end - start < size:
                break
            at = start + size
            if size:  # an empty frame is a keep-alive of some clients
                self._on_frame(bytes(buffer[start:at]))
                if self._transport is None:
                    return
        del buffer[:at]

    def eof_received(self) -> bool:
        return False  # half a connection is of no use: close the other half too

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    # ------------------------------------------------------------ frames

    def _on_frame(self, frame: bytes) -> None:
        self.heard_ms = self._port.clock_ms()
        if self._udp is None:
            if not self._port.checks.knows(frame):
                self.refuse(Refusal.FIRST_FRAME)
                return
            self._open_udp()
            if self._udp is None:
                return
        try:
            self._udp.send(frame)
        except OSError:  # the worker is behind with its port
            self._port.drops.count(DropReason.TCP_INNER_FULL)

    def _open_udp(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            sock.bind(("127.0.0.1", 0))
            self._port.open_inner(self, sock.getsockname())
            sock.connect(self._port.inside)
        except OSError:
            sock.close()
            self.refuse(Refusal.FULL)
            return
        self.inner = sock.getsockname()
        self._udp = sock
        self._port.loop.add_reader(sock.fileno(), self._on_datagrams)

    def _on_datagrams(self) -> None:
        sock, transport = self._udp, self._transport
        if sock is None or transport is None:
            return
        room = MAX_WAITING_BYTES - transport.get_write_buffer_size()
        frames: list[bytes] = []
        for _ in range(BATCH):
            try:
                data = sock.recv(MAX_FRAME_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error: the port below is being opened anew
                continue
            size = len(data)
            if size > MAX_FRAME_BYTES or size + FRAME_HEADER_BYTES > room:
                self._port.drops.count(DropReason.TCP_SLOW)
                continue
            room -= size + FRAME_HEADER_BYTES
            frames += (size.to_bytes(FRAME_HEADER_BYTES, "big"), data)
        if frames:
            transport.write(b"".join(frames))

    # ------------------------------------------------------------ end

    def refuse(self, reason: Refusal) -> None:
        self._port.refused[reason] += 1
        self.abort()

    def abort(self) -> None:
        transport = self._transport
        self._forget()
        if transport is not None:
            transport.abort()

    def _forget(self) -> None:
        """Idempotent."""
        self._transport = None
        self._buffer.clear()
        sock, self._udp = self._udp, None
        if sock is not None:
            self._port.loop.remove_reader(sock.fileno())
            sock.close()
        self._port.forget(self)


class IceTcp:
    """The TCP port of one worker.  ``inside``: the worker's UDP port as reached over loopback."""

    def __init__(self, inside: Address, checks: Checks, clock_ms: Callable[[], float], drops: Drops) -> None:
        self.inside = inside
        self.checks = checks
        self.clock_ms = clock_ms
        self.drops = drops
        self.refused: Tally[Refusal] = Tally()
        self.accepted = 0
        self._bridges: dict[Bridge, None] = {}  # oldest first
        self._unproved: dict[Bridge, None] = {}
        self._by_inner: dict[Address, Bridge] = {}
        self._per_address: Tally[str] = Tally()
        self._server: asyncio.Server | None = None
        self._ticked_ms = 0.0
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else (soft - FDS_KEPT) // FDS_PER_CONNECTION
        self.max_connections = max(8, min(MAX_CONNECTIONS, spare))

    async def start(self, sock: socket.socket) -> None:
        """``sock`` is bound; it is closed by ``stop``."""
        self.loop = asyncio.get_running_loop()
        self.port: int = sock.getsockname()[1]
        self._server = await self.loop.create_server(lambda: Bridge(self), sock=sock, backlog=128)

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for bridge in tuple(self._bridges):
            bridge.abort()
        await server.wait_closed()

    # ------------------------------------------------------------ addresses

    def outer(self, address: Address) -> Address:
        """The client's own address, if ``address`` is a bridge's; otherwise ``address`` itself."""
        bridge = self._by_inner.get(address)
        return bridge.peer if bridge is not None else address

    def bridges(self, address: Address | None) -> bool:
        return address in self._by_inner

    # ------------------------------------------------------------ bridges

    def admit(self, bridge: Bridge) -> Refusal | None:
        if self._server is None or len(self._bridges) >= self.max_connections:
            return Refusal.FULL
        if self._per_address[bridge.peer[0]] >= MAX_PER_ADDRESS:
            return Refusal.ADDRESS_FULL
        if len(self._unproved) >= MAX_UNPROVED:
            next(iter(self._unproved)).refuse(Refusal.LATE)
        self._bridges[bridge] = None
        self._unproved[bridge] = None
        self._per_address[bridge.peer[0]] += 1
        return None

    def open_inner(self, bridge: Bridge, inner: Address) -> None:
        self._by_inner[inner] = bridge
        bridge.inner = inner
        self._unproved.pop(bridge, None)

    def forget(self, bridge: Bridge) -> None:
        """Idempotent."""
        self._unproved.pop(bridge, None)
        if bridge not in self._bridges:
            return
        del self._bridges[bridge]
        host = bridge.peer[0]
        self._per_address[host] -= 1
        if not self._per_address[host]:
            del self._per_address[host]
        if bridge.inner is not None and self._by_inner.get(bridge.inner) is bridge:
            del self._by_inner[bridge.inner]
            self.checks.gone(bridge.inner)

    def tick(self, now_ms: float) -> None:
        """Close who does not prove itself, has left its leg or is silent.  To be called often."""
        if now_ms - self._ticked_ms < TICK_MS:
            return
        self._ticked_ms = now_ms
        for bridge in tuple(self._bridges):
            if bridge.inner is not None and self.checks.leg_at(bridge.inner) is not None:
                if not bridge.valid:
                    bridge.valid = True
                    self.accepted += 1
                if now_ms - bridge.heard_ms >= IDLE_MS:
                    bridge.refuse(Refusal.IDLE)
            elif bridge.valid:
                bridge.abort()  # the leg is closed or checks another address
            elif now_ms - bridge.opened_ms >= PROOF_MS:
                bridge.refuse(Refusal.LATE if bridge.inner is None else Refusal.UNVALIDATED)

    def counters(self) -> list[Counter]:
        return [
            Counter("lianxin_ice_tcp_connections", (), float(len(self._bridges))),
            Counter("lianxin_ice_tcp_accepted_total", (), float(self.accepted)),
            *(
                Counter("lianxin_ice_tcp_refused_total", (("reason", reason.value),), float(number))
                for reason, number in sorted(self.refused.items())
            ),
        ]
