"""A machine with media, seen from its control process: its workers, started, watched and asked.

Each worker is a process joined by one end of a socket pair, so there is no path on disk to guard and
nothing to clean up.  A worker that dies, or stops reporting, is started again on its own port.
``workers=0`` keeps one worker inside this process, for tests and very small machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfu.channel import Channel
from sfu.errors import ChannelError, SfuError, WorkerLost
from sfu.messages import Event, Failed, Reply, Report, Request, Shutdown
from sfu.seams import TapFactory
from sfu.startup import WorkerConfig, WorkerReady, WorkerRefused

logger = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-m", "signaling.worker_main")
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 3.0
SILENCE_S = 10.0  # without a Report: the worker hangs
FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
STEADY_S = 10.0  # alive this long: the next death starts the backoff anew
MAX_PENDING = 10_000
STDERR = 2


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """``workers`` None: one per spare core, at least one; 0: inside this process.

    Worker i listens on UDP ``udp_port`` + i and TCP ``tcp_port`` + i (0: any free port each; None: no TCP).
    ``addresses`` are told to clients; empty: the machine's interfaces, and 127.0.0.1 with ``loopback``.
    ``native``: the C relay where it can be had.
    """

    workers: int | None = None
    udp_port: int = 7882
    tcp_port: int | None = None
    native: bool = True
    addresses: tuple[str, ...] = ()
    loopback: bool = False
    command: Sequence[str] = WORKER_COMMAND

    @property
    def worker_count(self) -> int:
        return self.workers if self.workers is not None else max(1, (os.cpu_count() or 1) - 1)


class LocalWorker:
    """The worker inside this process.  Events come through the loop, never from within a request."""

    def __init__(
        self, config: WorkerConfig, on_event: Callable[[str, Event], None], tap_factory: TapFactory | None
    ) -> None:
        self.worker_id = config.worker_id
        self._config = config
        self._tap_factory = tap_factory
        self._on_event = on_event
        self.alive = False

    async def start(self) -> None:
        # Not at the top: a control process with worker processes needs no media code in its memory.
        from sfu.worker import Worker

        self._loop = asyncio.get_running_loop()
        self.worker = Worker(self._config, self._emit, self._tap_factory)
        await self.worker.start()
        self.alive = True

    async def close(self) -> None:
        if self.alive:
            self.alive = False
            await self.worker.stop()

    async def request(self, message: Request, timeout_s: float) -> Reply:
        if not self.alive:
            raise WorkerLost(self.worker_id)
        return self.worker.handle(message)

    def post(self, message: Request) -> None:
        if self.alive:
            self.worker.handle(message)

    def _emit(self, event: Event) -> None:
        self._loop.call_soon(self._on_event, self.worker_id, event)


class RemoteWorker:
    """One worker process and its successors."""

    def __init__(
        self,
        config: WorkerConfig,
        command: Sequence[str],
        on_event: Callable[[str, Event], None],
        on_lost: Callable[[str], None],
        on_up: Callable[[str], None],
    ) -> None:
        self.worker_id = config.worker_id
        self.config = config
        self.process: asyncio.subprocess.Process | None = None
        self.alive = False
        self.udp_port = config.udp_port
        self.tcp_port = config.tcp_port
        self.starts = 0
        self._command = command
        self._on_event = on_event
        self._on_lost = on_lost
        self._on_up = on_up
        self._channel: Channel | None = None
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._last_number = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._closing = False
        self._heard_s = 0.0

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Raises SfuError when the first process does not come up; later ones are tried for ever."""
        await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"supervisor of {self.worker_id}")

    async def close(self) -> None:
        self._closing = True
        if self._supervisor is not None:
            if self.alive:
                self.post(Shutdown())
            done, _ = await asyncio.wait({self._supervisor}, timeout=STOP_TIMEOUT_S)
            if not done:
                self._supervisor.cancel()
                await asyncio.gather(self._supervisor, return_exceptions=True)
        await self._end_process()

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            # Its own session: a terminal's Ctrl-C reaches the control process, which then closes its workers.
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=STDERR,  # our own output belongs to the operator's scripts
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise SfuError("worker_start", f"worker {self.worker_id} can't be started: {error}") from error
        finally:
            theirs.close()
        self.starts += 1
        self._channel = await Channel.over(ours)
        try:
            self._channel.send(self.config)
            frame = await asyncio.wait_for(self._channel.receive(), START_TIMEOUT_S)
        except (TimeoutError, ChannelError):
            frame = None
        match frame:
            case (_, WorkerReady(udp_port=udp_port, tcp_port=tcp_port)):
                self.udp_port = udp_port
                self.tcp_port = tcp_port
                self.alive = True
            case (_, WorkerRefused(reason=reason)):
                await self._end_process()
                raise SfuError("worker_start", f"worker {self.worker_id}: {reason}")
            case _:
                await self._end_process()
                raise SfuError("worker_start", f"worker {self.worker_id} did not come up")

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while True:
            since_s = loop.time()
            watch = asyncio.create_task(self._watch(), name=f"watch of {self.worker_id}")
            await self._listen()
            watch.cancel()
            self._lose()
            await self._end_process()
            if self._closing:
                return
            if loop.time() - since_s >= STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            while not self.alive:
                await asyncio.sleep(backoff_s)
                backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)
                if self._closing:
                    return
                try:
                    await self._spawn()
                except (SfuError, OSError) as error:
                    logger.error("worker %s: %s; trying again", self.worker_id, error)
            logger.warning("media worker %s is up again", self.worker_id)
            self._on_up(self.worker_id)

    async def _watch(self) -> None:
        """Kill a worker that hangs: it owes a Report every second."""
        loop = asyncio.get_running_loop()
        self._heard_s = loop.time()
        while True:
            before_s = loop.time()
            await asyncio.sleep(1)
            if loop.time() - before_s > 2:
                self._heard_s = loop.time()  # it was we who slept
            if loop.time() - self._heard_s >= SILENCE_S and self.process is not None:
                logger.error("media worker %s is silent for %d s: killed", self.worker_id, SILENCE_S)
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                return

    async def _listen(self) -> None:
        """Returns when the worker is gone or talks nonsense."""
        channel = self._channel
        assert channel is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                frame = await channel.receive()
            except ChannelError as error:
                logger.error("media worker %s: %s", self.worker_id, error)
                return
            if frame is None:
                return
            self._heard_s = loop.time()
            number, word = frame
            if number == 0:
                self._on_event(self.worker_id, word)
            else:
                future = self._pending.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(word)

    def _lose(self) -> None:
        was_alive, self.alive = self.alive, False
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(WorkerLost(self.worker_id))
        if was_alive and not self._closing:
            logger.error("media worker %s is lost", self.worker_id)
            self._on_lost(self.worker_id)

    async def _end_process(self) -> None:
        """Close the channel, give the process a moment, kill it, and wait until its port is free."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        process, self.process = self.process, None
        self.alive = False
        if process is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S if self._closing else 0.5):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    # ------------------------------------------------------------ words

    async def request(self, message: Request, timeout_s: float) -> Reply:
        channel = self._channel
        if not self.alive or channel is None:
            raise WorkerLost(self.worker_id)
        if len(self._pending) >= MAX_PENDING:
            raise SfuError("overload", f"worker {self.worker_id} has {MAX_PENDING} requests waiting")
        self._last_number += 1
        number = self._last_number
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            channel.send(message, number)
            async with asyncio.timeout(timeout_s):
                return await future
        except ChannelError as error:
            raise SfuError("channel", str(error)) from error
        except TimeoutError:
            raise SfuError(
                "timeout", f"worker {self.worker_id} did not answer {type(message).__name__} in {timeout_s} s"
            ) from None
        finally:
            self._pending.pop(number, None)

    def post(self, message: Request) -> None:
        channel = self._channel
        if not self.alive or channel is None:
            return
        try:
            channel.send(message)
        except ChannelError as error:
            logger.warning("media worker %s: %s not sent: %s", self.worker_id, type(message).__name__, error)


class MediaNode:
    """All workers of this machine."""

    def __init__(self, config: NodeConfig, tap_factory: TapFactory | None = None) -> None:
        """``tap_factory`` serves the worker inside this process only; worker processes have their own."""
        self.config = config
        self.on_event: list[Callable[[str, Event], None]] = []
        self.on_worker_lost: list[Callable[[str], None]] = []
        self.on_worker_up: list[Callable[[str], None]] = []
        self.reports: dict[str, Report] = {}
        self._workers: dict[str, LocalWorker | RemoteWorker] = {}
        self._placed: dict[str, int] = {}
        if config.worker_count == 0:
            local = LocalWorker(self._worker_config(0), self._dispatch, tap_factory)
            self._workers[local.worker_id] = local
        for index in range(config.worker_count):
            remote = RemoteWorker(
                self._worker_config(index), config.command, self._dispatch, self._lost, self._up
            )
            self._workers[remote.worker_id] = remote

    def _worker_config(self, index: int) -> WorkerConfig:
        config = self.config
        udp_port = config.udp_port + index if config.udp_port else 0
        tcp_port = config.tcp_port + index if config.tcp_port else config.tcp_port
        return WorkerConfig(
            f"w{index}", udp_port, tuple(config.addresses), config.loopback, tcp_port, config.native
        )

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Returns when every worker listens.  Raises SfuError or OSError when one can't."""
        results = await asyncio.gather(
            *(worker.start() for worker in self._workers.values()), return_exceptions=True
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            await self.close()
            raise errors[0]

    async def close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self._workers.values()))

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """Only those alive."""
        return tuple(worker_id for worker_id, worker in self._workers.items() if worker.alive)

    @property
    def restarts(self) -> int:
        """How many times a worker had to be started again."""
        return sum(max(0, w.starts - 1) for w in self._workers.values() if isinstance(w, RemoteWorker))

    @property
    def ready(self) -> bool:
        return len(self.worker_ids) == len(self._workers)

    def udp_ports(self) -> dict[str, int]:
        return {
            worker_id: w.udp_port if isinstance(w, RemoteWorker) else w.worker.udp_port
            for worker_id, w in self._workers.items()
            if w.alive
        }

    def tcp_ports(self) -> dict[str, int]:
        """Of the workers that listen on TCP too."""
        ports = {
            worker_id: w.tcp_port if isinstance(w, RemoteWorker) else w.worker.tcp_port
            for worker_id, w in self._workers.items()
            if w.alive
        }
        return {worker_id: port for worker_id, port in ports.items() if port is not None}

    def pids(self) -> dict[str, int]:
        """Process ids of the worker processes that are alive."""
        return {
            worker_id: w.process.pid
            for worker_id, w in self._workers.items()
            if isinstance(w, RemoteWorker) and w.alive and w.process is not None
        }

    def place(self) -> str:
        """The worker for a new room: the one with the fewest streams and fewest rooms just placed.

        Raises SfuError("no_worker") when none is alive.
        """
        alive = self.worker_ids
        if not alive:
            raise SfuError("no_worker", "no media worker is alive")
        chosen = min(alive, key=self._load)
        self._placed[chosen] = self._placed.get(chosen, 0) + 1
        return chosen

    def _load(self, worker_id: str) -> tuple[int, int]:
        report = self.reports.get(worker_id)
        streams = 0 if report is None else len(report.producers) + len(report.consumers)
        placed = self._placed.get(worker_id, 0)
        return (streams + placed, placed)

    # ------------------------------------------------------------ words

    async def request(self, worker_id: str, message: Request, timeout_s: float = 5) -> Reply:
        """The worker's reply.  Raises SfuError on Failed and on time-out, WorkerLost when it died."""
        worker = self._workers.get(worker_id)
        if worker is None:
            raise WorkerLost(worker_id)
        reply = await worker.request(message, timeout_s)
        if isinstance(reply, Failed):
            raise SfuError(reply.code, reply.reason)
        return reply

    def post(self, worker_id: str, message: Request) -> None:
        """No answer wanted; to a dead worker it is lost.  Never raises."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.post(message)

    def _dispatch(self, worker_id: str, event: Event) -> None:
        if isinstance(event, Report):
            self.reports[worker_id] = event
            self._placed.pop(worker_id, None)
        for listener in tuple(self.on_event):
            self._tell(listener, worker_id, event)

    def _lost(self, worker_id: str) -> None:
        self.reports.pop(worker_id, None)
        self._placed.pop(worker_id, None)
        for listener in tuple(self.on_worker_lost):
            self._tell(listener, worker_id)

    def _up(self, worker_id: str) -> None:
        for listener in tuple(self.on_worker_up):
            self._tell(listener, worker_id)

    def _tell(self, listener: Callable[..., None], *what: object) -> None:
        try:
            listener(*what)
        except Exception:
            # One listener's bug must not stop the worker's line.
            logger.exception("a listener of the media node failed")
