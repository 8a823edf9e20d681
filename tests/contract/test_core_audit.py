"""The audit trail promises the same on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.audit import Audit
from core.clock import FakeClock
from core.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}/test.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    opened = Database(url)
    await opened.migrate()
    yield opened
    await opened.close()


async def test_newest_first_with_time_and_detail(database: Database) -> None:
    clock = FakeClock(1000.0)
    audit = Audit(database, clock)
    await audit.record("host", "broadcast", "mt_1", {"venue": "340100", "说明": "合肥"})
    clock.advance(5)
    await audit.record("host", "mute", "mt_1")
    newest, oldest = await audit.list()
    assert (newest.action, newest.at, newest.detail) == ("mute", 1005.0, {})
    assert (oldest.action, oldest.at, oldest.detail) == (
        "broadcast",
        1000.0,
        {"venue": "340100", "说明": "合肥"},
    )
    assert newest.seq > oldest.seq


async def test_pages_and_filters(database: Database) -> None:
    audit = Audit(database, FakeClock())
    for number in range(5):
        await audit.record("a" if number % 2 else "b", f"do{number}", "x")
    first = await audit.list(limit=2)
    second = await audit.list(limit=2, before=first[-1].seq)
    assert [e.action for e in (*first, *second)] == ["do4", "do3", "do2", "do1"]
    assert [e.action for e in await audit.list(actor="a")] == ["do3", "do1"]
    assert [e.action for e in await audit.list(action="do0")] == ["do0"]


async def test_in_the_callers_transaction_both_happen_or_neither(database: Database) -> None:
    audit = Audit(database, FakeClock())

    async def change_of_mind() -> None:
        async with database.session() as session:
            await audit.record("a", "undone", "x", session=session)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await change_of_mind()
    async with database.session() as session:
        await audit.record("a", "done", "x", session=session)
    assert [e.action for e in await audit.list()] == ["done"]


async def test_strangers_texts_are_cut_and_kept(database: Database) -> None:
    audit = Audit(database, FakeClock())
    await audit.record("x" * 500, "y\0" * 100, "z" * 500, {"text": "a\0b"})
    (entry,) = await audit.list()
    assert (len(entry.actor), len(entry.action), len(entry.subject)) == (64, 64, 128)
