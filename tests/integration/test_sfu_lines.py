"""Real clients (LiveKit SDK, libwebrtc) on lines that fail: blackout, another address, no UDP at all."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
from aiohttp import web

from sfu.messages import ProducerLive, Report, TransportState
from sfu.node import LocalWorker, MediaNode, NodeConfig
from sfu.worker import Worker
from tests.fixtures.livekit import LiveKitServer, livekit_server
from tests.fixtures.netns import Namespace, SdkClient
from tests.fixtures.sfu_client import EventLog
from tests.fixtures.udp_line import UdpLine, udp_line

StartClient = Callable[..., Awaitable[SdkClient]]
RED, BLUE = [255, 0, 0], [0, 0, 255]
BLACKOUT_S = 10.0


class Site:
    """A server whose clients reach its UDP port over a line; ``log`` has the worker's events."""

    def __init__(self, server: LiveKitServer, node: MediaNode, host: str, line: UdpLine) -> None:
        self.server, self.node, self.line = server, node, line
        self.url = f"ws://{host}:{server.port}"
        self.log = EventLog()
        node.on_event.append(self.log.on_event)

    def token(self, identity: str) -> str:
        return self.server.token("r", identity)

    def states_since(self, mark: int) -> set[str]:
        return {e.state for e in self.log.events[mark:] if isinstance(e, TransportState)}


def worker_of(node: MediaNode) -> Worker:
    (local,) = node._workers.values()
    assert isinstance(local, LocalWorker)
    return local.worker


@asynccontextmanager
async def site_over_a_line(
    host: str, tcp_port: int | None = None, routes: Sequence[web.RouteDef] = ()
) -> AsyncIterator[Site]:
    node = MediaNode(NodeConfig(workers=0, udp_port=0, tcp_port=tcp_port, addresses=(host,)))
    await node.start()
    worker = worker_of(node)
    try:
        async with udp_line(("127.0.0.1", worker.udp_port)) as line:
            worker.udp_port = line.port  # what clients are told
            async with livekit_server(node, host="0.0.0.0", extra_routes=list(routes)) as server:
                yield Site(server, node, host, line)
    finally:
        await node.close()


@pytest.fixture
async def site(netns: Namespace) -> AsyncIterator[Site]:
    async with site_over_a_line(netns.server_address) as made:
        yield made


async def picture(
    client: SdkClient, of: str, colour: list[int], since: int = 0, timeout_s: float = 30
) -> None:
    """Waits for a picture of about that colour."""
    async with asyncio.timeout(timeout_s):
        while True:
            fact = await client.fact("picture", since=since, identity=of, timeout_s=timeout_s)
            if max(abs(a - b) for a, b in zip(fact["colour"], colour, strict=True)) < 70:
                return
            since = client.facts.index(fact, since) + 1


async def two_venues(
    site: Site, sdk_client: StartClient, single: bool, *, apart: bool = False
) -> tuple[SdkClient, SdkClient]:
    """ann is red, bob is blue, and each sees the other.  ``apart``: ann is not on the line, only bob."""
    worker, line = worker_of(site.node), site.line
    if apart:
        worker.udp_port = line.target[1]
    ann = await sdk_client(site.url, site.token("ann"), single=single, every=1)
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    await ann.fact("published")
    await site.log.wait(lambda event: isinstance(event, ProducerLive))
    worker.udp_port = line.port
    bob = await sdk_client(site.url, site.token("bob"), single=single, every=1)
    await bob.fact("connected")
    await bob.tell(do="video", colour=BLUE)
    await ann.tell(do="audio", hz=440)
    await picture(bob, "ann", RED)
    await picture(ann, "bob", BLUE)
    await bob.fact("sound", identity="ann")
    return ann, bob


def pictures(client: SdkClient) -> int:
    return sum(fact["fact"] == "picture" for fact in client.facts)


async def dark_for(site: Site, seconds: float, *clients: SdkClient) -> None:
    """The outage itself takes its time: how long it lasts is what is tested.  Nothing comes at its end."""
    site.line.dark = True
    await asyncio.sleep(seconds - 1)
    before = [pictures(client) for client in clients]
    await asyncio.sleep(1)
    assert [pictures(client) for client in clients] == before
    site.line.dark = False


@pytest.mark.timeout(120)
@pytest.mark.parametrize("single", [True, False], ids=["rtc_v1", "rtc"])
async def test_a_blackout_of_ten_seconds_heals_by_itself(
    site: Site, sdk_client: StartClient, single: bool, record_testsuite_property: Callable[[str, Any], None]
) -> None:
    ann, bob = await two_venues(site, sdk_client, single)
    events = len(site.log.events)
    await dark_for(site, BLACKOUT_S, ann, bob)
    assert site.line.swallowed > 100
    loop = asyncio.get_running_loop()
    healed_s = loop.time()
    marks = len(ann.facts), len(bob.facts)

    async def seen(client: SdkClient, of: str, since: int) -> float:
        await client.fact("picture", since=since, identity=of, timeout_s=20)
        return loop.time() - healed_s

    waits = await asyncio.gather(seen(bob, "ann", marks[1]), seen(ann, "bob", marks[0]))
    record_testsuite_property("first_picture_after_blackout_s", [round(wait, 3) for wait in waits])
    await bob.fact("sound", since=marks[1], identity="ann")
    await picture(bob, "ann", RED, since=marks[1])
    await picture(ann, "bob", BLUE, since=marks[0])
    assert "disconnected" in site.states_since(events)
    assert "failed" not in site.states_since(events)
    assert not [f for f in ann.facts + bob.facts if f["fact"] in ("participant_disconnected", "disconnected")]


@pytest.mark.timeout(120)
async def test_one_dark_receiver_heals_and_the_others_notice_nothing(
    site: Site, sdk_client: StartClient, record_testsuite_property: Callable[[str, Any], None]
) -> None:
    """Ten seconds of media have been sent into the void when he asks again."""
    ann, bob = await two_venues(site, sdk_client, True, apart=True)
    await dark_for(site, BLACKOUT_S, bob)
    loop = asyncio.get_running_loop()
    healed_s, mark = loop.time(), len(bob.facts)
    await bob.fact("picture", since=mark, identity="ann", timeout_s=20)
    first_s = loop.time() - healed_s
    await bob.fact("picture", since=mark + 20, identity="ann", timeout_s=20)
    record_testsuite_property(
        "receiver_first_and_twentieth_picture_s", [round(first_s, 3), round(loop.time() - healed_s, 3)]
    )
    await picture(ann, "bob", BLUE, since=len(ann.facts))
    assert not [f for f in ann.facts + bob.facts if f["fact"] in ("participant_disconnected", "disconnected")]


@pytest.mark.timeout(120)
async def test_another_address_is_followed_without_a_new_join(
    site: Site, sdk_client: StartClient, record_testsuite_property: Callable[[str, Any], None]
) -> None:
    ann, bob = await two_venues(site, sdk_client, True)
    loop = asyncio.get_running_loop()
    events = len(site.log.events)
    site.line.rebind()
    moved_s, marks = loop.time(), (len(ann.facts), len(bob.facts))

    async def steady(client: SdkClient, of: str, since: int) -> float:
        """Pictures that can't have been on their way before."""
        await client.fact("picture", since=since + 15, identity=of, timeout_s=20)
        return loop.time() - moved_s

    waits = await asyncio.gather(steady(bob, "ann", marks[1]), steady(ann, "bob", marks[0]))
    record_testsuite_property("steady_pictures_after_move_s", [round(wait, 3) for wait in waits])
    assert site.states_since(events) <= {"disconnected", "connected"}
    assert not [f for f in ann.facts + bob.facts if f["fact"] == "reconnecting"]


@contextmanager
def no_udp(namespace: Namespace) -> Iterator[None]:
    """Clients in the namespace can't even send UDP: their kernel refuses."""
    rule = ["ip", "-n", namespace.name, "rule", "add", "ipproto", "udp", "priority", "1", "blackhole"]
    subprocess.run(rule, check=True, capture_output=True, timeout=20)
    try:
        yield
    finally:
        rule[4] = "delete"
        subprocess.run(rule, check=True, capture_output=True, timeout=20)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("single", "refused"), [(True, False), (False, True)], ids=["rtc_v1", "rtc"])
async def test_sdk_clients_without_udp_see_and_hear_each_other_over_tcp(
    netns: Namespace, sdk_client: StartClient, single: bool, refused: bool
) -> None:
    """UDP is swallowed without a word on the way, or refused."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(site_over_a_line(netns.server_address, tcp_port=0))
        site.line.dark = True
        if refused:
            stack.enter_context(no_udp(netns))
        await two_venues(site, sdk_client, single)

        def all_over_tcp(event: object) -> bool:
            return (
                isinstance(event, Report)
                and bool(event.transports)
                and all(t.over_tcp for t in event.transports)
            )

        await site.log.wait(all_over_tcp)


SIGNAL_RECONNECT, FORCE_TCP = 0, 5  # of the SDK's SimulateScenarioKind


@pytest.mark.timeout(120)
@pytest.mark.parametrize("single", [True, False], ids=["rtc_v1", "rtc"])
async def test_a_new_websocket_resumes_and_leaves_the_pictures_alone(
    site: Site, sdk_client: StartClient, single: bool
) -> None:
    """With an ICE restart of every connection, as clients do it then; DTLS goes on."""
    ann, bob = await two_venues(site, sdk_client, single)
    sids = {p.identity: p.sid for p in site.server.media.rooms["r"].participants.values()}
    events, marks = len(site.log.events), (len(ann.facts), len(bob.facts))
    await ann.tell(do="simulate", scenario=SIGNAL_RECONNECT)
    await ann.fact("reconnected", since=marks[0])
    await bob.tell(do="simulate", scenario=SIGNAL_RECONNECT)
    await bob.fact("reconnected", since=marks[1])
    marks = len(ann.facts), len(bob.facts)
    await picture(bob, "ann", RED, since=marks[1])
    await picture(ann, "bob", BLUE, since=marks[0])
    assert {p.identity: p.sid for p in site.server.media.rooms["r"].participants.values()} == sids
    assert site.states_since(events) <= {"disconnected", "connected"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("single", [True, False], ids=["rtc_v1", "rtc"])
async def test_an_sdk_that_asks_for_tcp_gets_it(
    netns: Namespace, sdk_client: StartClient, single: bool
) -> None:
    async with site_over_a_line(netns.server_address, tcp_port=0) as site:
        ann, bob = await two_venues(site, sdk_client, single)
        marks = len(ann.facts), len(bob.facts)
        await ann.tell(do="simulate", scenario=FORCE_TCP)
        await ann.fact("reconnected", since=marks[0])
        marks = len(ann.facts), len(bob.facts)

        def anns_over_tcp(event: object) -> bool:
            if not isinstance(event, Report):
                return False
            sid = site.server.media.rooms["r"].participants["ann"].sid
            mine = [t for t in event.transports if t.transport_id.startswith(sid)]
            return bool(mine) and all(t.over_tcp for t in mine)

        await site.log.wait(anns_over_tcp)
        await picture(bob, "ann", RED, since=marks[1])
        await picture(ann, "bob", BLUE, since=marks[0])


@pytest.mark.timeout(120)
async def test_a_pulled_cable_heals_over_tcp_too(
    netns: Namespace, sdk_client: StartClient, record_testsuite_property: Callable[[str, Any], None]
) -> None:
    """Everything is dead for ten seconds, the WebSocket too; nobody joins anew."""
    async with site_over_a_line(netns.server_address, tcp_port=0) as site:
        site.line.dark = True
        ann, bob = await two_venues(site, sdk_client, True)
        events = len(site.log.events)
        netns.cut()
        try:
            await asyncio.sleep(BLACKOUT_S)
        finally:
            netns.mend()
        loop = asyncio.get_running_loop()
        healed_s, mark = loop.time(), len(bob.facts)
        await bob.fact("picture", since=mark, identity="ann", timeout_s=30)
        record_testsuite_property("first_picture_after_cable_over_tcp_s", round(loop.time() - healed_s, 3))
        await bob.fact("sound", since=mark, identity="ann")
        assert site.states_since(events) == {"disconnected", "connected"}
        assert not [f for f in ann.facts + bob.facts if f["fact"] == "participant_disconnected"]
