"""What publishers are told: key frame requests of many as one, and a bound where times can't be reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sfu import remb, rtcp
from sfu.messages import Produce
from sfu.params import EncodingParameters, ExtensionUri, Kind, RtpParameters
from sfu.rtcp import KeyFrameWanted, Remb
from tests.fixtures.sfu_rtp_peers import UP, VP8, Bench, extensions, vp8

RECEIVERS = 100


async def test_a_hundred_receivers_that_ask_at_once_cause_one_key_frame(sfu_bench: Bench) -> None:
    pub = sfu_bench.peer("pub")
    sfu_bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000, rtx_ssrc=1001))
    subs = [sfu_bench.peer(f"s{at:02}") for at in range(RECEIVERS)]
    for at, sub in enumerate(subs):
        sfu_bench.consume(sub, f"c{at:02}", "cam", 2000 + 2 * at, rtx_ssrc=2001 + 2 * at)
    pub.rtp(1000, 1, 0, vp8(1, key=True), mid="0")
    await sfu_bench.settle()
    sfu_bench.tick(2000)
    pub.feedback()
    for sub in subs:
        assert len(sub.received()) == 1
    for consumer in sfu_bench.media.consumers.values():
        consumer.rtt_ms = 150.0
    asked = []
    for turn in range(6):  # 300 ms
        for at in range(turn, RECEIVERS, 6):
            subs[at].send_rtcp(rtcp.picture_loss(5, 2000 + 2 * at))
        await sfu_bench.settle()
        if turn == 2:  # the camera answers after 100 ms
            pub.rtp(1000, 2, 3000, vp8(2, key=True), mid="0")
            await sfu_bench.settle()
        sfu_bench.tick(50)
        asked += [message for message in pub.feedback() if isinstance(message, KeyFrameWanted)]
    sfu_bench.tick(1000)
    asked += [message for message in pub.feedback() if isinstance(message, KeyFrameWanted)]
    assert asked == [KeyFrameWanted(1000)]
    assert all(len(sub.received()) == 1 for sub in subs)
    subs[7].send_rtcp(rtcp.picture_loss(5, 2014))  # who can't decode it asks again, and is heard
    await sfu_bench.settle()
    assert [m for m in pub.feedback() if isinstance(m, KeyFrameWanted)] == [KeyFrameWanted(1000)]


async def test_a_publisher_without_transport_feedback_gets_remb(sfu_bench: Bench) -> None:
    pub = sfu_bench.peer("pub")
    codec = replace(VP8, rtcp_feedback=("nack", "nack pli", "goog-remb"))
    numbers = {uri: number for uri, number in UP.items() if uri is not ExtensionUri.TRANSPORT_CC}
    section = RtpParameters("0", (codec,), extensions(numbers), (EncodingParameters(ssrc=1000),))
    sfu_bench.do(Produce("pub", "cam", Kind.VIDEO, section))
    for at in range(300):
        pub.rtp(1000, at, at * 900, vp8(at, key=at == 0, size=900))
        if at % 20 == 19:
            await sfu_bench.settle()
            sfu_bench.tick(200)
    found = [message for message in pub.feedback() if isinstance(message, Remb)]
    assert len(found) >= 2
    assert found[-1].ssrcs == (1000,)
    assert found[-1].bitrate_bps > 900e3  # it sends 770 kbit/s


def test_remb_is_only_for_who_has_nothing_better() -> None:
    old = replace(VP8, rtcp_feedback=("goog-remb",))
    assert remb.wanted([RtpParameters("0", (old,))])
    assert not remb.wanted([RtpParameters("0", (VP8,), extensions(UP))])
    assert not remb.wanted([RtpParameters("0", (old,)), RtpParameters("1", (VP8,), extensions(UP))])
    assert not remb.wanted([])


def test_bound_follows_what_arrives_and_losses_take_it_back() -> None:
    bound, received, now = remb.IncomingBound(), 0, 0.0
    for _ in range(20):
        received, now = received + 125_000, now + 1000
        bound.update(received, 0.0, now)
    assert bound.bound_bps >= 1.5e6
    before = bound.bound_bps
    for _ in range(3):
        received, now = received + 125_000, now + 1000
        bound.update(received, 0.05, now)
    assert bound.bound_bps == before
    for _ in range(8):
        received, now = received + 60_000, now + 1000
        bound.update(received, 0.3, now)
    assert remb.MIN_BPS <= bound.bound_bps < 500e3


@pytest.mark.parametrize("bitrate", [0.0, 1000.0, 262_143.0, 5_123_456.0, 1e12])
def test_remb_is_written_and_read(bitrate: float) -> None:
    (message,) = rtcp.parse(rtcp.remb(1, bitrate, [5, 6]))
    assert isinstance(message, Remb)
    assert message.ssrcs == (5, 6)
    assert message.bitrate_bps == pytest.approx(bitrate, rel=1e-4)


@pytest.mark.parametrize("body", [b"REMB", b"REMB\2\0\0\0\0\0\0\1", b"REMB\xff\0\0\0"])
def test_remb_that_is_cut_off_is_refused(body: bytes) -> None:
    data = bytes((0x80 | 15, 206, 0, 2 + len(body) // 4)) + bytes(8) + body
    with pytest.raises(rtcp.RtcpError):
        rtcp.parse(data)
