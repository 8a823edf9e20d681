"""Load clients of Janus' videoroom over its WebSocket API: one connection per publisher, one per viewer."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from bench.load.client import Leg, identity, remote_of
from bench.load.engine import Engine, Pattern
from bench.load.lianxin import (
    AUDIO_TYPE,
    LEVEL_ID,
    MID_ID,
    RTX_TYPE,
    TWCC,
    TWCC_ID,
    VIDEO_TYPE,
    Section,
)
from bench.load.servers import media_address

ROOM = 1234
Json = dict[str, Any]


class Api:
    """One session of Janus' API for all clients of a run."""

    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self._ws = ws
        self._answers: dict[str, asyncio.Future[Json]] = {}
        self._session = 0
        self._up: dict[int, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, http: ClientSession, url: str) -> Api:
        api = cls(await http.ws_connect(url, protocols=["janus-protocol"], max_msg_size=2**24))
        api._tasks.append(asyncio.create_task(api._read()))
        api._session = (await api._request("success", janus="create"))["data"]["id"]
        api._tasks.append(asyncio.create_task(api._keep()))
        return api

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ws.close()

    async def attach(self) -> int:
        plugin = "janus.plugin.videoroom"
        answer = await self._request("success", janus="attach", session_id=self._session, plugin=plugin)
        return int(answer["data"]["id"])

    async def message(self, handle: int, jsep: Json | None = None, **body: Any) -> Json:
        """Waits for the plugin's event.  Raises RuntimeError when it refuses."""
        extra = {"jsep": jsep} if jsep is not None else {}
        answer = await self._request(
            "event", janus="message", session_id=self._session, handle_id=handle, body=body, **extra
        )
        said = answer["plugindata"]["data"]
        if "error" in said:
            raise RuntimeError(f"janus: {said['error']}")
        return answer

    async def up(self, handle: int) -> None:
        """Until Janus has seen the end of the handshake: before it, a publisher is not in the room."""
        await asyncio.wait_for(self._up.setdefault(handle, asyncio.Event()).wait(), 20)

    async def _request(self, wanted: str, **message: Any) -> Json:
        transaction = secrets.token_hex(6)
        future = self._answers[f"{wanted} {transaction}"] = asyncio.get_running_loop().create_future()
        await self._ws.send_json({**message, "transaction": transaction})
        return await asyncio.wait_for(future, 20)

    async def _read(self) -> None:
        async for frame in self._ws:
            if frame.type is not WSMsgType.TEXT:
                break
            message = frame.json()
            if message["janus"] == "webrtcup":
                self._up.setdefault(message["sender"], asyncio.Event()).set()
            future = self._answers.pop(f"{message['janus']} {message.get('transaction')}", None)
            if future is not None and not future.done():
                future.set_result(message)

    async def _keep(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(20)
                await self._ws.send_json(
                    {"janus": "keepalive", "session_id": self._session, "transaction": secrets.token_hex(6)}
                )


@dataclass(eq=False)
class Client:
    """A publisher with its streams, or a viewer of several publishers."""

    engine: Engine
    name: str
    number_in_room: int = 0
    leg: Leg = field(default_factory=Leg)
    streams: dict[str, int] = field(default_factory=dict)
    number: int = -1
    handle: int = 0
    _patterns: list[tuple[str, Pattern, float]] = field(default_factory=list)

    def add(self, cid: str, pattern: Pattern, phase_s: float = 0) -> None:
        self._patterns.append((cid, pattern, phase_s))

    async def publish(self, api: Api) -> None:
        """Joins and sends what was added."""
        self.handle = await api.attach()
        await api.message(
            self.handle,
            request="join",
            ptype="publisher",
            room=ROOM,
            id=self.number_in_room,
            display=self.name,
        )
        sections = [
            Section(str(i), "video" if p.video else "audio", self.engine.new_ssrc(), cid)
            for i, (cid, p, _) in enumerate(self._patterns)
        ]
        jsep = {"type": "offer", "sdp": self._describe(sections)}
        answer = await api.message(self.handle, jsep, request="configure", keyframe=False)
        await self._connect(answer["jsep"]["sdp"], RTX_TYPE, TWCC_ID)
        await api.up(self.handle)
        for section, (cid, pattern, phase_s) in zip(sections, self._patterns, strict=True):
            self.streams[cid] = self.engine.add_stream(
                self.number, pattern, section.ssrc, VIDEO_TYPE if pattern.video else AUDIO_TYPE,
                mid=section.mid, mid_id=MID_ID, twcc_id=TWCC_ID, level_id=LEVEL_ID, phase_s=phase_s,
            )  # fmt: skip

    async def view(self, api: Api, feeds: Sequence[int] | Sequence[Json]) -> None:
        """``feeds``: publishers' numbers, or stream descriptions of the videoroom."""
        self.handle = await api.attach()
        streams = [feed if isinstance(feed, dict) else {"feed": feed} for feed in feeds]
        offered = await api.message(
            self.handle, request="join", ptype="subscriber", room=ROOM, streams=streams
        )
        offer = offered["jsep"]["sdp"]
        jsep = {"type": "answer", "sdp": self._answer(offer)}
        rtx = re.search(r"a=rtpmap:(\d+) rtx/", offer)
        twcc = re.search(rf"a=extmap:(\d+)\S* {re.escape(TWCC)}", offer)
        await api.message(self.handle, jsep, request="start", room=ROOM)
        await self._connect(offer, int(rtx.group(1)) if rtx else 0, int(twcc.group(1)) if twcc else 0)
        await api.up(self.handle)

    def set_streams(self, on: bool) -> None:
        for stream in self.streams.values():
            self.engine.set_stream(stream, on)

    async def _connect(self, sdp: str, rtx_type: int, twcc_id: int) -> None:
        keys, check = await self.leg.connect(remote_of(sdp))
        assert self.leg.sock is not None
        self.number = self.engine.add_leg(self.leg.sock, keys, check, twcc_id, rtx_type)

    def _candidate(self) -> list[str]:
        """libnice checks the path itself before it lets media through."""
        return [self.leg.bind(media_address()), "a=end-of-candidates"]

    def _describe(self, sections: Sequence[Section]) -> str:
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0"]
        lines.append("a=group:BUNDLE " + " ".join(section.mid for section in sections))
        candidate = self._candidate()
        for section in sections:
            lines += [*section.lines(self.leg), *candidate]
        return "\r\n".join(lines) + "\r\n"

    def _answer(self, offer: str) -> str:
        """What Janus offers, accepted line by line."""
        candidate = self._candidate()
        head, *sections = re.split(r"(?=^m=)", offer, flags=re.MULTILINE)
        drop = (
            "a=ice-",
            "a=fingerprint",
            "a=candidate",
            "a=end-of-candidates",
            "a=ssrc",
            "a=msid",
            "a=setup",
        )
        lines = [line for line in head.splitlines() if not line.startswith(("a=ice", "a=fingerprint"))]
        for section in sections:
            for line in section.splitlines():
                if line.startswith(drop):
                    continue
                lines.append("a=recvonly" if line == "a=sendonly" else line)
            lines += [
                f"a=ice-ufrag:{self.leg.ufrag}", f"a=ice-pwd:{self.leg.pwd}",
                f"a=fingerprint:sha-256 {identity().fingerprint}", "a=setup:active",
                *candidate,
            ]  # fmt: skip
        return "\r\n".join(lines) + "\r\n"
