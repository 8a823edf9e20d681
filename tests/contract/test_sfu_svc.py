"""One stream that holds all spatial layers (VP9, AV1): each receiver gets its layers, without a gap."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from sfu import rtcp
from sfu.drops import DropReason
from sfu.messages import SetConsumerSource, SetLayer
from sfu.params import CodecParameters, EncodingParameters, ExtensionUri
from sfu.rtcp import KeyFrameWanted
from tests.fixtures.sfu_rtp_peers import DOWN, FEEDBACK, UP, Bench, Peer, Received
from tests.fixtures.sfu_svc_streams import L2T2, LayeredPacket, LayeredPublisher, Layout, descriptor

VP9 = CodecParameters("video/VP9", 98, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=99)
VP9_DOWN = CodecParameters("video/VP9", 112, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=113)
AV1 = CodecParameters("video/AV1", 45, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=46)
AV1_DOWN = CodecParameters("video/AV1", 41, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=42)
DD_UP, DD_DOWN = UP[ExtensionUri.DEPENDENCY_DESCRIPTOR], DOWN[ExtensionUri.DEPENDENCY_DESCRIPTOR]
KINDS = {
    "vp9 by its payload": (VP9, VP9_DOWN, False),
    "vp9 by descriptor": (VP9, VP9_DOWN, True),
    "av1": (AV1, AV1_DOWN, True),
}


class Meeting:
    """A publisher of L2T2 and one subscriber."""

    def __init__(self, bench: Bench, kind: str, *, spatial: int = 2, temporal: int = 2) -> None:
        self.bench, self.kind = bench, kind
        codec, down, self.described = KINDS[kind]
        self.codec = codec
        self.pub, self.sub = bench.peer("pub"), bench.peer("sub")
        bench.produce_video(self.pub, "cam", EncodingParameters(ssrc=1000, rtx_ssrc=1001), codecs=(codec,))
        bench.consume(
            self.sub, "c", "cam", 2000, rtx_ssrc=2001, codecs=(down,), spatial=spatial, temporal=temporal
        )
        self.stream = LayeredPublisher()
        self.all: list[Received] = []

    def send(self, packets: list[LayeredPacket], *, by: Peer | None = None, ssrc: int = 1000) -> None:
        for packet in packets:
            payload = packet.av1() if self.codec is AV1 else packet.vp9()
            (by or self.pub).rtp(
                ssrc, packet.sequence, packet.timestamp, payload, payload_type=self.codec.payload_type,
                marker=packet.marker, more=((DD_UP, packet.descriptor),) if self.described else (),
            )  # fmt: skip

    async def frames(self, count: int = 1, *, key: bool = False) -> list[Received]:
        for index in range(count):
            self.send(self.stream.frame(key=key and index == 0))
            await self.bench.settle()
            self.bench.clock.advance(33)
        return self.take()

    def take(self) -> list[Received]:
        got = self.sub.received()
        self.all += got
        return got

    def check_continuous(self) -> None:
        for before, after in pairwise(self.all):
            assert (after.sequence - before.sequence) & 0xFFFF == 1
            assert before.marker is (before.timestamp != after.timestamp)


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_all_layers_by_default(sfu_bench: Bench, kind: str) -> None:
    meeting = Meeting(sfu_bench, kind)
    got = await meeting.frames(4, key=True)
    assert len(got) == 16
    meeting.check_continuous()
    assert got[-1].marker
    assert sum(sfu_bench.drops.counts.values()) == 0


async def test_upper_layer_is_left_out_and_the_marker_moves_down(sfu_bench: Bench, kind: str) -> None:
    meeting = Meeting(sfu_bench, kind, spatial=0)
    got = await meeting.frames(4, key=True)
    assert [packet.marker for packet in got] == [False, True] * 4
    meeting.check_continuous()
    assert sfu_bench.drops.counts[DropReason.SPATIAL_LAYER] == 8
    meeting.sub.send_rtcp(rtcp.nack(5, 2000, [got[-1].sequence]))
    await sfu_bench.settle()
    (again,) = meeting.sub.received()
    assert (again.ssrc, again.marker) == (2001, True)
    assert again.payload == struct.pack("!H", got[-1].sequence) + got[-1].payload
    # receivers that find a frame's references by its descriptor need it here, too
    assert again.elements.get(DD_DOWN) == got[-1].elements.get(DD_DOWN)
    assert (DD_DOWN in again.elements) is meeting.described
    first = struct.unpack("!H", got[-1].elements[2])[0]
    assert struct.unpack("!H", again.elements[2])[0] == (first + 1) & 0xFFFF
    meeting.sub.send_rtcp(rtcp.nack(5, 2000, [got[0].sequence]))  # a long descriptor: the two-byte form
    await sfu_bench.settle()
    (again,) = meeting.sub.received()
    assert again.elements.get(DD_DOWN) == got[0].elements.get(DD_DOWN)
    assert struct.unpack("!H", again.elements[2])[0] == (first + 2) & 0xFFFF


async def test_down_at_any_picture_up_at_a_key_frame(sfu_bench: Bench, kind: str) -> None:
    meeting = Meeting(sfu_bench, kind)
    await meeting.frames(3, key=True)
    meeting.pub.feedback()
    half = meeting.stream.frame()
    meeting.send(half[:1])
    await sfu_bench.settle()
    sfu_bench.do(SetLayer("c", 0, 2))
    meeting.send(half[1:])
    await sfu_bench.settle()
    assert len(meeting.take()) == 4  # a picture that has begun is ended
    assert len(await meeting.frames(2)) == 4
    assert [m for m in meeting.pub.feedback() if isinstance(m, KeyFrameWanted)] == []
    sfu_bench.clock.advance(400)
    sfu_bench.do(SetLayer("c", 1, 2))
    assert [m for m in meeting.pub.feedback() if isinstance(m, KeyFrameWanted)] == [KeyFrameWanted(1000)]
    assert len(await meeting.frames(2)) == 4
    assert sfu_bench.media.report()[1][0].spatial_layer == 0
    assert len(await meeting.frames(2, key=True)) == 8
    assert sfu_bench.media.report()[1][0].spatial_layer == 1
    meeting.check_continuous()


async def test_temporal_layers(sfu_bench: Bench, kind: str) -> None:
    meeting = Meeting(sfu_bench, kind, temporal=0)
    assert len(await meeting.frames(4, key=True)) == 8
    sfu_bench.do(SetLayer("c", 2, 2))
    assert len(await meeting.frames(4)) == 16
    sfu_bench.do(SetLayer("c", 0, 0))
    assert len(await meeting.frames(4)) == 4
    meeting.check_continuous()
    assert sfu_bench.drops.counts[DropReason.TEMPORAL_LAYER] == 12
    assert sfu_bench.drops.counts[DropReason.SPATIAL_LAYER] == 8


async def test_loss_stays_a_gap_and_late_packets_find_it(sfu_bench: Bench, kind: str) -> None:
    meeting = Meeting(sfu_bench, kind, spatial=0)
    await meeting.frames(2, key=True)
    frame = meeting.stream.frame()
    meeting.send([frame[0], *frame[2:]])
    await sfu_bench.settle()
    await meeting.frames(1)
    missing = [
        number for before, after in pairwise(p.sequence for p in meeting.all)
        for number in range(before + 1, before + ((after - before) & 0xFFFF))
    ]  # fmt: skip
    assert len(missing) == 1
    meeting.send([frame[1]])
    await sfu_bench.settle()
    (late,) = meeting.take()
    assert (late.sequence, late.marker) == (missing[0] & 0xFFFF, True)
    begin = meeting.all[0].sequence
    meeting.all.sort(key=lambda packet: (packet.sequence - begin) & 0xFFFF)
    meeting.check_continuous()


async def test_bytes_of_each_layer_are_counted(sfu_bench: Bench, kind: str) -> None:
    meeting = Meeting(sfu_bench, kind, spatial=0)
    await meeting.frames(4, key=True)
    (feed,) = sfu_bench.media.producers["cam"].feeds
    lower, upper, *others = feed.layer_bytes
    assert lower > 8 * 40 < upper
    assert [*others] == [0, 0]
    assert lower + upper == feed.bytes
    if kind != "vp9 by its payload":
        assert (feed.width, feed.height) == (1280, 720)


async def test_numbers_of_pictures_go_on_across_a_change_of_source(sfu_bench: Bench, kind: str) -> None:
    meeting = Meeting(sfu_bench, kind)
    await meeting.frames(3, key=True)
    other = sfu_bench.peer("other")
    sfu_bench.produce_video(other, "cam2", EncodingParameters(ssrc=3000), codecs=(meeting.codec,))
    sfu_bench.do(SetConsumerSource("c", "cam2"))
    stream = LayeredPublisher(sequence=77, picture=200, frame_number=12, timestamp=5)
    for index in range(3):
        meeting.send(stream.frame(key=index == 0), by=other, ssrc=3000)
        await sfu_bench.settle()
        sfu_bench.clock.advance(33)
    assert len(meeting.take()) == 12
    meeting.check_continuous()
    if meeting.codec is VP9:
        pictures = [struct.unpack_from("!H", p.payload, 1)[0] & 0x7FFF for p in meeting.all]
        assert pictures == [(32766 + index // 4) & 0x7FFF for index in range(24)]
    if meeting.described:
        numbers = [struct.unpack_from("!H", p.elements[DD_DOWN], 1)[0] for p in meeting.all]
        assert numbers == [(65534 + index // 2) & 0xFFFF for index in range(24)]
        assert len(meeting.all[12].elements[DD_DOWN]) > 20  # the structure has come along


async def test_av1_begins_with_its_structure(sfu_bench: Bench) -> None:
    meeting = Meeting(sfu_bench, "av1")
    frame = meeting.stream.frame(key=True)
    meeting.send(frame[1:])  # the packet with the structure is lost
    await sfu_bench.settle()
    assert meeting.take() == []
    await meeting.frames(1)
    assert meeting.all == []
    meeting.send(meeting.stream.frame(key=True))
    await sfu_bench.settle()
    assert len(meeting.take()) == 4


async def test_hostile_descriptors_are_counted_and_close_up(sfu_bench: Bench) -> None:
    meeting = Meeting(sfu_bench, "av1")
    await meeting.frames(1, key=True)
    endless = b"\xca\0\1\x80" + bytes(60)
    for data in (b"", b"\x80", endless, descriptor(9, 1, layout=L2T2)):
        meeting.stream.sequence += 1
        meeting.pub.rtp(
            1000, meeting.stream.sequence & 0xFFFF, meeting.stream.timestamp, b"\x10\0\0", payload_type=45,
            more=((DD_UP, data),) if data else ((DD_UP, b"\xff"),),
        )  # fmt: skip
    await sfu_bench.settle()
    assert sfu_bench.drops.counts[DropReason.MALFORMED_PAYLOAD] == 4
    await meeting.frames(2)
    meeting.check_continuous()
    assert len(meeting.all) == 12


async def test_a_publisher_that_changes_its_structure(sfu_bench: Bench) -> None:
    meeting = Meeting(sfu_bench, "vp9 by descriptor", spatial=0)
    await meeting.frames(3, key=True)
    meeting.stream.layout = Layout(40, L2T2.templates, L2T2.protected_by, ((320, 180), (640, 360)))
    assert len(await meeting.frames(3, key=True)) == 6
    meeting.check_continuous()
    assert sfu_bench.media.producers["cam"].feeds[0].height == 360
