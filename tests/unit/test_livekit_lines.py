"""Pictures that a viewer's line can't carry, and which of them come first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from livekit.protocol import models, rtc

from core.clock import FakeClock
from rooms.plan import MediaPlan
from sfu.messages import (
    CloseConsumer,
    Consume,
    LayerReport,
    Produce,
    ProducerReport,
    Report,
    SetConsumerPriority,
    StreamStates,
    TransportReport,
    TransportState,
)
from sfu.params import Kind
from signaling.livekit.evaluation import _tile_priority
from signaling.livekit.tracks import TrackSetting
from tests.fixtures.livekit import FakeNode, LiveKitServer, SignalClient, publish_camera
from tests.unit.test_livekit_rooms import Rules, mounted, settle

Start = Callable[..., Awaitable[LiveKitServer]]
PAUSED, ACTIVE = rtc.StreamState.PAUSED, rtc.StreamState.ACTIVE


def states(messages: list[rtc.SignalResponse]) -> list[tuple[str, Any]]:
    return [(s.track_sid, s.state) for m in messages for s in m.stream_state_update.stream_states]


async def watching(server: LiveKitServer, room: str = "r") -> tuple[SignalClient, SignalClient, Any]:
    """ann's camera and microphone, received by bob; the camera's info."""
    ann, bob = await server.join(room, "ann"), await server.join(room, "bob")
    camera = await publish_camera(ann)
    await settle(bob)
    return ann, bob, camera


def video_consume(node: FakeNode) -> Consume:
    found: Consume = next(m for m in reversed(node.of(Consume)) if m.rtp.codecs[0].mime.startswith("video/"))
    return found


async def test_a_held_picture_is_told_to_its_viewer_and_freed_again(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann, bob, camera = await watching(signal_server)
    sent = video_consume(fake_node)
    fake_node.emit(StreamStates(sent.transport_id, held=(sent.consumer_id, "unknown")))
    told = await bob.quiet()
    assert states(told) == [(camera.sid, PAUSED)]
    publisher = signal_server.media.rooms["r"].participants["ann"]
    assert told[0].stream_state_update.stream_states[0].participant_sid == publisher.sid
    assert states(await ann.quiet()) == []  # only the viewer whose line it is
    fake_node.emit(StreamStates(sent.transport_id, held=(sent.consumer_id,)))
    assert states(await bob.quiet()) == []  # said already
    fake_node.emit(StreamStates(sent.transport_id, freed=(sent.consumer_id,)))
    assert states(await bob.quiet()) == [(camera.sid, ACTIVE)]


async def test_a_held_picture_is_repeated_until_the_client_must_have_heard(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    """A browser drops the state of a track that has not reached it yet."""
    _, bob, camera = await watching(signal_server)
    sent = video_consume(fake_node)
    fake_node.emit(StreamStates(sent.transport_id, held=(sent.consumer_id,)))
    for _ in range(10):
        signal_server.media.tick(signal_server.media.clock.monotonic())
    assert states(await bob.quiet()) == [(camera.sid, PAUSED)] * 5


async def test_a_resumed_client_hears_what_stands_still(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    _, bob, camera = await watching(signal_server)
    sent = video_consume(fake_node)
    fake_node.emit(StreamStates(sent.transport_id, held=(sent.consumer_id,)))
    participant = signal_server.media.rooms["r"].participants["bob"]
    await bob.ws.close()
    again = await signal_server.connect(
        "/rtc", access_token=signal_server.token("r", "bob"), reconnect="1", sid=participant.sid
    )
    await again.next("stream_state_update")
    assert dict(states(again.received))[camera.sid] == PAUSED


async def test_a_held_consumer_that_closes_is_forgotten(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    _, bob, camera = await watching(signal_server)
    sent = video_consume(fake_node)
    fake_node.emit(StreamStates(sent.transport_id, held=(sent.consumer_id,)))
    await bob.send(subscription=rtc.UpdateSubscription(track_sids=[camera.sid], subscribe=False))
    await settle(bob)
    assert CloseConsumer(sent.consumer_id) in fake_node.sent
    assert sent.consumer_id not in signal_server.media.consumers
    bob.received.clear()
    fake_node.emit(StreamStates(sent.transport_id, freed=(sent.consumer_id,)))
    signal_server.media.tick(signal_server.media.clock.monotonic())
    assert states(await bob.quiet()) == []
    await bob.send(leave=rtc.LeaveRequest())
    await bob.closed()
    assert not [s for s in signal_server.media.consumers.values() if s.viewer.identity == "bob"]


async def test_freeing_does_not_hide_that_the_publisher_is_gone(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    _, bob, camera = await watching(signal_server)
    sent = video_consume(fake_node)
    publisher = signal_server.media.rooms["r"].participants["ann"]
    up = publisher.publisher.transport_id
    for peer in (publisher.publisher, publisher.subscriber):
        assert peer is not None
        fake_node.emit(TransportState(peer.transport_id, "connected"))
    await bob.quiet()
    fake_node.emit(TransportState(up, "disconnected"))
    fake_node.emit(StreamStates(sent.transport_id, held=(sent.consumer_id,)))
    fake_node.emit(StreamStates(sent.transport_id, freed=(sent.consumer_id,)))
    assert dict(states(await bob.quiet()))[camera.sid] == PAUSED
    fake_node.emit(TransportState(up, "connected"))
    assert dict(states(await bob.quiet()))[camera.sid] == ACTIVE


# ---------------------------------------------------------------- priorities


@pytest.mark.parametrize(
    ("setting", "priority"),
    [
        (TrackSetting(), 30),
        (TrackSetting(width=160, height=90), 10),
        (TrackSetting(width=320, height=180), 10),
        (TrackSetting(width=640, height=360), 20),
        (TrackSetting(width=1280, height=720), 30),
        (TrackSetting(width=1080, height=1920), 40),
        (TrackSetting(quality=models.VideoQuality.LOW), 10),
        (TrackSetting(quality=models.VideoQuality.MEDIUM), 20),
    ],
)
def test_larger_pictures_come_first(setting: TrackSetting, priority: int) -> None:
    assert _tile_priority(setting) == priority


@pytest.mark.parametrize(
    ("stage", "viewer", "publisher", "source", "priority"),
    [
        ("a", "b", "a", "camera", 100),
        ("a", "main", "a", "camera", 100),
        ("a", "a", "main", "camera", 60),
        ("a", "b", "c", "screen_share", 80),
        ("a", "b", "a", "screen_share", 100),  # the content is on stage
        (None, "b", "main", "camera", 60),
        (None, "main", "b", "camera", 0),
        (None, "console:1", "b", "camera", 0),
    ],
)
def test_the_stage_comes_first_then_content_then_the_main_venue(
    stage: str | None, viewer: str, publisher: str, source: str, priority: int
) -> None:
    plan = MediaPlan("main", frozenset({"main", "a", "b", "c"}), stage=stage, content="c")
    assert plan.priority(viewer, publisher, source) == priority


async def test_a_change_of_the_stage_sends_only_differences(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    server, rules, _ = await mounted(start_livekit, fake_node)
    assert isinstance(rules, Rules)
    _, bob, camera = await watching(server, "mt_1")
    sent = video_consume(fake_node)
    assert (sent.priority, sent.rtp.codecs[0].mime) == (30, "video/VP8")
    assert {m.priority for m in fake_node.of(Consume) if m is not sent} == {0}  # sound needs none
    rules.priorities["ann"] = 100
    server.media.refresh("mt_1")
    await settle(bob)
    assert fake_node.of(SetConsumerPriority) == [SetConsumerPriority(sent.consumer_id, 100)]
    server.media.refresh("mt_1")
    await bob.send(track_setting=rtc.UpdateTrackSettings(track_sids=[camera.sid], width=160, height=90))
    await settle(bob)
    assert len(fake_node.of(SetConsumerPriority)) == 1  # on stage whatever its size
    rules.priorities.clear()
    server.media.refresh("mt_1")
    await settle(bob)
    assert fake_node.of(SetConsumerPriority)[-1] == SetConsumerPriority(sent.consumer_id, 10)


async def test_in_a_plain_room_a_shared_screen_comes_before_cameras(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann, bob = await signal_server.join("r", "ann"), await signal_server.join("r", "bob")
    await publish_camera(ann, source=models.TrackSource.SCREEN_SHARE)
    await settle(bob)
    assert video_consume(fake_node).priority == 80
    assert [t.kind for t in signal_server.media.rooms["r"].tracks.values()].count(Kind.VIDEO) == 1


# ---------------------------------------------------------------- what is wrong with whose line


def sent(producer_id: str, loss: float) -> ProducerReport:
    layer = LayerReport(2, 1, 1.7e6, 200, 200_000, 0, 0.0, 25.0, 1280, 720)
    return ProducerReport(producer_id, Kind.VIDEO, loss, (layer,))


async def test_the_observer_hears_what_is_wrong_with_a_line(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    clock = FakeClock()
    server, _, facts = await mounted(start_livekit, fake_node, clock=clock)
    heard: list[Any] = []
    facts.quality = lambda room, quality: heard.append(quality)  # type: ignore[method-assign]
    await watching(server, "mt_1")
    producer = next(m for m in fake_node.of(Produce) if m.kind is Kind.VIDEO)
    down = video_consume(fake_node).transport_id
    line = TransportReport(
        down, 40.0, 0.0, 0.0, 0, 0, jitter_down_ms=12.4, estimate_bps=99_000, wanted_bps=1.7e6, held=1
    )
    for _ in range(6):
        fake_node.emit(Report((sent(producer.producer_id, 0.12),), (), (line,), ()))
        clock.advance(1)
    ann, bob = heard[-1]["ann"], heard[-1]["bob"]
    assert (ann["quality"], ann["cause"]["zh"]) == ("poor", "上行丢包 12%，疑似本地网络")
    assert (ann["cause"]["code"], ann["cause"]["params"]) == ("loss_up", {"percent": 12})
    assert (ann["width"], ann["height"], ann["kbps_up"]) == (1280, 720, 1700)
    assert "held" not in ann
    assert (bob["estimate_kbps"], bob["wanted_kbps"], bob["held"], bob["rtt_ms"]) == (99, 1700, 1, 39)
    assert bob["cause"]["en"].startswith("The line down carries only about 100 kbit/s")
    assert (bob["quality"], bob["reasons"], bob["jitter_down_ms"]) == ("poor", ["held"], 12)


async def test_loss_at_many_venues_at_once_is_the_centres(start_livekit: Start, fake_node: FakeNode) -> None:
    clock = FakeClock()
    server, _, facts = await mounted(start_livekit, fake_node, clock=clock)
    heard: list[Any] = []
    facts.quality = lambda room, quality: heard.append(quality)  # type: ignore[method-assign]
    for identity in ("ann", "bob", "cid"):
        await publish_camera(await server.join("mt_1", identity))
    cameras = [m.producer_id for m in fake_node.of(Produce) if m.kind is Kind.VIDEO]
    for _ in range(6):
        fake_node.emit(Report((sent(cameras[0], 0.2), sent(cameras[1], 0.1)), (), (), ()))
        clock.advance(1)
    codes = {identity: told.get("reasons") for identity, told in heard[-1].items()}
    assert codes == {"ann": ["loss_up_central"], "bob": ["loss_up_central"], "cid": None}
