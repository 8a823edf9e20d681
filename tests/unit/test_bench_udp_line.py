"""The bad line of the bench: what it loses, delays and squeezes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from bench.udp_line import UdpLine, Way, Weather


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.transport.sendto(data, address)  # type: ignore[attr-defined]


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, int]]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    yield transport.get_extra_info("sockname")
    transport.close()


async def test_two_clients_get_their_own_answers_through_a_line_that_goes_dark(echo: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    async with UdpLine(echo, up=Weather(delay_ms=5), down=Weather(jitter_ms=5)) as line:
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            for sock in (one, two):
                sock.setblocking(False)
                sock.connect(("127.0.0.1", line.port))
            one.send(b"one")
            two.send(b"two")
            assert await asyncio.wait_for(loop.sock_recv(one, 99), 5) == b"one"
            assert await asyncio.wait_for(loop.sock_recv(two, 99), 5) == b"two"
            line.black_out(down=False)
            one.send(b"lost")
            while line.up.count.blacked_out == 0:  # noqa: ASYNC110 (the socket has no event for it)
                await asyncio.sleep(0)
            line.heal()
            one.send(b"found")
            assert await asyncio.wait_for(loop.sock_recv(one, 99), 5) == b"found"
            assert len(line.clients) == 2


async def test_loss_is_random_but_the_same_in_every_run() -> None:
    def passed(seed: int) -> list[int]:
        way, through = Way(Weather(loss=0.2), seed), []
        for number in range(1000):
            way.carry(100, lambda number=number: through.append(number))  # type: ignore[misc]
        return through

    assert passed(1) == passed(1) != passed(2)
    assert 740 < len(passed(3)) < 860


async def test_a_bottleneck_drops_what_its_queue_cannot_hold() -> None:
    way = Way(Weather(rate_bps=1_000_000, queue_ms=100), 1)
    for _ in range(100):  # 100 × 1,028 bytes are 822 ms
        way.carry(1000, lambda: None)
    assert 10 <= way.count.passed <= 14
    assert way.count.overflowed == 100 - way.count.passed
    way.close()
