"""Who gets which layer of what a line carries.  Pure: the same question has the same answer.

The order of granting, until the budget ends (Jitsi's ``cc/allocation`` is the model):

1. the foremost consumers (highest priority, if there are others below) get their lowest layer,
2. and are raised to the middle spatial layer: a stage that can't be recognised helps nobody,
3. everybody else gets the lowest layer, by priority; who can't be afforded is held,
4. all are raised towards what they want, by priority; among equals the one that has least is next.

What is sent already is kept while it fits; to go up a step must leave a tenth of the budget free.  So an
estimate that trembles by 5 % changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

PREFERRED_SPATIAL = 1
UP_SHARE = 0.9
HELD = -1


class Layer(NamedTuple):
    spatial: int
    temporal: int
    rate_bps: float


@dataclass(frozen=True, slots=True)
class Demand:
    """One consumer.  ``layers`` from the lowest to the highest that it wants, with growing rates."""

    consumer_id: str
    priority: int
    layers: tuple[Layer, ...]
    level: int = HELD  # index of the layer that it has now; HELD = none


def allocate(demands: Iterable[Demand], budget_bps: float, *, may_rise: bool = True) -> dict[str, int]:
    """Consumer → index into its layers, HELD for none.  The sum of rates never exceeds the budget.

    ``may_rise`` False: just after a step down nobody goes up.
    """
    wanted = sorted(demands, key=lambda one: (-one.priority, one.consumer_id))
    grants = _Grants(budget_bps, UP_SHARE * budget_bps if may_rise else 0.0)
    for one in wanted:
        grants.levels[one.consumer_id] = HELD
    classes = _classes(wanted)
    foremost = classes[0] if len(classes) > 1 else []
    for one in foremost:
        grants.raise_to(one, 0)
    for one in foremost:
        preferred = max(
            (at for at, layer in enumerate(one.layers) if layer.spatial <= PREFERRED_SPATIAL), default=0
        )
        while grants.levels[one.consumer_id] < preferred and grants.step(one):
            pass
    for one in wanted:
        if grants.levels[one.consumer_id] == HELD:
            grants.raise_to(one, 0)
    for equals in classes:
        grants.raise_evenly(equals)
    return grants.levels


def needed_bps(demands: Iterable[Demand]) -> float:
    """What all would take at their highest wanted layer."""
    return sum(one.layers[-1].rate_bps for one in demands if one.layers)


def granted_bps(demands: Iterable[Demand], levels: dict[str, int]) -> float:
    return sum(
        one.layers[level].rate_bps
        for one in demands
        if (level := levels.get(one.consumer_id, HELD)) != HELD and level < len(one.layers)
    )


def next_step_bps(demands: Sequence[Demand], levels: dict[str, int]) -> float:
    """By how much the first of those that wait would have to be raised; 0 = nobody waits."""
    waiting = [
        one for one in demands if one.layers and levels.get(one.consumer_id, HELD) < len(one.layers) - 1
    ]
    if not waiting:
        return 0.0
    first = min(waiting, key=lambda one: (-one.priority, levels.get(one.consumer_id, HELD), one.consumer_id))
    return _step_bps(first, levels.get(first.consumer_id, HELD))


class _Grants:
    def __init__(self, budget_bps: float, up_bps: float) -> None:
        self.budget_bps, self.up_bps = budget_bps, up_bps
        self.spent_bps = 0.0
        self.levels: dict[str, int] = {}

    def step(self, one: Demand) -> bool:
        """One layer more, if it fits."""
        level = self.levels[one.consumer_id]
        if level + 1 >= len(one.layers):
            return False
        room = self.budget_bps if level + 1 <= one.level else self.up_bps
        after = self.spent_bps + _step_bps(one, level)
        if after > room:
            return False
        self.spent_bps = after
        self.levels[one.consumer_id] = level + 1
        return True

    def raise_to(self, one: Demand, level: int) -> None:
        while self.levels[one.consumer_id] < level and self.step(one):
            pass

    def raise_evenly(self, equals: list[Demand]) -> None:
        open_ones = [one for one in equals if self.levels[one.consumer_id] != HELD]
        while open_ones:
            one = min(open_ones, key=lambda other: self._share(other))
            if not self.step(one):
                open_ones.remove(one)

    def _share(self, one: Demand) -> tuple[int, str]:
        return one.layers[self.levels[one.consumer_id]].spatial, one.consumer_id


def _step_bps(one: Demand, level: int) -> float:
    before = one.layers[level].rate_bps if level != HELD else 0.0
    return max(0.0, one.layers[level + 1].rate_bps - before)


def _classes(ordered: list[Demand]) -> list[list[Demand]]:
    found: list[list[Demand]] = []
    for one in ordered:
        if found and found[-1][0].priority == one.priority:
            found[-1].append(one)
        else:
            found.append([one])
    return found
