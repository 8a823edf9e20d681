"""From one second's facts to the sentence that the person at the desk reads."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sfu.messages import TransportReport
from signaling.livekit.lines import (
    STANDS_S,
    WORDS,
    Cause,
    Judgement,
    LineFacts,
    causes,
    central,
    judge,
    quality,
    smooth,
)
from signaling.livekit.reports import link_report

FINE = LineFacts(loss_up=0.001, loss_down=0.002, rtt_ms=20, jitter_up_ms=4, estimate_bps=4e6, wanted_bps=2e6)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (LineFacts(), ""),
        (FINE, ""),
        (LineFacts(loss_up=0.12), "上行丢包 12%，疑似本地网络"),
        (LineFacts(loss_down=0.08), "下行丢包 8%，疑似本地网络"),
        (LineFacts(estimate_bps=421_000, wanted_bps=1.7e6), "下行带宽不足（约 420 kbit/s），画面已降低"),
        (
            LineFacts(estimate_bps=98_000, wanted_bps=1.7e6, held=2),
            "下行带宽不足（约 100 kbit/s），2 路画面已暂停",
        ),
        (LineFacts(rtt_ms=482), "延迟 480 ms，疑似线路拥塞"),
        (LineFacts(jitter_down_ms=83), "抖动 83 ms，声音可能断续"),
        (LineFacts(over_tcp=True), "走 TCP 备用通道，UDP 可能被防火墙拦截"),
        (LineFacts(over_tcp=True, loss_up=0.2), "上行丢包 20%，疑似本地网络"),
        (LineFacts(loss_up=0.05, loss_down=0.3), "下行丢包 30%，疑似本地网络"),
        (LineFacts(rtt_ms=310, loss_up=0.04), "上行丢包 4%，疑似本地网络"),
        (LineFacts(lost=True, loss_up=1.0), "线路中断，正在等待恢复"),
        # what no estimate is known of is not called narrow; enough is enough
        (LineFacts(estimate_bps=0, wanted_bps=3e6), ""),
        (LineFacts(estimate_bps=2.8e6, wanted_bps=3e6), ""),
        (LineFacts(loss_up=0.029, loss_down=0.029, rtt_ms=299, jitter_up_ms=59), ""),
    ],
)
def test_the_worst_is_said(line: LineFacts, sentence: str) -> None:
    found = causes(line)
    assert (found[0].sentence()[0] if found else "") == sentence


def test_every_cause_has_words_in_both_languages() -> None:
    for code, (zh, en) in WORDS.items():
        assert zh
        assert en
        cause = Cause(code, (("kbps", 1), ("n", 1), ("percent", 1), ("ms", 1)))
        assert "{" not in "".join(cause.sentence())


LOSSY = LineFacts(loss_down=0.1)


@pytest.mark.parametrize(
    ("lossy", "fine", "expected"),
    [
        (1, 0, frozenset()),
        (1, 1, frozenset()),  # one alone is local
        (2, 4, frozenset({"loss_down"})),
        (2, 5, frozenset()),
        (40, 82, frozenset()),
        (41, 81, frozenset({"loss_down"})),
    ],
)
def test_a_third_of_the_venues_at_once_is_the_centre(lossy: int, fine: int, expected: frozenset[str]) -> None:
    lines = [LOSSY] * lossy + [FINE] * fine
    assert central(lines) == expected
    assert central([*lines, *[LineFacts(lost=True)] * 50]) == expected  # who is gone loses nothing


def test_the_centre_is_named() -> None:
    (cause,) = causes(LOSSY, frozenset({"loss_down"}))
    assert cause.sentence()[0] == "下行丢包 10%，多个会场同时丢包，疑似中心线路"
    (cause,) = causes(LineFacts(loss_up=0.1), frozenset({"loss_down"}))
    assert cause.code == "loss_up"  # this one's fault is another


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (FINE, 3),
        (LineFacts(loss_up=0.05), 2),
        (LineFacts(rtt_ms=500), 2),
        (LineFacts(jitter_up_ms=100), 2),
        (LineFacts(estimate_bps=1e6, wanted_bps=2e6), 2),
        (LineFacts(loss_down=0.2), 1),
        (LineFacts(held=1), 1),
        (LineFacts(rtt_ms=900), 1),
        (LineFacts(lost=True), 0),
    ],
)
def test_quality(line: LineFacts, expected: int) -> None:
    assert quality(line) == expected


def test_a_sentence_stays_until_it_can_be_read() -> None:
    """Two faults that take turns every second do not flap."""
    state, said = Judgement(), []
    for second in range(30):
        line = LineFacts(loss_up=0.2) if second % 2 else LineFacts(rtt_ms=700)
        state = judge(state, line, frozenset(), float(second))
        said.append(state.cause)
    changes = [n for n in range(1, 30) if said[n] != said[n - 1]]
    assert all(b - a >= STANDS_S for a, b in pairwise(changes))


def test_a_sentence_goes_when_all_is_well_again() -> None:
    state = judge(Judgement(), LineFacts(loss_up=0.2), frozenset(), 0.0)
    assert state.cause == Cause("loss_up", (("percent", 20),))
    state = judge(state, FINE, frozenset(), 1.0)
    assert state.cause is not None
    assert state.reasons == ()
    for second in range(2, 7):
        state = judge(state, FINE, frozenset(), float(second))
    assert state.cause is None


def test_numbers_within_a_sentence_stand_still_too() -> None:
    state = judge(Judgement(), LineFacts(loss_up=0.10), frozenset(), 0.0)
    state = judge(state, LineFacts(loss_up=0.12), frozenset(), 1.0)
    assert state.cause == Cause("loss_up", (("percent", 10),))
    state = judge(state, LineFacts(loss_up=0.12), frozenset(), STANDS_S)
    assert state.cause == Cause("loss_up", (("percent", 12),))


def test_a_value_around_its_threshold_stays_one_cause() -> None:
    state = Judgement()
    for second, loss in enumerate([0.031, 0.028, 0.032, 0.025, 0.03, 0.022]):
        state = judge(state, LineFacts(loss_up=loss), frozenset(), float(second))
        assert [cause.code for cause in state.reasons] == ["loss_up"]
    assert judge(state, LineFacts(loss_up=0.02), frozenset(), 9.0).reasons == ()


def test_a_lost_line_and_its_return_are_said_at_once() -> None:
    state = judge(Judgement(), LineFacts(loss_up=0.2), frozenset(), 0.0)
    state = judge(state, LineFacts(lost=True), frozenset(), 1.0)
    assert state.cause == Cause("line_lost")
    state = judge(state, FINE, frozenset(), 2.0)
    assert (state.cause, state.quality) == (None, 3)


def test_quality_falls_at_once_and_rises_when_it_has_held() -> None:
    state = judge(Judgement(), LineFacts(loss_up=0.2), frozenset(), 0.0)
    assert state.quality == 1
    assert judge(state, FINE, frozenset(), STANDS_S - 0.5).quality == 1
    state = judge(state, LineFacts(loss_up=0.05), frozenset(), 1.0)
    assert state.quality == 1  # not even to "good" yet
    assert judge(state, FINE, frozenset(), STANDS_S).quality == 3


def test_an_estimate_may_take_its_time_to_grow() -> None:
    narrow = LineFacts(estimate_bps=4e5, wanted_bps=2e6)
    state = Judgement()
    for second in range(8):
        state = judge(state, narrow, frozenset(), float(second))
        assert (state.cause, state.quality) == (None, 3)
    state = judge(state, narrow, frozenset(), 8.0)
    assert (state.cause and state.cause.code, state.quality) == ("narrow", 2)
    held = LineFacts(estimate_bps=4e5, wanted_bps=2e6, held=1)  # that is no matter of guessing
    assert judge(Judgement(), held, frozenset(), 0.0).quality == 1


def test_one_bad_second_is_half_a_fault() -> None:
    assert smooth(FINE, LineFacts(loss_up=0.04)).loss_up == pytest.approx(0.0205)
    assert smooth(LineFacts(held=0), LineFacts(held=2, over_tcp=True)).held == 2


def test_a_line_without_a_limit_has_no_estimate() -> None:
    """An estimate without a bound must not reach a page's JSON."""
    free = TransportReport("t", 20.0, 0.0, 0.0, 0, 0, estimate_bps=float("inf"), wanted_bps=2e6)
    assert link_report([], [], [free], lost=False).line.estimate_bps == 0.0
