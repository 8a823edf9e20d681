"""Chromium for the bench: a camera and a voice, pages served locally, and a bad line in front of a page."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import wave
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from playwright.async_api import Browser, Page, Playwright, async_playwright
from playwright.async_api import Error as BrowserError

from bench.load.servers import ROOT, Server, free_port, media_address
from bench.udp_line import UdpLine, Weather

PAGES = Path(__file__).parent / "pages"
CLIENT = ROOT / "web" / "node_modules" / "livekit-client" / "dist" / "livekit-client.esm.mjs"
JOIN_TIMEOUT_S = 15.0
CONTENT_S, FPS, WIDTH, HEIGHT = 6, 25, 1280, 720
RATE = 48_000
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream", "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required", "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
]  # fmt: skip


# ---------------------------------------------------------------- pictures and sounds


def write_camera(path: Path) -> None:
    """A textured scene that pans, with a block that moves against it: an encoder has to work for it."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(40, 215, (HEIGHT // 8 + 40, WIDTH // 8 + 80)).astype(np.uint8)
    scene = np.repeat(np.repeat(coarse, 8, 0), 8, 1).astype(np.float64)
    for axis in (0, 1):
        scene = (np.roll(scene, 3, axis) + np.roll(scene, -3, axis) + scene) / 3
    scene += rng.normal(0, 4, scene.shape)
    still = np.clip(scene, 16, 235).astype(np.uint8)
    chroma = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8).tobytes() * 2
    frames = CONTENT_S * FPS
    with path.open("wb") as out:
        out.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{FPS}:1 Ip A1:1 C420mpeg2\n".encode())
        for n in range(frames):
            turn = 2 * np.pi * n / frames
            x, y = int(200 * (1 + np.sin(turn))), int(60 * (1 + np.cos(2 * turn)))
            picture = still[y : y + HEIGHT, x : x + WIDTH].copy()
            left = int((WIDTH - 200) * (0.5 - 0.5 * np.cos(turn)))
            picture[240:480, left : left + 200] = still[0:240, 0:200]
            out.write(b"FRAME\n" + picture.tobytes() + chroma)


def write_voice(path: Path) -> None:
    """Three formants on a glottal pulse, in syllables without pauses, so that nothing is sent as silence."""
    t = np.arange(CONTENT_S * RATE) / RATE
    pitch = 120 + 15 * np.sin(2 * np.pi * 0.5 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = sum(
        np.sin(k * phase) * (np.exp(-(((k * 120 - f) / 200) ** 2)) + 0.02)
        for f in (500, 1500, 2500)
        for k in range(1, 30)
    )
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
    samples = sound / np.max(np.abs(sound)) * syllables * 0.4
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((samples * 32767).astype("<i2").tobytes())


# ---------------------------------------------------------------- browsers


@asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    async def serve_client(_: web.Request) -> web.FileResponse:
        return web.FileResponse(CLIENT)

    app = web.Application()
    app.router.add_get("/livekit-client.mjs", serve_client)
    app.router.add_static("/", PAGES)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class Seat:
    """One browser with one page; each ``open`` is a page anew, behind a line if there is weather."""

    def __init__(self, browser: Browser, base: str) -> None:
        self._browser = browser
        self._base = base
        self._page: Page | None = None
        self._lines = AsyncExitStack()
        self._known: dict[tuple[str, int], UdpLine] = {}
        self.errors: list[str] = []

    async def open(self, server: str, up: Weather | None = None, down: Weather | None = None) -> Page:
        """Ready to be told ``publish`` or ``receive``."""
        await self.close()
        context = await self._browser.new_context(
            viewport={"width": 1366, "height": 768}, permissions=["camera", "microphone"]
        )
        page = self._page = await context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        await page.add_init_script(path=PAGES / "senses.js")
        if up is not None and down is not None:

            async def line_for(host: str, port: int) -> dict[str, Any]:
                line = self._known.get((host, port))
                if line is None:
                    line = await self._lines.enter_async_context(
                        UdpLine((host, port), up=up, down=down, host=media_address())
                    )
                    self._known[host, port] = line
                return {"host": media_address(), "port": line.port}

            await page.expose_function("lineFor", line_for)
            await page.add_init_script(path=PAGES / "line.js")
        await page.goto(f"{self._base}/{'lianxin' if server == 'ours' else 'janus'}.html")
        await page.wait_for_function("window.ready")
        return page

    async def close(self) -> None:
        if self._page is not None:
            with suppress(BrowserError):
                await self._page.evaluate("leave()")
                await asyncio.sleep(0.2)  # the goodbye goes out
            with suppress(BrowserError):
                await self._page.context.close()
            self._page = None
        await self._lines.aclose()
        self._known.clear()


@dataclass
class Studio:
    """Two browsers and the two servers."""

    publisher: Seat
    receiver: Seat
    servers: dict[str, Server]
    _serial: int = 0

    def where(self, server: str, room: str) -> dict[str, str]:
        running = self.servers[server]
        self._serial += 1
        token = running.token(room, f"p{self._serial}") if running.keys is not None else ""
        return {"url": running.url.replace("http", "ws"), "token": token}


@asynccontextmanager
async def studio(servers: dict[str, Server]) -> AsyncIterator[Studio]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise RuntimeError("Chromium is missing (apt-get install chromium)")
    with tempfile.TemporaryDirectory(prefix="lianxin-bench-") as name:
        camera, voice = Path(name) / "camera.y4m", Path(name) / "voice.wav"
        write_camera(camera)
        write_voice(voice)
        files = [f"--use-file-for-fake-video-capture={camera}", f"--use-file-for-fake-audio-capture={voice}"]
        async with page_server() as base, async_playwright() as playwright, AsyncExitStack() as stack:
            seats = []
            for _ in range(2):
                browser = await _launch(playwright, chromium, [*FLAGS, *files])
                stack.push_async_callback(browser.close)
                seat = Seat(browser, base)
                stack.push_async_callback(seat.close)
                seats.append(seat)
            yield Studio(seats[0], seats[1], servers)


async def _launch(playwright: Playwright, path: str, flags: list[str]) -> Browser:
    return await playwright.chromium.launch(executable_path=path, args=flags, headless=True)


async def call(page: Page, name: str, where: dict[str, str], timeout_s: float = JOIN_TIMEOUT_S) -> None:
    async with asyncio.timeout(timeout_s):
        await page.evaluate(f"(where) => {name}(where)", where)
