"""The mute of a client's own, made while we mute it, and after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from livekit.protocol import rtc

from sfu.messages import Produce, SetProducerPaused
from signaling.livekit.participant import OWN_MUTE
from signaling.livekit.tracks import Track
from tests.fixtures.livekit import FakeNode, LiveKitServer, SignalClient, publish_camera

Start = Callable[..., Awaitable[LiveKitServer]]
ROOM = "mt_1"


class Chair:
    """Policy and observer: mutes microphones, and writes down what they said of themselves."""

    def __init__(self) -> None:
        self.mutes = False
        self.heard: list[bool] = []

    def admits(self, room: str, identity: str) -> str | None:
        return None

    def silenced(self, room: str, publisher: str, source: str) -> bool:
        return self.mutes and source == "microphone"

    def tap(self, room: str, publisher: str, source: str) -> str | None:
        return None

    def local_mute(self, room: str, identity: str, source: str, muted: bool) -> None:
        if source == "microphone":
            self.heard.append(muted)

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda *_: True  # all else is wanted, or does not matter here


class Room:
    """ann with a microphone, and the chair."""

    def __init__(self, server: LiveKitServer, node: FakeNode, chair: Chair, ann: SignalClient) -> None:
        self.server, self.node, self.chair, self.ann = server, node, chair, ann
        self.chair.heard.clear()

    @property
    def microphone(self) -> Track:
        return next(t for t in self.server.media.rooms[ROOM].tracks.values() if t.source == "microphone")

    @property
    def relayed(self) -> bool:
        producer = next(m.producer_id for m in self.node.of(Produce) if m.kind == "audio")
        return not [m.paused for m in self.node.of(SetProducerPaused) if m.producer_id == producer][-1]

    async def chair_mutes(self, on: bool) -> None:
        self.chair.mutes = on
        self.server.media.refresh(ROOM)
        await self.ann.next("mute")

    async def ann_says(self, muted: bool) -> None:
        await self.ann.send(mute=rtc.MuteTrackRequest(sid=self.microphone.sid, muted=muted))
        await self.ann.quiet()


async def meet(start: Start, node: FakeNode, attributes: dict[str, str]) -> Room:
    chair = Chair()
    server = await start(node, policy=chair, observer=chair)
    token = server.keys.mint(ROOM, "ann", now=server.media.clock.now(), attributes=attributes)
    ann = await server.connect("/rtc", access_token=token, protocol="17")
    await ann.next("join")
    await publish_camera(ann)
    await ann.quiet()
    return Room(server, node, chair, ann)


async def test_its_own_mute_is_told_under_the_chairs_and_outlives_it(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    room = await meet(start_livekit, fake_node, {OWN_MUTE: "1"})
    await room.chair_mutes(True)
    assert room.chair.heard == []
    await room.ann_says(muted=True)
    assert room.chair.heard == [True]
    await room.chair_mutes(False)
    assert (room.microphone.info.muted, room.relayed) == (True, False)
    await room.ann_says(muted=False)
    assert room.chair.heard == [True, False]
    assert (room.microphone.info.muted, room.relayed) == (False, True)


async def test_it_can_open_its_switch_under_the_chairs_mute_but_is_not_heard(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    room = await meet(start_livekit, fake_node, {OWN_MUTE: "1"})
    await room.ann_says(muted=True)
    await room.chair_mutes(True)
    await room.ann_says(muted=False)
    assert room.chair.heard == [True, False]
    assert (room.microphone.info.muted, room.relayed) == (True, False)
    await room.chair_mutes(False)
    assert (room.microphone.info.muted, room.relayed) == (False, True)


async def test_a_stock_clients_echo_is_not_taken_for_its_own_wish(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    room = await meet(start_livekit, fake_node, {})
    await room.chair_mutes(True)
    await room.ann_says(muted=True)
    await room.chair_mutes(False)
    assert room.chair.heard == []
    assert (room.microphone.info.muted, room.relayed) == (False, True)
