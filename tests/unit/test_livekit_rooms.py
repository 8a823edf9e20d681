"""Rooms with and without a policy, layers, mutes, taps, joins that are refused, workers that die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import pytest
from livekit.protocol import models, rtc

from core import counters
from core.clock import FakeClock
from sfu.messages import (
    CloseRouter,
    CloseTransport,
    Consume,
    Level,
    Levels,
    OpenRouter,
    Produce,
    ProducerLive,
    SetConsumerPaused,
    SetLayer,
    SetProducerPaused,
    StartTap,
    StopTap,
    TapStopped,
    TransportState,
)
from signaling.livekit.limits import Limits
from signaling.livekit.room import Room
from signaling.livekit.token import Grants
from tests.fixtures.livekit import (
    FakeNode,
    LiveKitServer,
    SignalClient,
    answer_to,
    captured_sdp,
    join_request,
    publish_camera,
)

ACTION = rtc.LeaveRequest.Action
REASON = models.DisconnectReason
Start = Callable[..., Awaitable[LiveKitServer]]


class Rules:
    """A policy whose answers the test sets."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.unwanted: set[tuple[str, str, str]] = set()
        self.on_request: set[tuple[str, str, str]] = set()
        self.silent: set[tuple[str, str]] = set()
        self.taps: dict[tuple[str, str], str] = {}
        self.priorities: dict[str, int] = {}

    def governs(self, room: str) -> bool:
        return room.startswith("mt_")

    def admits(self, room: str, identity: str) -> str | None:
        return self.refused.get(identity)

    def wants(self, room: str, viewer: str, publisher: str, source: str) -> bool:
        return (viewer, publisher, source) not in self.unwanted

    def unasked(self, room: str, viewer: str, publisher: str, source: str) -> bool:
        return (viewer, publisher, source) not in self.on_request

    def priority(self, room: str, viewer: str, publisher: str, source: str) -> int:
        return self.priorities.get(publisher, 0)

    def audience(self, room: str, viewer: str) -> str:
        return viewer

    def silenced(self, room: str, publisher: str, source: str) -> bool:
        return (publisher, source) in self.silent

    def tap(self, room: str, publisher: str, source: str) -> str | None:
        return self.taps.get((publisher, source))


class Facts:
    """An observer that writes everything down."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def participant_joined(self, room: str, identity: str) -> None:
        self.told.append(("joined", identity))

    def participant_left(self, room: str, identity: str, reason: str) -> None:
        self.told.append(("left", identity, reason))

    def track_published(self, room: str, identity: str, source: str, track_sid: str, mime: str) -> None:
        self.told.append(("published", identity, source, mime))

    def track_unpublished(self, room: str, identity: str, source: str, track_sid: str) -> None:
        self.told.append(("unpublished", identity, source))

    def local_mute(self, room: str, identity: str, source: str, muted: bool) -> None:
        self.told.append(("local_mute", identity, source, muted))

    def levels(self, room: str, levels: Mapping[str, float]) -> None:
        self.told.append(("levels", dict(levels)))

    def quality(self, room: str, quality: Mapping[str, Mapping[str, object]]) -> None:
        self.told.append(("quality", sorted(quality)))

    def tap_started(
        self, room: str, identity: str, source: str, track_sid: str, path: str, mime: str
    ) -> None:
        self.told.append(("tap_started", identity, source, path, mime))

    def tap_stopped(self, room: str, identity: str, source: str, track_sid: str, path: str) -> None:
        self.told.append(("tap_stopped", identity, source, path))


async def settle(client: SignalClient) -> list[rtc.SignalResponse]:
    """Answers offers until nothing more comes."""
    news: list[rtc.SignalResponse] = []
    while True:
        more = [*await client.quiet(), *await client.quiet()]  # evaluations run one turn of the loop later
        news += more
        pending = [m.offer for m in more if m.HasField("offer")]
        if not pending:
            return news
        offer = pending[-1]
        await client.send(answer=rtc.SessionDescription(type="answer", sdp=answer_to(offer.sdp), id=offer.id))


async def mounted(start: Start, node: FakeNode, **options: Any) -> tuple[LiveKitServer, Rules, Facts]:
    rules, facts = Rules(), Facts()
    return await start(node, policy=rules, observer=facts, **options), rules, facts


def camera_of(node: FakeNode) -> Produce:
    return [m for m in node.of(Produce) if m.kind == "video"][-1]


# ---------------------------------------------------------------- the policy


async def test_the_policy_refuses_at_the_door(start_livekit: Start, fake_node: FakeNode) -> None:
    server, rules, _ = await mounted(start_livekit, fake_node)
    rules.refused["ann"] = "the meeting is locked"
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await server.join("mt_1", "ann")
    assert caught.value.status == 403
    url = f"{server.http_url}/rtc/validate"
    async with server.http.get(url, params={"access_token": server.token("mt_1", "ann")}) as response:
        assert (response.status, await response.text()) == (403, "the meeting is locked")
    await server.join("plain", "ann")  # not governed


async def test_a_silenced_producer_is_paused_before_its_first_packet(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    server, rules, facts = await mounted(start_livekit, fake_node)
    rules.silent.add(("ann", "microphone"))
    ann, bob = await server.join("mt_1", "ann"), await server.join("mt_1", "bob")
    await publish_camera(ann)
    paused = {m.kind.value: m.paused for m in fake_node.of(Produce)}
    assert paused == {"audio": True, "video": False}
    await settle(bob)
    shown = [t for m in bob.received for p in m.update.participants for t in p.tracks if t.type == 0]
    assert shown
    assert all(track.muted for track in shown)
    assert ("published", "ann", "microphone", "audio/red") in facts.told


async def test_silencing_acts_in_the_relay_and_outlasts_the_clients_wish(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    server, rules, facts = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    await publish_camera(ann)
    microphone = next(m for m in fake_node.of(Produce) if m.kind == "audio")
    sid = next(t.sid for t in server.media.rooms["mt_1"].tracks.values() if t.source == "microphone")
    fake_node.sent.clear()
    rules.silent.add(("ann", "microphone"))
    server.media.refresh("mt_1")
    assert (await ann.next("mute")).mute == rtc.MuteTrackRequest(sid=sid, muted=True)
    assert SetProducerPaused(microphone.producer_id, True) in fake_node.sent
    # The client's echo, then its attempt to come back by itself.
    await ann.send(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
    await ann.send(mute=rtc.MuteTrackRequest(sid=sid, muted=False))
    assert (await ann.next("mute")).mute.muted
    assert SetProducerPaused(microphone.producer_id, False) not in fake_node.sent
    rules.silent.clear()
    server.media.refresh("mt_1")
    assert not (await ann.next("mute")).mute.muted
    assert fake_node.of(SetProducerPaused)[-1] == SetProducerPaused(microphone.producer_id, False)
    assert ("local_mute", "ann", "microphone", True) not in facts.told


async def test_the_clients_own_mute_is_told_and_pauses(start_livekit: Start, fake_node: FakeNode) -> None:
    server, _, facts = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    track = await publish_camera(ann)
    await ann.send(mute=rtc.MuteTrackRequest(sid=track.sid, muted=True))
    await ann.quiet()
    assert facts.told[-1] == ("local_mute", "ann", "camera", True)
    assert fake_node.of(SetProducerPaused)[-1] == SetProducerPaused(camera_of(fake_node).producer_id, True)


async def test_who_sees_whom_follows_the_policy(start_livekit: Start, fake_node: FakeNode) -> None:
    server, rules, _ = await mounted(start_livekit, fake_node)
    rules.unwanted.add(("bob", "ann", "camera"))
    ann, bob = await server.join("mt_1", "ann"), await server.join("mt_1", "bob")
    await publish_camera(ann)
    await settle(bob)
    (consume,) = fake_node.of(Consume)
    assert [codec.mime for codec in consume.rtp.codecs] == ["audio/opus", "audio/red"]
    rules.unwanted.clear()
    for _ in range(5):
        server.media.refresh("mt_1")  # many times: once is enough
    await settle(bob)
    assert len(fake_node.of(Consume)) == 2
    offers_seen = bob.kinds().count("offer")
    server.media.refresh("mt_1")
    await settle(bob)
    assert bob.kinds().count("offer") == offers_seen


async def test_joining_and_leaving_is_told_once(start_livekit: Start, fake_node: FakeNode) -> None:
    server, _, facts = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    assert facts.told == []
    transport = f"{ann.received[0].join.participant.sid}:down"
    fake_node.emit(TransportState(transport, "connected"))
    fake_node.emit(TransportState(transport, "disconnected"))
    fake_node.emit(TransportState(transport, "connected"))
    assert facts.told == [("joined", "ann")]
    await ann.send(leave=rtc.LeaveRequest())
    await ann.closed()
    assert facts.told[-1] == ("left", "ann", "left")
    assert {m.transport_id.split(":")[1] for m in fake_node.of(CloseTransport)} == {"down"}


async def test_twirp_never_lifts_a_venues_own_mute(start_livekit: Start, fake_node: FakeNode) -> None:
    server, _, _ = await mounted(start_livekit, fake_node)
    for room, muted_after in (("mt_1", True), ("plain", False)):
        ann = await server.join(room, "ann")
        await publish_camera(ann)
        track = next(t for t in server.media.rooms[room].tracks.values() if t.source == "microphone")
        await ann.send(mute=rtc.MuteTrackRequest(sid=track.sid, muted=True))
        await settle(ann)
        assert track.local_muted
        token = server.keys.mint(
            room, "operator", now=server.media.clock.now(), grants=Grants(room_admin=True, room=room)
        )
        url = f"{server.http_url}/twirp/livekit.RoomService/MutePublishedTrack"
        for muted in (True, False):
            body = {"room": room, "identity": "ann", "track_sid": track.sid, "muted": muted}
            headers = {"Authorization": f"Bearer {token}"}
            async with server.http.post(url, json=body, headers=headers) as response:
                answer = await response.json()
        assert answer["track"]["muted"] is muted_after


async def test_the_newer_browser_takes_the_seat(start_livekit: Start, fake_node: FakeNode) -> None:
    server, _, facts = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    await publish_camera(ann)
    await server.join("mt_1", "ann")
    assert facts.told[-1] == ("left", "ann", "duplicate_identity")


async def test_taps_follow_the_policy(start_livekit: Start, fake_node: FakeNode) -> None:
    server, rules, facts = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    await publish_camera(ann)
    rules.taps[("ann", "microphone")] = "one"
    server.media.refresh("mt_1")
    await ann.quiet()
    (started,) = fake_node.of(StartTap)
    assert started.path == "one"
    assert ("tap_started", "ann", "microphone", "one", "audio/opus") in facts.told
    rules.taps[("ann", "microphone")] = "two"  # another recording
    server.media.refresh("mt_1")
    await ann.quiet()
    assert [m.path for m in fake_node.of(StartTap)] == ["one", "two"]
    assert fake_node.of(StopTap) == [StopTap(started.tap_id)]
    fake_node.emit(TapStopped(fake_node.of(StartTap)[1].tap_id, "the disk is full"))
    assert facts.told[-1] == ("tap_stopped", "ann", "microphone", "two")


async def test_levels_become_speakers_and_facts(start_livekit: Start, fake_node: FakeNode) -> None:
    server, rules, facts = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    await publish_camera(ann)
    producer = next(m for m in fake_node.of(Produce) if m.kind == "audio").producer_id
    router = fake_node.of(OpenRouter)[-1].router_id
    fake_node.emit(Levels(router, (Level(producer, -20.0, True),)))
    (speaker,) = (await ann.next("speakers_changed")).speakers_changed.speakers
    assert speaker.active
    assert 0 < speaker.level <= 1
    assert facts.told[-1] == ("levels", {"ann": -20.0})
    fake_node.emit(Levels(router, (Level(producer, -20.1, True),)))
    assert not [m for m in await ann.quiet() if m.HasField("speakers_changed")]  # too small to tell
    fake_node.emit(Levels(router, ()))
    (speaker,) = (await ann.next("speakers_changed")).speakers_changed.speakers
    assert (speaker.active, speaker.level) == (False, 0)
    # Who is silenced does not speak.
    rules.silent.add(("ann", "microphone"))
    server.media.refresh("mt_1")
    await ann.quiet()
    fake_node.emit(Levels(router, (Level(producer, -20.0, True),)))
    assert not [m for m in await ann.quiet() if m.HasField("speakers_changed")]


# ---------------------------------------------------------------- layers


async def test_viewers_choose_layers_and_the_sender_hears_what_is_needed(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    clock = FakeClock()
    server = await start_livekit(fake_node, clock=clock)
    ann, bob = await server.join("r", "ann"), await server.join("r", "bob")
    track = await publish_camera(ann)
    await settle(bob)
    consume = next(m for m in fake_node.of(Consume) if m.rtp.codecs[0].mime == "video/VP8")
    assert consume.spatial_layer == 2
    fake_node.sent.clear()
    await ann.quiet()

    async def setting(**values: Any) -> list[rtc.SignalResponse]:
        await bob.send(track_setting=rtc.UpdateTrackSettings(track_sids=[track.sid], **values))
        await bob.quiet()
        return [m for m in await ann.quiet() if m.HasField("subscribed_quality_update")]

    assert await setting(width=320, height=180) == []  # less waits
    assert fake_node.of(SetLayer) == [SetLayer(consume.consumer_id, 0)]
    for _ in range(7):
        clock.advance(1)
        server.media.tick(clock.monotonic())
    (down,) = [m for m in await ann.quiet() if m.HasField("subscribed_quality_update")]
    (codec,) = down.subscribed_quality_update.subscribed_codecs
    assert codec.codec == "vp8"
    assert [quality.enabled for quality in codec.qualities] == [True, False, False]
    (up,) = await setting(width=640, height=360)  # more is told at once
    qualities = up.subscribed_quality_update.subscribed_codecs[0].qualities
    assert [quality.enabled for quality in qualities] == [True, True, False]
    assert await setting(disabled=True) == []
    assert fake_node.of(SetConsumerPaused) == [SetConsumerPaused(consume.consumer_id, True)]
    for _ in range(7):
        clock.advance(1)
        server.media.tick(clock.monotonic())
    (off,) = [m for m in await ann.quiet() if m.HasField("subscribed_quality_update")]
    qualities = off.subscribed_quality_update.subscribed_codecs[0].qualities
    assert not any(quality.enabled for quality in qualities)
    (high,) = await setting(quality=models.VideoQuality.HIGH)
    qualities = high.subscribed_quality_update.subscribed_codecs[0].qualities
    assert all(quality.enabled for quality in qualities)


async def test_a_tapped_track_keeps_its_highest_layer(start_livekit: Start, fake_node: FakeNode) -> None:
    clock = FakeClock()
    server, rules, _ = await mounted(start_livekit, fake_node, clock=clock)
    rules.taps[("ann", "camera")] = "dump"
    ann = await server.join("mt_1", "ann")
    await publish_camera(ann)
    for _ in range(2):
        for _ in range(7):
            clock.advance(1)
            await ann.quiet()
            server.media.tick(clock.monotonic())
        updates = [
            m.subscribed_quality_update for m in ann.received if m.HasField("subscribed_quality_update")
        ]
        enabled = [[q.enabled for q in u.subscribed_codecs[0].qualities] for u in updates]
        if "dump" in rules.taps.values():
            assert enabled == []  # all layers, as the client began
        rules.taps.clear()
        server.media.refresh("mt_1")
    assert enabled == [[False, False, False]]


# ---------------------------------------------------------------- plain rooms


async def test_a_plain_room_is_left_to_its_clients(signal_server: LiveKitServer, fake_node: FakeNode) -> None:
    ann = await signal_server.join("r", "ann")
    shy = await signal_server.connect(
        "/rtc", access_token=signal_server.token("r", "shy"), auto_subscribe="0"
    )
    deaf = await signal_server.join("r", "deaf", can_subscribe=False)
    track = await publish_camera(ann)
    await settle(shy)
    await settle(deaf)
    assert fake_node.of(Consume) == []
    await shy.send(subscription=rtc.UpdateSubscription(track_sids=[track.sid, "TR_none"], subscribe=True))
    await settle(shy)
    assert len(fake_node.of(Consume)) == 1
    (response,) = [m.subscription_response for m in shy.received if m.HasField("subscription_response")]
    assert (response.track_sid, response.err) == ("TR_none", models.SubscriptionError.SE_TRACK_NOTFOUND)
    assert [m for m in await ann.quiet() if m.HasField("track_subscribed")]


async def test_the_publisher_says_who_may_subscribe(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann, bob = await signal_server.join("r", "ann"), await signal_server.join("r", "bob")
    track = await publish_camera(ann)
    await settle(bob)
    assert len(fake_node.of(Consume)) == 2
    allow = rtc.TrackPermission(participant_identity="bob", track_sids=[track.sid])
    await ann.send(subscription_permission=rtc.SubscriptionPermission(track_permissions=[allow]))
    await ann.quiet()
    news = [
        m.subscription_permission_update
        for m in await settle(bob)
        if m.HasField("subscription_permission_update")
    ]
    assert [update.allowed for update in news] == [False]
    assert news[0].track_sid != track.sid
    await ann.send(subscription_permission=rtc.SubscriptionPermission(all_participants=True))
    await ann.quiet()
    news = [
        m.subscription_permission_update
        for m in await settle(bob)
        if m.HasField("subscription_permission_update")
    ]
    assert [update.allowed for update in news] == [True]


@pytest.mark.parametrize(
    "grants", [{"can_publish": False}, {"can_publish_sources": ("microphone",)}], ids=["none", "source"]
)
async def test_publishing_without_the_grant_is_refused(
    signal_server: LiveKitServer, grants: dict[str, Any]
) -> None:
    ann = await signal_server.join("r", "ann", **grants)
    ask = rtc.AddTrackRequest(cid="c", type=models.TrackType.VIDEO, source=models.TrackSource.CAMERA)
    await ann.send(add_track=ask)
    response = (await ann.next("request_response")).request_response
    assert response.reason == rtc.RequestResponse.Reason.NOT_ALLOWED
    assert response.add_track.cid == "c"


async def test_a_hidden_participant_is_not_shown(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    await signal_server.join("r", "eve", hidden=True)
    bob = await signal_server.join("r", "bob")
    assert [p.identity for p in bob.received[0].join.other_participants] == ["ann"]
    identities = {p.identity for m in await ann.quiet() for p in m.update.participants}
    assert "eve" not in identities
    assert "bob" in identities


async def test_metadata_name_and_attributes(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann", can_update_own_metadata=True)
    bob = await signal_server.join("r", "bob")
    await ann.send(
        update_metadata=rtc.UpdateParticipantMetadata(
            metadata="m", name="安", attributes={"a": "1", "gone": ""}, request_id=5
        )
    )
    response = (await ann.next("request_response")).request_response
    assert (response.request_id, response.reason) == (5, rtc.RequestResponse.Reason.OK)
    info = [p for m in await bob.quiet() for p in m.update.participants if p.identity == "ann"][-1]
    assert (info.metadata, info.name, dict(info.attributes)) == ("m", "安", {"a": "1"})
    await bob.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="m", request_id=6))
    response = (await bob.next("request_response")).request_response
    assert response.reason == rtc.RequestResponse.Reason.NOT_ALLOWED
    await ann.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="x" * 70_000, request_id=7))
    response = (await ann.next("request_response")).request_response
    assert response.reason == rtc.RequestResponse.Reason.LIMIT_EXCEEDED


async def test_the_codec_that_is_really_sent_is_shown(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    fake_node.emit(ProducerLive(camera_of(fake_node).producer_id, "video/H264"))
    info = [m for m in await ann.quiet() if m.HasField("update")][-1].update.participants[0]
    assert {track.mime_type for track in info.tracks} == {"audio/red", "video/H264"}


# ---------------------------------------------------------------- life of rooms and workers


async def test_a_lost_worker_sends_its_rooms_to_another(start_livekit: Start, fake_node: FakeNode) -> None:
    server, _, facts = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    await publish_camera(ann)
    fake_node.lose("w0")
    leave = (await ann.next("leave")).leave
    assert leave.action == ACTION.RECONNECT
    await ann.closed()
    assert facts.told[-1] == ("left", "ann", "worker_lost")
    again = await server.join("mt_1", "ann")
    assert again.received[0].join.server_info.node_id == "w1"
    assert len(fake_node.of(OpenRouter)) == 2
    fake_node.lose("w1")
    await again.next("leave")
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await server.join("mt_1", "ann")
    assert caught.value.status == 503


async def test_a_room_that_ends_while_it_is_placed_takes_nobody_in(
    start_livekit: Start, fake_node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_livekit(fake_node)
    opening = Room.open

    async def ends_meanwhile(room: Room) -> None:
        await opening(room)
        await server.media.close(room.name)

    monkeypatch.setattr(Room, "open", ends_meanwhile)
    async with server.http.ws_connect(f"{server.http_url}/rtc?access_token={server.token('r', 'ann')}") as ws:
        told = rtc.SignalResponse.FromString((await ws.receive()).data)
    assert told.leave.action == ACTION.RECONNECT
    assert not server.media.rooms
    assert not server.media.transports


async def test_empty_rooms_end(start_livekit: Start, fake_node: FakeNode) -> None:
    clock = FakeClock()
    limits = Limits(empty_timeout_s=300, departure_timeout_s=20)
    server = await start_livekit(fake_node, clock=clock, limits=limits)
    server.media.open_room("never entered")
    ann = await server.join("r", "ann")
    await ann.send(leave=rtc.LeaveRequest())
    await ann.closed()
    clock.advance(19)
    server.media.tick(clock.monotonic())
    assert set(server.media.rooms) == {"never entered", "r"}
    clock.advance(2)
    server.media.tick(clock.monotonic())
    assert set(server.media.rooms) == {"never entered"}
    assert len(fake_node.of(CloseRouter)) == 1
    clock.advance(300)
    server.media.tick(clock.monotonic())
    assert not server.media.rooms
    assert not server.media.routers


async def test_who_does_not_come_back_is_out(start_livekit: Start, fake_node: FakeNode) -> None:
    clock = FakeClock()
    rules, facts = Rules(), Facts()
    server = await start_livekit(fake_node, clock=clock, policy=rules, observer=facts)
    ann, bob = await server.join("mt_1", "ann"), await server.join("mt_1", "bob")
    for client in (ann, bob):
        fake_node.emit(TransportState(f"{client.received[0].join.participant.sid}:down", "connected"))
    await ann.ws.close()
    while server.media.rooms["mt_1"].participants["ann"].session is not None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    clock.advance(19)
    await bob.quiet()
    server.media.tick(clock.monotonic())
    assert "ann" in server.media.rooms["mt_1"].participants
    clock.advance(2)
    await bob.quiet()
    server.media.tick(clock.monotonic())
    assert facts.told[-1] == ("left", "ann", "network_lost")
    await bob.quiet()
    update = [m for m in bob.received if m.HasField("update")][-1].update.participants[0]
    assert update.state == models.ParticipantInfo.State.DISCONNECTED


async def test_a_silent_websocket_is_closed(start_livekit: Start, fake_node: FakeNode) -> None:
    clock = FakeClock()
    server = await start_livekit(fake_node, clock=clock)
    ann = await server.join("r", "ann")
    clock.advance(25)
    server.media.tick(clock.monotonic())
    assert await ann.closed() == 1001


async def test_a_long_stay_gets_fresh_tokens(start_livekit: Start, fake_node: FakeNode) -> None:
    clock = FakeClock()
    server = await start_livekit(fake_node, clock=clock)
    ann = await server.join("r", "ann", can_publish=False)
    fake_node.emit(TransportState(f"{ann.received[0].join.participant.sid}:down", "connected"))
    for _ in range(31):
        clock.advance(10)
        await ann.quiet()
        server.media.tick(clock.monotonic())
    tokens = [m.refresh_token for m in [*ann.received, *await ann.quiet()] if m.HasField("refresh_token")]
    assert len(set(tokens)) == 2
    claims = server.keys.verify(tokens[-1], clock.now() + 500)
    assert (claims.identity, claims.grants.room, claims.grants.can_publish) == ("ann", "r", False)


async def test_stopping_tells_everybody_to_come_back(start_livekit: Start, fake_node: FakeNode) -> None:
    server = await start_livekit(fake_node)
    ann = await server.join("r", "ann")
    await server.media.stop()
    assert (await ann.next("leave")).leave.action == ACTION.RECONNECT


# ---------------------------------------------------------------- refusals at the door


async def refusal(server: LiveKitServer, path: str = "/rtc", **query: str) -> tuple[int, str]:
    async with server.http.get(f"{server.http_url}{path}/validate", params=query) as response:
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        status, text = response.status, await response.text()
    if status != 200:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await server.connect(path, **query)
        assert caught.value.status == status
    return status, text


async def test_tokens_are_refused_with_a_reason(signal_server: LiveKitServer) -> None:
    server, now = signal_server, signal_server.media.clock.now()
    assert (await refusal(server))[0] == 401
    assert (await refusal(server, access_token="forged"))[0] == 401
    expired = server.keys.mint("r", "ann", now=now - 9_000)
    before = counters.refused_total("join_token_expired")
    assert await refusal(server, access_token=expired) == (401, "the token has expired")
    assert counters.refused_total("join_token_expired") == before + 2
    wrong = await refusal(server, access_token=server.token("r", "ann"), room="another")
    assert wrong == (403, "the token is for another room")
    no_join = server.keys.mint("r", "ann", now=now, grants=Grants())
    assert (await refusal(server, access_token=no_join))[0] == 403
    assert (await refusal(server, access_token=server.token("r", "")))[0] == 400
    assert (await refusal(server, access_token=server.token("", "ann")))[0] == 403
    assert (await refusal(server, access_token=server.token("r", "ann"))) == (200, "success")
    header = {"Authorization": f"Bearer {server.token('r', 'ann')}"}
    async with server.http.get(f"{server.http_url}/rtc/validate", headers=header) as response:
        assert response.status == 200


async def test_join_requests_in_all_their_forms(signal_server: LiveKitServer) -> None:
    server = signal_server
    token = server.token("r", "ann")
    offer = captured_sdp("chromium-v1-0")
    plain, zipped = join_request(offer), join_request(offer, gzipped=True)
    for text in (plain, zipped, plain.replace("+", "-").replace("/", "_"), zipped.rstrip("=")):
        assert (await refusal(server, "/rtc/v1", access_token=token, join_request=text))[0] == 200
        client = await server.connect("/rtc/v1", access_token=token, join_request=text)
        await client.next("join")
        await client.next("answer")
    assert (await refusal(server, "/rtc/v1", access_token=token))[0] == 400
    bomb = join_request("v=0" + " " * 1_000_000, gzipped=True)
    for text in ("!!!", "AAAA", bomb):
        assert (await refusal(server, "/rtc/v1", access_token=token, join_request=text))[0] == 400


async def test_a_full_room_says_so(start_livekit: Start, fake_node: FakeNode) -> None:
    server = await start_livekit(fake_node, limits=Limits(participants_per_room=1, rooms=1))
    await server.join("r", "ann")
    assert (await refusal(server, access_token=server.token("r", "bob")))[0] == 503
    assert (await refusal(server, access_token=server.token("s", "bob")))[0] == 503
    assert (await refusal(server, access_token=server.token("r", "ann")))[0] == 200


# ---------------------------------------------------------------- strangers' bytes on the WebSocket


@pytest.mark.parametrize("frame", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a" + b"\x80" * 20])
async def test_a_malformed_message_ends_only_its_own_session(
    signal_server: LiveKitServer, frame: bytes
) -> None:
    bob = await signal_server.join("r", "bob")
    ann = await signal_server.join("r", "ann")
    before = counters.refused_total("livekit_malformed")
    await ann.ws.send_bytes(frame)
    assert await ann.closed() == 1008
    assert counters.refused_total("livekit_malformed") == before + 1
    await bob.quiet()


async def test_text_floods_and_giants_end_the_session(start_livekit: Start, fake_node: FakeNode) -> None:
    limits = Limits(messages_per_s=1, message_burst=5, message_bytes=10_000)
    server = await start_livekit(fake_node, limits=limits)
    ann = await server.join("r", "ann")
    await ann.ws.send_str("hello")
    assert await ann.closed() == 1008
    bob = await server.join("r", "bob")
    for _ in range(7):
        await bob.send(ping=1)
    assert await bob.closed() == 1008
    eve = await server.join("r", "eve")
    before = counters.refused_total("livekit_message_size")
    await eve.ws.send_bytes(b"x" * 20_000)
    assert await eve.closed() in (1006, 1009)  # the kernel may reset what is still unread
    assert counters.refused_total("livekit_message_size") == before + 1


async def test_an_offer_that_is_none_ends_the_session(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp="hello", id=1))
    assert (await ann.next("leave")).leave.action == ACTION.RECONNECT
    await ann.closed()


async def test_a_worker_that_refuses_a_track_does_not_end_the_session(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    fake_node.failing[Produce] = "bad_parameters"
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    assert "a=inactive" in ann.received[-1].answer.sdp
    await ann.quiet()
