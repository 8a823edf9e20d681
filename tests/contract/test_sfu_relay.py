"""What every relay does with packets, over a real UDP socket with static SRTP keys."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from sfu import rtcp, twcc
from sfu.drops import DropReason
from sfu.messages import (
    CloseConsumer,
    CloseProducer,
    Consume,
    Failed,
    Levels,
    ProducerLive,
    RequestKeyFrame,
    SetConsumerPaused,
    SetConsumerSource,
    SetLayer,
    SetProducerPaused,
    StartTap,
    StopTap,
    TapStopped,
)
from sfu.params import EncodingParameters, RtpParameters
from sfu.rtcp import KeyFrameWanted, Nack, ReportBlock, SenderReport, TransportCc
from sfu.seq import distance
from tests.fixtures.sfu_rtp_peers import (
    H264,
    H264_DOWN,
    OPUS,
    OPUS_DOWN,
    RED,
    RED_DOWN,
    VP8,
    Bench,
    Peer,
    extensions,
    vp8,
)

A, B, C = (EncodingParameters(rid=rid) for rid in "qhf")


def continuous(packets: list, *, pictures: bool = True) -> None:
    for before, after in pairwise(packets):
        assert (after.sequence - before.sequence) & 0xFFFF == 1
        assert distance(after.timestamp >> 8 & 0xFFFF, before.timestamp >> 8 & 0xFFFF) >= 0
        if pictures:
            assert (after.picture - before.picture) & 0x7FFF in (0, 1)


def one_video(bench: Bench, **consume: int) -> tuple[Peer, Peer]:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000, rtx_ssrc=1001))
    bench.consume(sub, "c", "cam", 2000, rtx_ssrc=2001, **consume)
    return pub, sub


async def test_packet_is_renumbered_for_its_receiver(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 65535, 5000, vp8(7, key=True), mid="0")
    pub.rtp(1000, 0, 8000, vp8(8), mid="0", more=((2, b"abc"),))
    await sfu_bench.settle()
    first, second = sub.received()
    assert (first.ssrc, first.payload_type, first.timestamp) == (2000, 120, 5000)
    assert first.elements[1] == b"7"  # the receiver's MID, not the sender's
    assert set(first.elements) == set(second.elements) == {1, 2}  # abs-send-time is not passed on
    transport = [struct.unpack("!H", p.elements[2])[0] for p in (first, second)]
    assert transport[1] - transport[0] == 1
    continuous([first, second])
    assert first.payload == vp8(7, key=True)
    assert sfu_bench.of(ProducerLive) == [ProducerLive("cam", "video/VP8")]


async def test_begins_with_a_key_frame(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.feedback()
    pub.rtp(1000, 1, 0, vp8(1))
    await sfu_bench.settle()
    assert sub.received() == []
    assert sfu_bench.drops.counts[DropReason.WAITING_FOR_KEY_FRAME] == 1
    pub.rtp(1000, 2, 3000, vp8(2, key=True))
    await sfu_bench.settle()
    assert len(sub.received()) == 1


async def test_key_frame_requests_are_throttled_and_kept(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    assert [m for m in pub.feedback() if isinstance(m, KeyFrameWanted)] == [KeyFrameWanted(1000)]
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    sfu_bench.clock.advance(100)
    sub.send_rtcp(rtcp.picture_loss(5, 2000))
    sub.send_rtcp(rtcp.full_intra_request(5, 2000, 1))
    await sfu_bench.settle()
    sfu_bench.tick(150)
    assert [m for m in pub.feedback() if isinstance(m, KeyFrameWanted)] == []
    sfu_bench.tick(100)
    assert [m for m in pub.feedback() if isinstance(m, KeyFrameWanted)] == [KeyFrameWanted(1000)]
    sfu_bench.tick(2000)  # none came: asked again, ever more seldom
    assert 1 <= len([m for m in pub.feedback() if isinstance(m, KeyFrameWanted)]) <= 3
    pub.rtp(1000, 2, 3000, vp8(2, key=True))
    await sfu_bench.settle()
    sfu_bench.tick(3000)
    assert [m for m in pub.feedback() if isinstance(m, KeyFrameWanted)] == []
    assert sfu_bench.counter("lianxin_pli_total", direction="in") == 2


def simulcast(bench: Bench) -> tuple[Peer, Peer]:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_video(pub, "cam", A, B, C)
    bench.consume(sub, "c", "cam", 2000, rtx_ssrc=2001)
    return pub, sub


async def test_simulcast_is_told_apart_by_rid_and_switches_at_key_frames(sfu_bench: Bench) -> None:
    pub, sub = simulcast(sfu_bench)
    feeds = {"q": 11, "h": 12, "f": 13}
    offset = {"q": 1000, "h": 2**31, "f": 77}
    picture = {"q": 100, "h": 5000, "f": 32760}
    tl0 = {"q": 3, "h": 250, "f": 90}
    seq = {"q": 10, "h": 65530, "f": 30000}

    def frame(rid: str, at: int, *, key: bool = False, announce: bool = True) -> None:
        picture[rid] += 1
        tl0[rid] += 1
        for first in (True, False):
            seq[rid] += 1
            payload = vp8(picture[rid], key=key, first=first, tl0=tl0[rid])
            names = {"mid": "0", "rid": rid} if announce else {}
            pub.rtp(feeds[rid], seq[rid], offset[rid] + at * 3000, payload, marker=not first, **names)

    got = []

    async def play(at: int, keys: str = "", announce: bool = True) -> list:
        for rid in "qhf":
            frame(rid, at, key=rid in keys, announce=announce)
        await sfu_bench.settle()
        sfu_bench.clock.advance(33.4)
        fresh = sub.received()
        got.extend(fresh)
        return fresh

    def level() -> int:
        return sfu_bench.media.report()[1][0].spatial_layer

    await play(0, "qhf")
    assert level() == 2
    await play(1)
    sfu_bench.do(SetLayer("c", 0))
    assert KeyFrameWanted(11) in pub.feedback()
    await play(2, announce=False)
    assert level() == 2  # goes on with the old layer until the key frame
    await play(3, "q", announce=False)
    assert level() == 0
    sfu_bench.do(SetLayer("c", 1))
    await play(4)
    await play(5, "h")
    assert level() == 1
    await play(6)
    continuous(got)
    assert len({p.ssrc for p in got}) == 1
    steps = [b.timestamp - a.timestamp for a, b in pairwise(got) if b.timestamp != a.timestamp]
    assert all(0 < step < 4000 for step in steps), steps
    indexes = [p.tl0 for p in got]
    assert all((b - a) & 0xFF in (0, 1) for a, b in pairwise(indexes))


async def test_nearest_living_layer(sfu_bench: Bench) -> None:
    pub, sub = simulcast(sfu_bench)
    pub.rtp(11, 1, 0, vp8(1, key=True), mid="0", rid="q")
    await sfu_bench.settle()
    assert len(sub.received()) == 1  # 2 is wanted, 0 is all there is
    pub.rtp(13, 1, 0, vp8(1, key=True), mid="0", rid="f")
    await sfu_bench.settle()
    assert sfu_bench.media.report()[1][0].spatial_layer == 2
    sfu_bench.tick(1300)
    pub.rtp(11, 2, 9000, vp8(2), mid="0", rid="q")
    await sfu_bench.settle()
    sfu_bench.tick(400)  # f has been silent for 1.7 s
    assert KeyFrameWanted(11) in pub.feedback()
    pub.rtp(11, 3, 12000, vp8(3, key=True), mid="0", rid="q")
    await sfu_bench.settle()
    assert sfu_bench.media.report()[1][0].spatial_layer == 0
    continuous(sub.received())


async def test_unannounced_rtx_mends_a_hole(sfu_bench: Bench) -> None:
    pub, sub = simulcast(sfu_bench)
    for number in (1, 2, 4, 5, 6):
        pub.rtp(11, number, number * 3000, vp8(number, key=number == 1), mid="0", rid="q")
    await sfu_bench.settle()
    assert Nack(11, (3,)) in pub.feedback()
    pub.rtp(77, 900, 9000, struct.pack("!H", 3) + vp8(3), payload_type=97, mid="0", repaired_rid="q")
    pub.rtp(77, 901, 9000, struct.pack("!H", 3) + vp8(3), payload_type=97)
    pub.rtp(77, 902, 9000, b"", payload_type=97, padding=200)
    await sfu_bench.settle()
    packets = sorted(sub.received(), key=lambda p: p.timestamp)
    assert len(packets) == 6
    continuous(packets)
    assert sfu_bench.drops.counts[DropReason.DUPLICATE] == 1
    assert sfu_bench.counter("lianxin_packets_total", direction="in", kind="rtx") == 3
    sfu_bench.tick(1000)
    assert not [m for m in pub.feedback() if isinstance(m, Nack)]


async def test_asks_the_publisher_a_limited_number_of_times(sfu_bench: Bench) -> None:
    pub, _ = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    pub.rtp(1000, 9, 0, vp8(1, first=False))
    await sfu_bench.settle()
    assert Nack(1000, (2, 3, 4, 5, 6)) in pub.feedback()  # 7 and 8 may only be late
    sfu_bench.tick(3000)
    asked = [number for m in pub.feedback() if isinstance(m, Nack) for number in m.sequences]
    assert set(asked) == set(range(2, 9))
    assert all(3 <= asked.count(number) <= 8 for number in range(2, 9))


async def test_nack_is_answered_by_rtx_within_limits(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    for number in range(4):
        pub.rtp(1000, number, number * 3000, vp8(number, key=number == 0))
    await sfu_bench.settle()
    sent = sub.received()
    lost = sent[2]
    sub.send_rtcp(rtcp.nack(5, 2000, [lost.sequence, lost.sequence, (lost.sequence + 99) & 0xFFFF]))
    await sfu_bench.settle()
    (again,) = sub.received()
    assert (again.ssrc, again.payload_type, again.timestamp) == (2001, 121, lost.timestamp)
    assert again.payload == struct.pack("!H", lost.sequence) + lost.payload
    assert again.elements[1] == b"7"
    assert sfu_bench.drops.counts[DropReason.NACK_TOO_SOON] == 1
    assert sfu_bench.drops.counts[DropReason.NACK_MISS] == 1
    sfu_bench.clock.advance(100)
    sub.send_rtcp(rtcp.nack(5, 2000, [lost.sequence]))
    await sfu_bench.settle()
    (third,) = sub.received()
    assert (third.sequence - again.sequence) & 0xFFFF == 1  # RTX has its own numbers
    assert sfu_bench.counter("lianxin_packets_total", direction="out", kind="rtx") == 2
    assert sfu_bench.counter("lianxin_nack_total", direction="in") == 4


async def test_nack_without_rtx_brings_the_same_bytes(sfu_bench: Bench) -> None:
    pub, sub = bench_pair(sfu_bench)
    sfu_bench.consume(sub, "c", "cam", 2000)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    (wire,) = sub._drain()
    wire_sequence = struct.unpack_from("!H", wire, 2)[0]
    pub.rtp(1000, 2, 0, vp8(1, first=False))
    sub.send_rtcp(rtcp.nack(5, 2000, [wire_sequence]))
    await sfu_bench.settle()
    assert wire in sub._drain()  # another packet under the same number would break AES-GCM


def bench_pair(bench: Bench) -> tuple[Peer, Peer]:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000, rtx_ssrc=1001))
    return pub, sub


async def test_padding_leaves_no_gap(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    pub.rtp(1000, 2, 0, b"", padding=100)
    pub.rtp(1000, 3, 0, b"", padding=100)
    pub.rtp(1000, 4, 3000, vp8(2), padding=9)
    await sfu_bench.settle()
    packets = sub.received()
    assert len(packets) == 2
    continuous(packets)
    assert packets[1].payload == vp8(2)
    assert sfu_bench.drops.counts[DropReason.PADDING] == 2


async def test_temporal_layers_can_be_dropped_and_taken_up_again(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench, temporal=0)
    sequence = 0

    def frames(start: int, count: int) -> None:
        nonlocal sequence
        for number in range(start, start + count):
            temporal = number % 2
            for first in (True, False):
                sequence += 1
                payload = vp8(
                    number,
                    key=number == 0,
                    tl0=number // 2,
                    temporal=temporal,
                    sync=temporal == 1,
                    first=first,
                )
                pub.rtp(1000, sequence, number * 3000, payload, marker=not first)

    frames(0, 6)
    await sfu_bench.settle()
    low = sub.received()
    assert len(low) == 6
    sfu_bench.do(SetLayer("c", 2, 2))
    frames(6, 4)
    await sfu_bench.settle()
    both = sub.received()
    assert len(both) == 8
    continuous(low + both)


async def test_consumer_pause_and_resume(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    sfu_bench.do(SetConsumerPaused("c", True))
    sfu_bench.clock.advance(400)
    pub.rtp(1000, 2, 3000, vp8(2))
    await sfu_bench.settle()
    pub.feedback()
    sfu_bench.do(SetConsumerPaused("c", False))
    assert KeyFrameWanted(1000) in pub.feedback()
    pub.rtp(1000, 3, 6000, vp8(3))
    pub.rtp(1000, 4, 9000, vp8(4, key=True))
    await sfu_bench.settle()
    packets = sub.received()
    assert [p.timestamp for p in packets] == [0, 9000]
    continuous(packets)


async def test_paused_producer_is_dropped_but_fed_back(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    sfu_bench.do(SetProducerPaused("cam", True))
    sfu_bench.clock.advance(1000)
    for number in range(2, 12):
        pub.rtp(1000, number, 3000, vp8(2, key=True))
    await sfu_bench.settle()
    assert len(sub.received()) == 1
    assert sfu_bench.drops.counts[DropReason.PRODUCER_PAUSED] == 10
    assert sfu_bench.counter("lianxin_packets_total", direction="in", kind="video") == 11
    sfu_bench.tick()
    kinds = {type(m) for m in pub.feedback()}
    assert kinds == {TransportCc, ReportBlock, KeyFrameWanted}  # the last from before
    sfu_bench.do(SetProducerPaused("cam", False))
    assert KeyFrameWanted(1000) in pub.feedback()
    pub.rtp(1000, 12, 6000, vp8(3, key=True))
    await sfu_bench.settle()
    (packet,) = sub.received()
    assert packet.timestamp == 6000


async def test_source_switch_is_continuous(sfu_bench: Bench) -> None:
    one, two, sub = sfu_bench.peer("one"), sfu_bench.peer("two"), sfu_bench.peer("sub")
    sfu_bench.produce_video(one, "a", EncodingParameters(ssrc=1000))
    sfu_bench.produce_video(two, "b", EncodingParameters(ssrc=1500))
    sfu_bench.consume(sub, "c", "a", 2000)
    one.rtp(1000, 1, 0, vp8(9, key=True))
    await sfu_bench.settle()
    sfu_bench.clock.advance(200)
    sfu_bench.do(SetConsumerSource("c", "b"))
    one.rtp(1000, 2, 3000, vp8(10))
    two.rtp(1500, 40000, 2**31, vp8(777))
    two.rtp(1500, 40001, 2**31 + 3000, vp8(778, key=True))
    two.rtp(1500, 40002, 2**31 + 6000, vp8(779))
    await sfu_bench.settle()
    packets = sub.received()
    assert [p.timestamp for p in packets] == [0, 18000, 21000]
    continuous(packets)


async def test_h264_is_switched_at_a_parameter_set(sfu_bench: Bench) -> None:
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000), codecs=(VP8, H264))
    sfu_bench.consume(sub, "c", "cam", 2000, codecs=(H264_DOWN,))
    sps = bytes.fromhex("6742c01fd9005005bb011000000300100000030320f1832480")
    pub.rtp(1000, 1, 0, b"\x41" + bytes(30), payload_type=102)
    stap = b"\x78" + struct.pack("!H", len(sps)) + sps + b"\x00\x04\x68cbq"
    pub.rtp(1000, 2, 0, stap, payload_type=102, marker=False)
    pub.rtp(1000, 3, 0, b"\x7c\x85" + bytes(30), payload_type=102)
    await sfu_bench.settle()
    packets = sub.received()
    assert [p.payload_type for p in packets] == [125, 125]
    assert sfu_bench.of(ProducerLive) == [ProducerLive("cam", "video/H264")]
    layer = sfu_bench.media.report()[0][0].layers[0]
    assert (layer.width, layer.height) == (1280, 720)


async def test_red_is_stripped_for_who_has_none_and_renumbered_for_who_has(sfu_bench: Bench) -> None:
    pub, plain, red = sfu_bench.peer("pub"), sfu_bench.peer("plain"), sfu_bench.peer("redd")
    sfu_bench.produce_audio(pub, "mic", 1000, codecs=(RED, OPUS))
    sfu_bench.consume(plain, "p", "mic", 2000, codecs=(OPUS_DOWN,))
    sfu_bench.consume(red, "r", "mic", 2100, codecs=(RED_DOWN, OPUS_DOWN))
    payload = bytes((0x80 | 111, 0x0F, 0x00, 4)) + bytes((111,)) + b"old!" + b"newest"
    pub.rtp(1000, 1, 960, payload, payload_type=63, level=20)
    pub.rtp(1000, 2, 1920, b"dtx", payload_type=111, level=127)
    await sfu_bench.settle()
    first, second = plain.received()
    assert (first.payload_type, first.payload) == (109, b"newest")
    assert first.elements[5] == bytes((0x80 | 20,))
    assert (second.payload_type, second.payload) == (109, b"dtx")
    first, second = red.received()
    assert first.payload_type == 108
    assert first.payload == bytes((0x80 | 109, 0x0F, 0x00, 4)) + bytes((109,)) + b"old!" + b"newest"
    assert second.payload_type == 109


async def test_dependency_descriptor_longer_than_16_bytes_is_passed_on(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    for number, descriptor in enumerate((bytes(range(40)), b"abc")):
        pub.rtp(1000, number, 0, vp8(1, key=number == 0), more=((8, descriptor),))
    await sfu_bench.settle()
    long, short = sub.received()
    assert long.elements[9] == bytes(range(40))
    assert short.elements[9] == b"abc"
    assert long.elements[1] == short.elements[1] == b"7"
    assert len(long.elements[2]) == 2


async def test_transport_feedback_tells_arrivals(sfu_bench: Bench) -> None:
    pub, _ = one_video(sfu_bench)
    for number in range(20):
        pub.rtp(1000, number, 0, vp8(1, key=number == 0))
        await sfu_bench.settle()
        sfu_bench.clock.advance(3)
        if number == 9:
            pub.transport_seq += 2
    sfu_bench.tick()
    (message,) = [m for m in pub.feedback() if isinstance(m, TransportCc)]
    feedback = twcc.parse(message.body)
    assert feedback.base == 1
    assert [a is None for a in feedback.arrivals_ms] == [False] * 10 + [True] * 2 + [False] * 10
    times = [a for a in feedback.arrivals_ms if a is not None]
    assert all(b - a == pytest.approx(3, abs=0.5) for a, b in pairwise(times))


async def test_sender_reports_are_mapped_and_receiver_reports_give_rtt(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 90_000, vp8(1, key=True))
    foreign_ms = sfu_bench.clock.ms - 50_000  # the publisher's clock is wrong
    pub.send_rtcp(
        rtcp.sender_report(1000, rtcp.ntp_from_ms(foreign_ms), 90_000, 1, 100)
        + rtcp.source_description(1000, "x")
    )
    await sfu_bench.settle()
    sfu_bench.tick(1000)
    (report,) = [m for m in sub.feedback() if isinstance(m, SenderReport)]
    assert report.ssrc == 2000
    elapsed = rtcp.ms_from_ntp(report.ntp) - (sfu_bench.clock.ms - 1000)
    assert report.rtp_timestamp == pytest.approx(90_000 + elapsed * 90, abs=2)
    sfu_bench.clock.advance(130)
    lsr = rtcp.middle_of_ntp(report.ntp)
    block = ReportBlock(2000, 64, 3, 1, 0, lsr, int(0.050 * 65536))
    sub.send_rtcp(rtcp.receiver_reports(9, [block])[0])
    await sfu_bench.settle()
    consumer = sfu_bench.media.report()[1][0]
    assert consumer.loss == 0.25
    since_ms = sfu_bench.clock.ms - rtcp.ms_from_ntp(report.ntp)
    assert consumer.rtt_ms == pytest.approx(since_ms - 50, abs=1)
    (block_up,) = [m for m in pub.feedback() if isinstance(m, ReportBlock)]
    assert block_up.ssrc == 1000
    assert block_up.lsr == rtcp.middle_of_ntp(rtcp.ntp_from_ms(foreign_ms))


async def test_levels_name_the_loudest_first(sfu_bench: Bench) -> None:
    pub, other = sfu_bench.peer("pub"), sfu_bench.peer("other")
    sfu_bench.produce_audio(pub, "loud", 1000)
    sfu_bench.produce_audio(other, "soft", 1100)
    for number in range(10):
        pub.rtp(1000, number, number * 960, b"x", payload_type=111, level=20)
        other.rtp(1100, number, number * 960, b"x", payload_type=111, level=45)
    await sfu_bench.settle()
    sfu_bench.tick(300)
    levels = sfu_bench.of(Levels)[-1]
    assert isinstance(levels, Levels)
    assert [level.producer_id for level in levels.levels] == ["loud", "soft"]
    assert levels.levels[0].active
    sfu_bench.do(SetProducerPaused("loud", True))
    sfu_bench.tick(300)
    levels = sfu_bench.of(Levels)[-1]
    assert isinstance(levels, Levels)
    loud = next(level for level in levels.levels if level.producer_id == "loud")
    assert (loud.active, loud.dbov) == (False, -127.0)
    pub.rtp(1000, 10, 0, b"x", payload_type=111, level=1)
    await sfu_bench.settle()
    count = len(sfu_bench.events)
    sfu_bench.tick(5000)
    assert all(
        level.producer_id != "loud"
        for event in sfu_bench.events[count:]
        for level in event.levels  # type: ignore[union-attr]
    )
    count = len(sfu_bench.events)
    sfu_bench.tick(1000)
    assert len(sfu_bench.events) == count  # all is silent and has been told


async def test_tap_gets_continuous_packets_and_reports(sfu_bench: Bench) -> None:
    pub = sfu_bench.peer("pub")
    sfu_bench.produce_video(pub, "cam", A, B, C)
    pub.rtp(11, 1, 0, vp8(1, key=True), mid="0", rid="q")
    await sfu_bench.settle()
    sfu_bench.do(StartTap("t", "cam", "/x"))
    assert KeyFrameWanted(11) in pub.feedback()
    sfu_bench.clock.advance(33)
    pub.rtp(11, 2, 3000, vp8(2, key=True), mid="0", rid="q")
    sfu_bench.clock.advance(33)
    pub.rtp(13, 500, 90_000, vp8(300, key=True), mid="0", rid="f")
    await sfu_bench.settle()
    pub.send_rtcp(rtcp.sender_report(13, rtcp.ntp_from_ms(sfu_bench.clock.ms), 90_000, 1, 100))
    await sfu_bench.settle()
    tap = sfu_bench.taps["t"]
    first, second = [struct.unpack_from("!BBHII", p) for p in tap.packets]
    assert second[2] - first[2] == 1
    assert first[1] & 0x7F == 96
    assert [c.mime for c in tap.codecs] == ["video/VP8"]
    (report,) = tap.reports
    assert report[1] == second[3]
    sfu_bench.do(StopTap("t"))
    assert tap.closed


async def test_tap_ends_with_its_producer_or_a_full_disk(sfu_bench: Bench) -> None:
    pub = sfu_bench.peer("pub")
    sfu_bench.produce_audio(pub, "mic", 1000)
    sfu_bench.do(StartTap("t", "mic", "/x"))
    sfu_bench.taps["t"].fails = True
    pub.rtp(1000, 1, 0, b"x", payload_type=111)
    await sfu_bench.settle()
    sfu_bench.tick(250)
    (event,) = sfu_bench.of(TapStopped)
    assert isinstance(event, TapStopped)
    assert "No space left" in event.reason
    sfu_bench.do(StartTap("u", "mic", "/x"))
    sfu_bench.do(CloseProducer("mic"))
    assert sfu_bench.of(TapStopped)[-1] == TapStopped("u", "producer closed")
    assert sfu_bench.taps["u"].closed


async def test_ssrc_found_by_mid_alone(sfu_bench: Bench) -> None:
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_video(pub, "cam", mid="3")
    sfu_bench.consume(sub, "c", "cam", 2000)
    pub.rtp(555, 1, 0, vp8(1, key=True), mid="3")
    pub.rtp(556, 1, 0, struct.pack("!H", 2) + vp8(2), payload_type=97, mid="3")
    pub.rtp(557, 1, 0, vp8(1, key=True), mid="9")
    await sfu_bench.settle()
    assert len(sub.received()) == 2
    assert sfu_bench.drops.counts[DropReason.UNKNOWN_SSRC] == 1
    assert sfu_bench.counter("lianxin_packets_total", direction="in", kind="other") == 1


async def test_restarted_encoder_with_a_new_ssrc_goes_on(sfu_bench: Bench) -> None:
    pub, sub = simulcast(sfu_bench)
    pub.rtp(11, 1, 0, vp8(1, key=True), mid="0", rid="q")
    await sfu_bench.settle()
    pub.rtp(21, 40000, 500_000, vp8(70, key=True), mid="0", rid="q")
    await sfu_bench.settle()
    packets = sub.received()
    assert len(packets) == 2
    continuous(packets)


async def test_restarted_numbers_ask_for_a_key_frame_and_go_on(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    pub.feedback()
    sfu_bench.clock.advance(500)
    pub.rtp(1000, 30_000, 900_000, vp8(500))
    pub.rtp(1000, 30_001, 900_000, vp8(500, first=False))
    await sfu_bench.settle()
    sfu_bench.tick(50)
    assert KeyFrameWanted(1000) in pub.feedback()
    pub.rtp(1000, 30_002, 903_000, vp8(501, key=True))
    await sfu_bench.settle()
    packets = sub.received()
    assert len(packets) == 2
    continuous(packets)


async def test_loss_of_a_leg_is_weighted_and_ends_with_the_stream(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    for number in (*range(10), *range(15, 20)):
        pub.rtp(1000, number, number * 3000, vp8(number, key=number == 0))
    sub.send_rtcp(rtcp.receiver_reports(9, [ReportBlock(2000, 128, 3, 1, 0, 0, 0)])[0])
    await sfu_bench.settle()
    transports = sfu_bench.media.report()[2]
    assert transports["pub"].loss_up == pytest.approx(0.25)
    assert transports["sub"].loss_down == pytest.approx(0.5)
    sfu_bench.do(SetConsumerPaused("c", True))
    transports = sfu_bench.media.report()[2]
    assert transports["pub"].loss_up == transports["sub"].loss_down == 0


async def test_strangers_are_dropped_and_counted(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    stranger = Peer(sfu_bench, "stranger")
    stranger.rtp(1000, 1, 0, vp8(1, key=True))
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    assert sfu_bench.drops.counts[DropReason.UNBOUND_ADDRESS] == 1
    pub.send_rtp(struct.pack("!BBHII", 0x80, 96, 2, 0, 1000) + vp8(2), session=stranger.tx)
    assert len(sub.received()) == 1
    pub.sock.sendto(b"\x90\x60short", sfu_bench.address)
    pub.sock.sendto(b"\xff" * 20, sfu_bench.address)
    pub.sock.sendto(b"\x80" + bytes(1900), sfu_bench.address)
    pub.sock.sendto(b"\x17" * 30, sfu_bench.address)
    await sfu_bench.settle()
    counts = sfu_bench.drops.counts
    assert counts[DropReason.SRTP_AUTH] == 1
    assert counts[DropReason.MALFORMED_RTP] == 1
    assert counts[DropReason.UNKNOWN_PROTOCOL] == 1
    assert counts[DropReason.OVERSIZE] == 1
    assert sfu_bench.sink.dtls == [b"\x17" * 30]
    stranger.sock.close()


async def test_replayed_packets_are_counted(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    wire = pub.tx.protect(struct.pack("!BBHII", 0x80, 0x80 | 96, 2, 0, 1000) + vp8(1, key=True))
    pub.sock.sendto(wire, sfu_bench.address)
    pub.sock.sendto(wire, sfu_bench.address)
    await sfu_bench.settle()
    assert len(sub.received()) == 1
    assert sfu_bench.drops.counts[DropReason.SRTP_REPLAY] == 1


async def test_number_of_ssrcs_is_bounded(sfu_bench: Bench) -> None:
    pub, _ = one_video(sfu_bench)
    for start in range(0, 600, 50):
        for ssrc in range(start, start + 50):
            pub.rtp(50_000 + ssrc, 1, 0, b"x")
        await sfu_bench.settle()
    assert sfu_bench.drops.counts[DropReason.TOO_MANY_SSRCS] == 600 - 512
    counts = sfu_bench.drops.counts  # policy can be asked about few at a time; the others are held up first
    assert counts[DropReason.UNKNOWN_SSRC] + counts[DropReason.HELD] == 512


async def test_address_change_moves_the_leg(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    assert len(sub.received()) == 1
    moved = Peer(sfu_bench, "moved")
    sfu_bench.relay.bind_leg("sub", moved.address)
    pub.rtp(1000, 2, 0, vp8(1, first=False))
    await sfu_bench.settle()
    assert len(moved._drain()) == 1
    moved.sock.close()


async def test_late_connection_of_the_receiver_asks_for_a_key_frame(sfu_bench: Bench) -> None:
    pub = sfu_bench.peer("pub")
    sub = Peer(sfu_bench, "sub")
    sfu_bench.peers["sub"] = sub
    sfu_bench.media.add_leg("room", "sub")
    sfu_bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000))
    sfu_bench.consume(sub, "c", "cam", 2000)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    assert pub.feedback() == []
    sfu_bench.relay.open_leg("sub", sub.keys)
    sfu_bench.relay.bind_leg("sub", sub.address)
    assert KeyFrameWanted(1000) in pub.feedback()
    pub.rtp(1000, 2, 3000, vp8(2, key=True))
    await sfu_bench.settle()
    assert len(sub.received()) == 1


async def test_requests_are_refused_with_a_code(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)

    def code(request: object) -> str:
        reply = sfu_bench.ask(request)  # type: ignore[arg-type]
        assert isinstance(reply, Failed), reply
        return reply.code

    rtp = RtpParameters("9", (OPUS_DOWN,), extensions({}), (EncodingParameters(ssrc=9),))
    assert code(Consume("sub", "n", "cam", rtp)) == "no_common_codec"
    assert code(Consume("sub", "n", "gone", rtp)) == "no_producer"
    assert code(Consume("gone", "n", "cam", rtp)) == "no_transport"
    assert code(SetLayer("gone", 1)) == "no_consumer"
    assert code(SetProducerPaused("gone", True)) == "no_producer"
    assert code(RequestKeyFrame("gone")) == "no_producer"
    sfu_bench.do(CloseConsumer("gone"))
    sfu_bench.do(CloseConsumer("c"))
    sfu_bench.do(CloseConsumer("c"))
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    assert sub.received() == []


async def test_same_ssrc_used_again_goes_on_with_its_numbers(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    sfu_bench.do(CloseConsumer("c"))
    sfu_bench.consume(sub, "d", "cam", 2000)
    pub.rtp(1000, 2, 3000, vp8(2, key=True))
    await sfu_bench.settle()
    before, after = sub.received()
    assert (after.sequence - before.sequence) & 0xFFFF == 1  # an SRTP index must never repeat


async def test_closing_a_leg_takes_all_that_is_its_own(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    pub.rtp(1000, 1, 0, vp8(1, key=True))
    await sfu_bench.settle()
    packets_in = sfu_bench.counter("lianxin_packets_total", direction="in", kind="video")
    sfu_bench.media.close_leg("pub")
    sfu_bench.media.close_leg("pub")
    pub.rtp(1000, 2, 0, vp8(2))
    await sfu_bench.settle()
    sfu_bench.tick(1000)
    assert sfu_bench.counter("lianxin_producers") == 0
    assert sfu_bench.counter("lianxin_packets_total", direction="in", kind="video") == packets_in
    sfu_bench.media.close_router("room")
    assert sfu_bench.counter("lianxin_consumers") == 0
    assert sfu_bench.counter("lianxin_routers") == 0
    assert sfu_bench.relay.legs() == []
    assert len(sub.received()) == 1


async def test_counters_agree_with_what_clients_count(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    for number in range(30):
        pub.rtp(1000, number, number * 3000, vp8(number, key=number == 0))
    await sfu_bench.settle()
    got = sub.received()
    assert sfu_bench.counter("lianxin_packets_total", direction="in", kind="video") == 30
    assert sfu_bench.counter("lianxin_packets_total", direction="out", kind="video") == len(got) == 30
    out_bytes = sfu_bench.counter("lianxin_bytes_total", direction="out", kind="video")
    assert out_bytes == sum(packet.size for packet in got)
    assert OPUS.payload_type == 111


async def test_a_muted_voice_ends_in_silence_and_not_in_a_stretched_sound(sfu_bench: Bench) -> None:
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_audio(pub, "mic", 1000, codecs=(RED, OPUS))
    sfu_bench.consume(sub, "c", "mic", 2000, codecs=(RED_DOWN, OPUS_DOWN))
    pub.rtp(1000, 1, 960, b"voice", payload_type=111, level=20)
    await sfu_bench.settle()
    sfu_bench.do(SetProducerPaused("mic", True))
    pub.rtp(1000, 2, 1920, b"secret", payload_type=111, level=20)
    await sfu_bench.settle()
    sfu_bench.do(SetProducerPaused("mic", False))
    pub.rtp(1000, 3, 96_000, b"again", payload_type=111, level=20)
    await sfu_bench.settle()
    packets = sub.received()
    silence = b"\xf8\xff\xfe"
    assert [p.payload for p in packets] == [b"voice", silence, silence, silence, b"again"]
    assert [p.timestamp for p in packets] == [960, 1920, 2880, 3840, 96_000]
    assert {p.payload_type for p in packets} == {109}
    first = packets[0].sequence
    assert [(p.sequence - first) & 0xFFFF for p in packets] == [0, 1, 2, 3, 4]
