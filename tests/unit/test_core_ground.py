"""Clock, ids, errors."""

from __future__ import annotations

import asyncio

import pytest

from core.clock import FakeClock, SystemClock
from core.errors import LianxinError, NotFound, TooMany
from core.ids import ALPHABET, new_id


async def settle() -> None:
    """Lets every task run to its next pause."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_sleepers_wake_in_order_and_only_when_due() -> None:
    clock = FakeClock(100.0)
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.create_task(sleeper("late", 2)), asyncio.create_task(sleeper("soon", 1))]
    await settle()
    assert clock.sleepers == 2
    clock.advance(0.5)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(2)
    await asyncio.gather(*tasks)
    assert woken == ["soon", "late"]
    assert (clock.now(), clock.monotonic()) == (102.5, 2.5)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(1))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    clock.advance(5)


async def test_the_system_clock_goes_forward() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="not go back"):
        FakeClock().advance(-1)


def test_ids() -> None:
    made = {new_id("mt_") for _ in range(1000)}
    assert len(made) == 1000
    assert all(i.startswith("mt_") and len(i) == 15 and set(i[3:]) <= set(ALPHABET) for i in made)
    assert len(new_id("", 30)) == 30


def test_errors_carry_both_languages() -> None:
    error: LianxinError = NotFound(
        "meeting_unknown", "没有这个会议。", "There is no such meeting.", id="mt_1"
    )
    assert (error.status, error.code, error.extra) == (404, "meeting_unknown", {"id": "mt_1"})
    assert (error.message, str(error)) == ("没有这个会议。", "There is no such meeting.")
    assert TooMany().extra == {"retry_after_s": 10}
