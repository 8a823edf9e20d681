"""CPU of the control process when a whole province is called at once, without media.

    .venv/bin/python bench/many_venues.py [--venues 122] [--limit-s 300] [--profile FILE]

One process runs RoomDirectory, Reconciler and MediaRooms over a media node that says yes to everything; a
second one plays the browsers: each venue joins over /rtc, publishes camera and microphone with Chromium's
offer and answers every offer section by section.  Printed are the CPU seconds (user and system) of the
first process, the wall time until it is at rest, the messages it sent and the requests to the media
worker.  Pages on /ws and the worker's own work are not included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType
from livekit.protocol import models, rtc

from core.audit import Audit
from core.clock import SystemClock
from core.database import Database
from rooms.commands import Broadcast, Call, MuteAll, Unmute
from rooms.directory import RoomDirectory
from rooms.policy import Actor
from rooms.seed import seed_venues
from rooms.store import RoomStore
from sfu.messages import ConnectTransport, Level, Levels, Reply, Request, TransportState
from signaling.livekit.limits import Limits
from signaling.livekit.session import Session
from signaling.reconcile import Reconciler
from tests.fixtures.livekit import (
    AUDIO_CID,
    VIDEO_CID,
    FakeNode,
    answer_to,
    captured_sdp,
    livekit_server,
)

HOST = Actor("us_host", "host", "host")
MAIN = "340000"
REST_CPU = 0.05  # of one core: what ticks, pings and this bench's own looking cost
LOOK_S = 0.5


# ---------------------------------------------------------------- the browsers


class Browser:
    """One venue's page: publishes, answers, reads."""

    def __init__(self, http: ClientSession, base: str, token: str) -> None:
        self._http = http
        self._url = f"{base}/rtc?access_token={token}&protocol=17&auto_subscribe=1&sdk=js"
        self._ws: ClientWebSocketResponse | None = None
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> None:
        ws = self._ws = await self._http.ws_connect(self._url, max_msg_size=2**24)
        self._task = asyncio.create_task(self._read(ws))
        for cid, kind, source in (
            (AUDIO_CID, models.TrackType.AUDIO, models.TrackSource.MICROPHONE),
            (VIDEO_CID, models.TrackType.VIDEO, models.TrackSource.CAMERA),
        ):
            ask = rtc.AddTrackRequest(cid=cid, type=kind, source=source)
            if kind == models.TrackType.VIDEO:
                ask.width, ask.height = 1280, 720
                for quality, width, height in ((0, 320, 180), (1, 640, 360), (2, 1280, 720)):
                    ask.layers.add(quality=quality, width=width, height=height)
            await self._send(ws, add_track=ask)
        offer = rtc.SessionDescription(type="offer", sdp=captured_sdp("chromium-v0-1"), id=1)
        await self._send(ws, offer=offer)

    async def leave(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._ws is not None:
            await self._ws.close()

    async def _read(self, ws: ClientWebSocketResponse) -> None:
        async for frame in ws:
            if frame.type is not WSMsgType.BINARY:
                return
            message = rtc.SignalResponse.FromString(frame.data)
            if message.HasField("offer"):
                answer = answer_to(message.offer.sdp)
                described = rtc.SessionDescription(type="answer", sdp=answer, id=message.offer.id)
                with contextlib.suppress(ConnectionError):
                    await self._send(ws, answer=described)

    async def _send(self, ws: ClientWebSocketResponse, **message: Any) -> None:
        await ws.send_bytes(rtc.SignalRequest(**message).SerializeToString())


async def browse() -> None:
    """The second process: orders come in lines of JSON, each is answered with one line when done."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    start = json.loads(await reader.readline())
    async with ClientSession(connector=TCPConnector(limit=0)) as http:
        pages = {who: Browser(http, start["base"], token) for who, token in start["tokens"].items()}
        while line := await reader.readline():
            order = json.loads(line)
            if order["rejoin"]:
                await asyncio.gather(*(pages[who].leave() for who in order["who"]))
            await asyncio.gather(*(pages[who].join() for who in order["who"]))
            print("done", flush=True)
        for page in pages.values():
            await page.leave()


# ---------------------------------------------------------------- the server


class YesNode(FakeNode):
    """Transports connect at once.  Only numbers are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    async def request(self, worker_id: str, msg: Request, timeout_s: float = 5) -> Reply:
        reply = await super().request(worker_id, msg, timeout_s)
        self._count()
        if isinstance(msg, ConnectTransport):
            event = TransportState(msg.transport_id, "connected")
            asyncio.get_running_loop().call_soon(self.emit, event)
        return reply

    def post(self, worker_id: str, msg: Request) -> None:
        super().post(worker_id, msg)
        self._count()

    def _count(self) -> None:
        self.requests += len(self.sent)
        self.sent.clear()


class Sent:
    """Counts what all sessions send."""

    messages = 0
    bytes = 0

    @classmethod
    def count(cls) -> None:
        write = Session._write

        async def counted(self: Session) -> None:
            send = self._ws.send_bytes

            async def send_bytes(data: bytes, *rest: Any) -> None:
                cls.messages += 1
                cls.bytes += len(data)
                await send(data, *rest)

            self._ws.send_bytes = send_bytes  # type: ignore[method-assign,assignment]
            await write(self)

        Session._write = counted  # type: ignore[method-assign]


async def at_rest(limit_s: float) -> float:
    """Waits until this process uses next to no CPU; gives the CPU second when it came to rest."""
    end = time.monotonic() + limit_s
    calm = 0
    before = time.process_time()
    since = before
    while time.monotonic() < end:
        await asyncio.sleep(LOOK_S)
        now = time.process_time()
        if now - before < REST_CPU * LOOK_S:
            calm += 1
            if calm >= 3:
                return since
        else:
            calm = 0
            since = now
        before = now
    print(f"  (not at rest after {limit_s:.0f} s)")
    return time.process_time()


async def serve(venues: int, limit_s: float, profile: Path | None) -> None:
    Sent.count()
    listed = seed_venues()
    who = [MAIN, *(venue.venue_id for venue in listed if venue.venue_id != MAIN)][:venues]
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/bench.db")
        await database.migrate()
        store = RoomStore(database, Audit(database, clock))
        await store.add_venues(listed)
        directory = RoomDirectory(store, clock)
        await directory.start()
        reconciler = Reconciler(directory, clock)
        node = YesNode()
        limits = Limits(unanswered_joins=2_000, unanswered_joins_per_address=2_000, message_bytes=512 * 1024)
        async with livekit_server(
            node, clock=clock, policy=reconciler, observer=reconciler, limits=limits
        ) as server:
            reconciler.attach(server.media)
            meeting = (await directory.open(HOST, "bench", MAIN, who)).meeting_id
            tokens = {venue: server.token(meeting, venue) for venue in who}
            pages = await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                "--pages",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert pages.stdin is not None
            assert pages.stdout is not None

            async def order(whom: list[str], rejoin: bool) -> None:
                assert pages.stdin is not None
                assert pages.stdout is not None
                pages.stdin.write(json.dumps({"who": whom, "rejoin": rejoin}).encode() + b"\n")
                await pages.stdout.readline()

            pages.stdin.write(json.dumps({"base": server.http_url, "tokens": tokens}).encode() + b"\n")
            print(f"{venues} venues; CPU seconds of the control process")
            row = "{:<28}{:>8}{:>9}{:>11}{:>9}{:>10}".format
            print(row("", "CPU s", "wall s", "messages", "MB", "requests"))

            async def phase(name: str, work: Callable[[], Awaitable[object]]) -> None:
                sent, size, requests = Sent.messages, Sent.bytes, node.requests
                wall, cpu = time.monotonic(), time.process_time()
                await work()
                rested = await at_rest(limit_s)
                taken = max(0.0, time.monotonic() - wall - 3 * LOOK_S)
                figures = (
                    f"{rested - cpu:.2f}",
                    f"{taken:.1f}",
                    str(Sent.messages - sent),
                    f"{(Sent.bytes - size) / 1e6:.1f}",
                    str(node.requests - requests),
                )
                print(row(name, *figures), flush=True)

            async def join() -> None:
                await directory.command(meeting, HOST, Call())
                await order(who, rejoin=False)

            async def talk() -> None:
                room = server.media.rooms[meeting]
                producers = [
                    track.producer_id
                    for track in room.tracks.values()
                    if track.source == "microphone" and track.producer_id
                ]
                for turn in range(100):  # 30 s of levels: three speak at a time, each for 3 s
                    first = turn // 10 * 3
                    loud = {producers[(first + n) % len(producers)] for n in range(3)}
                    levels = tuple(
                        Level(one, -30.0 if one in loud else -70.0, one in loud) for one in producers
                    )
                    node.emit(Levels(room.router_id, levels))
                    await asyncio.sleep(0.3)

            profiler = cProfile.Profile() if profile else None
            if profiler is not None:
                profiler.enable()
            await phase("call all, everybody joins", join)
            await phase("another venue on stage", lambda: directory.command(meeting, HOST, _show(who[1])))
            await phase("stage switched", lambda: directory.command(meeting, HOST, _show(who[2])))
            await phase("mute_all", lambda: directory.command(meeting, HOST, MuteAll(type="mute_all")))
            storm = who[5 :: max(1, len(who) // max(1, len(who) // 10))]
            await phase(f"{len(storm)} venues rejoin", lambda: order(storm, rejoin=True))
            await phase("unmute all", lambda: directory.command(meeting, HOST, _unmute()))
            await phase("30 s of changing speakers", talk)
            room = server.media.rooms.get(meeting)
            if room is not None:
                subscriptions = sorted(len(p.reception.subscriptions) for p in room.participants.values())
                published = sum(t.published for t in room.tracks.values())
                print(
                    f"in the room {len(room.participants)}, tracks {published}, subscriptions a viewer "
                    f"{subscriptions[0]}–{subscriptions[-1]}, in all {sum(subscriptions)}"
                )
            if profiler is not None and profile is not None:
                profiler.disable()
                profiler.dump_stats(profile)
            pages.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pages.wait(), 20)
            if pages.returncode is None:
                pages.kill()
        await reconciler.close()
        await directory.close()
        await database.close()


def _show(venue: str) -> Broadcast:
    return Broadcast(type="broadcast", venue=venue)


def _unmute() -> Unmute:
    return Unmute(type="unmute")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venues", type=int, default=122)
    parser.add_argument("--limit-s", type=float, default=300, help="the longest that one step may take")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--pages", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    asyncio.run(browse() if chosen.pages else serve(chosen.venues, chosen.limit_s, chosen.profile))


if __name__ == "__main__":
    main()
