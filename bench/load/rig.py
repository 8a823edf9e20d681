"""P publishers and S viewers on whichever server, and one measurement of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, TCPConnector

from bench.load import janus, lianxin
from bench.load.engine import BURSTS, Engine, Pattern
from bench.load.servers import Server

AT_ONCE = 8  # joins under way


@dataclass(frozen=True, slots=True)
class Scenario:
    """``mesh``: each of the publishers is a viewer of all the others, and ``viewers`` is not used."""

    name: str
    publishers: int
    viewers: int
    mesh: bool = False
    patterns: tuple[Pattern, ...] = (BURSTS,)

    @property
    def copies(self) -> int:
        """Received streams of each published one."""
        return self.publishers - 1 if self.mesh else self.viewers

    @property
    def packets_per_s(self) -> int:
        """That all clients together should receive."""
        return self.publishers * self.copies * sum(p.packets_per_s for p in self.patterns)


ONE_TO_20 = Scenario("1 → 20", 1, 20)
FIVE_TO_20 = Scenario("5 → 20 each", 5, 20)
MESH = Scenario("5 × 5", 5, 0, mesh=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """Per packet that clients received; ``cores`` are shares of one core."""

    us_per_packet: float
    main_us_per_packet: float  # of it, by the first thread of the process
    cores: float
    control_cores: float
    load_us_per_packet: float
    packets_per_s: float
    delivered: float  # of what was sent times the copies
    lost: int
    undecryptable: int
    decrypted: int
    delay_us: tuple[float, float]  # median and 99th percentile, one way


async def gather(work: Sequence[Any]) -> None:
    """A few at a time, in order of their places."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Any) -> None:
        async with gate:
            await item

    async with asyncio.TaskGroup() as group:
        for item in work:
            group.create_task(one(item))


@asynccontextmanager
async def http_session() -> AsyncIterator[ClientSession]:
    async with ClientSession(connector=TCPConnector(limit=0)) as http:
        yield http


async def set_up(server: Server, engine: Engine, http: ClientSession, scenario: Scenario) -> list[Any]:
    """Everybody has joined and subscribed; the publishers do not send yet.  Returns publishers first."""
    if server.keys is None:
        return await _set_up_janus(server, engine, http, scenario)
    room = f"bench-{time.monotonic_ns()}"
    publishers = [lianxin.Client(engine, f"p{n}") for n in range(scenario.publishers)]
    viewers = [lianxin.Client(engine, f"s{n}") for n in range(0 if scenario.mesh else scenario.viewers)]
    for n, publisher in enumerate(publishers):
        for k, pattern in enumerate(scenario.patterns):
            await publisher.publish(f"t{k}", pattern, 0, n / scenario.publishers / 30)
    alone = [
        p.join(http, server.url, server.token(room, p.name), subscribe=scenario.mesh) for p in publishers
    ]
    await gather(alone)
    await gather([v.join(http, server.url, server.token(room, v.name)) for v in viewers])
    expected = len(scenario.patterns) * (scenario.publishers - (1 if scenario.mesh else 0))
    for client in publishers if scenario.mesh else viewers:
        await client.until(lambda client=client: len(client.sending) >= expected)
    return [*publishers, *viewers]


async def _set_up_janus(server: Server, engine: Engine, http: ClientSession, scenario: Scenario) -> list[Any]:
    api = await janus.Api.open(http, server.url)
    numbers = [1000 + n for n in range(scenario.publishers)]
    publishers = [janus.Client(engine, f"p{n}", n) for n in numbers]
    for n, publisher in enumerate(publishers):
        for k, pattern in enumerate(scenario.patterns):
            publisher.add(f"t{k}", pattern, n / scenario.publishers / 30)
    await gather([p.publish(api) for p in publishers])
    count = scenario.publishers if scenario.mesh else scenario.viewers
    viewers = [janus.Client(engine, f"s{n}") for n in range(count)]
    seen = [[f for k, f in enumerate(numbers) if not (scenario.mesh and k == n)] for n in range(count)]
    await gather([v.view(api, feeds) for v, feeds in zip(viewers, seen, strict=True)])
    return [*publishers, *viewers, api]


async def measure(server: Server, engine: Engine, scenario: Scenario, seconds: float) -> Measured:
    """What runs now, for so long."""
    before, media, control = engine.read(), server.media_ns(), server.control_ns()
    main = server.main_ns()
    engine.reset_delays()
    begun = time.monotonic()
    await asyncio.sleep(seconds)
    after, media_after, control_after = engine.read(), server.media_ns(), server.control_ns()
    main_after, took = server.main_ns(), time.monotonic() - begun
    received = after.received - before.received
    sent = (after.sent - before.sent) * scenario.copies
    median, worst = engine.delay_us(0.5, 0.99)
    return Measured(
        us_per_packet=(media_after - media) / 1000 / max(1, received),
        main_us_per_packet=(main_after - main) / 1000 / max(1, received),
        cores=(media_after - media) / 1e9 / took,
        control_cores=(control_after - control) / 1e9 / took,
        load_us_per_packet=(after.cpu_ns - before.cpu_ns) / 1000 / max(1, received),
        packets_per_s=received / took,
        delivered=received / max(1, sent),
        lost=after.lost - before.lost,
        undecryptable=after.undecryptable - before.undecryptable,
        decrypted=after.decrypted - before.decrypted,
        delay_us=(median, worst),
    )


@asynccontextmanager
async def running(
    server: Server, scenario: Scenario, warm_s: float, *, tick_ms: float = 4
) -> AsyncIterator[tuple[Engine, list[Any]]]:
    """The scenario under way, warmed up."""
    async with http_session() as http:
        with Engine(tick_ms) as engine:
            clients = await set_up(server, engine, http, scenario)
            try:
                for client in clients[: scenario.publishers]:
                    client.set_streams(True)
                await asyncio.sleep(warm_s)
                yield engine, clients
            finally:
                for client in clients:
                    if hasattr(client, "close"):
                        await client.close()
