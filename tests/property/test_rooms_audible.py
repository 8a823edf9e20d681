"""Who is heard in a large meeting: bounded, never without the main parts, and nobody flaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rooms.audible import HOLD_S, SILENCE_S, Hearing, Microphones, listen
from rooms.plan import MediaPlan

LOUD, QUIET = -30.0, -70.0
STEP_S = 0.3
VENUES = [f"v{n:02}" for n in range(16)]
LIMIT = 4

some = st.frozensets(st.sampled_from(VENUES))
steps = st.lists(
    st.tuples(some, some, st.frozensets(st.sampled_from(VENUES), max_size=2), some, st.floats(0, 4)),
    max_size=30,
)


def mics(
    members: frozenset[str] | set[str] | list[str],
    always: set[str] | None = None,
    opened: frozenset[str] | set[str] | list[str] | None = None,
) -> Microphones:
    present = frozenset(members)
    return Microphones(
        present, frozenset(always or ()) & present, present if opened is None else present & frozenset(opened)
    )


def play(hearing: Hearing, room: Microphones, loud: set[str], start: float, seconds: float) -> Hearing:
    for step in range(round(seconds / STEP_S)):
        levels = {who: LOUD if who in loud else QUIET for who in room.open}
        hearing = listen(hearing, room, levels, start + step * STEP_S, LIMIT)
    return hearing


@given(steps)
def test_bounded_and_never_without_stage_floor_and_main(
    story: list[tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str], float]],
) -> None:
    hearing, now = Hearing(), 0.0
    for members, opened, always, loud, pause in story:
        room = mics(members, set(always), opened)
        now += pause
        hearing = listen(hearing, room, dict.fromkeys(loud, LOUD), now, LIMIT)
        others = room.members - room.always
        if len(others) <= LIMIT:
            assert hearing.heard is None
            continue
        assert hearing.heard is not None
        assert room.always <= hearing.heard <= room.members
        assert len(hearing.heard - room.always) <= LIMIT
        waiting = (room.open & others) - hearing.heard
        places = LIMIT - len(hearing.heard - room.always)
        assert not (waiting and places), "a place is free and somebody could be heard"
        assert not (waiting and hearing.heard - room.always - room.open), "a muted one keeps out an open one"


@given(st.lists(st.frozensets(st.sampled_from(VENUES)), max_size=80))
def test_nobody_flaps(story: list[frozenset[str]]) -> None:
    """While nobody comes, goes or mutes: who is taken in stays HOLD_S, and is not cut off while speaking."""
    room = mics(VENUES)
    hearing = listen(Hearing(), room, {}, 0.0, LIMIT)
    taken = dict.fromkeys(hearing.heard or (), 0.0)
    spoke: dict[str, float] = {}
    for step, loud in enumerate(story):
        now = (step + 1) * STEP_S
        before = hearing.heard or frozenset()
        hearing = listen(hearing, room, {v: LOUD if v in loud else QUIET for v in VENUES}, now, LIMIT)
        spoke.update(dict.fromkeys(loud, now))
        assert hearing.heard is not None
        for gone in before - hearing.heard:
            assert now - taken[gone] >= HOLD_S
            assert now - spoke.get(gone, float("-inf")) >= SILENCE_S
        came = hearing.heard - before
        assert came <= loud
        taken.update(dict.fromkeys(came, now))


@given(st.lists(st.tuples(some, some), max_size=20))
def test_a_small_meeting_hears_everybody(story: list[tuple[frozenset[str], frozenset[str]]]) -> None:
    hearing = Hearing()
    for now, (opened, loud) in enumerate(story):
        room = mics(VENUES[: LIMIT + 2], {VENUES[0], VENUES[1]}, opened)
        hearing = listen(hearing, room, dict.fromkeys(loud, LOUD), float(now), LIMIT)
        assert hearing.heard is None


def test_a_speaker_is_heard_in_the_place_of_who_was_silent_longest() -> None:
    room = mics(VENUES, {"v00"})
    hearing = play(Hearing(), room, {"v01", "v02", "v03"}, 0, 10)
    assert hearing.heard == frozenset(["v00", "v01", "v02", "v03", "v04"])
    hearing = play(hearing, room, {"v01", "v02", "v09"}, 10, 0.3)
    assert hearing.heard == frozenset(["v00", "v01", "v02", "v03", "v09"]), "v04 never said a word"
    hearing = play(hearing, room, {"v01", "v02", "v10"}, 10.3, 3)
    assert hearing.heard == frozenset(["v00", "v01", "v02", "v09", "v10"]), "v03 was silent long, v09 is new"


def test_muted_ones_keep_their_place_until_it_is_needed() -> None:
    hearing = listen(Hearing(), mics(VENUES), {}, 0, LIMIT)
    heard = hearing.heard
    hearing = listen(hearing, mics(VENUES, opened=[]), {}, 1, LIMIT)
    assert hearing.heard == heard, "mute_all costs no negotiation"
    hearing = listen(hearing, mics(VENUES, opened=["v15"]), {}, 1.5, LIMIT)
    assert hearing.heard is not None
    assert "v15" in hearing.heard, "an unmuted one comes in at once, without having spoken"


def test_growing_over_the_bound_keeps_who_is_heard() -> None:
    small = mics(VENUES[:LIMIT])
    hearing = listen(Hearing(), small, {}, 0, LIMIT)
    grown = listen(hearing, mics(VENUES), {}, 1, LIMIT)
    assert grown.heard == frozenset(VENUES[:LIMIT])


@pytest.mark.parametrize("limit", [1, 12])
def test_noise_below_the_threshold_moves_nobody(limit: int) -> None:
    room = mics(VENUES)
    first = listen(Hearing(), room, {}, 0, limit)
    later = first
    for step in range(100):
        later = listen(later, room, dict.fromkeys(VENUES, -51.0 - step % 5), step * STEP_S, limit)
    assert later.heard == first.heard


@given(some, some, st.sampled_from([None, *VENUES]), st.sampled_from([None, *VENUES]), st.none() | some)
def test_viewers_of_one_audience_are_wanted_the_same(
    members: frozenset[str],
    away: frozenset[str],
    stage: str | None,
    content: str | None,
    heard: frozenset[str] | None,
) -> None:
    """The LiveKit edge asks for one viewer of an audience and takes the answer for all."""
    plan = MediaPlan(VENUES[0], members, seated=members | away, stage=stage, content=content)
    viewers = [*VENUES, "console-us_1", "guest"]
    for source in ("camera", "microphone", "screen_share", "screen_share_audio"):
        for publisher in VENUES:
            answers: dict[object, set[bool]] = {}
            for viewer in viewers:
                if viewer != publisher:
                    wanted = plan.wants(viewer, publisher, source, heard)
                    answers.setdefault(plan.audience(viewer), set()).add(wanted)
            assert all(len(answer) == 1 for answer in answers.values())
