"""VP9 and AV1, RED for receivers, and clients that only know REMB."""

from __future__ import annotations

from dataclasses import replace

import pytest
from livekit.protocol import models, rtc

from sfu.messages import Consume, Produce, ProducerLive, SetLayer
from sfu.params import ExtensionUri, Kind
from signaling.livekit import offers, sdp
from signaling.livekit.tracks import TrackSetting
from tests.fixtures.livekit import (
    VIDEO_CID,
    FakeNode,
    LiveKitServer,
    SignalClient,
    answer_to,
    captured_sdp,
    join_request,
    publish_camera,
)
from tests.unit.test_livekit_rooms import Start, mounted, settle

DESCRIPTOR = ExtensionUri.DEPENDENCY_DESCRIPTOR
LAYER = models.VideoLayer.Mode


def uris(section: sdp.Section) -> set[str]:
    return {extension.uri for extension in section.extensions}


def video_of(name: str) -> sdp.Section:
    sections = sdp.parse(captured_sdp(name)).sections
    return next(section for section in reversed(sections) if section.kind == "video")


def without_simulcast(text: str) -> str:
    """SVC: one stream with its SSRC announced by nothing but the MID."""
    lines = [line for line in text.split("\r\n") if not line.startswith(("a=rid:", "a=simulcast:"))]
    return "\r\n".join(lines)


async def publish_svc(client: SignalClient, codec: str, *layers: tuple[int, int]) -> models.TrackInfo:
    """As livekit-client with ``videoCodec: codec``: the layers of the scalability mode, the largest first."""
    announced = [
        models.VideoLayer(quality=len(layers) - 1 - index, width=width, height=height)  # type: ignore[arg-type]
        for index, (width, height) in enumerate(layers)
    ]
    await client.send(
        add_track=rtc.AddTrackRequest(
            cid=VIDEO_CID,
            type=models.TrackType.VIDEO,
            source=models.TrackSource.CAMERA,
            width=1280,
            height=720,
            layers=announced,
            simulcast_codecs=[
                rtc.SimulcastCodec(codec=codec, cid=VIDEO_CID),
                rtc.SimulcastCodec(codec="vp8", cid=""),
            ],
        )
    )
    published = await client.next("track_published")
    offer = without_simulcast(captured_sdp("chromium-v0-1"))
    await client.send(offer=rtc.SessionDescription(type="offer", sdp=offer, id=1))
    await client.next("answer")
    return published.track_published.track


SVC = pytest.mark.parametrize(("codec", "mime"), [("vp9", "video/VP9"), ("av1", "video/AV1")])
THREE = ((1280, 720), (640, 360), (320, 180))


@SVC
async def test_a_track_of_several_spatial_layers_is_one_encoding(
    signal_server: LiveKitServer, fake_node: FakeNode, codec: str, mime: str
) -> None:
    ann, bob = await signal_server.join("r", "ann"), await signal_server.join("r", "bob")
    info = await publish_svc(ann, codec, *THREE)
    answer = sdp.parse(ann.received[-1].answer.sdp).sections[1]
    assert (answer.codecs[0].mime, answer.simulcast) == (mime, ())
    assert DESCRIPTOR in uris(answer)
    produce = next(m for m in fake_node.of(Produce) if m.kind is Kind.VIDEO)
    assert (produce.rtp.codecs[0].mime, len(produce.rtp.encodings)) == (mime, 1)
    assert DESCRIPTOR in {extension.uri for extension in produce.rtp.header_extensions}
    await settle(bob)
    consume: Consume = next(m for m in fake_node.of(Consume) if m.producer_id == produce.producer_id)
    assert consume.spatial_layer == 2
    assert mime in [c.mime for c in consume.rtp.codecs]
    assert DESCRIPTOR in {extension.uri for extension in consume.rtp.header_extensions}
    (shown,) = signal_server.media.rooms["r"].tracks[info.sid].info.codecs
    assert (shown.mime_type, shown.video_layer_mode) == (mime, LAYER.MULTIPLE_SPATIAL_LAYERS_PER_STREAM)
    # Sizes asked for are spatial layers of the one encoding.
    for (width, height), layer in zip(((320, 180), (640, 360), (1280, 720)), range(3), strict=True):
        fake_node.sent.clear()
        await bob.send(
            track_setting=rtc.UpdateTrackSettings(track_sids=[info.sid], width=width, height=height)
        )
        await bob.quiet()
        assert fake_node.of(SetLayer) == [SetLayer(consume.consumer_id, layer)]


async def test_a_track_of_temporal_layers_only_has_one_size(signal_server: LiveKitServer) -> None:
    """L1T3, as livekit-client shares a screen in VP9."""
    ann = await signal_server.join("r", "ann")
    info = await publish_svc(ann, "vp9", (1280, 720))
    track = signal_server.media.rooms["r"].tracks[info.sid]
    assert track.layers == 1
    assert track.layer_for(TrackSetting(width=160, height=90)) == 0


@SVC
async def test_the_sender_of_spatial_layers_is_told_of_its_codec(
    signal_server: LiveKitServer, codec: str, mime: str
) -> None:
    ann = await signal_server.join("r", "ann")
    info = await publish_svc(ann, codec, *THREE)
    track = signal_server.media.rooms["r"].tracks[info.sid]
    for highest, enabled in ((-1, False), (0, True)):
        update = track.quality_update(highest).subscribed_quality_update
        assert [(c.codec, c.qualities[0].enabled) for c in update.subscribed_codecs] == [(codec, enabled)]


async def test_simulcast_carries_no_dependency_descriptor(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    """Its frame numbers would break with each change of layer, and viewers would freeze."""
    assert DESCRIPTOR in uris(video_of("chromium-v0-1"))  # offered
    ann = await signal_server.join("r", "ann")
    await publish_camera(ann)
    produce = next(m for m in fake_node.of(Produce) if m.kind is Kind.VIDEO)
    assert DESCRIPTOR not in {extension.uri for extension in produce.rtp.header_extensions}


async def test_viewers_of_a_single_connection_agree_on_the_descriptor(signal_server: LiveKitServer) -> None:
    client = await signal_server.connect(
        "/rtc/v1",
        access_token=signal_server.token("r", "bob"),
        join_request=join_request(captured_sdp("chromium-v1-0")),
    )
    answer = sdp.parse((await client.next("answer")).answer.sdp)
    videos = [section for section in answer.sections if section.kind == "video"]
    assert len(videos) == 3
    assert all(DESCRIPTOR in uris(section) for section in videos)
    assert all({"video/VP9", "video/AV1"} <= {c.mime for c in section.codecs} for section in videos)


async def test_who_cannot_decode_is_told_so(signal_server: LiveKitServer, fake_node: FakeNode) -> None:
    ann, bob = await signal_server.join("r", "ann"), await signal_server.join("r", "bob")
    info = await publish_svc(ann, "av1", *THREE)
    offer = (await bob.next("offer")).offer
    while "m=video" not in offer.sdp:
        await bob.send(answer=rtc.SessionDescription(type="answer", sdp=answer_to(offer.sdp), id=offer.id))
        offer = (await bob.next("offer")).offer
    described = sdp.parse(answer_to(offer.sdp))
    sections = [
        replace(
            section,
            codecs=(kept := tuple(c for c in section.codecs if c.mime != "video/AV1")),
            formats=sdp.formats_of(kept),
        )
        if section.kind == "video"
        else section
        for section in described.sections
    ]
    answer = sdp.write(offers.describe(sections, 9, 1, mixed=True))
    await bob.send(answer=rtc.SessionDescription(type="answer", sdp=answer, id=offer.id))
    refused = (await bob.next("subscription_response")).subscription_response
    assert (refused.track_sid, refused.err) == (info.sid, models.SubscriptionError.SE_CODEC_UNSUPPORTED)
    produce = next(m for m in fake_node.of(Produce) if m.kind is Kind.VIDEO)
    assert not [m for m in fake_node.of(Consume) if m.producer_id == produce.producer_id]
    # It really sends something else: that is judged anew.
    fake_node.emit(ProducerLive(produce.producer_id, "video/VP8"))
    await settle(bob)
    assert [m for m in fake_node.of(Consume) if m.producer_id == produce.producer_id]


@pytest.mark.parametrize(
    ("line", "served"),
    [
        ("VP9/90000\r\na=fmtp:98 profile-id=0", True),
        ("VP9/90000\r\na=fmtp:98 profile-id=2", True),
        ("VP9/90000", True),
        ("VP9/90000\r\na=fmtp:98 profile-id=1", False),
        ("AV1/90000\r\na=fmtp:98 level-idx=5;profile=0;tier=0", True),
        ("AV1/90000\r\na=fmtp:98 level-idx=5;profile=1;tier=0", False),
    ],
)
def test_profiles_that_browsers_decode_are_served(line: str, served: bool) -> None:
    head = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    text = f"{head}m=video 9 UDP/TLS/RTP/SAVPF 98\r\na=mid:0\r\na=rtpmap:98 {line}\r\n"
    assert offers.servable(sdp.parse(text).sections[0]) is served


async def test_meetings_take_only_codecs_that_can_be_recorded(
    start_livekit: Start, fake_node: FakeNode
) -> None:
    server, _, _ = await mounted(start_livekit, fake_node)
    ann = await server.join("mt_1", "ann")
    mimes = {codec.mime for codec in ann.received[0].join.enabled_publish_codecs}
    assert {m for m in mimes if m.startswith("video/")} == {"video/VP8", "video/H264", "video/rtx"}
    await publish_svc(ann, "vp9", *THREE)
    produce = next(m for m in fake_node.of(Produce) if m.kind is Kind.VIDEO)
    assert {codec.mime for codec in produce.rtp.codecs} == {"video/VP8", "video/H264"}


# ---------------------------------------------------------------- RED


async def test_receivers_are_offered_red_whose_blocks_are_opus(
    signal_server: LiveKitServer, fake_node: FakeNode
) -> None:
    ann, bob = await signal_server.join("r", "ann"), await signal_server.join("r", "bob")
    await publish_camera(ann)
    await settle(bob)
    consume = next(m for m in fake_node.of(Consume) if m.rtp.codecs[0].mime.startswith("audio/"))
    codecs = {codec.mime: codec for codec in consume.rtp.codecs}
    opus, red = codecs["audio/opus"], codecs["audio/red"]
    assert red.fmtp == ((f"{opus.payload_type}/{opus.payload_type}", ""),)


@pytest.mark.parametrize("section", [0, 1, 2])
def test_receiving_sections_of_a_single_connection_keep_red(section: int) -> None:
    offered = sdp.parse(captured_sdp("chromium-v1-0")).sections[section]
    assert offered.kind == "audio"
    answer = offers.answer_media(offered, offers.common_codecs(offered), "sendonly")
    back = sdp.parse(sdp.write(offers.describe([answer], 1, 1, mixed=True))).sections[0]
    assert {codec.mime: dict(codec.fmtp) for codec in back.codecs}["audio/red"] == {"111/111": ""}


# ---------------------------------------------------------------- REMB


def test_remb_is_agreed_with_who_lacks_transport_wide_feedback() -> None:
    full = video_of("chromium-v0-1")
    assert offers.REMB not in offers.common_codecs(full)[0].rtcp_feedback
    old = replace(
        full,
        codecs=tuple(
            replace(codec, rtcp_feedback=tuple(f for f in codec.rtcp_feedback if f != "transport-cc"))
            for codec in full.codecs
        ),
    )
    assert {"nack", "nack pli", offers.REMB} <= set(offers.common_codecs(old)[0].rtcp_feedback)
    answer = offers.answer_media(old, offers.common_codecs(old), "recvonly")
    assert ExtensionUri.ABS_SEND_TIME in uris(answer)


def test_transport_wide_feedback_without_its_extension_is_none() -> None:
    full = video_of("chromium-v0-1")
    bare = tuple(e for e in full.extensions if e.uri != ExtensionUri.TRANSPORT_CC)
    feedback = offers.common_codecs(replace(full, extensions=bare))[0].rtcp_feedback
    assert offers.TRANSPORT_CC not in feedback
    assert offers.REMB in feedback


def test_a_viewer_may_answer_our_offer_with_either() -> None:
    offered = offers.offer_media(Kind.VIDEO, "1")
    assert {offers.TRANSPORT_CC, offers.REMB} <= set(offered.codecs[0].rtcp_feedback)
    assert offers.REMB not in offers.common_codecs(offered)[0].rtcp_feedback  # it said yes to both
