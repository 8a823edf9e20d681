"""The TCP port under hostile frames, slow senders and half-open connections: others notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
from collections.abc import AsyncIterator

import pytest

from sfu.ice_tcp import MAX_FRAME_BYTES, MAX_UNPROVED
from sfu.messages import DataReceived, OpenRouter, OpenTransport, Report, TransportOpened, TransportState
from sfu.startup import WorkerConfig
from sfu.worker import Worker
from tests.fixtures.sfu_client import EventLog, sfu_client
from tests.fixtures.sfu_tcp_path import TcpPath, binding_request, framed, tcp_path
from tests.fuzz.test_sfu_strangers import mutate

CONNECTIONS = 150


@pytest.fixture
async def worker(event_log: EventLog, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Worker]:
    caplog.set_level(logging.WARNING)
    loop_errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: loop_errors.append(context))
    worker = Worker(WorkerConfig("w0", 0, ("127.0.0.1",), tcp_port=0), event_log)
    await worker.start()
    worker.handle(OpenRouter("r"))
    yield worker
    await worker.stop()
    assert loop_errors == []
    assert [r for r in caplog.records if r.name.startswith(("sfu", "asyncio"))] == []


def open_transport(worker: Worker, transport_id: str) -> TransportOpened:
    opened = worker.handle(OpenTransport("r", transport_id))
    assert isinstance(opened, TransportOpened)
    return opened


def rubbish(chance: random.Random, check: bytes) -> bytes:
    """What one connection says: frames in all states of decay."""
    frames = []
    for _ in range(chance.randint(1, 6)):
        match chance.randrange(6):
            case 0:
                frames.append(framed(check))
            case 1:
                frames.append(framed(mutate(chance, check)))
            case 2:
                frames.append(framed(chance.randbytes(chance.randrange(1, 2000))))
            case 3:
                frames.append(struct.pack("!H", chance.choice((0, 1, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1))))
            case 4:
                frames.append(framed(b"\x16\xfe\xfd" + chance.randbytes(60)))
            case 5:
                frames.append(framed(b"\x80\x6f" + chance.randbytes(40)))
    return mutate(chance, b"".join(frames)) if chance.random() < 0.5 else b"".join(frames)


async def speak(worker: Worker, chance: random.Random, check: bytes) -> None:
    path = await TcpPath.open(worker.tcp_port or 0)
    data = rubbish(chance, check)
    with contextlib.suppress(ConnectionError):
        for at in range(0, len(data), 97) if chance.random() < 0.3 else (0,):
            path.writer.write(data[at : at + 97] if at else data)
            await path.writer.drain()
        match chance.randrange(3):
            case 0:
                path.writer.write_eof()  # half-open: it would go on listening
                async with asyncio.timeout(10):
                    await path.ended
            case 1:
                path.writer.transport.abort()
    await path.close()


@pytest.mark.parametrize("seed", range(3))
async def test_rubbish_disturbs_nobody(worker: Worker, event_log: EventLog, seed: int) -> None:
    chance = random.Random(seed)
    async with sfu_client() as client, tcp_path(worker.tcp_port or 0) as honest:
        client.create_channel("_reliable")
        opened = open_transport(worker, "good")
        worker.handle(client.connect_request("good"))
        await client.connect(opened)
        channel = await client.open("_reliable")
        over_tcp = open_transport(worker, "tcp")
        await honest.check(over_tcp)
        victim = open_transport(worker, "victim")
        check = bytes(binding_request(victim.ice))
        # Some know a ufrag and not the password, some replay a genuine check, the rest know nothing.
        forged = bytes(binding_request(victim.ice, password="guessed"))
        for at in range(0, CONNECTIONS, 10):
            await asyncio.gather(
                *(speak(worker, chance, check if chance.random() < 0.5 else forged) for _ in range(10))
            )
            channel.send(f"still here {at}")
            await honest.check(over_tcp)
        await event_log.expect(DataReceived("good", "_reliable", f"still here {CONNECTIONS - 10}".encode()))
        assert TransportState("good", "failed") not in event_log.events
        # Whatever was left half-open is gone by its deadline; the honest one stays.
        await event_log.wait(lambda event: isinstance(event, Report) and connections(event) == 1)
        await honest.check(over_tcp)


def connections(report: Report) -> float:
    return sum(c.value for c in report.counters if c.name == "lianxin_ice_tcp_connections")


async def test_a_crowd_of_silent_and_slow_connections_keeps_nobody_out(
    worker: Worker, event_log: EventLog
) -> None:
    crowd = [await TcpPath.open(worker.tcp_port or 0) for _ in range(MAX_UNPROVED + 20)]
    for number, path in enumerate(crowd):
        with contextlib.suppress(ConnectionError):
            path.writer.write(b"\x01\x00"[: number % 3])  # nothing, half a length, a length and no frame
    async with tcp_path(worker.tcp_port or 0) as late_comer:
        answer = await late_comer.check(open_transport(worker, "t"))
        assert answer.message_class.name == "RESPONSE"
    await asyncio.gather(*(path.close() for path in crowd))
