"""Composition root of a media worker: ``python -m signaling.worker_main CHANNEL_FD``.

Started by ``sfu.node`` only.  It lives as long as its channel: a control process that ends in any way,
kill -9 included, closes the channel, and the worker closes its taps and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import cast

import uvloop

from sfu.channel import Channel
from sfu.errors import ChannelError
from sfu.messages import Event
from sfu.seams import TapFactory
from sfu.startup import WorkerConfig, WorkerReady, WorkerRefused
from sfu.worker import Worker

PR_SET_PDEATHSIG = 1
CONFIG_TIMEOUT_S = 20.0
GRACE_S = 2.0
WATCH_S = 0.5

logger = logging.getLogger("lianxin.worker")


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("signaling.worker_main is started by `lianxin serve`, not by hand")
    parent = os.getppid()
    die_with_parent()
    threading.Thread(target=watch_parent, args=(parent,), daemon=True, name="parent watch").start()
    logging.basicConfig(
        level=os.environ.get("LIANXIN_LOG__LEVEL", "INFO").upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(sock))


async def run(sock: socket.socket) -> None:
    channel = await Channel.over(sock)
    try:
        first = await asyncio.wait_for(channel.receive(), CONFIG_TIMEOUT_S)
    except (TimeoutError, ChannelError):
        first = None
    if first is None or not isinstance(first[1], WorkerConfig):
        await channel.close()
        return
    config = first[1]
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_error)

    def emit(event: Event) -> None:
        # A channel that is gone ends the worker below.
        with contextlib.suppress(ChannelError):
            if not channel.send(event):
                worker.count_lost_event()

    worker = Worker(config, emit, find_tap_factory())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.shut_down.set)
    try:
        await worker.start()
    except OSError as error:
        channel.send(WorkerRefused(error.strerror or str(error)))
        await channel.drain()
        await channel.close()
        return
    channel.send(WorkerReady(worker.udp_port, worker.tcp_port))
    answering = asyncio.create_task(answer(channel, worker))
    stopping = asyncio.create_task(worker.shut_down.wait())
    await asyncio.wait({answering, stopping}, return_when=asyncio.FIRST_COMPLETED)
    threading.Thread(target=end_after_grace, daemon=True, name="grace").start()
    answering.cancel()
    stopping.cancel()
    await asyncio.gather(answering, stopping, return_exceptions=True)
    await worker.stop()
    await channel.drain()
    await channel.close()


async def answer(channel: Channel, worker: Worker) -> None:
    """Ends when the channel does."""
    while True:
        try:
            frame = await channel.receive()
            if frame is None:
                return
            number, request = frame
            reply = worker.handle(request)
            if number:
                channel.send(reply, number)
        except ChannelError as error:
            logger.error("channel: %s", error)
            return


def find_tap_factory() -> TapFactory | None:
    """Recording's tap, if that package is installed: the only place where worker and recording meet."""
    try:
        return cast(TapFactory, importlib.import_module("recording.tap").open_tap)
    except (ImportError, AttributeError):
        logger.warning("recording.tap is not there: this worker can't record")
        return None


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    exception = context.get("exception")
    logger.error(
        "background: %s",
        context.get("message"),
        exc_info=exception if isinstance(exception, BaseException) else None,
    )


def die_with_parent() -> None:
    """SIGTERM from the kernel when the control process dies (prctl(2)); Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def watch_parent(parent: int) -> None:
    """For a worker whose event loop hangs: nothing outlives the control process for long."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    time.sleep(GRACE_S)
    os._exit(1)


def end_after_grace() -> None:
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
