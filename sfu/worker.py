"""A media worker: a UDP port and a TCP port, its clients' transports, and the media plane above the relay.

``handle`` answers every request of ``sfu.messages`` synchronously; events leave through ``emit``.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import Counter as Tally
from dataclasses import replace

from sfu.drops import DropReason, Drops
from sfu.dtls import DtlsIdentity
from sfu.ice import IceLite, IceState
from sfu.ice_tcp import IceTcp
from sfu.interfaces import bind_address, candidate_addresses, host_candidates, tcp_candidates
from sfu.media import MediaPlane
from sfu.messages import (
    CloseRouter,
    CloseTransport,
    ConnectTransport,
    Counter,
    Done,
    Failed,
    OpenDataChannel,
    OpenRouter,
    OpenTransport,
    Reply,
    Report,
    Request,
    RestartIce,
    SendData,
    Shutdown,
    TransportOpened,
)
from sfu.relay import PythonRelay, epoch_clock_ms
from sfu.relays import open_relay
from sfu.seams import Address, Emit, TapFactory
from sfu.startup import WorkerConfig
from sfu.transport import ClientTransport

logger = logging.getLogger(__name__)

TICK_S = 0.05
REPORT_MS = 1000.0
BIND_ATTEMPTS = 40
BIND_RETRY_S = 0.05
MAX_TRANSPORTS = 4096
COMPLAIN_EVERY_MS = 10_000.0


class Worker:
    def __init__(self, config: WorkerConfig, emit: Emit, tap_factory: TapFactory | None = None) -> None:
        self.config = config
        self._emit = emit
        self._tap_factory = tap_factory
        self._clock_ms = epoch_clock_ms()
        self._drops = Drops()
        self._identity = DtlsIdentity()
        self._routers: set[str] = set()
        self._transports: dict[str, ClientTransport] = {}
        self._dtls_failures: Tally[str] = Tally()
        self._task: asyncio.Task[None] | None = None
        self._delay_s = 0.0
        self._complained_ms: float | None = None
        self._bytes_in: dict[str, int] = {}
        self._away: set[str] = set()  # transports whose clients ICE has lost
        self._tcp: IceTcp | None = None
        self.shut_down = asyncio.Event()

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Bind the ports (a predecessor that was just killed may hold them for a moment) and begin.

        Raises OSError, whose ``strerror`` is one sentence, when one stays taken.
        """
        host = bind_address(self.addresses())
        self._sock = await bind_udp(host, self.config.udp_port)
        self.udp_port: int = self._sock.getsockname()[1]
        tcp: socket.socket | None = None
        if self.config.tcp_port is not None:
            try:
                tcp = await bind_tcp(host, self.config.tcp_port)
            except OSError:
                self._sock.close()
                raise
        self._relay = open_relay(self._sock, self, self._clock_ms, self._drops, native=self.config.native)
        self._ice = IceLite(self._relay.send, self, self._clock_ms, self._drops, self._outer)
        if tcp is not None:
            self._tcp = IceTcp(("127.0.0.1", self.udp_port), self._ice, self._clock_ms, self._drops)
            await self._tcp.start(tcp)
        self._media = MediaPlane(self._relay, self._emit, self._clock_ms, self._tap_factory)
        self._relay.start(asyncio.get_running_loop())
        self._task = asyncio.create_task(self._run(), name=f"worker {self.config.worker_id}")

    @property
    def tcp_port(self) -> int | None:
        return self._tcp.port if self._tcp is not None else None

    def _outer(self, address: Address) -> Address:
        return self._tcp.outer(address) if self._tcp is not None else address

    async def stop(self) -> None:
        """Close everything; the clients are told by close_notify.  Repeated: without effect."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for router_id in tuple(self._routers):
            self._close_router(router_id)
        await asyncio.sleep(0)  # what SCTP has started as tasks runs to its end
        if self._tcp is not None:
            await self._tcp.stop()
        self._relay.stop()
        self._sock.close()
        self.shut_down.set()

    def addresses(self) -> tuple[str, ...]:
        """Asked anew for each client: interfaces come and go."""
        return candidate_addresses(self.config.addresses, self.config.loopback)

    # ------------------------------------------------------------ requests

    def handle(self, request: Request) -> Reply:
        """Never raises: an error of ours is logged and answered with Failed("internal")."""
        try:
            return self._handle(request)
        except Exception:
            logger.exception("worker %s: %s failed", self.config.worker_id, type(request).__name__)
            return Failed("internal", f"{type(request).__name__} failed in the worker; see its log")

    def _handle(self, request: Request) -> Reply:
        match request:
            case OpenRouter(router_id):
                if router_id not in self._routers:
                    self._media.open_router(router_id)
                    self._routers.add(router_id)
                return Done()
            case CloseRouter(router_id):
                self._close_router(router_id)
                return Done()
            case OpenTransport(router_id, transport_id):
                return self._open_transport(router_id, transport_id)
            case CloseTransport(transport_id):
                self._close_transport(transport_id)
                return Done()
            case Shutdown():
                self.shut_down.set()
                return Done()
            case ConnectTransport() | RestartIce() | OpenDataChannel() | SendData():
                transport = self._transports.get(request.transport_id)
                if transport is None:
                    return Failed("no_transport", f"transport {request.transport_id} is not open")
                return self._handle_transport(transport, request)
            case _:
                return self._media.handle(request)

    def _handle_transport(
        self,
        transport: ClientTransport,
        request: ConnectTransport | RestartIce | OpenDataChannel | SendData,
    ) -> Reply:
        match request:
            case ConnectTransport():
                if not request.fingerprints:
                    return Failed("no_fingerprint", "a client without a fingerprint is not let in")
                transport.connect(request.fingerprints)
                return Done()
            case RestartIce():
                transport.restart_ice()
                return self._describe(transport)
            case OpenDataChannel():
                transport.data.open_channel(request.label, request.ordered, request.max_retransmits)
                return Done()
            case SendData():
                transport.data.send(request.label, request.payload)
                return Done()

    def _open_transport(self, router_id: str, transport_id: str) -> Reply:
        known = self._transports.get(transport_id)
        if known is not None:
            return self._describe(known)
        if router_id not in self._routers:
            return Failed("no_router", f"router {router_id} is not open")
        if len(self._transports) >= MAX_TRANSPORTS:
            return Failed("full", f"this worker carries {MAX_TRANSPORTS} transports already")
        transport = ClientTransport(
            router_id,
            transport_id,
            ice=self._ice,
            relay=self._relay,
            identity=self._identity,
            emit=self._emit,
            clock_ms=self._clock_ms,
            drops=self._drops,
            count_dtls_failure=self._count_dtls_failure,
        )
        self._media.add_leg(router_id, transport_id)
        self._transports[transport_id] = transport
        return self._describe(transport)

    def _describe(self, transport: ClientTransport) -> TransportOpened:
        addresses = self.addresses()
        candidates = host_candidates(addresses, self.udp_port)
        if self._tcp is not None:
            candidates += tcp_candidates(addresses, self._tcp.port)
        return TransportOpened(
            transport.transport_id,
            transport.ice_parameters,
            candidates,
            self._identity.fingerprints,
        )

    def _close_transport(self, transport_id: str) -> None:
        transport = self._transports.pop(transport_id, None)
        if transport is None:
            return
        self._bytes_in.pop(transport_id, None)
        self._away.discard(transport_id)
        self._media.close_leg(transport_id)
        transport.close()

    def _close_router(self, router_id: str) -> None:
        if router_id not in self._routers:
            return
        for transport in tuple(self._transports.values()):
            if transport.router_id == router_id:
                self._close_transport(transport.transport_id)
        self._routers.discard(router_id)
        self._media.close_router(router_id)

    def count_lost_event(self) -> None:
        """The control process reads too slowly: an event was dropped on the way to it."""
        self._drops.count(DropReason.CHANNEL_FULL)

    def _count_dtls_failure(self, reason: str) -> None:
        self._dtls_failures[reason] += 1

    # ------------------------------------------------------------ DatagramSink

    def on_stun(self, data: bytes, address: Address) -> None:
        self._ice.on_stun(data, address)

    def on_dtls(self, data: bytes, address: Address) -> None:
        """Only from a validated address: a flood of hellos from elsewhere costs us nothing."""
        leg = self._ice.leg_at(address)
        transport = self._transports.get(leg) if leg is not None else None
        if transport is None:
            self._drops.count(DropReason.DTLS_UNKNOWN_ADDRESS)
            return
        transport.on_dtls(data, address)

    # ------------------------------------------------------------ IceObserver

    def ice_selected(self, leg: str, address: Address) -> None:
        transport = self._transports.get(leg)
        if transport is not None:
            transport.ice_selected(address)

    def ice_state(self, leg: str, state: IceState) -> None:
        transport = self._transports.get(leg)
        if transport is None:
            return
        transport.ice_state(state)
        if state is not IceState.CONNECTED:
            self._away.add(leg)
        elif leg in self._away:
            self._away.discard(leg)
            self._media.on_leg_returned(leg)

    # ------------------------------------------------------------ time

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        report_ms = self._clock_ms() + REPORT_MS
        while True:
            due_s += TICK_S
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            late_s = loop.time() - due_s
            self._delay_s = max(self._delay_s, late_s)
            if late_s > 1.0:
                due_s = loop.time()  # the machine slept: don't run after every missed tick
            now_ms = self._clock_ms()
            try:
                self._tick(now_ms)
                if now_ms >= report_ms:
                    report_ms = now_ms + REPORT_MS
                    self._emit(self._report())
            except Exception:
                self._complain(now_ms)

    def _tick(self, now_ms: float) -> None:
        self._media.tick(now_ms)
        self._ice.tick(now_ms)
        if self._tcp is not None:
            self._tcp.tick(now_ms)
        for transport in tuple(self._transports.values()):
            transport.tick(now_ms)

    def _complain(self, now_ms: float) -> None:
        """A bug of ours must neither end the worker nor fill the disk twenty times a second."""
        if self._complained_ms is None or now_ms - self._complained_ms >= COMPLAIN_EVERY_MS:
            self._complained_ms = now_ms
            logger.exception("worker %s: tick failed", self.config.worker_id)

    def _report(self) -> Report:
        producers, consumers, transports, counters = self._media.report()
        for transport_id, report in transports.items():
            if report.bytes_in > self._bytes_in.get(transport_id, 0):
                self._bytes_in[transport_id] = report.bytes_in
                self._ice.note_alive(transport_id)
            if self._tcp is not None and self._tcp.bridges(self._ice.selected(transport_id)):
                transports[transport_id] = replace(report, over_tcp=True)
        delay_s, self._delay_s = self._delay_s, 0.0
        own = (
            Counter("lianxin_worker_cpu_seconds_total", (), cpu_seconds()),
            Counter("lianxin_worker_event_loop_delay_seconds", (), delay_s),
            Counter("lianxin_worker_transports", (), float(len(self._transports))),
            Counter("lianxin_worker_routers", (), float(len(self._routers))),
            Counter("lianxin_worker_ice_checks_total", (), float(self._ice.checks)),
            Counter("lianxin_worker_ice_failures_total", (), float(self._ice.failures)),
            Counter("lianxin_worker_relay_native", (), float(not isinstance(self._relay, PythonRelay))),
            *self._relay.counters(),
            *(self._tcp.counters() if self._tcp is not None else ()),
            *(
                Counter("lianxin_worker_dtls_failures_total", (("reason", reason),), float(count))
                for reason, count in sorted(self._dtls_failures.items())
            ),
        )
        return Report(tuple(producers), tuple(consumers), tuple(transports.values()), (*counters, *own))


def cpu_seconds() -> float:
    """User and system time of this process and all its threads, s."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def bind_udp(host: str, port: int) -> socket.socket:
    """A non-blocking IPv4 UDP socket; ``port`` 0 lets the kernel choose.

    No SO_REUSEADDR: on UDP it would let a second server take the datagrams of the first.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await _bind(sock, host, port, "UDP")
    return sock


async def bind_tcp(host: str, port: int) -> socket.socket:
    """The same for TCP.  SO_REUSEADDR passes over old connections there, not over another server."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await _bind(sock, host, port, "TCP")
    return sock


async def _bind(sock: socket.socket, host: str, port: int, protocol: str) -> None:
    sock.setblocking(False)
    for attempt in range(BIND_ATTEMPTS):
        try:
            sock.bind((host, port))
        except OSError as error:
            if attempt == BIND_ATTEMPTS - 1:
                sock.close()
                reason = f"{protocol} port {port} can't be had: {error.strerror}"
                raise OSError(error.errno, reason) from error
            await asyncio.sleep(BIND_RETRY_S)
        else:
            return
