"""Real packets with bytes changed, cut and repeated.

Every parser raises its own error or nothing, and a relay that is fed them by an authenticated but hostile
client stays alive and correct for the others.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
from collections.abc import Callable

import pytest
from pylibsrtp import Error as SrtpLibraryError

from sfu import rtcp, twcc
from sfu.codecs import h264, opus, svc, vp8
from sfu.params import EncodingParameters
from sfu.rtp import ExtensionIds, Packet, RtpError, encode_extensions
from tests.fixtures.sfu_rtp_peers import OPUS, OPUS_DOWN, RED, UP, VP8, Bench, Received, extensions
from tests.fixtures.sfu_rtp_peers import vp8 as vp8_payload

ROUNDS = 4000
SPS = bytes.fromhex("6742c01fd9005005bb011000000300100000030320f1832480")
HIGH_SPS = bytes.fromhex("67640028acd940780227e5c04400000fa40002ee023c60c658")
RED_PAYLOAD = bytes((0xEF, 0x0F, 0x00, 3, 0xEF, 0x00, 0x00, 2, 111)) + b"aaabbprimary"


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(0, 6)):
        if not changed:
            break
        way = rng.randrange(5)
        at = rng.randrange(len(changed))
        if way == 0:
            changed[at] = rng.randrange(256)
        elif way == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 2:
            del changed[at:]
        elif way == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            changed[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
    return bytes(changed)


def rtp_seeds() -> list[bytes]:
    block = encode_extensions(
        [(3, b"\0\1"), (4, b"0"), (10, b"q"), (11, b"q"), (1, b"\x94"), (2, b"abc"), (8, bytes(16))]
    )
    long = encode_extensions([(3, b"\0\1"), (4, b"0"), (8, bytes(60))])
    head = struct.pack("!BBHII", 0x90, 0xE0, 1, 2, 1000)
    return [
        head + block + vp8_payload(1, key=True),
        head + long + vp8_payload(2),
        struct.pack("!BBHII", 0xB2, 0xE0, 1, 2, 1000) + bytes(8) + block + vp8_payload(3) + b"\0\0\0\4",
        struct.pack("!BBHII", 0x80, 111, 1, 2, 1100) + b"opus",
        struct.pack("!BBHII", 0x80, 63, 1, 2, 1100) + RED_PAYLOAD,
        struct.pack("!BBHII", 0x80, 97, 1, 2, 1001) + b"\0\7" + vp8_payload(1),
    ]


def twcc_seed() -> bytes:
    recorder = twcc.ArrivalRecorder()
    for number in (1, 2, 3, 9, 10, 30, 31):
        recorder.record(number, 1000.0 + number * 40)
    return recorder.take(3000)[0]


def rtcp_seeds() -> list[bytes]:
    block = rtcp.ReportBlock(2000, 3, 4, 5, 6, 7, 8)
    return [
        rtcp.sender_report(1000, 1 << 60, 5, 6, 7) + rtcp.source_description(1000, "name"),
        rtcp.receiver_reports(1, [block, block])[0],
        rtcp.nack(1, 2000, [1, 2, 3, 40]) + rtcp.picture_loss(1, 2000),
        rtcp.full_intra_request(1, 2000, 3),
        rtcp.transport_cc(1, 2, twcc_seed()),
        bytes.fromhex("81cb000100000001") + bytes.fromhex("80cf0002000000010000000200"[:24]),
    ]


def read_rtp(data: bytes) -> None:
    ids = ExtensionIds()
    ids.learn(extensions(UP))
    Packet().parse(data, ids)


def payload_reader(read: Callable[[Packet], object]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        packet = Packet()
        packet.payload = data
        read(packet)

    return run


def with_size(codec: object) -> Callable[[Packet], None]:
    def run(packet: Packet) -> None:
        codec.read(packet)  # type: ignore[attr-defined]
        codec.picture_size(packet)  # type: ignore[attr-defined]

    return run


STAP = b"\x78" + struct.pack("!H", len(SPS)) + SPS + b"\x00\x04\x68cbq"
PARSERS: list[tuple[str, Callable[[bytes], object], type[Exception], list[bytes]]] = [
    ("rtp", read_rtp, RtpError, rtp_seeds()),
    ("rtcp", rtcp.parse, rtcp.RtcpError, rtcp_seeds()),
    ("twcc", twcc.parse, twcc.TwccError, [twcc_seed()]),
    ("vp8", payload_reader(with_size(vp8)), vp8.Vp8Error, [vp8_payload(1, key=True), vp8_payload(2)]),
    ("h264", payload_reader(with_size(h264)), h264.H264Error, [STAP, SPS, b"\x7c\x85abc"]),
    ("sps", h264.parse_sps, h264.H264Error, [SPS, HIGH_SPS]),
    ("vp9", payload_reader(svc.read_vp9), svc.SvcError, [b"\xa8\x85\x02\x03abc"]),
    ("av1", payload_reader(svc.read_av1), svc.SvcError, [b"\x18abc"]),
    ("red", opus.primary, opus.RedError, [RED_PAYLOAD]),
    ("red numbers", lambda data: opus.renumber(data, 5), opus.RedError, [RED_PAYLOAD]),
]


@pytest.mark.parametrize(("name", "parse", "error", "seeds"), PARSERS, ids=[p[0] for p in PARSERS])
def test_parsers_raise_their_own_error_only(
    name: str, parse: Callable[[bytes], object], error: type[Exception], seeds: list[bytes]
) -> None:
    rng = random.Random(name)
    for seed in seeds:
        parse(seed)
    for _ in range(ROUNDS):
        data = mutated(rng, rng.choice(seeds))
        with contextlib.suppress(error):
            parse(data)


async def test_hostile_client_disturbs_nobody(sfu_bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random("hostile")
    good, bad, sub = (sfu_bench.peer(name) for name in ("good", "bad", "sub"))
    sfu_bench.produce_video(good, "cam", EncodingParameters(ssrc=3000))
    sfu_bench.produce_video(bad, "badcam", EncodingParameters(ssrc=1000, rtx_ssrc=1001))
    sfu_bench.produce_audio(bad, "badmic", 1100, codecs=(RED, OPUS), mid="2")
    sfu_bench.consume(sub, "c", "cam", 2000)
    sfu_bench.consume(sub, "d", "badcam", 2100, rtx_ssrc=2101)
    sfu_bench.consume(sub, "e", "badmic", 2200, codecs=(OPUS_DOWN,))
    sfu_bench.consume(bad, "f", "cam", 2000)
    sequence = {1000: 0, 1001: 0, 1100: 0}
    expected = 0
    mine: list[Received] = []
    seeds, control = rtp_seeds(), rtcp_seeds()
    good.rtp(3000, 0, 0, vp8_payload(0, key=True))
    for turn in range(60):
        for _ in range(20):
            seed = bytearray(rng.choice(seeds))
            (ssrc,) = struct.unpack_from("!I", seed, 8)
            sequence[ssrc] += rng.choice((1, 1, 1, 2, 5, 4000))
            struct.pack_into("!H", seed, 2, sequence[ssrc] & 0xFFFF)
            data = bytes(seed[:12]) + mutated(rng, bytes(seed[12:]))
            with contextlib.suppress(SrtpLibraryError):  # it refuses to protect some rubbish
                bad.send_rtp(data)
                bad.sock.sendto(mutated(rng, bad.tx.protect(data)) or b"\0", sfu_bench.address)
            bad.send_rtcp(_long_enough(mutated(rng, rng.choice(control))))
        expected += 1
        good.rtp(3000, turn + 1, turn * 3000, vp8_payload(turn + 1))
        await sfu_bench.settle()
        sfu_bench.clock.advance(50)
        sfu_bench.media.tick(sfu_bench.clock.ms)
        mine += [packet for packet in sub.received() if packet.ssrc == 2000]
        bad.received()
    assert len(mine) == expected + 1
    for before, after in itertools.pairwise(mine):
        assert (after.sequence - before.sequence) & 0xFFFF == 1
    sfu_bench.media.report()
    assert caplog.records == []
    assert VP8.payload_type == 96


def _long_enough(data: bytes) -> bytes:
    """libsrtp wants a header to protect."""
    data = data if len(data) >= 12 else data + bytes(12 - len(data))
    return bytes((0x80 | data[0] & 0x3F,)) + bytes((192 + data[1] % 32,)) + data[2:]
