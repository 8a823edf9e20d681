"""Mutated STUN, DTLS and SCTP: dropped and counted; nothing raised, logged or left behind."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiortc.rtcsctptransport import CHUNK_CLASSES, crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from sfu.ice import parse_stun, peek_username
from sfu.messages import DataReceived, OpenRouter, OpenTransport, TransportOpened, TransportState
from sfu.sctp import well_formed
from sfu.startup import WorkerConfig
from sfu.worker import Worker
from tests.fixtures.sfu_client import EventLog, SfuClient, sfu_client
from tests.unit.test_sfu_ice import binding_request
from tests.unit.test_sfu_sctp import Pair

ROUNDS = 3000
CHUNK_KINDS = [cls.type for cls in CHUNK_CLASSES if cls.type != 6] + [77]  # an ABORT would end the fun
STRANGER = ("127.0.0.1", 9)


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, lengthen, or put extreme numbers where lengths may be."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not out:
            break
        at = chance.randrange(len(out))
        match chance.randrange(6):
            case 0:
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del out[at:]
            case 3:
                out[at:at] = out[at : at + chance.randrange(32)]
            case 4:
                out[at : at + 2] = struct.pack("!H", chance.choice((0, 1, 3, 4, 0xFFFF, 0x7FFF)))
            case 5:
                out += chance.randbytes(chance.randrange(16))
    return bytes(out)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_parsers_take_any_bytes(data: bytes) -> None:
    well_formed(data)
    peek_username(data)
    parse_stun(data)


@pytest.fixture
async def worker(event_log: EventLog, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Worker]:
    caplog.set_level(logging.WARNING)
    loop_errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: loop_errors.append(context))
    worker = Worker(WorkerConfig("w0", 0, ("127.0.0.1",)), event_log)
    await worker.start()
    worker.handle(OpenRouter("r"))
    yield worker
    await worker.stop()
    assert loop_errors == []
    assert [r for r in caplog.records if r.name.startswith(("sfu", "asyncio"))] == []


async def connect(worker: Worker, client: SfuClient, transport_id: str) -> None:
    opened = worker.handle(OpenTransport("r", transport_id))
    assert isinstance(opened, TransportOpened)
    worker.handle(client.connect_request(transport_id))
    client.create_channel("_reliable")
    await client.connect(opened)
    await client.open("_reliable")


async def still_serves(client: SfuClient, event_log: EventLog, transport_id: str) -> None:
    client.opened["_reliable"].send(b"still here")
    await event_log.expect(DataReceived(transport_id, "_reliable", b"still here"))


async def test_mutated_stun_disturbs_nobody(worker: Worker, event_log: EventLog) -> None:
    chance = random.Random(1)
    async with sfu_client() as client:
        await connect(worker, client, "t")
        opened = worker.handle(OpenTransport("r", "t"))
        assert isinstance(opened, TransportOpened)
        check = binding_request(opened.ice, nominate=True)
        for _ in range(ROUNDS):
            mutated = mutate(chance, check)
            if mutated[:-8] != check[:-8] and not mutated.startswith(check[:-8]):  # what integrity covers
                worker.on_stun(mutated, STRANGER)
        assert worker._ice.leg_at(STRANGER) is None
        await still_serves(client, event_log, "t")


async def test_mutated_dtls_from_the_clients_own_address(worker: Worker, event_log: EventLog) -> None:
    """A forged record in a connected client's name is thrown away."""
    chance = random.Random(2)
    async with sfu_client() as client:
        sent: list[bytes] = []
        send = client.ice._send

        async def remember(data: bytes) -> None:
            sent.append(data)
            await send(data)

        client.ice._send = remember
        await connect(worker, client, "t")
        transport = worker._transports["t"]
        assert transport._selected is not None
        records = [data for data in sent if 20 <= data[0] < 64]
        assert len(records) > 3
        for _ in range(ROUNDS):
            worker.on_dtls(mutate(chance, chance.choice(records)) or b"\x16", transport._selected)
        await still_serves(client, event_log, "t")
        assert TransportState("t", "failed") not in event_log.events


async def test_mutated_handshakes_fail_alone(worker: Worker, event_log: EventLog) -> None:
    chance = random.Random(3)
    async with sfu_client() as bystander:
        await connect(worker, bystander, "bystander")
        async with sfu_client() as donor:
            hello: list[bytes] = []
            send = donor.ice._send

            async def remember(data: bytes) -> None:
                hello.append(data)
                await send(data)

            donor.ice._send = remember
            await connect(worker, donor, "donor")
        for number in range(300):
            transport_id = f"t{number}"
            opened = worker.handle(OpenTransport("r", transport_id))
            assert isinstance(opened, TransportOpened)
            address = ("127.0.0.1", 20000 + number)
            worker.on_stun(binding_request(opened.ice, nominate=True), address)
            for record in hello[:4]:
                worker.on_dtls(mutate(chance, record) or b"\x16", address)
        await still_serves(bystander, event_log, "bystander")


async def test_mutated_sctp_from_a_let_in_client(worker: Worker, event_log: EventLog) -> None:
    """The worst stranger: one with a token.  It may spoil its own association, and nothing else."""
    chance = random.Random(4)
    async with sfu_client() as bystander, sfu_client() as hostile:
        await connect(worker, bystander, "bystander")
        sent: list[bytes] = []
        send = hostile.dtls._send_data

        async def remember(data: bytes) -> None:
            sent.append(data)
            await send(data)

        hostile.dtls._send_data = remember
        await connect(worker, hostile, "hostile")
        hostile.opened["_reliable"].send(bytes(5000))
        await event_log.wait(lambda event: isinstance(event, DataReceived))
        for number in range(ROUNDS):
            tag = hostile.sctp._remote_verification_tag
            worker._transports["hostile"].data.on_packet(mutate_sctp(chance, chance.choice(sent), tag))
            if number % 100 == 0:
                await asyncio.sleep(0)  # what was started as a task runs, and fails, now
        await asyncio.sleep(0)
        await still_serves(bystander, event_log, "bystander")


def mutate_sctp(chance: random.Random, packet: bytes, tag: int) -> bytes:
    """Mutated behind a right checksum and, mostly, a right verification tag."""
    packet = mutate(chance, packet)
    if len(packet) < 16:
        return packet
    if chance.random() < 0.5:
        packet = packet[:12] + bytes([chance.choice(CHUNK_KINDS)]) + packet[13:]
    packet = packet[:4] + struct.pack("!L", chance.choice((tag, tag, tag, 0))) + packet[8:]
    checksum = crc32c(packet[:8] + bytes(4) + packet[12:])
    return packet[:8] + struct.pack("<L", checksum) + packet[12:]


async def test_mutated_sctp_on_many_fresh_associations() -> None:
    loop_errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: loop_errors.append(context))
    for seed in range(60):
        chance = random.Random(seed)
        pair = Pair()
        pair.server.open_channel("_reliable", True, None)
        mine = pair.create("mine")
        sent: list[bytes] = []
        send = pair.theirs._send_data

        async def remember(data: bytes, sent: list[bytes] = sent, send: Any = send) -> None:
            sent.append(data)
            await send(data)

        pair.theirs._send_data = remember  # type: ignore[method-assign]
        await pair.start()
        mine.send(bytes(3000))
        await pair.settle()
        for _ in range(100):
            packet = chance.choice(sent)
            pair.server.on_packet(mutate_sctp(chance, packet, pair.client._remote_verification_tag))
            pair.server.send("_reliable", b"x")
        await asyncio.sleep(0)
        pair.ours.packets.clear()
        await pair.close()
        await asyncio.sleep(0)
    assert loop_errors == []


async def test_a_flood_of_hellos_from_unknown_addresses_leaves_no_state(worker: Worker) -> None:
    worker.handle(OpenTransport("r", "t"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(1000):
            sock.sendto(b"\x16\xfe\xfd" + bytes(60), ("127.0.0.1", worker.udp_port))
    for _ in range(1000):
        worker.on_dtls(b"\x16\xfe\xfd" + bytes(60), STRANGER)
    assert worker._transports["t"].dtls.state == "new"
