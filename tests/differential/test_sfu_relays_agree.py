"""The native relay and its Python twin: equal packets in, equal packets out, whatever happens in between."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sfu.relays import why_not_native

if why_not_native():
    pytest.skip(f"no native relay: {why_not_native()}", allow_module_level=True)

from tests.differential.sfu_scenario import Scenario

EXAMPLES = int(os.environ.get("SFU_DIFFERENTIAL_EXAMPLES", "500"))
BYTE = st.integers(0, 255)
STREAM = st.integers(0, 7)
CLIENT = st.integers(0, 4)
SEED = st.integers(0, 1 << 16)


def step(name: str, *values: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), *values)


FLOW = step("flow", BYTE, st.integers(1, 8), st.integers(0, 6), SEED)
STEPS = st.one_of(
    FLOW,
    FLOW,
    step("burst", STREAM, st.integers(1, 12), SEED),
    step("key", STREAM),
    step("restart", STREAM, st.integers(1, 7)),
    step("mode", STREAM, st.booleans()),
    step("repair", STREAM, st.integers(0, 199)),
    step("mutate", STREAM, st.integers(0, 200), BYTE, st.integers(0, 4)),
    step("strange", CLIENT, st.binary(max_size=60)),
    step("ask_again", CLIENT, SEED),
    step("want_key", CLIENT, st.integers(0, 9), st.booleans()),
    step("receiver_report", CLIENT, BYTE, st.integers(0, 400)),
    step("sender_report", STREAM, st.integers(-5000, 5000)),
    step("acknowledge", CLIENT),
    step("broken_control", CLIENT, st.integers(0, 1023), st.binary(max_size=48)),
    step("policy", st.integers(0, 11), st.integers(0, 9), BYTE),
    step("policy", st.integers(0, 4), st.integers(0, 9), BYTE),
    step("pace", CLIENT, st.sampled_from((0, 50, 300, 2000))),
    step("probe", CLIENT, st.integers(1, 3), st.integers(0, 3000), st.integers(0, 20_000)),
    step("move", CLIENT),
    step("rekey", CLIENT),
    step("leave", CLIENT, st.booleans()),
    step("wait", st.sampled_from((1, 20, 60, 250, 1500, 5000))),
)


def run(steps: list[tuple]) -> Scenario:
    scenario = Scenario()
    for name, *values in steps:
        getattr(scenario, name)(*values)
    scenario.world.compare_all()
    return scenario


@settings(
    deadline=None, max_examples=EXAMPLES, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
@pytest.mark.timeout(400)  # finding the smallest failure takes its time
@given(steps=st.lists(STEPS, min_size=12, max_size=50))
def test_both_relays_send_the_same(steps: list[tuple]) -> None:
    run([("flow", 255, 2, 0, 1), *steps])


MEETING = [("flow", 255, 12, 0, 1), ("wait", 1500), ("flow", 255, 12, 0, 2)]
SCENARIOS = {
    "a quiet meeting": MEETING,
    "loss": [*MEETING, ("flow", 255, 30, 4, 3), ("ask_again", 3, 1), ("ask_again", 4, 2), ("wait", 60),
             ("ask_again", 3, 1)],
    "layers": [*MEETING, ("policy", 1, 0, 0), ("flow", 255, 8, 1, 3), ("policy", 1, 3, 0),
               ("policy", 1, 6, 1), ("flow", 255, 8, 1, 4), ("key", 6), ("policy", 1, 3, 8),
               ("policy", 1, 0, 8), ("key", 0), ("key", 1), ("key", 2), ("flow", 255, 12, 1, 5)],
    "sources": [*MEETING, ("policy", 2, 0, 2), ("flow", 255, 4, 0, 3), ("key", 4), ("flow", 255, 4, 0, 4),
                ("policy", 2, 0, 4), ("key", 6), ("flow", 255, 4, 0, 5), ("policy", 2, 0, 0), ("key", 2),
                ("flow", 255, 6, 0, 6)],
    "sender reports": [*MEETING, *(("sender_report", index, 100) for index in range(8)), ("wait", 1500),
                       ("policy", 2, 0, 2), ("key", 4), ("flow", 255, 4, 0, 4), ("wait", 1500)],
    "pacing": [*MEETING, ("pace", 3, 300), ("flow", 255, 20, 1, 3), ("acknowledge", 3), ("wait", 250),
               ("probe", 3, 1, 2000, 9000), ("wait", 60), ("acknowledge", 3), ("pace", 3, 0), ("wait", 20)],
    "restarts": [*MEETING, ("restart", 0, 3), ("restart", 4, 1), ("restart", 3, 5), ("flow", 255, 8, 1, 3),
                 ("restart", 6, 7), ("restart", 2, 2), ("flow", 255, 8, 1, 4)],
    "clients come and go": [*MEETING, ("leave", 0, True), ("flow", 255, 8, 0, 3), ("leave", 3, True),
                            ("key", 0), ("flow", 255, 8, 0, 4), ("leave", 4, False), ("flow", 255, 3, 0, 5),
                            ("move", 3), ("rekey", 3), ("flow", 255, 4, 0, 6)],
    "taps": [("policy", 7, 0, 0), ("policy", 7, 1, 0), ("policy", 7, 4, 0), ("mode", 3, True), *MEETING,
             ("flow", 255, 12, 3, 3), ("policy", 8, 0, 1), ("flow", 255, 3, 0, 4), ("policy", 5, 1, 0)],
    "red and av1": [("mode", 3, True), ("mode", 5, True), ("mode", 6, True), *MEETING,
                    ("policy", 1, 3, 3), ("flow", 255, 9, 2, 3), ("mode", 5, False), ("flow", 255, 9, 2, 4)],
    "a busy loop": [("burst", 2, 5, 1), ("burst", 0, 5, 2), ("burst", 6, 5, 3), ("burst", 4, 9, 4), *MEETING,
                    ("restart", 1, 2), ("burst", 1, 3, 5), ("restart", 4, 1), ("burst", 4, 6, 6),
                    ("wait", 5000), ("burst", 3, 4, 7), ("burst", 2, 9, 8), *MEETING],
    "hushed": [*MEETING, ("policy", 4, 1, 1), ("flow", 255, 4, 0, 3), ("policy", 4, 1, 0),
               ("flow", 255, 4, 0, 4)],
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_fixed_scenarios(name: str) -> None:
    scenario = run(SCENARIOS[name])
    assert scenario.world.received > 200
