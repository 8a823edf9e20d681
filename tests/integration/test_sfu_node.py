"""Worker processes: started, killed, started again; nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from sfu.errors import SfuError, WorkerLost
from sfu.messages import (
    CloseRouter,
    DataChannelOpened,
    DataReceived,
    Done,
    OpenRouter,
    OpenTransport,
    Report,
    SendData,
    TransportOpened,
    TransportState,
)
from sfu.node import MediaNode, NodeConfig
from tests.fixtures.sfu_client import EventLog, sfu_client

LOOPBACK = ("127.0.0.1",)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def running(config: NodeConfig) -> AsyncIterator[MediaNode]:
    node = MediaNode(config)
    await node.start()
    try:
        yield node
    finally:
        await node.close()


@pytest.fixture(params=[0, 1], ids=["in-process", "worker-process"])
async def node(request: pytest.FixtureRequest) -> AsyncIterator[MediaNode]:
    async with running(NodeConfig(workers=request.param, udp_port=0, addresses=LOOPBACK)) as node:
        yield node


async def test_a_client_talks_through_the_node(node: MediaNode, event_log: EventLog) -> None:
    node.on_event.append(event_log.on_event)
    worker_id = node.place()
    assert await node.request(worker_id, OpenRouter("r")) == Done()
    opened = await node.request(worker_id, OpenTransport("r", "t"))
    assert isinstance(opened, TransportOpened)
    assert await node.request(worker_id, OpenTransport("r", "t")) == opened
    async with sfu_client() as client:
        client.create_channel("_reliable")
        await node.request(worker_id, client.connect_request("t"))
        await client.connect(opened)
        await event_log.expect(TransportState("t", "connected"))
        await event_log.expect(DataChannelOpened("t", "_reliable"))
        (await client.open("_reliable")).send(b"up")
        await event_log.expect(DataReceived("t", "_reliable", b"up"))
        node.post(worker_id, SendData("t", "_reliable", b"down"))
        async with asyncio.timeout(10):
            assert await client.messages.get() == ("_reliable", b"down")
        await event_log.wait(lambda event: isinstance(event, Report))
        assert node.reports[worker_id].counters
        assert await node.request(worker_id, CloseRouter("r")) == Done()
        await event_log.expect(TransportState("t", "closed"))


async def test_a_refusal_becomes_an_error_with_its_code(node: MediaNode) -> None:
    with pytest.raises(SfuError) as refused:
        await node.request(node.place(), OpenTransport("nowhere", "t"))
    assert refused.value.code == "no_router"


async def test_a_killed_worker_is_noticed_and_started_again_on_its_port(event_log: EventLog) -> None:
    port = free_udp_port()
    async with running(NodeConfig(workers=1, udp_port=port, addresses=LOOPBACK)) as node:
        lost: list[str] = []
        up = asyncio.Event()
        node.on_worker_lost.append(lost.append)
        node.on_worker_up.append(lambda worker_id: up.set())
        worker_id = node.place()
        await node.request(worker_id, OpenRouter("r"))
        pid = node.pids()[worker_id]
        os.kill(pid, signal.SIGSTOP)  # so that the request below is still unanswered when it dies
        waiting = asyncio.create_task(node.request(worker_id, OpenTransport("r", "t"), timeout_s=60))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await waiting
        assert lost == [worker_id]
        async with asyncio.timeout(20):
            await up.wait()
        assert node.restarts == 1
        assert node.udp_ports() == {worker_id: port}
        assert node.pids()[worker_id] != pid
        await node.request(worker_id, OpenRouter("r"))
        opened = await node.request(worker_id, OpenTransport("r", "t"))
        assert isinstance(opened, TransportOpened)
        assert opened.candidates[0].port == port


async def test_each_worker_has_its_own_port() -> None:
    port = free_udp_port()
    async with running(NodeConfig(workers=2, udp_port=port, addresses=LOOPBACK)) as node:
        assert node.udp_ports() == {"w0": port, "w1": port + 1}
        assert {node.place(), node.place()} == {"w0", "w1"}


async def test_a_taken_port_is_said_plainly() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        node = MediaNode(NodeConfig(workers=1, udp_port=port, addresses=LOOPBACK))
        with pytest.raises(SfuError, match=f"UDP port {port}"):
            await node.start()
        assert node.worker_ids == ()


CONTROL = """
import asyncio, sys
from sfu.node import MediaNode, NodeConfig

async def main():
    node = MediaNode(NodeConfig(workers=1, udp_port=0, addresses=("127.0.0.1",)))
    await node.start()
    print(node.pids()["w0"], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("hung", [False, True], ids=["running", "hung"])
def test_kill_9_of_the_control_process_leaves_no_worker(hung: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", CONTROL], stdout=subprocess.PIPE) as control:
        assert control.stdout is not None
        pid = int(control.stdout.readline())
        worker = psutil.Process(pid)
        try:
            if hung:
                worker.suspend()
            control.kill()
            control.wait()
            if hung:
                worker.resume()
            worker.wait(20)
        finally:
            if worker.is_running():
                worker.kill()
                pytest.fail("the worker has outlived its control process")


async def test_a_worker_that_hangs_is_killed_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfu.node.SILENCE_S", 2.0)
    async with running(NodeConfig(workers=1, udp_port=0, addresses=LOOPBACK)) as node:
        up = asyncio.Event()
        node.on_worker_up.append(lambda worker_id: up.set())
        pid = node.pids()["w0"]
        os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(30):
            await up.wait()
        assert node.restarts == 1
        assert not psutil.pid_exists(pid)
