"""Who gets which layer: tables, and what holds for any line and any room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfu.allocation import HELD, Demand, Layer, allocate, granted_bps, needed_bps, next_step_bps

CAMERA = (Layer(0, 0, 80e3), Layer(0, 2, 150e3), Layer(1, 2, 500e3), Layer(2, 2, 2.5e6))
SMALL = (Layer(0, 2, 100e3),)


def stage(level: int = HELD) -> Demand:
    return Demand("stage", 100, CAMERA, level)


def thumbs(number: int, level: int = HELD) -> list[Demand]:
    return [Demand(f"t{place:02}", 1, SMALL, level) for place in range(number)]


@pytest.mark.parametrize(
    ("budget_kbps", "stage_level", "shown"),
    [
        (50, HELD, 0),
        (100, 0, 0),  # and nobody else
        (300, 1, 1),
        (600, 2, 0),  # a stage that can be recognised comes before the small ones
        (800, 2, 2),
        (1200, 2, 4),
        (2900, 2, 4),
        (3500, 3, 4),
    ],
)
def test_stage_first(budget_kbps: int, stage_level: int, shown: int) -> None:
    levels = allocate([*thumbs(4), stage()], budget_kbps * 1000)
    assert (levels["stage"], sum(level == 0 for one, level in levels.items() if one != "stage")) == (
        stage_level, shown,
    )  # fmt: skip


def test_small_ones_come_before_the_last_layer_of_the_stage() -> None:
    levels = allocate([*thumbs(4), stage()], 3.1e6)
    assert levels["stage"] == 2
    assert all(levels[f"t{place:02}"] == 0 for place in range(4))


def test_equals_share() -> None:
    wall = [Demand(f"w{place}", 5, CAMERA) for place in range(4)]
    assert sorted(allocate(wall, 1.2e6).values()) == [1, 1, 1, 2]
    assert sorted(allocate(wall, 400e3).values()) == [0, 0, 0, 0]
    assert sorted(allocate(wall, 300e3).values()) == [HELD, 0, 0, 0]


def test_a_better_line_is_not_taken_in_full() -> None:
    assert allocate([stage()], 500e3)["stage"] == 1
    assert allocate([stage()], 560e3)["stage"] == 2
    assert allocate([stage(2)], 500e3)["stage"] == 2
    assert allocate([stage(2)], 499e3)["stage"] == 1


def test_what_is_missing_is_told() -> None:
    demands = [stage(1), *thumbs(2, 0)]
    levels = allocate(demands, 400e3)
    assert levels == {"stage": 1, "t00": 0, "t01": 0}
    assert granted_bps(demands, levels) == 350e3
    assert needed_bps(demands) == 2.7e6
    assert next_step_bps(demands, levels) == 350e3
    assert next_step_bps(demands, {"stage": 3, "t00": 0, "t01": HELD}) == 100e3
    assert next_step_bps(demands, {"stage": 3, "t00": 0, "t01": 0}) == 0


def test_nothing_to_share() -> None:
    assert allocate([], 1e6) == {}
    assert allocate([Demand("a", 0, ())], 1e6) == {"a": HELD}


@st.composite
def rooms(draw: st.DrawFn) -> list[Demand]:
    found = []
    for place in range(draw(st.integers(1, 8))):
        rates = sorted(draw(st.lists(st.integers(10_000, 3_000_000), min_size=1, max_size=4)))
        layers = tuple(Layer(at, 2, float(rate)) for at, rate in enumerate(rates))
        level = draw(st.integers(HELD, len(layers) - 1))
        found.append(Demand(f"c{place}", draw(st.integers(0, 3)), layers, level))
    return found


budgets = st.floats(0, 2e7, allow_nan=False)


def settled(demands: list[Demand], budget_bps: float) -> list[Demand]:
    """After some rounds with the same budget."""
    for _ in range(12):
        levels = allocate(demands, budget_bps)
        demands = [replace(one, level=levels[one.consumer_id]) for one in demands]
    return demands


def ranks(demands: list[Demand], levels: dict[str, int]) -> list[int]:
    """Levels of the foremost first."""
    ordered = sorted(demands, key=lambda one: (-one.priority, one.consumer_id))
    return [levels[one.consumer_id] for one in ordered]


@given(rooms(), budgets)
def test_never_above_the_budget(demands: list[Demand], budget_bps: float) -> None:
    levels = allocate(demands, budget_bps)
    assert set(levels) == {one.consumer_id for one in demands}
    assert granted_bps(demands, levels) <= budget_bps + 1e-6
    for one in demands:
        assert HELD <= levels[one.consumer_id] < len(one.layers)


@given(rooms(), budgets)
def test_the_order_of_asking_does_not_matter(demands: list[Demand], budget_bps: float) -> None:
    assert allocate(demands, budget_bps) == allocate(demands[::-1], budget_bps)


@given(rooms(), budgets, st.floats(1, 3))
def test_more_of_a_line_is_never_worse_for_the_foremost(
    demands: list[Demand], budget_bps: float, factor: float
) -> None:
    foremost = max(demands, key=lambda one: one.priority)
    if sum(one.priority == foremost.priority for one in demands) > 1 or len(demands) == 1:
        return
    less, more = allocate(demands, budget_bps), allocate(demands, budget_bps * factor)
    assert more[foremost.consumer_id] >= min(less[foremost.consumer_id], 1)


@given(rooms(), st.floats(1e4, 2e7, allow_nan=False), st.lists(st.floats(0.95, 1.05), max_size=10))
def test_a_trembling_estimate_changes_nothing(
    demands: list[Demand], budget_bps: float, tremble: list[float]
) -> None:
    """What has been reached at the estimate's highest stays at its lowest."""
    before = settled(demands, budget_bps * 1.05)
    total = sum(one.layers[one.level].rate_bps for one in before if one.level != HELD)
    if total > 0.95 * budget_bps:
        return  # it was kept, not climbed to: it may be given up
    for factor in tremble:
        levels = allocate(before, budget_bps * factor)
        assert granted_bps(before, levels) >= total - 1e-6


@given(rooms())
def test_enough_for_all_is_enough(demands: list[Demand]) -> None:
    levels = allocate(demands, needed_bps(demands) / 0.9 + 1)
    assert all(levels[one.consumer_id] == len(one.layers) - 1 for one in demands)
