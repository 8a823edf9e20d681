"""Opus with redundancy (RED, RFC 2198) that we make for a receiver on a lossy line."""

from __future__ import annotations

from itertools import pairwise

from sfu import ortc, rtcp
from sfu.consumer import LegConsumer
from sfu.messages import SetConsumerSource, SetProducerPaused
from sfu.params import CodecParameters
from tests.fixtures.sfu_rtp_peers import OPUS, OPUS_DOWN, RED, RED_DOWN, Bench, Peer, Received

NACKED = CodecParameters("audio/opus", 109, 48000, 2, rtcp_feedback=("transport-cc", "nack"))


def blocks(packet: Received) -> list[tuple[int, bytes]]:
    """(ticks back, bytes), oldest first (RFC 2198 §3); inner types are the receiver's."""
    assert packet.payload_type == 108
    heads, at, data = [], 0, packet.payload
    while data[at] & 0x80:
        word = int.from_bytes(data[at : at + 4], "big")
        assert word >> 24 & 0x7F == 109
        heads.append((word >> 10 & 0x3FFF, word & 0x3FF))
        at += 4
    assert data[at] == 109
    at += 1
    found = []
    for offset, size in heads:
        found.append((offset, data[at : at + size]))
        at += size
    return [*found, (0, data[at:])]


def set_red(bench: Bench, consumer_id: str, on: bool) -> None:
    """What the policy does with a line's loss."""
    consumer = bench.media.consumers[consumer_id]
    consumer.binding = ortc.bind(consumer.producer.rtp, consumer.producer.leg, consumer.rtp, make_red=on)
    feed = consumer.route.feed or consumer.route.target
    assert feed is not None
    consumer.route.aim(feed, consumer.binding)


def audio(bench: Bench, codec: CodecParameters = OPUS_DOWN) -> tuple[Peer, Peer]:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_audio(pub, "mic", 1100)
    bench.consume(sub, "a", "mic", 2100, codecs=(codec, RED_DOWN))
    return pub, sub


async def speak(bench: Bench, pub: Peer, sub: Peer, *packets: tuple[int, int, bytes]) -> list[Received]:
    for sequence, timestamp, payload in packets:
        pub.rtp(1100, sequence, timestamp, payload, payload_type=111, marker=False, level=20)
        await bench.settle()
        bench.clock.advance(20)
    return sub.received()


async def test_each_packet_brings_the_one_before(sfu_bench: Bench) -> None:
    pub, sub = audio(sfu_bench)
    (plain,) = await speak(sfu_bench, pub, sub, (65534, 0, b"one"))
    assert (plain.payload_type, plain.payload) == (109, b"one")
    set_red(sfu_bench, "a", True)
    got = await speak(sfu_bench, pub, sub, (65535, 960, b"two"), (0, 1920, b"three"), (1, 2880, b"four"))
    assert [blocks(packet) for packet in got] == [
        [(0, b"two")], [(960, b"two"), (0, b"three")], [(960, b"three"), (0, b"four")],
    ]  # fmt: skip
    set_red(sfu_bench, "a", False)
    (last,) = await speak(sfu_bench, pub, sub, (2, 3840, b"five"))
    assert (last.payload_type, last.payload) == (109, b"five")
    for before, after in pairwise([plain, *got, last]):
        assert (after.sequence - before.sequence) & 0xFFFF == 1
        assert (after.timestamp - before.timestamp) & 0xFFFFFFFF == 960
        assert after.elements[5] == b"\x94"  # levels go along


async def test_gaps_and_sizes_that_no_header_can_tell(sfu_bench: Bench) -> None:
    pub, sub = audio(sfu_bench)
    await speak(sfu_bench, pub, sub, (1, 0, b"x"))
    set_red(sfu_bench, "a", True)
    big, room = bytes(1024), bytes(1000)
    got = await speak(
        sfu_bench, pub, sub,
        (2, 960, b"a"), (3, 960 + 16383, b"b"), (4, 960 + 2 * 16383 + 1, b"c"),  # DTX: 341 ms at most
        (5, 40_000, big), (6, 40_960, b"d"), (7, 41_920, room), (8, 42_880, bytes(194)), (9, 43_840, room),
        (10, 44_800, bytes(196)),
    )  # fmt: skip
    assert [len(blocks(packet)) for packet in got] == [1, 2, 1, 2, 1, 2, 2, 2, 1]
    assert blocks(got[1])[0] == (16383, b"a")
    assert max(packet.size for packet in got) < 1250


async def test_reordered_packets(sfu_bench: Bench) -> None:
    pub, sub = audio(sfu_bench)
    await speak(sfu_bench, pub, sub, (1, 0, b"x"))
    set_red(sfu_bench, "a", True)
    got = await speak(sfu_bench, pub, sub, (2, 960, b"a"), (4, 2880, b"c"), (3, 1920, b"b"), (5, 3840, b"d"))
    assert [blocks(packet) for packet in got] == [
        [(0, b"a")], [(1920, b"a"), (0, b"c")], [(0, b"b")], [(960, b"c"), (0, b"d")],
    ]  # fmt: skip
    base = got[0].sequence
    assert [(packet.sequence - base) & 0xFFFF for packet in got] == [0, 2, 1, 3]


async def test_timestamps_wrap(sfu_bench: Bench) -> None:
    pub, sub = audio(sfu_bench)
    await speak(sfu_bench, pub, sub, (1, 2**32 - 1920, b"x"))
    set_red(sfu_bench, "a", True)
    got = await speak(sfu_bench, pub, sub, (2, 2**32 - 960, b"a"), (3, 0, b"b"), (4, 960, b"c"))
    assert [blocks(packet)[0] for packet in got] == [(0, b"a"), (960, b"a"), (960, b"b")]


async def test_silence_by_order_and_the_next_speaker(sfu_bench: Bench) -> None:
    pub, sub = audio(sfu_bench)
    await speak(sfu_bench, pub, sub, (1, 0, b"x"))
    set_red(sfu_bench, "a", True)
    await speak(sfu_bench, pub, sub, (2, 960, b"a"))
    sfu_bench.do(SetProducerPaused("mic", True))
    await sfu_bench.settle()
    hush = sub.received()
    silence = b"\xf8\xff\xfe"
    assert [blocks(packet) for packet in hush] == [
        [(960, b"a"), (0, silence)], [(960, silence), (0, silence)], [(960, silence), (0, silence)],
    ]  # fmt: skip
    sfu_bench.produce_audio(pub, "mic2", 1200, mid="2")
    sfu_bench.do(SetConsumerSource("a", "mic2"))
    set_red(sfu_bench, "a", True)
    sfu_bench.clock.advance(1000)
    pub.rtp(1200, 9, 777, b"p", payload_type=111, level=20)
    pub.rtp(1200, 10, 777 + 960, b"q", payload_type=111, level=20)
    await sfu_bench.settle()
    first, second = sub.received()
    assert blocks(first) == [(0, b"p")]  # a second is too long ago for a block header
    assert blocks(second) == [(960, b"p"), (0, b"q")]
    assert (first.sequence - hush[-1].sequence) & 0xFFFF == 1


async def test_what_is_asked_again_is_the_very_packet(sfu_bench: Bench) -> None:
    pub, sub = audio(sfu_bench, NACKED)
    await speak(sfu_bench, pub, sub, (1, 0, b"x"))
    set_red(sfu_bench, "a", True)
    got = await speak(sfu_bench, pub, sub, (2, 960, b"a"), (3, 1920, b"b"))
    sub.send_rtcp(rtcp.nack(5, 2100, [got[1].sequence]))
    await sfu_bench.settle()
    assert sub.bench.media.consumers["a"].route.resent == 1


async def test_a_publisher_s_own_redundancy_is_passed_on(sfu_bench: Bench) -> None:
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_audio(pub, "mic", 1100, codecs=(OPUS, RED))
    sfu_bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN, RED_DOWN))
    set_red(sfu_bench, "a", True)
    payload = bytes((0xEF, 0x0F, 0x00, 3, 111)) + b"oldnew"
    pub.rtp(1100, 1, 960, payload, payload_type=63, level=20)
    pub.rtp(1100, 2, 1920, b"plain", payload_type=111, level=20)
    await sfu_bench.settle()
    own, made = sub.received()
    assert blocks(own) == [(0x0F00 >> 2, b"old"), (0, b"new")]
    assert blocks(made) == [(0, b"plain")]


async def test_receivers_without_red_get_opus(sfu_bench: Bench) -> None:
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_audio(pub, "mic", 1100)
    sfu_bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN,))
    set_red(sfu_bench, "a", True)
    (packet,) = await speak(sfu_bench, pub, sub, (1, 0, b"x"))
    assert (packet.payload_type, packet.payload) == (109, b"x")


async def test_on_a_line_without_room_the_publishers_red_is_taken_off_and_put_back(sfu_bench: Bench) -> None:
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_audio(pub, "mic", 1100, codecs=(RED, OPUS))
    sfu_bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN, RED_DOWN))
    consumer = sfu_bench.media.consumers["a"]
    assert isinstance(consumer, LegConsumer)
    head = (0x80 | 111).to_bytes(1, "big") + (960 << 10 | 3).to_bytes(3, "big") + bytes([111])
    types, payloads = [], []
    for number, strip in enumerate((False, True, False)):
        consumer.set_red(False, strip_red=strip)
        pub.rtp(1100, number, number * 960, head + b"old" + b"new", payload_type=63, marker=False, level=20)
        await sfu_bench.settle()
        (packet,) = sub.received()
        types.append(packet.payload_type)
        payloads.append(packet.payload[-3:] if packet.payload_type == 108 else packet.payload)
    assert types == [108, 109, 108]
    assert payloads == [b"new"] * 3
