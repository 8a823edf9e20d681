"""The servers under test, started as an operator does: `lianxin serve` with one worker, Debian's Janus."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from bench.load.cpu import cpu_ns, main_thread_ns
from sfu.interfaces import interface_addresses
from signaling.livekit.token import ApiKeys, Grants

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 60.0


def free_port() -> int:
    """Free for TCP and for UDP: a media worker listens on both."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("0.0.0.0", 0))
            port = int(tcp.getsockname()[1])
            with suppress(OSError):
                udp.bind(("0.0.0.0", port))
                return port


def media_address() -> str:
    """An address of this machine that Janus accepts: it never gathers loopback.  The traffic stays on lo."""
    return next((a for a in interface_addresses() if not a.startswith("127.")), "127.0.0.1")


@dataclass
class Server:
    """``pids``: what forwards media; ``control``: what does not (None: the same process)."""

    name: str
    url: str
    pids: tuple[int, ...]
    control: int | None = None
    keys: ApiKeys | None = None
    folder: Path = field(default_factory=Path)

    def media_ns(self) -> int:
        return sum(cpu_ns(pid) for pid in self.pids)

    def main_ns(self) -> int:
        """Of it, what the processes' first threads took: Python's in lianxin."""
        return sum(main_thread_ns(pid) for pid in self.pids)

    def control_ns(self) -> int:
        return 0 if self.control is None else cpu_ns(self.control)

    def token(self, room: str, identity: str) -> str:
        assert self.keys is not None
        return self.keys.mint(room, identity, grants=Grants(room_join=True, can_update_own_metadata=True))

    async def metrics(self) -> dict[str, float]:
        """By name with labels, as /metrics writes them."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        values = {}
        for line in lines:
            name, _, value = line.rpartition(" ")
            if name and not line.startswith("#"):
                with suppress(ValueError):
                    values[name] = float(value)
        return values

    async def relay_is_native(self) -> bool:
        """What the workers say, which report once a second."""
        async with asyncio.timeout(10):
            while True:
                said = [
                    v
                    for k, v in (await self.metrics()).items()
                    if k.startswith("lianxin_worker_relay_native")
                ]
                if said:
                    return all(value == 1 for value in said)
                await asyncio.sleep(0.2)


@asynccontextmanager
async def lianxin(
    *, native: bool = True, demo: bool = False, environ: dict[str, str] | None = None
) -> AsyncIterator[Server]:
    """One worker process.  ``native=False``: the Python twin."""
    with tempfile.TemporaryDirectory(prefix="lianxin-bench-") as name:
        port, udp = free_port(), free_port()
        given = {
            "LIANXIN_MEDIA__WORKERS": "1",
            "LIANXIN_MEDIA__ADDRESSES": media_address(),
            "LIANXIN_RECORDING__MIN_FREE_BYTES": "0",
            "LIANXIN_LIMITS__WEBSOCKETS_PER_ADDRESS": "2000",
            "LIANXIN_LIMITS__CONNECTIONS_PER_ADDRESS": "4000",
            "LIANXIN_LIMITS__PARTICIPANTS_PER_ROOM": "1500",
            "LIANXIN_MEDIA__NATIVE": "true" if native else "false",
            **(environ or {}),
        }
        arguments = [
            sys.executable, "-m", "signaling", "serve", "--no-tls", "--data", f"{name}/data",
            "--http-port", str(port), "--udp-port", str(udp), *(["--demo"] if demo else []),
        ]  # fmt: skip
        log = Path(name) / "log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *arguments, cwd=ROOT, env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=errors
            )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(START_TIMEOUT_S):
                async for line in process.stdout:
                    if line.startswith(b"Lianxin is ready"):
                        break
                else:
                    raise RuntimeError(f"lianxin serve ended at once:\n{log.read_text()}")
            workers = [
                child.pid
                for child in psutil.Process(process.pid).children()
                if "signaling.worker_main" in " ".join(child.cmdline())
            ]
            keys = ApiKeys.load(Path(name) / "data" / "keys.json")
            label = "lianxin" if native else "lianxin, Python twin"
            yield Server(label, f"http://127.0.0.1:{port}", tuple(workers), process.pid, keys, Path(name))
        finally:
            if process.returncode is None:
                process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 20)
            if process.returncode is None:
                process.kill()
                await process.wait()


# ---------------------------------------------------------------- Janus

JANUS = """general: {{
  configs_folder = "{folder}"
  plugins_folder = "{plugins}"
  transports_folder = "{transports}"
  events_folder = "{folder}/none"
  loggers_folder = "{folder}/none"
  debug_level = 3
  debug_timestamps = true
  {general}
}}
media: {{
  {media}
}}
nat: {{
  ice_enforce_list = "{address}"
}}
plugins: {{ disable = "{other_plugins}" }}
transports: {{ disable = "{other_transports}" }}
"""
ROOM = """general: {{ }}
room-1234: {{
  description = "bench"
  publishers = 200
  bitrate = {bitrate}
  fir_freq = 0
  audiocodec = "opus"
  videocodec = "vp8"
  notify_joining = false
  require_pvtid = false
}}
"""
WEBSOCKETS = """general: {{ json = "compact"
  ws = true
  ws_port = {port}
  ws_ip = "127.0.0.1"
  wss = false
}}
admin: {{ admin_ws = false }}
"""


def janus_missing() -> str | None:
    """Why Janus can't be measured here, None when it can."""
    if shutil.which("janus") is None:
        return "Debian's package janus is not installed (apt-get install janus)"
    if media_address().startswith("127."):
        return "this machine has no address besides loopback, which Janus refuses to gather"
    return None


def _folder_of(kind: str) -> Path | None:
    return next(iter(Path("/usr/lib").glob(f"*/janus/{kind}")), None)


@asynccontextmanager
async def janus(*, tuned: bool = False, bitrate: int = 4_000_000) -> AsyncIterator[Server]:
    """``tuned``: two event loops, one for each core here."""
    plugins, transports = _folder_of("plugins"), _folder_of("transports")
    assert plugins is not None
    assert transports is not None
    with tempfile.TemporaryDirectory(prefix="janus-bench-") as name:
        folder, port = Path(name), free_port()
        (folder / "none").mkdir()
        others = [p.name for p in plugins.glob("*.so") if "videoroom" not in p.name]
        other_transports = [p.name for p in transports.glob("*.so") if "websockets" not in p.name]
        text = JANUS.format(
            folder=folder,
            plugins=plugins,
            transports=transports,
            address=media_address(),
            general="event_loops = 2" if tuned else "",
            media="",
            other_plugins=",".join(others),
            other_transports=",".join(other_transports),
        )
        (folder / "janus.jcfg").write_text(text)
        (folder / "janus.plugin.videoroom.jcfg").write_text(ROOM.format(bitrate=bitrate))
        (folder / "janus.transport.websockets.jcfg").write_text(WEBSOCKETS.format(port=port))
        log = folder / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                "janus", "-F", name, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            await _listening(port, process, log)
            label = "Janus, tuned" if tuned else "Janus"
            yield Server(label, f"ws://127.0.0.1:{port}", (process.pid,), folder=folder)
        finally:
            if process.returncode is None:
                process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 10)
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.returncode is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"janus did not come up:\n{log.read_text(errors='replace')}")


def janus_version() -> str:
    if shutil.which("janus") is None:
        return "not installed"
    said = subprocess.run(["janus", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+\.\d+\.\d+)", said.stdout + said.stderr)
    return found.group(1) if found else "unknown"


def versions() -> Iterator[tuple[str, str]]:
    """What the figures depend on."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    yield "processor", f"{cpu.group(1) if cpu else 'unknown'}, {os.cpu_count()} cores"
    yield "kernel", os.uname().release
    yield "Python", sys.version.split()[0]
    yield "janus", janus_version()
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h %cs"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    yield "commit", commit.stdout.strip() or "unknown"
