"""Layered streams with bytes changed: a receiver who takes a hostile stream still gets everybody else's."""

from __future__ import annotations

import itertools
import random

import pytest

from sfu.messages import SetLayer
from sfu.params import EncodingParameters, ExtensionUri
from tests.contract.test_sfu_svc import AV1, AV1_DOWN, DD_UP, VP9, VP9_DOWN
from tests.fixtures.sfu_rtp_peers import UP, Bench, Peer, Received
from tests.fixtures.sfu_svc_streams import LayeredPublisher


def changed(rng: random.Random, data: bytes) -> bytes:
    """At least one byte, at most 255; three of four as they were."""
    made = bytearray(data)
    if rng.random() < 0.75:
        return data
    for _ in range(rng.randint(1, 4)):
        made[rng.randrange(len(made))] = rng.randrange(256)
    cut = rng.choice((len(made), len(made), rng.randint(1, len(made))))
    return bytes(made[:cut])


def send(rng: random.Random, peer: Peer, ssrc: int, stream: LayeredPublisher, key: bool, av1: bool) -> None:
    for packet in stream.frame(key=key):
        peer.rtp(
            ssrc, packet.sequence, packet.timestamp, changed(rng, packet.av1() if av1 else packet.vp9()),
            payload_type=AV1.payload_type if av1 else VP9.payload_type, marker=packet.marker,
            more=((DD_UP, changed(rng, packet.descriptor)),),
        )  # fmt: skip


@pytest.mark.parametrize("av1", [False, True])
async def test_hostile_layers_disturb_nobody(
    sfu_bench: Bench, caplog: pytest.LogCaptureFixture, av1: bool
) -> None:
    rng = random.Random(f"layers {av1}")
    good, bad, sub = (sfu_bench.peer(name) for name in ("good", "bad", "sub"))
    codec, down = (AV1, AV1_DOWN) if av1 else (VP9, VP9_DOWN)
    sfu_bench.produce_video(good, "cam", EncodingParameters(ssrc=3000), codecs=(codec,))
    sfu_bench.produce_video(bad, "badcam", EncodingParameters(ssrc=1000), codecs=(codec,))
    sfu_bench.consume(sub, "c", "cam", 2000, codecs=(down,), spatial=0)
    sfu_bench.consume(sub, "d", "badcam", 2100, codecs=(down,))
    right, wrong = LayeredPublisher(), LayeredPublisher()
    mine: list[Received] = []
    others: list[Received] = []
    for turn in range(120):
        send(rng, bad, 1000, wrong, turn % 10 == 0, av1)
        for packet in right.frame(key=turn % 30 == 0):
            good.rtp(
                3000, packet.sequence, packet.timestamp, packet.av1() if av1 else packet.vp9(),
                payload_type=codec.payload_type, marker=packet.marker,
                more=((UP[ExtensionUri.DEPENDENCY_DESCRIPTOR], packet.descriptor),),
            )  # fmt: skip
        if turn % 7 == 0:
            sfu_bench.do(SetLayer("d", rng.randrange(3), rng.randrange(3)))
        await sfu_bench.settle()
        sfu_bench.clock.advance(33)
        for got in sub.received():
            (mine if got.ssrc == 2000 else others).append(got)
    assert len(mine) == 240
    assert [packet.marker for packet in mine] == [False, True] * 120
    for before, after in itertools.pairwise(mine):
        assert (after.sequence - before.sequence) & 0xFFFF == 1
    for before, after in itertools.pairwise(others):
        assert (after.sequence - before.sequence) & 0xFFFF == 1  # nothing was lost on the way
    assert len(others) > 100
    assert caplog.records == []
