"""livekit-client in Chromium on lines that fail: ten seconds of nothing, and no UDP at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sfu.messages import Report
from tests.fixtures.chromium import Seat
from tests.fixtures.netns import Namespace, SdkClient
from tests.integration.test_sfu_lines import (
    BLACKOUT_S,
    RED,
    Site,
    site_over_a_line,
)

REPOSITORY = Path(__file__).parent.parent.parent
LIVEKIT_CLIENT = REPOSITORY / "web" / "node_modules" / "livekit-client" / "dist" / "livekit-client.esm.mjs"
StartClient = Callable[..., Awaitable[SdkClient]]
OpenSeat = Callable[..., Awaitable[Seat]]


async def _page(request: web.Request) -> web.Response:
    html = (Path(__file__).parent / "livekit_page.html").read_text("utf-8")
    return web.Response(text=html, content_type="text/html")


async def _client(request: web.Request) -> web.Response:
    return web.Response(text=LIVEKIT_CLIENT.read_text("utf-8"), content_type="text/javascript")


ROUTES = (web.get("/page", _page), web.get("/livekit-client.mjs", _client))


async def page_and_ann(site: Site, seats: OpenSeat, sdk_client: StartClient) -> tuple[Seat, SdkClient]:
    """A page that sends and receives, and a client of the SDK in red that sings at 440 Hz."""
    address = f"http://127.0.0.1:{site.server.port}"  # browsers give cameras to secure origins only
    seat = await seats(None, f"{address}/page")
    await seat.page.wait_for_function("window.ready")
    url = address.replace("http", "ws")
    await seat.page.evaluate("([url, token]) => join(url, token, true)", [url, site.token("page")])
    await seat.page.evaluate("publish()")
    ann = await sdk_client(site.url, site.token("ann"), single=True, every=1)
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    await ann.tell(do="audio", hz=440)
    await sees_ann(seat)
    await hears_ann(seat)
    await ann.fact("picture", identity="page")
    await ann.fact("sound", identity="page")
    return seat, ann


async def sees_ann(seat: Seat) -> None:
    await seat.until(
        "sees ann", lambda: seat.page.evaluate("(() => { const c = colour(); return c && c[0] > 180; })()")
    )


async def hears_ann(seat: Seat) -> None:
    async def tone() -> bool:
        return (await seat.page.evaluate("() => __senses.tones([440])"))[0] > -60

    await seat.until("hears ann", tone)


async def decoded(seat: Seat) -> int:
    return await seat.page.evaluate("async () => (await media()).video?.frames ?? 0")


@pytest.mark.timeout(180)
async def test_a_blackout_of_ten_seconds_heals_in_chromium(
    netns: Namespace,
    seats: OpenSeat,
    sdk_client: StartClient,
    record_testsuite_property: Callable[[str, Any], None],
) -> None:
    async with site_over_a_line(netns.server_address, routes=ROUTES) as site:
        seat, ann = await page_and_ann(site, seats, sdk_client)
        events = len(site.log.events)
        await seat.page.evaluate("() => { facts.length = 0; }")
        site.line.dark = True
        await asyncio.sleep(BLACKOUT_S - 1)
        frozen, mark = await decoded(seat), len(ann.facts)
        await asyncio.sleep(1)
        assert await decoded(seat) == frozen
        site.line.dark = False
        loop = asyncio.get_running_loop()
        healed_s = loop.time()

        async def chromium_sees() -> float:
            async def moved() -> bool:
                return await decoded(seat) > frozen

            await seat.until("decodes again", moved, every_s=0.02)
            return loop.time() - healed_s

        async def ann_sees() -> float:
            await ann.fact("picture", since=mark, identity="page", timeout_s=30)
            return loop.time() - healed_s

        waits = await asyncio.gather(chromium_sees(), ann_sees())
        record_testsuite_property(
            "chromium_first_picture_after_blackout_s", [round(wait, 3) for wait in waits]
        )
        await sees_ann(seat)
        await hears_ann(seat)
        await ann.fact("sound", since=mark, identity="page")
        assert "failed" not in site.states_since(events)
        told = await seat.page.evaluate("facts")
        # the publisher was dark too: the page was told that its pictures stood still and that they move again
        streams = {fact["sid"]: fact["state"] for fact in told if fact["fact"] == "stream_state"}
        assert set(streams.values()) <= {"active"}, told
        facts = {fact["fact"] for fact in told} - {"stream_state"}
        assert facts <= {"signalReconnecting", "reconnecting", "reconnected"}, told


@pytest.mark.timeout(180)
async def test_chromium_without_udp_sees_and_hears_over_tcp(
    netns: Namespace,
    seats: OpenSeat,
    sdk_client: StartClient,
    record_testsuite_property: Callable[[str, Any], None],
) -> None:
    async with site_over_a_line(netns.server_address, tcp_port=0, routes=ROUTES) as site:
        site.line.dark = True  # from the beginning: the network swallows UDP
        seat, ann = await page_and_ann(site, seats, sdk_client)
        mark = len(ann.facts)
        await ann.fact("picture", since=mark + 40, identity="page")

        def all_over_tcp(event: object) -> bool:
            return (
                isinstance(event, Report)
                and len(event.transports) == 2
                and all(t.over_tcp for t in event.transports)
            )

        await site.log.wait(all_over_tcp)
        pair = await seat.page.evaluate(PAIR)
        assert (pair["protocol"], pair["tcpType"]) == ("tcp", "passive")
        record_testsuite_property("chromium_tcp_rtt_s", pair["rtt"])


@pytest.mark.timeout(180)
async def test_scenarios_of_livekit_client(
    netns: Namespace, seats: OpenSeat, sdk_client: StartClient
) -> None:
    """A resume with an ICE restart, then a new join that is offered TCP only."""
    async with site_over_a_line(netns.server_address, tcp_port=0, routes=ROUTES) as site:
        seat, ann = await page_and_ann(site, seats, sdk_client)
        sid = site.server.media.rooms["r"].participants["page"].sid
        for scenario in ("signal-reconnect", "force-tcp"):
            await seat.page.evaluate("(name) => { facts.length = 0; room.simulateScenario(name); }", scenario)
            await seat.page.wait_for_function("facts.some((f) => f.fact === 'reconnected')")
            before, mark = await decoded(seat), len(ann.facts)

            async def moved(before: int = before) -> bool:
                return abs(await decoded(seat) - before) > 10  # a new connection counts from 0

            await seat.until(f"sees ann after {scenario}", moved)
            await ann.fact("picture", since=mark, identity="page", timeout_s=30)
            resumed = site.server.media.rooms["r"].participants["page"].sid == sid
            assert resumed is (scenario == "signal-reconnect")
        await site.log.wait(
            lambda event: isinstance(event, Report) and any(t.over_tcp for t in event.transports)
        )
        assert (await seat.page.evaluate(PAIR))["protocol"] == "tcp"


PAIR = """async () => {
  const stats = await room.engine.pcManager.publisher._pc.getStats();
  const pair = [...stats.values()].find((s) => s.type === 'candidate-pair' && s.nominated);
  const remote = stats.get(pair.remoteCandidateId);
  return { protocol: remote.protocol, tcpType: remote.tcpType, rtt: pair.currentRoundTripTime };
}"""
