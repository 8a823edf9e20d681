"""Absolute send times (24 bits, 6.18 fixed point) for receivers that have no transport-wide numbers."""

from __future__ import annotations

import struct

import pytest

from sfu import rtcp
from sfu.messages import Consume
from sfu.params import CodecParameters, EncodingParameters, ExtensionUri, HeaderExtension, RtpParameters
from sfu.rtp import ExtensionIds, ExtensionPlan, Packet, encode_extensions
from tests.fixtures.sfu_rtp_peers import FEEDBACK, Bench, Peer, Received, extensions, vp8

OLD = {ExtensionUri.ABS_SEND_TIME: 3, ExtensionUri.MID: 1, ExtensionUri.DEPENDENCY_DESCRIPTOR: 9}
DOWN = CodecParameters("video/VP8", 120, 90000, rtcp_feedback=FEEDBACK, rtx_payload_type=121)
DOWN_WITHOUT_RTX = CodecParameters("video/VP8", 120, 90000, rtcp_feedback=FEEDBACK)


def told(packet: Received) -> int:
    return int.from_bytes(packet.elements[3], "big")


def due(bench: Bench) -> int:
    return int(bench.clock.ms * 262.144) & 0xFFFFFF


def meet(bench: Bench, codec: CodecParameters, rtx_ssrc: int | None) -> tuple[Peer, Peer]:
    pub, sub = bench.peer("pub"), bench.peer("sub")
    bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000))
    rtp = RtpParameters("7", (codec,), extensions(OLD), (EncodingParameters(ssrc=2000, rtx_ssrc=rtx_ssrc),))
    bench.do(Consume("sub", "c", "cam", rtp))
    return pub, sub


async def test_each_packet_tells_when_it_left(sfu_bench: Bench) -> None:
    pub, sub = meet(sfu_bench, DOWN, 2001)
    for index in range(3):
        more = ((8, bytes(20)),) if index == 2 else ()  # too long for the one-byte form
        pub.rtp(1000, index, index * 3000, vp8(index, key=index == 0), more=more)
        await sfu_bench.settle()
        (packet,) = sub.received()
        assert (told(packet), packet.elements[1]) == (due(sfu_bench), b"7")
        sfu_bench.clock.advance(33)
    sub.send_rtcp(rtcp.nack(5, 2000, [packet.sequence]))
    await sfu_bench.settle()
    (again,) = sub.received()
    assert (again.ssrc, told(again)) == (2001, due(sfu_bench))


async def test_without_rtx_the_very_same_packet_comes_again(sfu_bench: Bench) -> None:
    pub, sub = meet(sfu_bench, DOWN_WITHOUT_RTX, None)
    pub.rtp(1000, 0, 0, vp8(0, key=True))
    await sfu_bench.settle()
    first = sub.sock.recv(2048)
    sequence = Received.parse(sub.rx.unprotect(first)).sequence
    sfu_bench.clock.advance(100)
    sub.send_rtcp(rtcp.nack(5, 2000, [sequence]))
    await sfu_bench.settle()
    assert sub.sock.recv(2048) == first  # also its send time: an AES-GCM nonce must not be used for another


def test_a_publisher_s_send_time_is_read() -> None:
    ids = ExtensionIds()
    ids.learn(extensions(OLD))
    packet = Packet()
    head = struct.pack("!BBHII", 0x90, 96, 1, 2, 3)
    for value, found in ((b"\xfe\xdc\xba", 0xFEDCBA), (b"\0\0\0", 0), (b"ab", -1), (b"abcd", -1)):
        packet.parse(head + encode_extensions([(3, value)]) + b"x", ids)
        assert packet.abs_send_time == found
    packet.parse(head[:1].replace(b"\x90", b"\x80") + head[1:] + b"x", ids)
    assert packet.abs_send_time == -1
    packet.parse(head + encode_extensions([(3, b"\1\2\3"), (9, bytes(17))]) + b"x", ids)
    assert (packet.abs_send_time, packet.descriptor) == (0x010203, bytes(17))


@pytest.mark.parametrize(
    ("uris", "transport_at", "send_time_at"),
    [
        ((ExtensionUri.TRANSPORT_CC, ExtensionUri.ABS_SEND_TIME), 5, 0),
        ((ExtensionUri.MID, ExtensionUri.ABS_SEND_TIME), 0, 5),
        ((ExtensionUri.MID,), 0, 0),
    ],
)
def test_plan(uris: tuple[ExtensionUri, ...], transport_at: int, send_time_at: int) -> None:
    outgoing = [HeaderExtension(uri, number) for number, uri in enumerate(uris, 2)]
    plan = ExtensionPlan(outgoing, ExtensionIds(), "7")
    assert (plan.transport_at, plan.send_time_at) == (transport_at, send_time_at)
    outgoing = [HeaderExtension(uri, number) for number, uri in enumerate(uris, 20)]  # two-byte form
    plan = ExtensionPlan(outgoing, ExtensionIds(), "7")
    assert (plan.transport_at, plan.send_time_at) == (
        transport_at and transport_at + 1, send_time_at and send_time_at + 1
    )  # fmt: skip
