"""What receivers on bad lines see and hear, with either relay: simulated lines, simulated time."""

from __future__ import annotations

from sfu.messages import StreamStates
from tests.fixtures.sfu_bad_line import STEP_MS, Publisher, Viewer, play
from tests.fixtures.sfu_line_model import Line
from tests.fixtures.sfu_rtp_peers import OPUS_DOWN, RED_DOWN, Bench

VIDEO, RTX, VOICE = 10_000, 10_001, 10_002


class Wire:
    """A capacity that can be changed on the way."""

    def __init__(self, bps: float) -> None:
        self.bps = bps

    def __call__(self, now_ms: float) -> float:
        return self.bps


async def test_a_narrow_line_ends_on_the_low_layer_with_its_voice_whole_and_climbs_back(
    sfu_bench: Bench,
) -> None:
    wire = Wire(300e3)
    publisher = Publisher(sfu_bench)
    viewer = Viewer(sfu_bench, "sub", Line(wire, delay_ms=30))
    consumer = sfu_bench.media.consumers[viewer.watch(publisher, 0)]
    await play(sfu_bench, 3, [publisher], [viewer])
    assert consumer.layer == 0
    viewer.forget()
    await play(sfu_bench, 7, [publisher], [viewer])
    assert consumer.layer == 0
    assert viewer.loss(VOICE) < 0.02
    voice = sorted(viewer.delays[VOICE])
    assert voice[len(voice) * 95 // 100] < 150
    assert viewer.bytes[VIDEO] * 8 / 7 > 80e3
    wire.bps = 6e6
    viewer.forget()
    await play(sfu_bench, 12, [publisher], [viewer])
    assert consumer.layer == 2
    assert viewer.loss(VOICE) == 0


async def test_a_wide_line_is_left_alone(sfu_bench: Bench) -> None:
    publisher = Publisher(sfu_bench)
    viewer = Viewer(sfu_bench, "sub", Line(Wire(1e8), delay_ms=5, jitter_ms=2))
    consumer = sfu_bench.media.consumers[viewer.watch(publisher, 0)]
    await play(sfu_bench, 4, [publisher], [viewer])
    assert consumer.layer == 2
    assert viewer.sent.get(RTX, 0) == 0
    assert viewer.bytes[VIDEO] * 8 / 4 > 1.6e6
    assert sfu_bench.relay.leg("sub").queued == 0
    assert sfu_bench.media.congestion.probes == 0
    assert sfu_bench.of(StreamStates) == []


async def test_radio_losses_cost_no_layer_and_bring_each_voice_packet_twice(sfu_bench: Bench) -> None:
    publisher = Publisher(sfu_bench)
    viewer = Viewer(sfu_bench, "sub", Line(Wire(1e8), loss=0.08))
    consumer = sfu_bench.media.consumers[viewer.watch(publisher, 0)]
    await play(sfu_bench, 6, [publisher], [viewer])
    assert consumer.layer == 2
    assert viewer.payload_types[VOICE] == RED_DOWN.payload_type
    viewer.line.loss = 0.0
    await play(sfu_bench, 14, [publisher], [viewer])
    assert viewer.payload_types[VOICE] == OPUS_DOWN.payload_type


async def test_what_the_line_cannot_carry_is_held_and_freed(sfu_bench: Bench) -> None:
    wire = Wire(5e6)
    stage, other = Publisher(sfu_bench, "stage"), Publisher(sfu_bench, "other")
    viewer = Viewer(sfu_bench, "sub", Line(wire, delay_ms=20))
    first = viewer.watch(stage, 0, priority=100)
    second = viewer.watch(other, 1, spatial=0, priority=1)
    await play(sfu_bench, 1, [stage, other], [viewer])
    assert sfu_bench.of(StreamStates) == []
    wire.bps = 330e3
    await play(sfu_bench, 7, [stage, other], [viewer])
    assert sfu_bench.media.consumers[second].held
    assert not sfu_bench.media.consumers[first].held
    states = sfu_bench.of(StreamStates)
    assert StreamStates("sub", (second,), ()) in states
    report = sfu_bench.media.report()[2]["sub"]
    assert report.held == 1
    assert 80e3 < report.estimate_bps < 400e3
    assert report.wanted_bps > 1e6
    wire.bps = 8e6
    await play(sfu_bench, 10, [stage, other], [viewer])
    assert not sfu_bench.media.consumers[second].held
    assert sfu_bench.media.consumers[first].layer == 2
    told = [name for state in sfu_bench.of(StreamStates) for name in state.freed]
    assert second in told


async def test_a_line_on_which_all_is_held_is_not_forgotten(sfu_bench: Bench) -> None:
    """Nothing is sent, so nothing is reported: only a probe can find out that the line is back."""
    wire = Wire(60e3)
    publisher = Publisher(sfu_bench)
    viewer = Viewer(sfu_bench, "sub", Line(wire, delay_ms=20))
    consumer = sfu_bench.media.consumers[viewer.watch(publisher, 0, voice=False)]
    await play(sfu_bench, 6, [publisher], [viewer])
    assert consumer.held
    wire.bps = 6e6
    await play(sfu_bench, 14, [publisher], [viewer])
    assert consumer.layer == 2


async def test_without_padding_the_media_itself_asks_for_more(sfu_bench: Bench) -> None:
    wire = Wire(300e3)
    publisher = Publisher(sfu_bench)
    viewer = Viewer(sfu_bench, "sub", Line(wire, delay_ms=20))
    consumer = sfu_bench.media.consumers[viewer.watch(publisher, 0, rtx=False)]
    await play(sfu_bench, 5, [publisher], [viewer])
    assert consumer.layer == 0
    wire.bps = 8e6
    await play(sfu_bench, 25, [publisher], [viewer])
    assert consumer.layer == 2


async def test_an_outage_of_ten_seconds_heals_within_two(sfu_bench: Bench) -> None:
    up = [True]
    publisher = Publisher(sfu_bench)
    viewer = Viewer(sfu_bench, "sub", Line(Wire(4e6), delay_ms=20, up=lambda now_ms: up[0]))
    consumer = sfu_bench.media.consumers[viewer.watch(publisher, 0)]
    await play(sfu_bench, 2, [publisher], [viewer])
    up[0] = False
    await play(sfu_bench, 4, [publisher], [viewer])
    up[0] = True
    await play(sfu_bench, 2, [publisher], [viewer])
    viewer.forget()
    await play(sfu_bench, 1, [publisher], [viewer])
    assert consumer.layer == 2
    assert viewer.bytes[VIDEO] * 8 > 1.5e6
    assert STEP_MS == 10
