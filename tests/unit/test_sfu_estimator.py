"""The bandwidth estimate against a model of a line, with a source that takes all that it is told to take."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfu.estimator import MAX_BPS, MIN_BPS, Estimator, Outcome
from sfu.queueing import Use
from sfu.seams import Cluster, Digest, Group
from tests.fixtures.sfu_line_model import Line, Path

STEP_MS = 5.0
START_MS = 1e6
PADDING = 285


class Moment(NamedTuple):
    ms: float
    estimate_bps: float
    queued_ms: float
    arrived_bytes: int


@dataclass
class Call:
    """Voice, and video at the estimate up to ``wanted_bps``; probes as the policy would ask for them."""

    line: Line
    wanted_bps: float = 4e6
    feedback_ms: float = 50.0
    moments: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = Path(self.line, self.feedback_ms)
        self.estimator = Estimator()
        self.now_ms = START_MS
        self.cluster = self.probe_left = 0
        self.probe_bps = self.probe_credit = self.credit = 0.0
        self.next_probe_ms = 0.0
        self.pause_ms = 2000.0
        self.random = random.Random(7)

    def run(self, seconds: float) -> Call:
        end = self.now_ms + seconds * 1000
        while self.now_ms < end:
            self._send()
            for body in self.path.feedback(self.now_ms):
                digest = self.path.history.acknowledge(body)
                self.estimator.on_digest(digest, self.now_ms, 2 * self.line.delay_ms)
            self._probe()
            queued = max(0.0, self.line.free_ms - self.now_ms)
            self.moments.append(
                Moment(self.now_ms, self.estimator.estimate_bps, queued, self.path.arrived_bytes)
            )
            self.now_ms += STEP_MS
        return self

    def _send(self) -> None:
        cluster = self.cluster if self.probe_left > 0 else 0
        if self.now_ms % 20 == 0:
            self.path.send(90, self.now_ms, cluster)
        self.credit += (min(self.wanted_bps, self.estimator.estimate_bps) - 36_000) * STEP_MS / 8000
        while self.credit > 0:
            size = self.random.choice((900, 1000, 1100))
            self.path.send(size, self.now_ms, cluster)
            self.credit -= size
        if self.probe_left > 0:
            self.probe_credit += self.probe_bps * STEP_MS / 8000
            while self.probe_credit > 0 and self.probe_left > 0:
                self.path.send(PADDING, self.now_ms, self.cluster)
                self.probe_credit -= PADDING
                self.probe_left -= PADDING

    def _probe(self) -> None:
        estimator = self.estimator
        estimator.expire_probe(self.now_ms, 2 * self.line.delay_ms)
        if estimator.take_outcome() is Outcome.FAILED:
            self.pause_ms = min(30_000.0, self.pause_ms * 2)
            self.next_probe_ms = self.now_ms + self.pause_ms
        if (
            estimator.estimate_bps < self.wanted_bps
            and estimator.calm(self.now_ms)
            and not estimator.silent(self.now_ms)
            and self.now_ms >= self.next_probe_ms
            and self.probe_left <= 0
        ):
            self.cluster += 1
            self.probe_bps = max(50e3, 0.6 * estimator.estimate_bps)
            self.probe_left = int(max(6 * PADDING, self.probe_bps * 0.12 / 8))
            self.probe_credit = 1.0
            estimator.begin_probe(self.cluster, self.probe_left, self.now_ms)
            self.next_probe_ms = self.now_ms + 2000

    def between(self, begin_s: float, end_s: float) -> list[Moment]:
        return [m for m in self.moments if begin_s * 1000 <= m.ms - START_MS < end_s * 1000]

    def arrived_bps(self, begin_s: float, end_s: float) -> float:
        part = self.between(begin_s, end_s)
        return (part[-1].arrived_bytes - part[0].arrived_bytes) * 8000 / (part[-1].ms - part[0].ms)

    def queue_ms(self, begin_s: float, end_s: float) -> float:
        part = self.between(begin_s, end_s)
        return sum(m.queued_ms for m in part) / len(part)


def constant(bps: float) -> Callable[[float], float]:
    return lambda now_ms: bps


def step(before_bps: float, after_bps: float, at_s: float) -> Callable[[float], float]:
    return lambda now_ms: before_bps if now_ms < START_MS + at_s * 1000 else after_bps


@pytest.mark.parametrize("capacity_bps", [300e3, 1e6, 2e6])
@pytest.mark.parametrize("delay_ms", [5.0, 100.0])
def test_finds_a_bottleneck_and_keeps_its_queue_short(capacity_bps: float, delay_ms: float) -> None:
    call = Call(Line(constant(capacity_bps), delay_ms)).run(25)
    assert 0.75 * capacity_bps <= call.arrived_bps(10, 25) <= capacity_bps
    assert call.queue_ms(10, 25) < 80
    estimates = [m.estimate_bps for m in call.between(10, 25)]
    assert min(estimates) > 0.5 * capacity_bps
    assert max(estimates) < 1.15 * capacity_bps


def test_evidence_comes_soon() -> None:
    call = Call(Line(constant(300e3)), wanted_bps=2.5e6).run(1)
    found = next(m for m in call.moments if not math.isinf(m.estimate_bps))
    assert found.ms - START_MS < 450
    assert call.moments[-1].estimate_bps < 400e3


def test_follows_a_line_that_becomes_narrow() -> None:
    call = Call(Line(step(2e6, 400e3, 10))).run(25)
    assert call.moments[2200].estimate_bps < 500e3  # a second later
    assert 0.7 * 400e3 <= call.arrived_bps(14, 25) <= 400e3
    assert call.queue_ms(14, 25) < 80


def test_follows_a_line_that_opens() -> None:
    call = Call(Line(step(400e3, 3e6, 10)), wanted_bps=2.5e6).run(30)
    assert call.arrived_bps(26, 30) > 1.5e6


@pytest.mark.parametrize("loss", [0.02, 0.05, 0.1, 0.2])
def test_a_radio_line_that_loses_by_itself_is_not_slowed_down(loss: float) -> None:
    call = Call(Line(constant(1e8), loss=loss), wanted_bps=2.5e6).run(30)
    assert call.arrived_bps(5, 30) > 0.93 * (1 - loss) * 2.5e6


def test_losses_and_a_bottleneck_are_told_apart() -> None:
    call = Call(Line(constant(1e6), loss=0.1)).run(30)
    assert call.arrived_bps(10, 30) > 0.6e6
    assert call.queue_ms(10, 30) < 80


@pytest.mark.parametrize("queue_ms", [5.0, 50.0])
def test_a_line_that_drops_instead_of_queueing_is_found_by_its_losses(queue_ms: float) -> None:
    line = Line(constant(1e6), queue_ms=queue_ms)
    call = Call(line).run(15)
    dropped, sent = line.dropped, call.path.number
    call.run(15)
    assert call.arrived_bps(15, 30) > 0.65e6
    assert line.dropped - dropped < 0.1 * (call.path.number - sent)


def test_jitter_alone_is_no_bottleneck() -> None:
    call = Call(Line(constant(1e8), jitter_ms=15), wanted_bps=2.5e6).run(30)
    assert call.arrived_bps(3, 30) > 2.3e6


def test_jitter_does_not_hide_a_bottleneck() -> None:
    call = Call(Line(constant(1e6), jitter_ms=8)).run(25)
    assert call.arrived_bps(10, 25) > 0.7e6
    assert call.queue_ms(10, 25) < 100


def test_a_receiver_that_reads_in_gulps_is_no_bottleneck() -> None:
    """A busy machine reads its socket each 100 ms: everything that waited comes at once."""
    call = Call(Line(constant(1e8), reads_each_ms=100), wanted_bps=2.5e6).run(15)
    assert math.isinf(call.estimator.estimate_bps)


def test_a_longer_way_is_no_queue() -> None:
    line = Line(constant(1e8), delay_ms=20)
    call = Call(line, wanted_bps=1e6).run(8)
    line.delay_ms = 120
    call.run(22)
    assert call.arrived_bps(20, 30) > 0.85e6


def test_an_outage_freezes_and_the_line_is_full_again_within_two_seconds() -> None:
    line = Line(constant(1e6), up=lambda ms: not START_MS + 15_000 < ms < START_MS + 25_000)
    call = Call(line).run(30)
    before = call.between(14.5, 15)[-1].estimate_bps
    assert call.between(24, 25)[-1].estimate_bps == pytest.approx(before, rel=0.2)
    assert call.arrived_bps(27, 30) > 0.7e6


def test_thin_feedback_is_enough() -> None:
    call = Call(Line(constant(1e6)), feedback_ms=250).run(25)
    assert 0.7e6 <= call.arrived_bps(10, 25) <= 1e6
    assert call.queue_ms(10, 25) < 150


def test_a_clean_line_costs_no_trend() -> None:
    call = Call(Line(constant(1e8)), wanted_bps=1e6).run(3)
    assert math.isinf(call.estimator.estimate_bps)
    assert not call.estimator.constrained
    assert call.estimator.queue.use is Use.NORMAL
    assert call.estimator.sent_bps == pytest.approx(1e6, rel=0.1)


def test_probe_lifts_the_estimate_at_once_or_not_at_all() -> None:
    for arrived_ms, lifted in ((100.0, True), (200.0, False)):
        call = Call(Line(constant(300e3)), wanted_bps=300e3).run(5)
        estimator, now = call.estimator, call.now_ms
        before = estimator.estimate_bps
        estimator.begin_probe(99, 10_000, now)
        cluster = Cluster(99, 40, 12_000, now, now + 100, 5000, 5000 + arrived_ms)
        estimator.on_digest(Digest((), 40, 0, 12_000, now + 100, (cluster,)), now + 150, 20)
        estimator.on_digest(Digest((), 1, 0, 100, now + 120, ()), now + 200, 20)
        assert not estimator.probing
        assert estimator.take_outcome() is (Outcome.CARRIED if lifted else Outcome.FAILED)
        assert estimator.take_outcome() is None
        assert (estimator.estimate_bps > 800e3) is lifted
        assert estimator.estimate_bps >= before


def test_reports_alone_bound_by_losses_that_depend_on_the_rate() -> None:
    estimator, now = Estimator(), 0.0
    sent = 1e6
    for _ in range(60):
        now += 1000
        sent = min(1e6, estimator.estimate_bps)
        lost = max(0.0, 1 - 400e3 / sent)
        estimator.on_report(sent, 100, int(100 * lost), now)
    assert 250e3 < estimator.estimate_bps < 600e3


def test_remb_binds_where_it_is_near() -> None:
    estimator = Estimator()
    estimator.on_remb(2e6, 1e6, 1000)
    assert math.isinf(estimator.estimate_bps)  # it only follows what we send
    estimator.on_remb(700e3, 1e6, 2000)
    assert estimator.estimate_bps == 700e3
    estimator.on_remb(1e6, 600e3, 3000)
    assert estimator.estimate_bps == 1e6
    estimator.forget_remb(20_000)
    assert math.isinf(estimator.estimate_bps)


times = st.floats(-1e9, 1e9, allow_nan=False)
groups = st.builds(Group, times, times, st.integers(0, 10**7))
clusters = st.builds(
    Cluster, st.integers(0, 3), st.integers(0, 10**5), st.integers(0, 10**9), times, times, times, times
)
digests = st.builds(
    Digest, st.lists(groups, max_size=12).map(tuple), st.integers(0, 5000), st.integers(0, 5000),
    st.integers(0, 10**8), times, st.lists(clusters, max_size=3).map(tuple),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(digests, st.floats(0, 5000), st.floats(0, 10_000), st.booleans()), max_size=25))
def test_whatever_a_receiver_says_the_estimate_is_a_number_within_bounds(
    said: list[tuple[Digest, float, float, bool]],
) -> None:
    estimator, now = Estimator(), 1e6
    for digest, elapsed, rtt, probes in said:
        now += elapsed
        if probes:
            estimator.begin_probe(1, 1000, now)
        estimator.on_digest(digest, now, rtt)
        estimator.expire_probe(now, rtt)
        estimate = estimator.estimate_bps
        assert math.isinf(estimate) or MIN_BPS <= estimate <= MAX_BPS
        assert estimate > 0
        assert 0 <= estimator.losses.loss <= 1
        assert not math.isnan(estimator.queue.queue_ms)
