"""What every relay keeps of what it sent, how it spreads video over time, and how it asks a line for more."""

from __future__ import annotations

import struct

import pytest

from sfu import twcc
from sfu.drops import DropReason
from sfu.params import EncodingParameters
from sfu.seams import Cluster, Digest, Group
from tests.fixtures.sfu_rtp_peers import OPUS_DOWN, VP8_DOWN, Bench, Peer, Received, vp8

NOTHING = Digest((), 0, 0, 0, 0.0, ())


def one_video(bench: Bench, *, rtx: bool = True) -> tuple[Peer, Peer]:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000, rtx_ssrc=1001))
    bench.consume(sub, "c", "cam", 2000, rtx_ssrc=2001 if rtx else None)
    return pub, sub


class Camera:
    """Sends numbered pictures of one packet each."""

    def __init__(self, bench: Bench, pub: Peer, size: int = 1000) -> None:
        self.bench, self.pub, self.size = bench, pub, size
        self.sent = 0

    async def send(self, number: int = 1) -> None:
        for _ in range(number):
            self.sent += 1
            key = self.sent == 1
            self.pub.rtp(1000, self.sent, self.sent * 3000, vp8(self.sent, key=key, size=self.size), mid="0")
            if not self.sent % 16:
                await self.bench.settle()
        await self.bench.settle()


def transport_number(packet: Received) -> int:
    number: int = struct.unpack("!H", packet.elements[2])[0]
    return number


def report(arrivals: dict[int, float]) -> bytes:
    """Feedback of a receiver that has got these numbers at these times (ms on its clock)."""
    recorder = twcc.ArrivalRecorder()
    for number, ms in arrivals.items():
        recorder.record(number, ms)
    (body,) = recorder.take(max(arrivals.values()))
    return body


async def test_bursts_are_told_with_their_times_and_sizes(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    begin = sfu_bench.clock.ms
    for pause in (0, 3, 30, 4, 30):
        sfu_bench.clock.advance(pause)
        await camera.send()
    packets = sub.received()
    first = transport_number(packets[0])
    sizes = [packet.size for packet in packets]
    body = report({first + place: 1000.0 + 10 * place for place in range(5)})
    digest = leg.acknowledge(body, sfu_bench.clock.ms)
    assert digest == Digest(
        (Group(begin + 3, 1010, sizes[0] + sizes[1]), Group(begin + 37, 1030, sizes[2] + sizes[3])),
        5, 0, sum(sizes), begin + 67, (),
    )  # fmt: skip
    assert leg.acknowledge(body, sfu_bench.clock.ms) == NOTHING  # nothing counts twice
    sfu_bench.clock.advance(100)
    await camera.send()
    digest = leg.acknowledge(report({first + 5: 1200.0}), sfu_bench.clock.ms)
    assert digest.groups == (Group(begin + 67, 1040, sizes[4]),)


async def test_lost_is_told_once_and_late_packets_make_no_group(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    for _ in range(6):
        await camera.send()
        sfu_bench.clock.advance(20)
    packets = sub.received()
    first = transport_number(packets[0])
    digest = leg.acknowledge(report({first: 0.0, first + 1: 20.0, first + 4: 80.0}), sfu_bench.clock.ms)
    assert (digest.received, digest.lost, len(digest.groups)) == (3, 2, 2)
    digest = leg.acknowledge(report({first + 3: 95.0, first + 5: 100.0}), sfu_bench.clock.ms)
    assert (digest.received, digest.lost, len(digest.groups)) == (2, 0, 1)
    digest = leg.acknowledge(report({first + 2: 195.0, first + 5: 200.0}), sfu_bench.clock.ms)
    assert (digest.received, digest.lost, len(digest.groups)) == (1, 0, 0)


async def test_strange_feedback_says_nothing(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    await camera.send(3)
    last = transport_number(sub.received()[-1])
    assert leg.acknowledge(report({last + 1 + n: 10.0 * n for n in range(90)}), 0.0) == NOTHING
    assert leg.acknowledge(bytes(8), 0.0) == NOTHING
    for body in (b"", bytes(7), b"\0\1\0\5" + bytes(4), b"\0\1\0\1\0\0\0\0\x20\x01"):
        with pytest.raises(ValueError, match=r"\w"):
            leg.acknowledge(body, 0.0)
    # after an outage a few bytes may speak of tens of thousands
    wide = struct.pack("!HH", last - 20_000 & 0xFFFF, 20_001) + bytes(4)
    wide += struct.pack("!HHH", 0x1FFF, 0x1FFF, 20_000 - 2 * 0x1FFF) + struct.pack("!H", 0x2001) + b"\4"
    digest = leg.acknowledge(wide + bytes(3), 0.0)
    assert (digest.received, digest.lost) == (1, 2)


async def test_arrivals_go_on_when_the_reference_time_wraps(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    wrap_ms = 0x1000000 * 64.0
    for _ in range(3):
        await camera.send()
        sfu_bench.clock.advance(100)
    first = transport_number(sub.received()[0])
    digest = leg.acknowledge(report({first: wrap_ms - 100}), 0.0)
    digest = leg.acknowledge(report({first + 1: wrap_ms}), 0.0)
    assert digest.groups[0].arrival_ms == wrap_ms - 100
    digest = leg.acknowledge(report({first + 2: wrap_ms + 100}), 0.0)
    assert digest.groups[0].arrival_ms == wrap_ms


async def test_video_is_spread_over_time_and_voice_is_not(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    sfu_bench.produce_audio(pub, "mic", 3000)
    sfu_bench.consume(sub, "v", "mic", 2100, codecs=(OPUS_DOWN,), mid="8")
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    leg.set_pacing(800_000)  # 100 bytes per ms; 4000 at once
    await camera.send(8)
    pub.rtp(3000, 1, 960, b"voice", payload_type=111, mid="1")
    await sfu_bench.settle()
    got = sub.received()
    assert [packet.ssrc for packet in got] == [2000] * 4 + [2100]
    assert leg.queued == 4
    for ms, more in ((1, 0), (24, 3), (0, 0), (5, 0), (3, 1)):
        sfu_bench.clock.advance(ms)
        sfu_bench.relay.release(sfu_bench.clock.ms)
        fresh = sub.received()
        assert len(fresh) == more, (ms, len(fresh))
        got += fresh
    assert leg.queued == 0
    # numbered as they left, so the voice that overtook them leaves no hole
    numbers = [transport_number(packet) for packet in got]
    assert numbers == [numbers[0] + place for place in range(9)]
    video = [packet for packet in got if packet.ssrc == 2000]
    assert [packet.sequence - video[0].sequence for packet in video] == list(range(8))
    sfu_bench.clock.advance(1000)
    await camera.send(2)
    assert len(sub.received()) == 2  # at once again


async def test_pacing_off_lets_everything_go(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    leg.set_pacing(100_000)
    await camera.send(20)
    assert len(sub.received()) == 3
    leg.set_pacing(0)
    await camera.send(1)  # in its turn
    sfu_bench.relay.release(sfu_bench.clock.ms)
    assert len(sub.received()) == 18
    await camera.send(5)
    assert len(sub.received()) == 5
    assert leg.queued == 0


async def test_pacer_is_bounded_and_asks_for_nothing_without_rtx(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    bare = sfu_bench.peer("bare")
    sfu_bench.consume(bare, "d", "cam", 2200, codecs=(VP8_DOWN,))
    camera = Camera(sfu_bench, pub, size=40)
    for name in ("sub", "bare"):
        sfu_bench.relay.leg(name).set_pacing(10_000)
    got = 0
    for _ in range(40):
        await camera.send(16)
        got += len(bare.received())
    assert got == 640
    waiting = sfu_bench.relay.leg("sub").queued
    assert waiting == 512
    assert sfu_bench.drops.counts[DropReason.PACER_FULL] == 640 - 512 - len(sub.received())
    sfu_bench.media.close_leg("sub")
    sfu_bench.clock.advance(60_000)
    sfu_bench.relay.release(sfu_bench.clock.ms)
    assert sub.received() == []


async def test_what_waited_is_still_sent_again_by_number(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    leg.set_pacing(800_000)
    await camera.send(6)
    got = sub.received()
    route = sfu_bench.media.consumers["c"].route
    assert route.packets == len(got) == 4
    sfu_bench.clock.advance(1)
    assert route.resend(got[1].sequence, sfu_bench.clock.ms)  # does not wait
    (again,) = sub.received()
    assert again.ssrc == 2001
    assert transport_number(again) == transport_number(got[-1]) + 1
    # but the line had to carry it
    sfu_bench.clock.advance(9)
    sfu_bench.relay.release(sfu_bench.clock.ms)
    assert sub.received() == []
    sfu_bench.clock.advance(10)
    sfu_bench.relay.release(sfu_bench.clock.ms)
    assert len(sub.received()) == 1


async def test_probe_is_padding_that_is_told_apart(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    await camera.send()
    (before,) = sub.received()
    route = sfu_bench.media.consumers["c"].route
    assert route.resend(before.sequence, sfu_bench.clock.ms)
    (again,) = sub.received()
    assert leg.probe(7, 400_000, 2000)  # 50 bytes per ms
    begin = sfu_bench.clock.ms
    got: list[Received] = []
    for step in range(20):
        sfu_bench.relay.release(sfu_bench.clock.ms)
        sfu_bench.relay.release(sfu_bench.clock.ms)
        if step == 4:
            await camera.send()
        got += sub.received()
        sfu_bench.clock.advance(5)
    padding = [packet for packet in got if packet.ssrc == 2001]
    assert all(packet.payload == b"" and packet.payload_type == 121 for packet in padding)
    assert not any(packet.marker for packet in padding)
    assert [p.sequence - again.sequence for p in padding] == list(range(1, len(padding) + 1))
    size = padding[0].size
    assert len(padding) == -(-2000 // size)
    assert route.resent == 1 + len(padding)
    (media,) = [packet for packet in got if packet.ssrc == 2000]
    first = transport_number(got[0])
    assert [transport_number(packet) for packet in got] == [first + place for place in range(len(got))]
    digest = leg.acknowledge(
        report({first + place: 500.0 + 6 * place for place in range(len(got))}), sfu_bench.clock.ms
    )
    (cluster,) = digest.clusters
    total = size * len(padding) + media.size
    took = (len(padding) - 1) * size / 50
    assert cluster.first_send_ms == begin
    assert cluster.last_send_ms == pytest.approx(begin + took, abs=5)
    assert cluster[:3] == Cluster(7, len(got), total, 0, 0, 0, 0)[:3]
    assert cluster[5:] == (500.0, 500.0 + 6 * (len(got) - 1))
    # what follows belongs to no probe
    await camera.send()
    number = transport_number(sub.received()[0])
    assert leg.acknowledge(report({number: 900.0}), sfu_bench.clock.ms).clusters == ()


async def test_a_late_look_makes_no_burst_and_a_new_probe_replaces_the_old(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench)
    camera = Camera(sfu_bench, pub)
    leg = sfu_bench.relay.leg("sub")
    assert not leg.probe(0, 1e6, 0)
    await camera.send()
    sub.received()
    assert leg.probe(1, 1_000_000, 100_000)
    sfu_bench.relay.release(sfu_bench.clock.ms)
    sfu_bench.clock.advance(2000)
    sfu_bench.relay.release(sfu_bench.clock.ms)
    burst = sub.received()
    assert len(burst) <= 1 + 1 + 2500 // burst[0].size
    assert leg.probe(2, 1_000_000, 500)
    for _ in range(4):
        sfu_bench.relay.release(sfu_bench.clock.ms)
        sfu_bench.clock.advance(5)
    last = sub.received()
    assert len(last) == 2
    first = transport_number(burst[0])
    digest = leg.acknowledge(
        report({first + place: 10.0 * place for place in range(len(burst) + 2)}), sfu_bench.clock.ms
    )
    assert [(cluster.cluster, cluster.packets) for cluster in digest.clusters] == [(1, len(burst)), (2, 2)]


async def test_no_probe_without_a_retransmission_stream(sfu_bench: Bench) -> None:
    pub, sub = one_video(sfu_bench, rtx=False)
    leg = sfu_bench.relay.leg("sub")
    await Camera(sfu_bench, pub).send()
    sub.received()
    assert not leg.probe(1, 1_000_000, 1000)
    sfu_bench.clock.advance(20)
    sfu_bench.relay.release(sfu_bench.clock.ms)
    assert sub.received() == []
