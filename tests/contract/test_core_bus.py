"""The bus promises the same in-process and on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from core import counters
from core.bus import Bus, LocalBus, RedisBus, open_bus
from core.errors import ConfigError, Unavailable


@pytest.fixture(params=["local", "redis"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    opened: Bus = open_bus("local:" if request.param == "local" else request.getfixturevalue("redis_url"))
    yield opened
    await opened.close()


async def test_what_is_published_arrives_in_order(bus: Bus) -> None:
    async with bus.subscribe("a") as messages:
        for number in range(50):
            await bus.publish("a", b"%d" % number)
        async with asyncio.timeout(10):
            assert [await anext(messages) for _ in range(50)] == [b"%d" % n for n in range(50)]


async def test_everyone_who_listens_hears_it(bus: Bus) -> None:
    async with bus.subscribe("a") as one, bus.subscribe("a") as two:
        await bus.publish("a", b"\x00\xff")
        async with asyncio.timeout(10):
            assert (await anext(one), await anext(two)) == (b"\x00\xff", b"\x00\xff")


async def test_topics_are_apart(bus: Bus) -> None:
    async with bus.subscribe("a") as a, bus.subscribe("b") as b:
        await bus.publish("b", b"for b")
        await bus.publish("a", b"for a")
        async with asyncio.timeout(10):
            assert (await anext(a), await anext(b)) == (b"for a", b"for b")


async def test_nothing_is_remembered(bus: Bus) -> None:
    await bus.publish("a", b"before")
    async with bus.subscribe("a") as messages:
        await bus.publish("a", b"after")
        async with asyncio.timeout(10):
            assert await anext(messages) == b"after"


async def test_one_who_left_can_come_back(bus: Bus) -> None:
    for round_ in range(3):
        async with bus.subscribe("a") as messages:
            await bus.publish("a", b"%d" % round_)
            async with asyncio.timeout(10):
                assert await anext(messages) == b"%d" % round_


async def test_one_leaves_and_the_others_stay(bus: Bus) -> None:
    async with bus.subscribe("a") as stays:
        async with bus.subscribe("a"):
            pass
        await bus.publish("a", b"x")
        async with asyncio.timeout(10):
            assert await anext(stays) == b"x"


async def test_a_slow_reader_loses_the_oldest_and_it_is_counted(bus: Bus) -> None:
    before = counters.refused_total("bus_overflow")
    async with bus.subscribe("a", length=3) as slow, bus.subscribe("a") as quick:
        for number in range(10):
            await bus.publish("a", b"%d" % number)
        async with asyncio.timeout(10):
            for _ in range(10):
                await anext(quick)
            assert [await anext(slow) for _ in range(3)] == [b"7", b"8", b"9"]
        assert slow.dropped == 7
    assert counters.refused_total("bus_overflow") == before + 7


async def test_closing_ends_the_iteration(bus: Bus) -> None:
    async with bus.subscribe("a") as messages:
        await bus.publish("a", b"last")
        async with asyncio.timeout(10):
            assert await anext(messages) == b"last"
        await bus.close()
        async with asyncio.timeout(10):
            assert [m async for m in messages] == []


async def test_ping(bus: Bus) -> None:
    await bus.ping()


async def test_two_processes_hear_each_other_over_redis(redis_url: str) -> None:
    one, two = RedisBus(redis_url), RedisBus(redis_url)
    async with two.subscribe("a") as messages:
        await one.publish("a", b"hello")
        async with asyncio.timeout(10):
            assert await anext(messages) == b"hello"
    await one.close()
    await two.close()


async def test_a_cut_connection_is_mended(redis_url: str) -> None:
    bus = RedisBus(redis_url)
    other = Redis.from_url(redis_url)
    async with bus.subscribe("a") as messages:
        await other.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        async with asyncio.timeout(20):
            while await other.publish("lianxin:a", b"again") == 0:
                pass  # each round is a round trip: until somebody has subscribed anew
            assert await anext(messages) == b"again"
    await other.aclose()
    await bus.close()


async def test_an_absent_server_is_unavailable(tmp_path: Path) -> None:
    bus = RedisBus(f"unix://{tmp_path}/none.sock")
    with pytest.raises(Unavailable):
        await bus.ping()
    with pytest.raises(Unavailable):
        await bus.publish("a", b"x")
    with pytest.raises(Unavailable):
        async with bus.subscribe("a"):
            pass
    await bus.close()


def test_addresses() -> None:
    assert isinstance(open_bus("local:"), LocalBus)
    with pytest.raises(ConfigError, match=r"bus\.url"):
        open_bus("amqp://x")
