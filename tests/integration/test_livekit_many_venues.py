"""Thirty venues over real WebSockets: the voices follow the speakers, cameras of many are sent on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from livekit.protocol import models, rtc

from rooms.commands import Broadcast, Call, GiveFloor, MuteAll
from rooms.directory import RoomDirectory
from sfu.messages import (
    CloseConsumer,
    ConnectTransport,
    Consume,
    Level,
    Levels,
    Reply,
    Request,
    TransportState,
)
from signaling.livekit.room import Room
from signaling.reconcile import Reconciler
from tests.fixtures.conference import HOST, MAIN, Ground
from tests.fixtures.livekit import (
    AUDIO_CID,
    VIDEO_CID,
    FakeNode,
    LiveKitServer,
    SignalClient,
    answer_to,
    captured_sdp,
    livekit_server,
)


class ConnectingNode(FakeNode):
    """Its transports connect at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def request(self, worker_id: str, msg: Request, timeout_s: float = 5) -> Reply:
        reply = await super().request(worker_id, msg, timeout_s)
        if isinstance(msg, ConnectTransport):
            event = TransportState(msg.transport_id, "connected")
            asyncio.get_running_loop().call_soon(self.emit, event)
        self.asked.set()
        return reply

    def post(self, worker_id: str, msg: Request) -> None:
        super().post(worker_id, msg)
        self.asked.set()


class Meeting:
    def __init__(self, ground: Ground, directory: RoomDirectory, node: ConnectingNode, server: LiveKitServer,
                 reconciler: Reconciler, venues: list[str], meeting: str) -> None:  # fmt: skip
        self.ground, self.directory, self.node, self.server = ground, directory, node, server
        self.reconciler = reconciler
        self.venues, self.meeting = venues, meeting
        self.clients: dict[str, SignalClient] = {}
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def room(self) -> Room:
        return self.server.media.rooms[self.meeting]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.node.asked.clear()
                await self.node.asked.wait()

    async def enter(self, venue: str) -> None:
        client = self.clients[venue] = await self.server.join(self.meeting, venue)
        self.tasks.append(asyncio.create_task(self._answer(client)))
        for cid, kind, source in (
            (AUDIO_CID, models.TrackType.AUDIO, models.TrackSource.MICROPHONE),
            (VIDEO_CID, models.TrackType.VIDEO, models.TrackSource.CAMERA),
        ):
            await client.send(add_track=rtc.AddTrackRequest(cid=cid, type=kind, source=source))
        offer = rtc.SessionDescription(type="offer", sdp=captured_sdp("chromium-v0-1"), id=1)
        await client.send(offer=offer)

    async def _answer(self, client: SignalClient) -> None:
        async for frame in client.ws:
            message = rtc.SignalResponse.FromString(frame.data)
            if message.HasField("offer"):
                answer = answer_to(message.offer.sdp)
                described = rtc.SessionDescription(type="answer", sdp=answer, id=message.offer.id)
                await client.send(answer=described)

    async def call_all(self) -> None:
        await self.directory.command(self.meeting, HOST, Call())
        for venue in self.venues:
            await self.enter(venue)

    def receives(self, viewer: str, source: str) -> set[str]:
        """Of whom the viewer's consumers are open."""
        return {
            s.track.publisher.identity
            for s in self.room.participants[viewer].reception.subscriptions.values()
            if s.open and s.track.source == source
        }

    def all_hear(self, heard: set[str]) -> bool:
        return all(self.receives(viewer, "microphone") == heard - {viewer} for viewer in self.venues)

    def speak(self, *venues: str, seconds: float = 0.3) -> None:
        for _ in range(max(1, round(seconds / 0.3))):
            self.ground.clock.advance(0.3)
            levels = [
                Level(t.producer_id, -30.0 if loud else -75.0, loud)
                for t in self.room.tracks.values()
                if t.source == "microphone" and t.producer_id is not None
                for loud in [t.publisher.identity in venues]
            ]
            self.node.emit(Levels(self.room.router_id, tuple(levels)))

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def _meeting(ground: Ground, directory: RoomDirectory, number: int) -> AsyncIterator[Meeting]:
    node, reconciler = ConnectingNode(), Reconciler(directory, ground.clock, open_microphones=5)
    async with livekit_server(node, clock=ground.clock, policy=reconciler, observer=reconciler) as server:
        reconciler.attach(server.media)
        venues = [MAIN, *(venue for venue in directory.venues if venue != MAIN)][:number]
        opened = await directory.open(HOST, "many", MAIN, venues)
        meeting = Meeting(ground, directory, node, server, reconciler, venues, opened.meeting_id)
        await meeting.call_all()
        yield meeting
        await meeting.close()
        await reconciler.close()


@pytest.fixture
async def many(ground: Ground, directory: RoomDirectory) -> AsyncIterator[Meeting]:
    async for meeting in _meeting(ground, directory, 30):
        yield meeting


@pytest.fixture
async def few(ground: Ground, directory: RoomDirectory) -> AsyncIterator[Meeting]:
    async for meeting in _meeting(ground, directory, 6):
        yield meeting


async def test_the_voices_follow_the_speakers(many: Meeting) -> None:
    await many.until(lambda: sum(t.published for t in many.room.tracks.values()) == 60)
    first = set(many.venues[1:6])
    await many.until(lambda: many.all_hear({MAIN, *first}))

    many.speak(*many.venues[1:5], seconds=6)  # the fifth is silent
    many.speak(many.venues[20])
    await many.until(lambda: many.all_hear({MAIN, *many.venues[1:5], many.venues[20]}))

    await many.directory.command(many.meeting, HOST, GiveFloor(venue=many.venues[25]))
    await many.until(
        lambda: all(many.venues[25] in many.receives(v, "microphone") | {v} for v in many.venues)
    )
    branches = [v for v in many.venues[1:] if v != many.venues[25]]
    await many.until(lambda: all(many.receives(v, "camera") == {many.venues[25]} for v in branches))


async def test_silencing_many_closes_no_section(many: Meeting) -> None:
    await many.until(lambda: many.all_hear({MAIN, *many.venues[1:6]}))
    many.node.sent.clear()
    await many.directory.command(many.meeting, HOST, MuteAll())
    await many.until(lambda: all(t.silenced for t in many.room.tracks.values()
                                 if t.source == "microphone" and t.publisher.identity != MAIN))  # fmt: skip
    await many.clients[MAIN].send(ping_req=rtc.Ping(timestamp=1))
    assert not many.node.of(CloseConsumer)
    assert many.all_hear({MAIN, *many.venues[1:6]})


async def test_beyond_25_cameras_the_main_venue_gets_what_it_asks_for(many: Meeting) -> None:
    await many.until(lambda: sum(t.published for t in many.room.tracks.values()) == 60)
    stage, asked = many.venues[3], many.venues[28]
    await many.directory.command(many.meeting, HOST, Broadcast(venue=stage))
    await many.until(lambda: many.receives(MAIN, "camera") == {stage})
    sid = next(t.sid for t in many.room.participants[asked].tracks.values() if t.source == "camera")
    await many.clients[MAIN].send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    await many.until(lambda: many.receives(MAIN, "camera") == {stage, asked})
    await many.clients[MAIN].send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
    await many.until(lambda: many.receives(MAIN, "camera") == {stage})


async def test_a_branch_cannot_ask_for_more_than_the_meeting_gives(many: Meeting) -> None:
    await many.until(lambda: many.all_hear({MAIN, *many.venues[1:6]}))
    sids = [t.sid for t in many.room.participants[many.venues[9]].tracks.values()]
    curious = many.clients[many.venues[10]]
    await curious.send(subscription=rtc.UpdateSubscription(track_sids=sids, subscribe=True))
    many.speak(many.venues[1], seconds=6)
    many.speak(many.venues[11])  # something happens to everybody after it
    await many.until(lambda: many.venues[11] in many.receives(many.venues[10], "microphone"))
    assert many.venues[9] not in many.receives(many.venues[10], "microphone")
    assert many.receives(many.venues[10], "camera") == {MAIN}


async def test_a_small_meeting_is_as_it_was(few: Meeting) -> None:
    everybody = set(few.venues)
    await few.until(lambda: few.all_hear(everybody))
    await few.until(lambda: few.receives(MAIN, "camera") == everybody - {MAIN})
    await few.directory.command(few.meeting, HOST, MuteAll())
    await few.until(lambda: all(t.silenced for t in few.room.tracks.values()
                                if t.source == "microphone" and t.publisher.identity != MAIN))  # fmt: skip
    few.speak(MAIN, seconds=9)
    assert few.all_hear(everybody)
    assert not few.node.of(CloseConsumer)
    assert len(few.node.of(Consume)) == 6 * 5 + 5 + 5  # voices, the main venue's cameras, its own to five
