"""The relay forwards what no decoder could read: its work is per packet, never per pixel."""

from __future__ import annotations

import random

import pytest

from sfu.params import EncodingParameters
from tests.fixtures.sfu_rtp_peers import OPUS_DOWN, Bench, vp8


@pytest.mark.parametrize("size", [60, 500, 1100])
async def test_payloads_that_are_no_pictures_go_through_unchanged(sfu_bench: Bench, size: int) -> None:
    noise = random.Random(size).randbytes
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000))
    sfu_bench.consume(sub, "v", "cam", 2000)
    sfu_bench.produce_audio(pub, "mic", 1100)
    sfu_bench.consume(sub, "a", "mic", 2100, codecs=(OPUS_DOWN,), mid="8")
    head = vp8(5, key=True)
    pictures = [head + noise(size), *(vp8(5 + n) + noise(size) for n in range(1, 20))]
    voices = [noise(80) for _ in range(20)]
    for number, (picture, voice) in enumerate(zip(pictures, voices, strict=True)):
        pub.rtp(1000, number, number * 3000, picture, mid="0")
        pub.rtp(1100, number, number * 960, voice, payload_type=111, level=30)
    await sfu_bench.settle()
    received = sub.received()
    assert [p.payload for p in received if p.ssrc == 2000] == pictures
    assert [p.payload for p in received if p.ssrc == 2100] == voices
