"""Load clients of `lianxin serve`: LiveKit's protocol over /rtc/v1, one connection for both directions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType
from livekit.protocol import models, rtc

from bench.load.client import Leg, identity, remote_of
from bench.load.engine import Engine, Pattern

TWCC = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
EXTENSIONS = {"audio": (1, 2, 3, 4), "video": (2, 3, 4)}
URIS = {
    1: "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    2: "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    3: TWCC,
    4: "urn:ietf:params:rtp-hdrext:sdes:mid",
}
MID_ID, TWCC_ID, LEVEL_ID = 4, 3, 1
VIDEO_TYPE, RTX_TYPE, AUDIO_TYPE = 96, 97, 111
CODECS = {
    "video": [
        "a=rtpmap:96 VP8/90000",
        *(f"a=rtcp-fb:96 {what}" for what in ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli")),
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
    ],
    "audio": [
        "a=rtpmap:111 opus/48000/2",
        "a=rtcp-fb:111 transport-cc",
        "a=fmtp:111 minptime=10;useinbandfec=1",
    ],
}


@dataclass
class Section:
    """A media section of the client's offers.  ``ssrc`` 0: it receives."""

    mid: str
    kind: str
    ssrc: int = 0
    cid: str = ""

    def lines(self, leg: Leg) -> list[str]:
        formats = "96 97" if self.kind == "video" else "111"
        lines = [
            f"m={self.kind} 9 UDP/TLS/RTP/SAVPF {formats}", "c=IN IP4 0.0.0.0", f"a=mid:{self.mid}",
            f"a=ice-ufrag:{leg.ufrag}", f"a=ice-pwd:{leg.pwd}",
            f"a=fingerprint:sha-256 {identity().fingerprint}",
            "a=setup:active", "a=rtcp-mux", "a=rtcp-rsize", "a=sendonly" if self.ssrc else "a=recvonly",
            *(f"a=extmap:{number} {URIS[number]}" for number in EXTENSIONS[self.kind]), *CODECS[self.kind],
        ]  # fmt: skip
        if self.ssrc:
            ssrcs = [self.ssrc, *([self.ssrc + 1] if self.kind == "video" else [])]
            lines.append(f"a=msid:- {self.cid}")
            if len(ssrcs) == 2:
                lines.append(f"a=ssrc-group:FID {ssrcs[0]} {ssrcs[1]}")
            lines += [f"a=ssrc:{ssrc} cname:bench" for ssrc in ssrcs]
        return lines


@dataclass(eq=False)
class Client:
    """One participant.  ``publish`` before or after ``join``; what it may receive comes by itself."""

    engine: Engine
    name: str
    leg: Leg = field(default_factory=Leg)
    sections: list[Section] = field(default_factory=list)
    streams: dict[str, int] = field(default_factory=dict)  # cid → stream of the engine
    tracks: dict[str, models.TrackInfo] = field(default_factory=dict)  # of everybody, by sid
    own_tracks: dict[str, str] = field(default_factory=dict)  # sid → cid
    sending: set[str] = field(default_factory=set)  # mids that the server fills
    number: int = -1  # of the leg in the engine
    ws: ClientWebSocketResponse | None = None
    kinds: dict[str, int] = field(default_factory=dict)  # messages by kind
    _offers: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _patterns: dict[str, tuple[Pattern, float]] = field(default_factory=dict)
    _connected: bool = False

    async def join(self, http: ClientSession, url: str, token: str, *, subscribe: bool = True) -> None:
        """Returns when media can flow."""
        request = rtc.JoinRequest(
            client_info=models.ClientInfo(sdk=models.ClientInfo.SDK.JS, protocol=17, client_protocol=2),
            connection_settings=rtc.ConnectionSettings(auto_subscribe=subscribe),
        )
        wrapped = rtc.WrappedJoinRequest(join_request=request.SerializeToString())
        query = {
            "access_token": token,
            "join_request": base64.b64encode(wrapped.SerializeToString()).decode(),
        }
        self.ws = await http.ws_connect(f"{url}/rtc/v1", params=query, max_msg_size=2**24)
        self._tasks.append(asyncio.create_task(self._read(self.ws)))
        self._tasks[0].add_done_callback(lambda _: self._changed.set())
        self._tasks.append(asyncio.create_task(self._ping()))
        if not self.sections:
            self._add("audio")
        await self._announce()
        await self._offer()
        await self.until(lambda: self._connected)

    async def publish(self, cid: str, pattern: Pattern, source: int, phase_s: float = 0) -> None:
        kind = "video" if pattern.video else "audio"
        self.sections.append(
            Section(str(len(self.sections)), kind, self.engine.new_ssrc(), f"{self.name}-{cid}")
        )
        self._patterns[f"{self.name}-{cid}"] = (pattern, phase_s)
        if self.ws is not None:
            await self._announce(cid=f"{self.name}-{cid}")
            await self._offer()

    async def _announce(self, cid: str = "") -> None:
        for section in self.sections:
            if not section.ssrc or (cid and section.cid != cid):
                continue
            video = section.kind == "video"
            ask = rtc.AddTrackRequest(
                cid=section.cid,
                type=models.TrackType.VIDEO if video else models.TrackType.AUDIO,
                source=models.TrackSource.CAMERA if video else models.TrackSource.MICROPHONE,
            )
            if video:
                ask.width, ask.height = 1280, 720
            await self.send(add_track=ask)

    async def subscribe(self, sids: Iterable[str], on: bool = True) -> None:
        await self.send(subscription=rtc.UpdateSubscription(track_sids=list(sids), subscribe=on))

    async def send(self, **message: Any) -> None:
        assert self.ws is not None
        await self.ws.send_bytes(rtc.SignalRequest(**message).SerializeToString())

    async def until(self, condition: Any, timeout_s: float = 60) -> None:
        """Raises what ended the reader, and TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                if self._tasks and self._tasks[0].done():
                    self._tasks[0].result()
                    raise ConnectionError(f"{self.name}: the server closed the WebSocket")
                await self._changed.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.ws is not None:
            await self.ws.close()

    def set_streams(self, on: bool) -> None:
        for stream in self.streams.values():
            self.engine.set_stream(stream, on)

    # ------------------------------------------------------------ messages

    def _add(self, kind: str) -> None:
        self.sections.append(Section(str(len(self.sections)), kind))

    async def _offer(self) -> None:
        self._offers += 1
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0"]
        lines.append("a=group:BUNDLE " + " ".join(section.mid for section in self.sections))
        for section in self.sections:
            lines += section.lines(self.leg)
        described = rtc.SessionDescription(type="offer", sdp="\r\n".join(lines) + "\r\n", id=self._offers)
        await self.send(offer=described)

    async def _ping(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(5)
                await self.send(ping_req=rtc.Ping(timestamp=1))

    async def _read(self, ws: ClientWebSocketResponse) -> None:
        async for frame in ws:
            if frame.type is not WSMsgType.BINARY:
                break
            message = rtc.SignalResponse.FromString(frame.data)
            kind = message.WhichOneof("message") or ""
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            if kind == "media_sections_requirement":
                wanted = message.media_sections_requirement
                for name, count in (("audio", wanted.num_audios), ("video", wanted.num_videos)):
                    for _ in range(count):
                        self._add(name)
                await self._offer()
            elif kind == "answer":
                await self._answered(message.answer.sdp)
            elif kind == "track_published":
                self.own_tracks[message.track_published.track.sid] = message.track_published.cid
            elif kind == "join":
                self._learn(message.join.other_participants)
            elif kind == "update":
                self._learn(message.update.participants)
            elif kind == "leave":
                raise ConnectionError(f"{self.name} was told to leave: {message.leave}")
            self._changed.set()

    def _learn(self, participants: Iterable[models.ParticipantInfo]) -> None:
        for participant in participants:
            for track in participant.tracks:
                self.tracks[track.sid] = track

    async def _answered(self, sdp: str) -> None:
        if self.number < 0:
            self.number = -2
            keys, check = await self.leg.connect(remote_of(sdp))
            assert self.leg.sock is not None
            self.number = self.engine.add_leg(self.leg.sock, keys, check, TWCC_ID, RTX_TYPE)
            self._connected = True
        self.sending = {
            found.group(1)
            for part in sdp.split("m=")[1:]
            if "a=sendonly" in part and (found := re.search(r"a=mid:(\S+)", part))
        }
        for section in self.sections:
            if section.cid and section.cid not in self.streams:
                pattern, phase_s = self._patterns[section.cid]
                self.streams[section.cid] = self.engine.add_stream(
                    self.number, pattern, section.ssrc, VIDEO_TYPE if pattern.video else AUDIO_TYPE,
                    mid=section.mid, mid_id=MID_ID, twcc_id=TWCC_ID, level_id=LEVEL_ID, phase_s=phase_s,
                )  # fmt: skip
