"""The traps of the protocol note, each as a test named after it.

Trap 20 (libwebrtc ignores loopback) is what tests/fixtures/netns.py is for; traps 16, 19 and 21 live in
the relay and are tested there and with real clients in tests/integration/test_livekit_clients.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from livekit.protocol import models, rtc

from sfu.messages import (
    CloseConsumer,
    ConnectTransport,
    Consume,
    DataReceived,
    Produce,
    Report,
    RestartIce,
    SendData,
    TransportState,
)
from signaling.livekit import offers, sdp
from signaling.livekit.limits import Limits
from tests.fixtures.livekit import (
    AUDIO_CID,
    VIDEO_CID,
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


async def answered(client: SignalClient, sections: int = 0, **options: Any) -> sdp.Description:
    """Answers our next offers until one has at least that many sections; that one."""
    while True:
        offer = (await client.next("offer")).offer
        await client.send(
            answer=rtc.SessionDescription(type="answer", sdp=answer_to(offer.sdp, **options), id=offer.id)
        )
        described = sdp.parse(offer.sdp)
        if len(described.sections) >= sections:
            return described


async def single(
    server: LiveKitServer, identity: str, offer: str | None = None, **fields: Any
) -> SignalClient:
    client = await server.connect(
        "/rtc/v1", access_token=server.token("r", identity), join_request=join_request(offer, **fields)
    )
    await client.next("join")
    return client


async def test_trap_1_ping_interval_is_never_zero(signal_server: LiveKitServer) -> None:
    join = (await signal_server.join("r", "ann")).received[0].join
    assert join.ping_interval > 0
    assert join.ping_timeout > 0
    assert join.server_info.version
    assert join.subscriber_primary
    assert not (await single(signal_server, "bob")).received[0].join.subscriber_primary


async def test_trap_2_the_answer_keeps_simulcast_and_rid(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    video = sdp.parse(ann.received[-1].answer.sdp).sections[1]
    assert video.direction == "recvonly"
    text = ann.received[-1].answer.sdp
    assert "a=simulcast:recv q;h;f" in text
    assert all(f"a=rid:{rid} recv" in text for rid in "qhf")
    # And again at the next renegotiation of the same sections.
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp=captured_sdp("chromium-v0-1"), id=2))
    again = (await ann.next("answer")).answer
    assert "a=simulcast:recv q;h;f" in again.sdp
    assert again.id == 2


async def test_trap_3_stream_ids_and_the_update_before_the_offer(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    bob = await signal_server.join("r", "bob")
    await answered(bob)
    track = await publish_camera(ann)
    described = await answered(bob, sections=3)
    before = bob.received[: len(bob.received) - 1]
    told = [t.sid for m in before for p in m.update.participants for t in p.tracks]
    assert track.sid in told
    ann_sid = ann.received[0].join.participant.sid
    video = next(section for section in described.sections if section.kind == "video")
    assert (video.stream_id, video.track_id) == (f"{ann_sid}|{track.sid}", track.sid)


async def test_trap_3_single_connection_answers_with_mid_to_track_id(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    track = await publish_camera(ann)
    bob = await single(signal_server, "bob", captured_sdp("chromium-v1-0"))
    answer = (await bob.next("answer")).answer
    assert track.sid in answer.mid_to_track_id.values()
    assert len(answer.mid_to_track_id) == 2
    for section in sdp.parse(answer.sdp).sections:
        if section.kind != "application":
            expected = "sendonly" if section.mid in answer.mid_to_track_id else "inactive"
            assert section.direction == expected


async def test_trap_4_a_resume_sends_every_participant_again(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    await signal_server.join("r", "bob")
    await signal_server.join("r", "eve", hidden=True)
    sid = ann.received[0].join.participant.sid
    await ann.ws.close()
    back = await signal_server.connect(
        "/rtc", access_token=signal_server.token("r", "ann"), reconnect="1", sid=sid
    )
    assert (await back.next()).WhichOneof("message") == "reconnect"
    update = (await back.next()).update
    assert {participant.identity for participant in update.participants} == {"ann", "bob"}


async def test_trap_4_an_unknown_sid_is_told_to_reconnect_fully(signal_server: LiveKitServer) -> None:
    await signal_server.join("r", "ann")
    for identity, sid in (("ann", "PA_nobody"), ("bob", "PA_nobody")):
        client = await signal_server.connect(
            "/rtc", access_token=signal_server.token("r", identity), reconnect="1", sid=sid
        )
        leave = (await client.next()).leave
        assert (leave.reason, leave.action) == (REASON.STATE_MISMATCH, ACTION.RECONNECT)
        await client.closed()


async def test_trap_5_the_older_of_two_with_one_identity_goes_first(signal_server: LiveKitServer) -> None:
    watcher = await signal_server.join("r", "eve")
    older = await signal_server.join("r", "ann")
    await watcher.next("update")
    newer = await signal_server.join("r", "ann")
    leave = (await older.next("leave")).leave
    assert (leave.reason, leave.action) == (REASON.DUPLICATE_IDENTITY, ACTION.DISCONNECT)
    await older.closed()
    old_sid = older.received[0].join.participant.sid
    new_sid = newer.received[0].join.participant.sid
    await watcher.quiet()
    states = [
        (participant.sid, participant.state)
        for message in watcher.received
        if message.HasField("update")
        for participant in message.update.participants
        if participant.identity == "ann"
    ]
    gone = states.index((old_sid, models.ParticipantInfo.State.DISCONNECTED))
    assert new_sid in [sid for sid, _ in states[gone + 1 :]]
    assert old_sid not in [sid for sid, _ in states[gone + 1 :]]


async def test_trap_6_single_connection_data_goes_over_the_clients_own_channels(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await single(signal_server, "ann", captured_sdp("chromium-v1-0"))
    bob = await single(signal_server, "bob", captured_sdp("chromium-v1-0"))
    await bob.next("answer")
    ann_sid, bob_sid = (c.received[0].join.participant.sid for c in (ann, bob))
    packet = models.DataPacket(user=models.UserPacket(payload=b"hello"))
    fake_node.emit(DataReceived(f"{ann_sid}:both", "_reliable", packet.SerializeToString()))
    (sent,) = fake_node.of(SendData)
    assert (sent.transport_id, sent.label) == (f"{bob_sid}:both", "_reliable")


async def test_trap_7_trickle_before_the_offer_is_no_harm(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    candidate = '{"candidate": "candidate:1 1 udp 1 192.0.2.1 5000 typ host", "sdpMid": "0"}'
    for text in (candidate, "", "{", "[" * 4_000, "x" * 100_000):
        await ann.send(trickle=rtc.TrickleRequest(candidateInit=text))
    await publish_camera(ann)
    assert ann.received[-1].answer.sdp


async def test_trap_8_rids_are_ranked_by_name_not_by_place(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    await ann.send(add_track=rtc.AddTrackRequest(cid=VIDEO_CID, type=models.TrackType.VIDEO))
    await ann.next("track_published")
    turned = captured_sdp("chromium-v0-1").replace("a=simulcast:send q;h;f", "a=simulcast:send f;h;q")
    head, rids, tail = turned.partition("a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\n")
    assert rids
    turned = head + "a=rid:f send\r\na=rid:h send\r\na=rid:q send\r\n" + tail
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp=turned, id=1))
    answer = (await ann.next("answer")).answer
    (produce,) = fake_node.of(Produce)
    assert [encoding.rid for encoding in produce.rtp.encodings] == ["q", "h", "f"]
    assert "a=simulcast:recv f;h;q" in answer.sdp


async def test_trap_9_tracks_are_found_by_the_msid_track_id(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    for cid, name in (("another-cid", "other"), (VIDEO_CID, "camera")):
        await ann.send(add_track=rtc.AddTrackRequest(cid=cid, name=name, type=models.TrackType.VIDEO))
        await ann.next("track_published")
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp=captured_sdp("chromium-v0-1"), id=1))
    await ann.next("answer")
    room = signal_server.media.rooms["r"]
    published = [track for track in room.tracks.values() if track.published]
    assert [track.info.name for track in published] == ["camera"]


async def test_trap_10_the_answers_order_of_codecs_decides(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann, simulcast_codecs=[rtc.SimulcastCodec(codec="h264", cid=VIDEO_CID)])
    assert sdp.parse(ann.received[-1].answer.sdp).sections[1].codecs[0].mime == "video/H264"
    bob = await signal_server.join("r", "bob")
    await publish_camera(bob, simulcast_codecs=[rtc.SimulcastCodec(codec="vp9", cid=VIDEO_CID)])
    assert sdp.parse(bob.received[-1].answer.sdp).sections[1].codecs[0].mime == "video/VP9"
    eve = await signal_server.join("r", "eve")
    await publish_camera(eve, simulcast_codecs=[rtc.SimulcastCodec(codec="h265", cid=VIDEO_CID)])
    assert sdp.parse(eve.received[-1].answer.sdp).sections[1].codecs[0].mime == "video/VP8"


async def test_trap_11_what_we_cannot_serve_is_rejected_alone(signal_server: LiveKitServer) -> None:
    join = (await signal_server.join("r", "eve")).received[0].join
    mimes = [codec.mime for codec in join.enabled_publish_codecs]
    assert mimes[:2] == ["video/VP8", "video/H264"]
    assert "audio/opus" in mimes
    ann = await signal_server.join("r", "ann")
    h265 = "m=video 9 UDP/TLS/RTP/SAVPF 45\r\na=mid:9\r\na=sendonly\r\na=rtpmap:45 H265/90000\r\n"
    offer = captured_sdp("chromium-v0-1") + h265
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp=offer, id=1))
    answer = sdp.parse((await ann.next("answer")).answer.sdp)
    assert [section.rejected for section in answer.sections] == [False, False, True]
    assert "9" not in answer.bundle


async def test_trap_12_nobody_is_told_that_it_is_lost_itself(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    bob = await signal_server.join("r", "bob")
    for client in (ann, bob):
        await answered(client)
        await client.quiet()
        fake_node.emit(TransportState(f"{client.received[0].join.participant.sid}:down", "connected"))
    ann_sid = ann.received[0].join.participant.sid
    fake_node.emit(TransportState(f"{ann_sid}:down", "disconnected"))
    fake_node.emit(Report((), (), (), ()))
    (told,) = [m for m in await bob.quiet() if m.HasField("connection_quality")]
    (info,) = told.connection_quality.updates
    assert (info.participant_sid, info.quality) == (ann_sid, models.ConnectionQuality.LOST)
    assert not [m for m in await ann.quiet() if m.HasField("connection_quality")]


async def test_trap_13_data_is_stamped_addressed_and_keeps_its_sequence(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    clients = {identity: await signal_server.join("r", identity) for identity in ("ann", "bob", "cy")}
    sids = {identity: client.received[0].join.participant.sid for identity, client in clients.items()}
    packet = models.DataPacket(
        participant_identity="somebody else",
        destination_identities=["bob"],
        sequence=7,
        user=models.UserPacket(payload=b"x", topic="t"),
    )
    await clients["cy"].quiet()
    fake_node.emit(DataReceived(f"{sids['ann']}:up", "_reliable", packet.SerializeToString()))
    (sent,) = fake_node.of(SendData)
    assert sent.transport_id == f"{sids['bob']}:down"
    relayed = models.DataPacket.FromString(sent.payload)
    assert (relayed.participant_sid, relayed.participant_identity) == (sids["ann"], "ann")
    assert (relayed.sequence, relayed.user.topic, relayed.user.payload) == (7, "t", b"x")
    # The same once more (a resume): not twice.
    fake_node.emit(DataReceived(f"{sids['ann']}:up", "_reliable", packet.SerializeToString()))
    assert len(fake_node.of(SendData)) == 1
    fake_node.sent.clear()
    lossy = models.DataPacket(user=models.UserPacket(payload=b"y"))
    fake_node.emit(DataReceived(f"{sids['ann']}:up", "_lossy", lossy.SerializeToString()))
    assert {m.transport_id for m in fake_node.of(SendData)} == {f"{sids['bob']}:down", f"{sids['cy']}:down"}


async def test_trap_13_client_protocol_and_capabilities_are_passed_on(signal_server: LiveKitServer) -> None:
    client = await signal_server.connect(
        "/rtc",
        access_token=signal_server.token("r", "ann"),
        client_protocol="2",
        capabilities="CAP_PACKET_TRAILER,CAP_COMPRESSION_DEFLATE_RAW,CAP_OF_TOMORROW",
    )
    await client.next("join")
    bob = await signal_server.join("r", "bob")
    (ann,) = bob.received[0].join.other_participants
    assert ann.client_protocol == 2
    assert list(ann.capabilities) == [1, 2]


@pytest.mark.parametrize("sdk", ["js", "python"])
async def test_trap_14_a_section_that_is_off_names_no_stream_and_is_used_again(
    signal_server: LiveKitServer, fake_node: FakeNode, sdk: str
) -> None:
    """By the same track only in browsers: the Rust core would not announce (mid, stream id) a second time."""
    ann = await signal_server.join("r", "ann")
    bob = await signal_server.connect("/rtc", access_token=signal_server.token("r", "bob"), sdk=sdk)
    await answered(bob)
    track = await publish_camera(ann)
    first = await answered(bob, sections=3)
    await bob.quiet()
    await bob.send(subscription=rtc.UpdateSubscription(track_sids=[track.sid], subscribe=False))
    off = await answered(bob)
    video = next(section for section in off.sections if section.kind == "video")
    assert (video.direction, video.stream_id) == ("inactive", None)
    assert "TR_" not in bob.received[-1].offer.sdp.split("m=video")[1]
    assert len(fake_node.of(CloseConsumer)) == 1
    await bob.quiet()
    await bob.send(subscription=rtc.UpdateSubscription(track_sids=[track.sid], subscribe=True))
    on = await answered(bob)
    again = next(section for section in on.sections if section.track_id == track.sid)
    assert [section.mid for section in on.sections][:3] == [section.mid for section in first.sections]
    assert (again.mid == video.mid) == (sdk == "js")
    before = next(section for section in first.sections if section.kind == "video")
    assert again.send_encodings[0].ssrc != before.send_encodings[0].ssrc


async def test_trap_15_unknown_sdp_lines_are_ignored(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    strange = (
        captured_sdp("chromium-v0-1").replace("t=0 0\r\n", "t=0 0\r\na=goog-sped-v1\r\n")
        + "a=sctp-init:AAAA\r\nz=what is this\r\n"
    )
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp=strange, id=1))
    answer = sdp.parse((await ann.next("answer")).answer.sdp)
    assert not any(section.rejected for section in answer.sections)


async def test_trap_16_transport_wide_feedback_is_always_agreed(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    text = ann.received[-1].answer.sdp
    assert text.count("transport-wide-cc-extensions") == 2
    assert "a=rtcp-fb:96 transport-cc" in text
    assert "a=rtcp-fb:111 transport-cc" in text


async def test_trap_17_an_answer_with_id_0_is_the_answer(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    offer = (await ann.next("offer")).offer
    assert offer.id > 0
    await ann.send(answer=rtc.SessionDescription(type="answer", sdp=answer_to(offer.sdp), id=0))
    await ann.quiet()
    assert [type(m) for m in fake_node.sent].count(ConnectTransport) == 1


async def test_trap_18_both_ssrcs_of_an_fid_group_have_lines(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    bob = await single(signal_server, "bob", captured_sdp("chromium-v1-0"))
    for section in (await bob.next("answer")).answer.sdp.split("m=")[1:]:
        for line in section.splitlines():
            if line.startswith("a=ssrc-group:FID"):
                first, second = line.split()[1:]
                assert f"a=ssrc:{first} cname:" in section
                assert f"a=ssrc:{second} cname:" in section
                break
        else:
            assert "video" not in section[:5] or "a=inactive" in section


async def test_trap_19_mid_and_repaired_rid_extensions_are_agreed(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    camera = next(m for m in fake_node.of(Produce) if m.kind == "video")
    uris = {extension.uri for extension in camera.rtp.header_extensions}
    assert {
        "urn:ietf:params:rtp-hdrext:sdes:mid",
        "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
    } <= uris


async def test_a_section_that_the_viewer_rejects_stays_in_its_place(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    bob = await signal_server.join("r", "bob")
    await answered(bob)
    await publish_camera(ann)
    await answered(bob, sections=3, reject=("1",))
    await bob.quiet()
    assert [m for m in bob.received if m.HasField("subscription_response")]
    assert [message.rtp.mid for message in fake_node.of(Consume)] == ["2"]


async def test_changes_during_an_offer_are_offered_after_the_answer(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    bob = await signal_server.join("r", "bob")
    first = (await bob.next("offer")).offer
    await publish_camera(ann)
    assert not [m for m in await bob.quiet() if m.HasField("offer")]
    await bob.send(answer=rtc.SessionDescription(type="answer", sdp=answer_to(first.sdp), id=first.id))
    described = await answered(bob, sections=3)
    assert [section.kind for section in described.sections] == ["application", "audio", "video"]


async def test_single_connection_asks_for_sections_that_it_lacks(signal_server: LiveKitServer) -> None:
    for number in range(4):
        await publish_camera(await signal_server.join("r", f"p{number}"))
    bob = await single(signal_server, "bob", captured_sdp("chromium-v1-0"))
    answer = (await bob.next("answer")).answer
    assert len(answer.mid_to_track_id) == 6
    need = (await bob.next("media_sections_requirement")).media_sections_requirement
    assert (need.num_audios, need.num_videos) == (1, 1)
    extra = "".join(
        f"m={kind} 9 UDP/TLS/RTP/SAVPF {pt}\r\na=mid:{mid}\r\na=recvonly\r\na=rtpmap:{pt} {codec}\r\n"
        for kind, pt, mid, codec in (("audio", 111, 10, "opus/48000/2"), ("video", 96, 11, "VP8/90000"))
    )
    offer = captured_sdp("chromium-v1-0") + extra
    await bob.send(offer=rtc.SessionDescription(type="offer", sdp=offer, id=2))
    assert len((await bob.next("answer")).answer.mid_to_track_id) == 8
    assert not [m for m in await bob.quiet() if m.HasField("media_sections_requirement")]


async def test_an_announced_track_that_no_offer_carries_is_asked_for(signal_server: LiveKitServer) -> None:
    """The Rust core loses its turn when it adds a track while its offer of another is being answered."""
    ann = await single(signal_server, "ann", captured_sdp("chromium-v1-0"))
    await ann.next("answer")
    await ann.send(
        add_track=rtc.AddTrackRequest(
            cid="late", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
        )
    )
    await ann.next("track_published")
    for _ in range(12):
        signal_server.media.tick(signal_server.media.clock.monotonic())
    await ann.quiet()
    assert ann.kinds().count("media_sections_requirement") == 5


async def test_a_client_that_never_adds_sections_is_not_asked_for_ever(signal_server: LiveKitServer) -> None:
    await publish_camera(await signal_server.join("r", "ann"))
    only_data = captured_sdp("python-v0-0").replace("a=setup:active", "a=setup:actpass")
    bob = await single(signal_server, "bob", only_data)
    await bob.next("answer")
    for number in range(12):
        await bob.send(offer=rtc.SessionDescription(type="offer", sdp=only_data, id=2 + number))
        await bob.next("answer")
    await bob.quiet()
    assert 1 <= bob.kinds().count("media_sections_requirement") <= 8


async def test_an_ice_restart_of_the_client_restarts_ours(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    before = sdp.parse(ann.received[-1].answer.sdp).sections[0].ice
    text = captured_sdp("chromium-v0-1")
    ice = sdp.parse(text).sections[0].ice
    assert ice is not None
    restarted = text.replace(ice.ufrag, "fresh").replace(ice.pwd, "a-fresh-password-of-24ch")
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp=restarted, id=2))
    after = sdp.parse((await ann.next("answer")).answer.sdp).sections[0].ice
    assert len(fake_node.of(RestartIce)) == 1
    assert after != before
    assert len(fake_node.of(Produce)) == 2  # media goes on as it was


async def test_a_client_that_wants_to_be_the_dtls_server_is_refused(signal_server: LiveKitServer) -> None:
    ann = await signal_server.join("r", "ann")
    offer = captured_sdp("chromium-v0-1").replace("a=setup:actpass", "a=setup:passive")
    await ann.send(offer=rtc.SessionDescription(type="offer", sdp=offer, id=1))
    assert (await ann.next("leave")).leave.action == ACTION.RECONNECT
    await ann.closed()


def test_limits_have_room_for_what_was_measured() -> None:
    """Chromium's join request was 18.5 kB."""
    assert Limits().join_request_bytes > 4 * 18_500
    assert offers.MAX_MESSAGE_SIZE >= 65_536
    assert AUDIO_CID in captured_sdp("chromium-v0-1")
