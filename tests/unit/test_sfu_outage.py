"""A client's line was dead and lives again: key frames at once, and no flood of old packets."""

from __future__ import annotations

import struct
from dataclasses import replace

from sfu import rtcp
from sfu.drops import DropReason
from sfu.feedback import MENDING_MS
from sfu.messages import Consume
from sfu.params import EncodingParameters, RtpParameters
from sfu.rtcp import KeyFrameWanted
from tests.fixtures.sfu_rtp_peers import OPUS_DOWN, Bench, Peer, vp8


def meeting(bench: Bench) -> tuple[Peer, Peer, Peer]:
    """ann and bob see each other; eve is seen by nobody and sees ann."""
    ann, bob, eve = (bench.peer(name) for name in ("ann", "bob", "eve"))
    for number, peer in enumerate((ann, bob, eve)):
        ssrc = 1000 + 100 * number
        bench.produce_video(peer, f"{peer.name}'s", EncodingParameters(ssrc=ssrc, rtx_ssrc=ssrc + 1))
    bench.consume(bob, "c1", "ann's", 2000, rtx_ssrc=2001)
    bench.consume(ann, "c2", "bob's", 2100, rtx_ssrc=2101)
    bench.consume(eve, "c3", "ann's", 2200, rtx_ssrc=2201)
    return ann, bob, eve


def pictures(peer: Peer, ssrc: int, first: int = 0, count: int = 10, key: bool = True) -> None:
    for number in range(first, first + count):
        peer.rtp(ssrc, number, number * 3000, vp8(number, key=key and number == first))


async def test_who_returns_gets_and_gives_key_frames_at_once(sfu_bench: Bench) -> None:
    ann, bob, eve = meeting(sfu_bench)
    pictures(ann, 1000)
    pictures(bob, 1100)
    pictures(eve, 1200)
    await sfu_bench.settle()
    sfu_bench.tick(1000)
    for peer in (ann, bob, eve):
        peer.feedback()
    sfu_bench.media.on_leg_returned("bob")
    assert [m.media_ssrc for m in ann.feedback() if isinstance(m, KeyFrameWanted)] == [1000], "for his eyes"
    assert [m.media_ssrc for m in bob.feedback() if isinstance(m, KeyFrameWanted)] == [1100], "of his camera"
    assert not [m for m in eve.feedback() if isinstance(m, KeyFrameWanted)]
    sfu_bench.media.on_leg_returned("nobody")


async def test_what_was_lost_in_the_outage_is_not_sent_again(sfu_bench: Bench) -> None:
    ann, bob, _ = meeting(sfu_bench)
    pictures(ann, 1000, count=50)
    await sfu_bench.settle()
    lost = [p.sequence for p in bob.received()][:40]
    sfu_bench.tick(1000)
    sfu_bench.media.on_leg_returned("bob")
    bob.send_rtcp(rtcp.nack(5, 2000, lost))
    await sfu_bench.settle()
    assert [p for p in bob.received() if p.ssrc == 2001] == []
    assert sfu_bench.drops.counts[DropReason.NACK_OUTAGE] == 40
    sfu_bench.clock.advance(MENDING_MS)
    bob.send_rtcp(rtcp.nack(5, 2000, lost[-2:]))
    await sfu_bench.settle()
    again = [p for p in bob.received() if p.ssrc == 2001]
    assert [struct.unpack_from("!H", p.payload)[0] for p in again] == lost[-2:], "and later all is as usual"


async def test_voices_are_still_repeated(sfu_bench: Bench) -> None:
    """Sound is small, and no key frame mends it."""
    ann, bob = sfu_bench.peer("ann"), sfu_bench.peer("bob")
    sfu_bench.produce_audio(ann, "mic", 1000)
    opus = replace(OPUS_DOWN, rtcp_feedback=("nack",))
    receiving = RtpParameters("7", (opus,), encodings=(EncodingParameters(ssrc=2000),))
    sfu_bench.do(Consume("bob", "c", "mic", receiving))
    for number in range(5):
        ann.rtp(1000, number, 960 * number, b"voice", payload_type=111)
    await sfu_bench.settle()
    heard = [p.sequence for p in bob.received()]
    sfu_bench.tick(1000)
    sfu_bench.media.on_leg_returned("bob")
    bob.send_rtcp(rtcp.nack(5, 2000, heard[:1]))
    await sfu_bench.settle()
    assert sfu_bench.media.consumers["c"].route.resent == 1
