"""The native relay as a worker runs it: on a thread of its own, by the real clock."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sfu import relays
from sfu.drops import DropReason, Drops
from sfu.messages import CloseConsumer, CloseProducer, ProducerLive, StartTap, StopTap
from sfu.params import EncodingParameters, Kind
from sfu.relay import epoch_clock_ms
from tests.fixtures.sfu_rtp_peers import OPUS, OPUS_DOWN, Bench, Peer, Received, SinkRecord, vp8

pytestmark = pytest.mark.skipif(bool(relays.why_not_native()), reason=relays.why_not_native())
A, B, C = (EncodingParameters(rid=rid) for rid in "qhf")


def on_a_thread(sock: Any, sink: Any, clock: Any, drops: Any) -> Any:
    from sfu.native_relay import NativeRelay

    return NativeRelay(sock, sink, epoch_clock_ms(), drops, kernel_times=True)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(on_a_thread)
    try:
        yield bench
    finally:
        bench.close()


async def media(peer: Peer, count: int) -> list[Received]:
    """The next ``count`` RTP packets that come."""
    loop = asyncio.get_running_loop()
    found: list[Received] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            data = await loop.sock_recv(peer.sock, 4096)
            if not 192 <= data[1] <= 223:
                found.append(Received.parse(peer.rx.unprotect(data)))
    return found


async def test_packets_go_through_without_the_loop(bench: Bench) -> None:
    pub, subs = bench.peer("pub"), [bench.peer(f"sub{n}") for n in range(5)]
    bench.produce_video(pub, "cam", A, B, C)  # bound by RID: policy is asked while packets wait
    for n, sub in enumerate(subs):
        bench.consume(sub, f"c{n}", "cam", 2000 + n)
    for number in range(50):
        pub.rtp(11, number, number * 3000, vp8(number, key=number == 0), mid="0", rid="q")
    for sub in subs:
        packets = await media(sub, 50)
        first = packets[0].sequence
        assert [(p.sequence - first) & 0xFFFF for p in packets] == list(range(50))
        assert [p.payload for p in packets] == [vp8(n, key=n == 0) for n in range(50)]
    assert bench.of(ProducerLive) == [ProducerLive("cam", "video/VP8")]
    counters = {(c.name, c.labels): c.value for c in bench.relay.counters()}
    assert counters["lianxin_relay_sent_datagrams_total", ()] >= 250
    assert counters["lianxin_relay_events_lost_total", ()] == 0
    assert not {reason: count for reason, count in bench.drops.counts.items() if count}


async def test_clients_come_and_go_while_packets_fly(bench: Bench) -> None:
    pub = bench.peer("pub")
    sent = 0
    for turn in range(60):
        bench.produce_audio(pub, "mic", 1100 + turn % 3)
        sub = bench.peer(f"sub{turn % 4}")
        bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN,), mid="8")
        for _ in range(20):
            sent += 1
            pub.rtp(1100 + turn % 3, sent, sent * 960, b"voice", payload_type=111, mid="1")
        await asyncio.sleep(0)
        if turn % 3 == 0:
            bench.do(CloseConsumer("a"))
        if turn % 2:
            bench.media.close_leg(sub.name)
        else:
            bench.do(CloseConsumer("a"))
        bench.do(CloseProducer("mic"))
        sub.sock.close()
        bench.peers.pop(sub.name)
    await bench.settle()
    assert bench.drops.counts[DropReason.SRTP_FAILED] == 0


async def test_a_tap_has_all_that_came_before_its_end(bench: Bench) -> None:
    pub = bench.peer("pub")
    bench.produce_audio(pub, "mic", 1100)
    bench.do(StartTap("t", "mic", "file"))
    for number in range(40):
        pub.rtp(1100, number, number * 960, b"voice %d" % number, payload_type=111)
    await bench.settle()
    bench.do(StopTap("t"))
    assert [packet[12:] for packet in bench.taps["t"].packets] == [b"voice %d" % n for n in range(40)]
    assert bench.taps["t"].closed


async def test_policy_that_fails_holds_nothing_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_audio(pub, "mic", 1100)
    bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN,), mid="8")

    def fail(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(bench.media, "on_alive", fail)
    monkeypatch.setattr(bench.media, "resolve", fail)
    with caplog.at_level(logging.ERROR):
        pub.rtp(9999, 1, 0, b"whose?")
        for number in range(3):
            pub.rtp(1100, number, number * 960, b"voice", payload_type=111)
        assert len(await media(sub, 3)) == 3
    assert len([r for r in caplog.records if "handling an event failed" in r.message]) == 1
    assert bench.drops.counts[DropReason.UNKNOWN_SSRC] == 1


async def test_a_stopped_relay_is_forgotten() -> None:
    bench = Bench(on_a_thread)
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_audio(pub, "mic", 1100)
    bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN,), mid="8")
    pub.rtp(1100, 1, 0, b"voice", payload_type=111)
    await media(sub, 1)
    handles = [bench.relay.leg("pub"), next(iter(bench.relay.leg("pub").feeds.values()))]
    gone = [weakref.ref(one) for one in (bench.relay, *handles)]
    bench.close()
    del bench, pub, sub, handles
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


EXIT_IN_FULL_FLIGHT = """
import asyncio, socket, sys
from sfu.drops import Drops
from sfu.native_relay import NativeRelay, check_engine
from sfu.relay import epoch_clock_ms

class Sink:
    def on_stun(self, data, address): ...
    def on_dtls(self, data, address): ...

async def main():
    check_engine()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    relay = NativeRelay(sock, Sink(), epoch_clock_ms(), Drops())
    relay.start(asyncio.get_running_loop())
    for number in range(500):
        sock.sendto(bytes((number % 256,)) * 40, sock.getsockname())
    return relay

relay = asyncio.run(main())
sys.exit(3)
"""


def test_a_process_may_end_without_stopping_its_relay() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT_IN_FULL_FLIGHT], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_handles_of_two_relays_do_not_mix() -> None:
    from sfu.native_relay import NativeRelay

    one, two = (NativeRelay(None, SinkRecord(), lambda: 1e12, Drops()) for _ in range(2))
    feed = two.open_feed("mic", 0, Kind.AUDIO, (OPUS,))
    with pytest.raises(TypeError, match="two relays"):
        one.leg("a").bind(5, feed)
    one.close_leg("a")
    one.leg("a").drop(one.open_feed("mic", 0, Kind.AUDIO, (OPUS,)))
    leg = one.leg("b")
    one.close_leg("b")
    assert not leg.ready
    leg.send_rtcp(bytes(8))
    assert leg.acknowledge(b"", 1e12).received == 0
