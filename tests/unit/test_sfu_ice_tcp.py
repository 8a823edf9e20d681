"""The TCP port alone: bounds, deadlines on a manual clock, whole frames; ICE and the worker are doubles."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
import uvloop

from sfu import ice_tcp
from sfu.drops import DropReason, Drops
from sfu.ice_tcp import IDLE_MS, MAX_FRAME_BYTES, MAX_WAITING_BYTES, PROOF_MS, TICK_MS, IceTcp, Refusal
from sfu.interfaces import host_candidates, tcp_candidates
from sfu.seams import Address

HELLO = b"\0\1hello"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Inside:
    """The worker's UDP port and its ICE, which knows whoever says HELLO and has validated ``valid``."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000.0
        self.valid: set[Address] = set()
        self.gone_from: list[Address] = []
        self.left = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.drops = Drops()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.tcp = IceTcp(self.sock.getsockname(), self, lambda: self.now_ms, self.drops)

    def knows(self, data: bytes) -> bool:
        return data.startswith(HELLO)

    def leg_at(self, address: Address) -> str | None:
        return "leg" if address in self.valid else None

    def gone(self, address: Address) -> None:
        self.gone_from.append(address)
        self.left.set()

    async def start(self) -> None:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setblocking(False)
        listening.bind(("127.0.0.1", 0))
        await self.tcp.start(listening)

    async def connect(self) -> Streams:
        streams = await asyncio.open_connection("127.0.0.1", self.tcp.port)
        self.writers.append(streams[1])
        return streams

    async def datagram(self) -> tuple[bytes, Address]:
        """The next one; uvloop has no sock_recvfrom."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.sock.fileno(), readable.set)
        try:
            async with asyncio.timeout(5):
                while True:
                    with contextlib.suppress(BlockingIOError):
                        return self.sock.recvfrom(65536)
                    readable.clear()
                    await readable.wait()
        finally:
            loop.remove_reader(self.sock.fileno())

    async def admitted(self) -> tuple[Streams, Address]:
        streams = await self.connect()
        streams[1].write(framed(HELLO))
        data, address = await self.datagram()
        assert data == HELLO
        self.valid.add(address)
        self.advance(TICK_MS)
        return streams, address

    def advance(self, ms: float) -> None:
        self.now_ms += ms
        self.tcp.tick(self.now_ms)

    def counted(self, name: str) -> float:
        return sum(c.value for c in self.tcp.counters() if c.name == f"lianxin_ice_tcp_{name}")


def framed(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


async def closed(streams: Streams) -> None:
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while await streams[0].read(65536):
                pass


@asynccontextmanager
async def an_inside() -> AsyncIterator[Inside]:
    inside = Inside()
    await inside.start()
    yield inside
    for writer in inside.writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    await inside.tcp.stop()
    assert inside.counted("connections") == 0
    inside.sock.close()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with an_inside() as made:
        yield made


async def test_frames_go_both_ways_however_they_are_cut(inside: Inside) -> None:
    (reader, writer), address = await inside.admitted()
    datagrams = [bytes([number]) * size for number, size in enumerate((1, 1200, 1, MAX_FRAME_BYTES, 700))]
    stream = b"".join(framed(data) for data in datagrams)
    stream = stream[:3] + framed(b"") + stream[3:]  # an empty frame between them says nothing
    for at in range(0, len(stream), 501):
        writer.write(stream[at : at + 501])
        await writer.drain()
    assert [await inside.datagram() for _ in datagrams] == [(data, address) for data in datagrams]
    for data in datagrams:
        inside.sock.sendto(data, address)
    async with asyncio.timeout(5):
        for data in datagrams:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            assert await reader.readexactly(size) == data
    assert inside.tcp.outer(address) == writer.get_extra_info("sockname")
    assert inside.tcp.outer(("192.0.2.1", 5)) == ("192.0.2.1", 5)
    writer.close()
    async with asyncio.timeout(5):
        await inside.left.wait()
    assert inside.gone_from == [address]
    assert not inside.tcp.bridges(address)


async def test_a_frame_that_is_too_large_ends_the_connection(inside: Inside) -> None:
    streams, address = await inside.admitted()
    streams[1].write(struct.pack("!H", MAX_FRAME_BYTES + 1))
    await closed(streams)
    assert inside.tcp.refused == {Refusal.FRAME_SIZE: 1}
    assert inside.gone_from == [address]


async def test_who_does_not_prove_itself_is_closed(inside: Inside) -> None:
    silent, slow = await inside.connect(), await inside.connect()
    slow[1].write(framed(HELLO)[:5])
    forger = await inside.connect()
    forger[1].write(framed(HELLO))
    await inside.datagram()
    inside.advance(PROOF_MS - 1)
    assert inside.counted("connections") == 3
    inside.advance(TICK_MS)
    for streams in (silent, slow, forger):
        await closed(streams)
    assert inside.tcp.refused == {Refusal.LATE: 2, Refusal.UNVALIDATED: 1}
    assert inside.counted("accepted_total") == 0


async def test_silence_ends_a_connection_and_so_does_its_leg(inside: Inside) -> None:
    silent, _ = await inside.admitted()
    other, address = await inside.admitted()
    inside.advance(IDLE_MS - 2 * TICK_MS)
    other[1].write(framed(b"\0alive"))
    await inside.datagram()
    inside.advance(TICK_MS)
    await closed(silent)
    assert inside.tcp.refused == {Refusal.IDLE: 1}
    inside.valid.discard(address)
    inside.advance(TICK_MS)
    await closed(other)
    assert inside.tcp.refused == {Refusal.IDLE: 1}


async def test_connections_are_bounded_in_all_and_by_address(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice_tcp, "MAX_PER_ADDRESS", 2)
    first, _ = await inside.admitted()
    second, _ = await inside.admitted()
    await closed(await inside.connect())
    assert inside.tcp.refused == {Refusal.ADDRESS_FULL: 1}
    inside.tcp.max_connections = 2
    await closed(await inside.connect())
    assert inside.tcp.refused[Refusal.FULL] == 1
    assert not first[0].at_eof()
    assert not second[0].at_eof()


async def test_a_crowd_at_the_door_does_not_lock_out_who_knows_the_word(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice_tcp, "MAX_UNPROVED", 5)
    crowd = [await inside.connect() for _ in range(20)]
    streams, _ = await inside.admitted()
    for stranger in crowd[:15]:
        await closed(stranger)
    assert inside.tcp.refused[Refusal.LATE] >= 15
    assert not streams[0].at_eof()


async def test_a_receiver_that_does_not_read_loses_whole_datagrams(inside: Inside) -> None:
    (reader, writer), address = await inside.admitted()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    payload = bytes(1200)
    sent = 0
    while not inside.drops.counts[DropReason.TCP_SLOW]:
        for _ in range(50):
            inside.sock.sendto(struct.pack("!I", sent) + payload, address)
            sent += 1
        await asyncio.sleep(0)
        assert sent < 200_000, "the bridge keeps everything"
    (bridge,) = inside.tcp._bridges
    assert bridge._transport is not None
    assert bridge._transport.get_write_buffer_size() <= MAX_WAITING_BYTES
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    inside.sock.sendto(b"\xff\xff\xff\xff the end", address)
    numbers = []
    async with asyncio.timeout(20):
        while True:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            data = await reader.readexactly(size)
            if data.endswith(b"the end"):
                break
            assert len(data) == 1204
            numbers.append(struct.unpack_from("!I", data)[0])
            if len(numbers) % 200 == 0:  # it may have been dropped like any other
                inside.sock.sendto(b"\xff\xff\xff\xff the end", address)
    assert numbers == sorted(set(numbers))
    assert len(numbers) < sent


@pytest.mark.parametrize(
    "test",
    [
        test_frames_go_both_ways_however_they_are_cut,
        test_a_frame_that_is_too_large_ends_the_connection,
        test_who_does_not_prove_itself_is_closed,
        test_silence_ends_a_connection_and_so_does_its_leg,
        test_a_receiver_that_does_not_read_loses_whole_datagrams,
    ],
)
def test_the_same_under_uvloop(test: Callable[[Inside], Coroutine[None, None, None]]) -> None:
    """Which is what workers run on."""

    async def run() -> None:
        async with an_inside() as inside:
            await inside.admitted()
            (bridge,) = inside.tcp._bridges
            assert bridge._transport is not None
            sock = bridge._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, ice_tcp.TCP_NOTSENT_LOWAT) == ice_tcp.UNSENT_BYTES
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        async with an_inside() as inside:
            await test(inside)

    uvloop.run(run())


def test_candidates_follow_rfc_6544() -> None:
    addresses = ("192.0.2.1", "198.51.100.1")
    udp, tcp = host_candidates(addresses, 7882), tcp_candidates(addresses, 7883)
    assert [(c.ip, c.port, c.protocol, c.tcp_type) for c in tcp] == [
        ("192.0.2.1", 7883, "tcp", "passive"),
        ("198.51.100.1", 7883, "tcp", "passive"),
    ]
    ordered = sorted([*tcp, *udp], key=lambda c: -c.priority)
    assert ordered == [*udp, *tcp]
    assert len({c.foundation for c in ordered}) == 4
    # §4.2: local preference = 2^13 × direction preference (host, passive: 4) + other preference
    assert tcp[0].priority == (90 << 24) + ((4 * 8192 + 8191) << 8) + 255
