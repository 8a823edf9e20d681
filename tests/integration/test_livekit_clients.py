"""Unmodified LiveKit clients through the real relay: the Python SDK and livekit-client in Chromium.

Every pair in each connection mode.  Trap 20: the Python SDK ignores loopback, so it sits in a namespace.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from livekit import api
from playwright.async_api import Browser, Page, async_playwright

from sfu.messages import ProducerReport, Report
from sfu.node import MediaNode, NodeConfig
from tests.fixtures.livekit import LiveKitServer, livekit_server
from tests.fixtures.netns import Namespace, SdkClient

REPOSITORY = Path(__file__).parent.parent.parent
LIVEKIT_CLIENT = REPOSITORY / "web" / "node_modules" / "livekit-client" / "dist" / "livekit-client.esm.mjs"
SINGLE = pytest.mark.parametrize("single", [False, True], ids=["rtc", "rtc_v1"])
RED, BLUE = [255, 0, 0], [0, 0, 255]
StartClient = Callable[..., Awaitable[SdkClient]]


async def _page(request: web.Request) -> web.Response:
    html = (Path(__file__).parent / "livekit_page.html").read_text("utf-8")
    return web.Response(text=html, content_type="text/html")


async def _client(request: web.Request) -> web.Response:
    return web.Response(text=LIVEKIT_CLIENT.read_text("utf-8"), content_type="text/javascript")


class Site:
    """The edge and the media plane on the wire to the namespace (and on every other interface)."""

    def __init__(self, server: LiveKitServer, node: MediaNode, address: str) -> None:
        self.server = server
        self.node = node
        self.url = f"ws://{address}:{server.port}"
        self.page_url = f"http://127.0.0.1:{server.port}"  # browsers give cameras to secure origins only
        self.last: dict[str, Report] = {}

    def token(self, identity: str, **grants: Any) -> str:
        return self.server.token("r", identity, **grants)

    def cut(self, identity: str) -> None:
        """Ends a participant's WebSocket without a word, as a broken network does."""
        session = self.server.media.rooms["r"].participants[identity].session
        assert session is not None
        session._ws._req.transport.abort()  # type: ignore[union-attr]

    def producers(self) -> list[ProducerReport]:
        return [producer for report in self.last.values() for producer in report.producers]


@pytest.fixture
async def site(netns: Namespace) -> AsyncIterator[Site]:
    async for made in _site(netns, workers=0):
        yield made


@pytest.fixture
async def site_with_a_worker(netns: Namespace) -> AsyncIterator[Site]:
    async for made in _site(netns, workers=1):
        yield made


async def _site(netns: Namespace, workers: int) -> AsyncIterator[Site]:
    routes = [web.get("/page", _page), web.get("/livekit-client.mjs", _client)]
    node = MediaNode(NodeConfig(workers=workers, udp_port=0, addresses=(netns.server_address,)))
    await node.start()
    try:
        async with livekit_server(node, host="0.0.0.0", extra_routes=routes) as server:
            made = Site(server, node, netns.server_address)

            def remember(worker_id: str, event: object) -> None:
                if isinstance(event, Report):
                    made.last[worker_id] = event

            node.on_event.append(remember)
            yield made
    finally:
        await node.close()


class Tab:
    """A page with livekit-client."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def until(self, script: str, timeout_s: float = 30) -> Any:
        """Waits for a script (may be async) to be true; its value.

        Not Playwright's own ``wait_for_function``: a promise is true for it before it is kept.
        """
        return await self.page.evaluate(
            f"""async (limit) => {{
              for (const end = performance.now() + limit;;) {{
                const value = await (async () => {script})();
                if (value) return value;
                if (performance.now() > end) throw new Error(`in vain: ${{JSON.stringify(await media())}}`);
                await new Promise((resolve) => setTimeout(resolve, 100));
              }}
            }}""",
            timeout_s * 1_000,
        )

    async def fact(self, name: str, timeout_s: float = 30, **wanted: str) -> Any:
        tests = "".join(f" && f.{key} === '{value}'" for key, value in wanted.items())
        try:
            return await self.until(f"facts.find((f) => f.fact === '{name}'{tests})", timeout_s)
        except Exception as error:
            facts = await self.page.evaluate("facts")
            raise AssertionError(f"no fact {name} {wanted}: {facts[-30:]}") from error


@pytest.fixture
async def open_tab(chromium_path: str) -> AsyncIterator[Callable[..., Awaitable[Tab]]]:
    if not LIVEKIT_CLIENT.exists():
        pytest.skip("livekit-client is not installed: npm ci in web/")
    async with async_playwright() as playwright, AsyncExitStack() as stack:
        browser: Browser = await playwright.chromium.launch(
            executable_path=chromium_path,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream=fps=20",
                "--disable-features=WebRtcHideLocalIpsWithMdns",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        stack.push_async_callback(browser.close)

        async def start(site: Site, identity: str, single: bool, publish: bool = True) -> Tab:
            tab = Tab(await browser.new_page())
            await tab.page.goto(f"{site.page_url}/page")
            await tab.page.wait_for_function("window.ready")
            url = site.page_url.replace("http", "ws")
            await tab.page.evaluate("(a) => join(...a)", [url, site.token(identity), single])
            if publish:
                await tab.page.evaluate("publish()")
            return tab

        yield start


def close_to(colour: list[int], wanted: list[int]) -> bool:
    return max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) < 40


async def picture(client: SdkClient, identity: str, wanted: list[int], since: int = 0) -> dict[str, Any]:
    """Waits until the client sees that colour from that participant."""
    seen = since
    while True:
        fact = await client.fact("picture", since=seen, identity=identity)
        seen = client.facts.index(fact, seen) + 1
        if close_to(fact["colour"], wanted):
            return fact


async def tone(client: SdkClient, identity: str, hz: float, since: int = 0) -> dict[str, Any]:
    seen = since
    while True:
        fact = await client.fact("sound", since=seen, identity=identity)
        seen = client.facts.index(fact, seen) + 1
        if abs(fact["hz"] - hz) < 15 and fact["rms"] > 1_000:
            return fact


# ---------------------------------------------------------------- Python SDK with Python SDK


@SINGLE
async def test_two_python_clients_exchange_video_audio_and_data(
    site: Site, sdk_client: StartClient, single: bool
) -> None:
    ann = await sdk_client(site.url, site.token("ann"), single=single)
    bob = await sdk_client(site.url, site.token("bob"), single=single)
    for client in (ann, bob):
        await client.fact("connected")
    for client, colour, hz in ((ann, RED, 440), (bob, BLUE, 880)):
        await client.tell(do="video", colour=colour)
        await client.tell(do="audio", hz=hz)
    await picture(ann, "bob", BLUE)
    await picture(bob, "ann", RED)
    await tone(ann, "bob", 880)
    await tone(bob, "ann", 440)
    await ann.fact("local_track_subscribed")
    await ann.fact("speakers")
    await ann.tell(do="data", text="for all")
    assert (await bob.fact("data", text="for all"))["identity"] == "ann"
    await bob.tell(do="data", text="lossy", reliable=False)
    assert (await ann.fact("data", text="lossy"))["topic"] == "t"
    await bob.close()
    await ann.fact("participant_disconnected", identity="bob")


@SINGLE
async def test_subscribing_muting_and_unpublishing_with_python(
    site: Site, sdk_client: StartClient, single: bool
) -> None:
    ann = await sdk_client(site.url, site.token("ann", can_update_own_metadata=True), single=single)
    bob = await sdk_client(site.url, site.token("bob"), single=not single)
    await bob.fact("connected")
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    sid = (await ann.fact("published"))["sid"]
    await picture(bob, "ann", RED)
    # Off and on again: the same section carries it twice.
    await bob.tell(do="subscribe", sid=sid, wanted=False)
    await bob.fact("track_unsubscribed", sid=sid)
    mark = len(bob.facts)
    await bob.tell(do="subscribe", sid=sid, wanted=True)
    await bob.fact("track_subscribed", since=mark, sid=sid)
    await picture(bob, "ann", RED, since=mark)
    await ann.tell(do="mute", name="camera", muted=True)
    await bob.fact("track_muted", sid=sid)
    await ann.tell(do="mute", name="camera", muted=False)
    await bob.fact("track_unmuted", sid=sid)
    await ann.tell(do="attributes", attributes={"a": "1"})
    await ann.fact("attributes_set")
    assert (await bob.fact("attributes", identity="ann"))["attributes"] == {"a": "1"}
    await ann.tell(do="metadata", metadata="m")
    await bob.fact("metadata", identity="ann", metadata="m")
    await ann.tell(do="unpublish", name="camera")
    await bob.fact("track_unpublished", sid=sid)
    mark = len(bob.facts)
    await ann.tell(do="video", colour=BLUE, name="another")
    await picture(bob, "ann", BLUE, since=mark)


@SINGLE
async def test_h264_vp9_and_a_shared_screen_with_python(
    site: Site, sdk_client: StartClient, single: bool
) -> None:
    ann = await sdk_client(site.url, site.token("ann"), single=single)
    bob = await sdk_client(site.url, site.token("bob"), single=single)
    await bob.fact("connected")
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED, name="screen", source=3, simulcast=False, codec=1)
    sid = (await ann.fact("published"))["sid"]
    await picture(bob, "ann", RED)
    assert (await bob.fact("track_subscribed", sid=sid))["source"] == 3
    assert {track.info.mime_type for track in site.server.media.rooms["r"].tracks.values()} == {"video/H264"}
    await ann.tell(do="video", colour=BLUE, name="vp9", codec=3)  # another codec beside it
    await ann.tell(do="audio", hz=440)
    await tone(bob, "ann", 440)
    mark = len(bob.facts)
    await picture(bob, "ann", RED, since=mark)
    await picture(bob, "ann", BLUE, since=mark)


@SINGLE
async def test_a_python_client_resumes_after_a_lost_websocket(
    site: Site, sdk_client: StartClient, single: bool
) -> None:
    ann = await sdk_client(site.url, site.token("ann"), single=single)
    bob = await sdk_client(site.url, site.token("bob"), single=single)
    await bob.fact("connected")
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    await picture(bob, "ann", RED)
    sid = site.server.media.rooms["r"].participants["ann"].sid
    for identity, client in (("ann", ann), ("bob", bob)):
        mark = len(client.facts)
        site.cut(identity)
        await client.fact("reconnected", since=mark)
        mark = len(bob.facts)
        await picture(bob, "ann", RED, since=mark)
    assert site.server.media.rooms["r"].participants["ann"].sid == sid
    await ann.tell(do="data", text="after")
    await bob.fact("data", text="after")
    assert not [f for f in ann.facts + bob.facts if f["fact"] == "participant_disconnected"]  # trap 4


@SINGLE
async def test_python_clients_come_back_after_the_worker_was_killed(
    site_with_a_worker: Site, sdk_client: StartClient, single: bool
) -> None:
    site = site_with_a_worker
    ann = await sdk_client(site.url, site.token("ann"), single=single)
    bob = await sdk_client(site.url, site.token("bob"), single=single)
    await bob.fact("connected")
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    await picture(bob, "ann", RED)
    mark = len(bob.facts)
    (pid,) = site.node.pids().values()
    os.kill(pid, signal.SIGKILL)
    await bob.fact("reconnected", since=mark, timeout_s=40)
    await picture(bob, "ann", RED, since=mark)


async def test_an_operators_service_works_on_real_clients(site: Site, sdk_client: StartClient) -> None:
    ann = await sdk_client(site.url, site.token("ann"), single=True)
    await ann.fact("connected")
    keys = site.server.keys
    service = api.LiveKitAPI(site.url.replace("ws", "http"), keys.api_key, keys.api_secret)
    try:
        await service.room.update_room_metadata(api.UpdateRoomMetadataRequest(room="r", metadata="m"))
        await ann.fact("room_metadata", metadata="m")
        await service.room.remove_participant(api.RoomParticipantIdentity(room="r", identity="ann"))
        await ann.fact("disconnected", reason=4)
    finally:
        await service.aclose()


# ---------------------------------------------------------------- Chromium


@SINGLE
async def test_chromium_and_python_see_and_hear_each_other(
    site: Site, sdk_client: StartClient, open_tab: Callable[..., Awaitable[Tab]], single: bool
) -> None:
    tab = await open_tab(site, "page", single)
    ann = await sdk_client(site.url, site.token("ann"), single=not single)
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    await ann.tell(do="audio", hz=440)
    await ann.fact("picture", identity="page")
    await tab.fact("track_subscribed", identity="ann", kind="video")
    await tab.until("{ const c = colour(); return c && c[0] > 180 && c[2] < 70; }")
    await tab.until("{ const m = await media(); return m.audio > 0.001; }")
    await ann.tell(do="data", text="to the page", to=["page"])
    await tab.fact("data", text="to the page", identity="ann")
    await tab.page.evaluate("send('from the page', true, ['ann'])")
    assert (await ann.fact("data", text="from the page"))["identity"] == "page"
    await tab.page.evaluate("send('lossy', false)")
    await ann.fact("data", text="lossy")
    await tab.page.evaluate("room.localParticipant.setMicrophoneEnabled(false)")
    await ann.fact("track_muted", identity="page")


@SINGLE
async def test_layers_start_arrive_as_asked_and_stop_when_nobody_needs_them(
    site: Site, open_tab: Callable[..., Awaitable[Tab]], single: bool
) -> None:
    """Traps 2, 8, 10, 16, 21 in one go: three layers, the chosen one forwarded, the others off."""
    sender = await open_tab(site, "sender", single)
    viewer = await open_tab(site, "viewer", not single, publish=False)
    await viewer.fact("track_subscribed", kind="video")
    await sender.until(
        "{ const s = (await media()).sent; return s.q?.frames && s.h?.frames && s.f?.frames; }", 60
    )
    await viewer.until("{ const v = (await media()).video; return v && v.width === 1280; }", 60)
    await viewer.page.evaluate("quality(0)")
    await viewer.until("{ const v = (await media()).video; return v && v.width === 320; }")
    await sender.until("{ const s = (await media()).sent; return s.q.active && !s.f.active; }")
    await viewer.page.evaluate("quality(2)")
    await sender.until("{ const s = (await media()).sent; return s.f.active; }")
    await viewer.until("{ const v = (await media()).video; return v && v.width === 1280; }", 60)


@SINGLE
async def test_chromium_resumes_and_reconnects(
    site: Site, sdk_client: StartClient, open_tab: Callable[..., Awaitable[Tab]], single: bool
) -> None:
    tab = await open_tab(site, "page", single)
    ann = await sdk_client(site.url, site.token("ann"), single=single)
    await ann.fact("connected")
    await ann.tell(do="video", colour=RED)
    await ann.fact("picture", identity="page")
    await tab.until("{ const c = colour(); return c && c[0] > 180; }")
    site.cut("page")
    await tab.fact("signalReconnecting")
    await tab.fact("reconnected")
    frames = await tab.until("{ return (await media()).video?.frames; }")
    await tab.until(f"{{ const v = (await media()).video; return v && v.frames > {frames} + 20; }}")
    mark = len(ann.facts)
    await ann.fact("picture", since=mark, identity="page")
    # The full way: everything is made anew.
    await tab.page.evaluate("{ facts.length = 0; room.simulateScenario('full-reconnect'); }")
    await tab.fact("reconnected", timeout_s=40)
    await tab.until("{ const v = (await media()).video; return v && v.frames > 20; }", 40)
    mark = len(ann.facts)
    await ann.fact("picture", since=mark, identity="page")
