"""What may happen between two calls of policy: the native relay's thread does not wait for the second."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from sfu.drops import DropReason, Drops
from sfu.messages import StartTap, StopTap
from sfu.params import Kind, SrtpKeys
from sfu.relays import why_not_native
from sfu.srtp import open_session
from tests.fixtures.sfu_rtp_peers import (
    OPUS,
    OPUS_DOWN,
    PROFILE,
    Bench,
    ManualClock,
    Peer,
    SinkRecord,
)

SO_TIMESTAMPNS = 35
needs_native = pytest.mark.skipif(bool(why_not_native()), reason=why_not_native())


def voice(bench: Bench) -> tuple[Peer, Peer]:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_audio(pub, "mic", 1100)
    bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN,))
    return pub, sub


async def test_a_voice_that_goes_on_after_its_silence_has_numbers_of_its_own(sfu_bench: Bench) -> None:
    pub, sub = voice(sfu_bench)

    async def speak(*sequences: int) -> None:
        for sequence in sequences:
            pub.rtp(1100, sequence, sequence * 960, b"%d" % sequence, payload_type=111, marker=False)
        await sfu_bench.settle()

    await speak(1, 3)
    sfu_bench.media.consumers["a"].route.hush(sfu_bench.clock.ms)
    await speak(4, 2, 5)
    sfu_bench.media.consumers["a"].route.hush(sfu_bench.clock.ms)
    sfu_bench.media.consumers["a"].route.stop()
    sfu_bench.media.consumers["a"].select()
    await speak(6, 7)
    silence = b"\xf8\xff\xfe"
    got = sub.received()
    base = got[0].sequence
    numbers = {(packet.sequence - base) & 0xFFFF: packet.payload for packet in got}
    assert len(numbers) == len(got) == 13  # the same number twice is the same nonce twice
    assert [numbers[place] for place in sorted(numbers)] == [
        b"1", b"2", b"3", silence, silence, silence, b"4", b"5", silence, silence, silence, b"6", b"7",
    ]  # fmt: skip
    assert sorted(numbers) == [*range(13)]


async def test_held_packets_leave_when_they_leave(sfu_bench: Bench) -> None:
    """Not when they came: a bandwidth estimate would take policy's time for a queue on the line."""
    pub, _ = voice(sfu_bench)
    tell_alive = sfu_bench.media.on_alive

    def slow(*args: object) -> None:
        sfu_bench.clock.advance(30)
        tell_alive(*args)  # type: ignore[arg-type]

    sfu_bench.media.on_alive = slow  # type: ignore[method-assign,assignment]
    pub.rtp(1100, 1, 960, b"one", payload_type=111, marker=False)
    await sfu_bench.settle()
    body = struct.pack("!HHBBBBHB", 1, 1, 0, 0, 1, 0, 0x2001, 0) + b"\0"
    digest = sfu_bench.relay.leg("sub").acknowledge(body, sfu_bench.clock.ms)
    assert (digest.received, digest.newest_send_ms) == (1, sfu_bench.clock.ms)


async def test_all_of_a_tap_is_written_before_it_ends(sfu_bench: Bench) -> None:
    pub, _ = voice(sfu_bench)
    sfu_bench.do(StartTap("tap", "mic", "file"))
    pub.rtp(1100, 0, 0, b"first", payload_type=111, marker=False)
    await sfu_bench.settle()
    for sequence in range(1, 151):
        pub.rtp(1100, sequence, sequence * 960, bytes(1000), payload_type=111, marker=False)
    engine = getattr(sfu_bench.relay, "engine", None)
    if engine is None:
        await sfu_bench.settle()
    else:  # the relay has read them, the loop has not looked at its events
        while engine.receive(sfu_bench.clock.ms):
            pass
    sfu_bench.do(StopTap("tap"))
    assert len(sfu_bench.taps["tap"].packets) == 151
    assert sfu_bench.taps["tap"].closed


# ---------------------------------------------------------------- the native relay alone


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


@needs_native
def test_the_kernel_says_when_a_packet_came(bound: socket.socket) -> None:
    from sfu.native_relay import STUN, NativeRelay

    clock = ManualClock()
    relay = NativeRelay(bound, SinkRecord(), clock, Drops(), kernel_times=True, pump=True)
    assert bound.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"\0\1hello", bound.getsockname())
    assert relay.engine.receive(clock.ms) == 1
    ((kind, _, _, came_ms, _, _, data),) = relay.engine.drain()
    assert (kind, data) == (STUN, b"\0\1hello")
    assert clock.ms - 2000 < came_ms < clock.ms


@needs_native
def test_a_feed_that_begins_anew_without_end_is_held_once() -> None:
    from sfu.native_relay import ALIVE, RESTART, NativeRelay

    clock = ManualClock()
    relay = NativeRelay(None, SinkRecord(), clock, Drops())
    key = bytes(range(28))
    relay.open_leg("pub", SrtpKeys(PROFILE, key, key))
    relay.bind_leg("pub", ("127.0.0.1", 7))
    feed = relay.open_feed("mic", 0, Kind.AUDIO, (OPUS,))
    relay.leg("pub").bind(5, feed)
    session = open_session(PROFILE, key, outbound=True)
    numbers = [*range(1, 131)]  # more than is held
    numbers += [
        (place // 2 * 4000 + place % 2) & 0xFFFF for place in range(2, 202)
    ]  # pairs, far from each other
    for number in numbers:
        packet = struct.pack("!BBHII", 0x80, 111, number, 0, 5) + b"x"
        relay.engine.input(session.protect(packet), 0x7F000001, 7, clock.ms)
    assert [event[0] for event in relay.engine.drain()] == [ALIVE]
    feed.release(clock.ms)
    assert [event[0] for event in relay.engine.drain()] == [RESTART]  # they would hold memory without end


class Later:
    """Of an event loop: what it was told to do later."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def call_later(self, delay_s: float, call: Callable[..., object], *args: object) -> None:
        assert delay_s > 0
        self.calls.append((call, args))


@needs_native
def test_who_sends_what_nobody_expects_does_not_keep_the_loop_busy(bound: socket.socket) -> None:
    from sfu.native_relay import RESOLVE, NativeRelay

    clock, loop, asked = ManualClock(), Later(), []

    class Side:
        def resolve(self, _leg: object, packet: object) -> bool:
            asked.append(packet)
            return False

        def on_leg_ready(self, _leg: object) -> None: ...

    relay = NativeRelay(bound, SinkRecord(), clock, Drops())
    relay.attach(Side())  # type: ignore[arg-type]
    relay._loop = loop  # type: ignore[assignment]
    key = bytes(range(28))
    relay.open_leg("pub", SrtpKeys(PROFILE, key, key))
    relay.bind_leg("pub", ("127.0.0.1", 7))
    session = open_session(PROFILE, key, outbound=True)

    def send(number: int) -> None:
        packet = struct.pack("!BBHII", 0x80, 96, number, 0, 5) + b"x"
        relay.engine.input(session.protect(packet), 0x7F000001, 7, clock.ms)

    send(1)
    relay._on_events()
    send(2)
    assert len(asked) == 1
    assert relay.engine.drain() == []
    ((release, args),) = loop.calls
    release(*args)
    assert dict(relay.drops.counts)[DropReason.UNKNOWN_SSRC] == 2
    send(3)
    assert [event[0] for event in relay.engine.drain()] == [RESOLVE]


async def test_reports_without_end_cost_their_sender_more_than_us(sfu_bench: Bench) -> None:
    _, sub = voice(sfu_bench)
    report = struct.pack("!BBHI", 0x80, 201, 1, 7)
    sfu_bench.clock.advance(10_000)
    for _ in range(22):
        for _ in range(50):
            sub.send_rtcp(report)
        await sfu_bench.settle()
    assert sfu_bench.drops.counts[DropReason.RTCP_RATE] == 100
    sfu_bench.clock.advance(100)
    sub.send_rtcp(report)
    await sfu_bench.settle()
    assert sfu_bench.drops.counts[DropReason.RTCP_RATE] == 100
