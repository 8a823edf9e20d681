"""Hours of polling: a leg's closed streams leave nothing behind, and none of its SRTP indexes comes twice."""

from __future__ import annotations

import pytest

from sfu import rtcp
from sfu.messages import CloseConsumer
from sfu.params import EncodingParameters
from tests.fixtures.sfu_rtp_peers import Bench, vp8


@pytest.mark.parametrize("nacked", [False, True])
async def test_an_ssrc_that_is_used_again_goes_on_with_its_numbers(sfu_bench: Bench, nacked: bool) -> None:
    pub, sub = sfu_bench.peer("pub"), sfu_bench.peer("sub")
    sfu_bench.produce_video(pub, "cam", EncodingParameters(ssrc=1000, rtx_ssrc=1001))
    numbers: dict[int, list[int]] = {2000: [], 2001: []}
    for turn in range(40):
        sfu_bench.consume(sub, f"c{turn}", "cam", 2000, rtx_ssrc=2001)
        pub.rtp(1000, 2 * turn, 3000 * turn, vp8(2 * turn, key=True), mid="0")
        pub.rtp(1000, 2 * turn + 1, 3000 * turn + 1500, vp8(2 * turn + 1), mid="0")
        await sfu_bench.settle()
        came = sub.received()  # the receiver's own SRTP state lives on: a number used twice is refused here
        assert [packet.ssrc for packet in came] == [2000, 2000]
        if nacked:
            sub.send_rtcp(rtcp.nack(5, 2000, [came[-1].sequence]))
            await sfu_bench.settle()
            came += sub.received()
            assert came[-1].ssrc == 2001
        for packet in came:
            numbers[packet.ssrc].append(packet.sequence)
        sfu_bench.do(CloseConsumer(f"c{turn}"))
    assert numbers[2000] == [*range(numbers[2000][0], numbers[2000][0] + 80)]
    rtx = numbers[2001]
    assert len(rtx) == (40 if nacked else 0)
    assert rtx == [*range(rtx[0], rtx[0] + 40)] if nacked else not rtx
