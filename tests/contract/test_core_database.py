"""The database promises the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from core.audit import AuditRow
from core.database import Base, Database
from core.errors import ConfigError, Unavailable

for _module in ("portal.accounts.models", "rooms.store", "recording.catalog"):
    importlib.import_module(_module)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path}/test.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    opened = Database(url)
    await opened.migrate()
    yield opened
    await opened.close()


def row(**values: Any) -> AuditRow:
    return AuditRow(**{"at": 1.0, "actor": "a", "action": "b", "subject": "c", "detail": "{}"} | values)


async def count(database: Database) -> int:
    async with database.session(read_only=True) as session:
        return len((await session.scalars(select(AuditRow))).all())


async def test_a_session_commits_at_its_end(database: Database) -> None:
    async with database.session() as session:
        session.add(row(actor="连心"))
    async with database.session(read_only=True) as session:
        assert [r.actor for r in await session.scalars(select(AuditRow))] == ["连心"]


async def test_an_exception_rolls_everything_back(database: Database) -> None:
    async def fail() -> None:
        async with database.session() as session:
            session.add(row())
            await session.flush()
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        await fail()
    assert await count(database) == 0


async def test_a_read_only_session_refuses_to_write(database: Database) -> None:
    async def write() -> None:
        async with database.session(read_only=True) as session:
            session.add(row())
            await session.flush()

    with pytest.raises(DBAPIError):
        await write()
    async with database.session() as session:  # and leaves nothing behind on its connection
        session.add(row())
    assert await count(database) == 1


async def test_writers_wait_for_each_other(database: Database) -> None:
    async with database.session() as session:
        session.add(row(actor="0"))

    async def add_one() -> None:
        async with database.session() as session:
            found = (await session.scalars(select(AuditRow).with_for_update())).one()
            await asyncio.sleep(0)
            found.actor = str(int(found.actor) + 1)

    await asyncio.gather(*(add_one() for _ in range(20)))
    async with database.session(read_only=True) as session:
        assert (await session.scalars(select(AuditRow.actor))).all() == ["20"]


async def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    async with database.session() as session:
        session.add(row())
        await session.flush()
        async with asyncio.timeout(5):
            assert await asyncio.create_task(count(database)) == 0
    assert await count(database) == 1


async def test_a_cancelled_writer_leaves_nothing(database: Database) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with database.session() as session:
            session.add(row())
            await session.flush()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(database) == 0
    async with database.session() as session:
        session.add(row())
    assert await count(database) == 1


async def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.session() as session:
            await session.execute(
                text(
                    "INSERT INTO login_session (token_hash, user_id, created_at, expires_at, seen_at) "
                    "VALUES ('x', 'nobody', 0, 0, 0)"
                )
            )


async def test_migrating_again_changes_nothing(database: Database) -> None:
    async with database.session() as session:
        session.add(row())
    await database.migrate()
    assert await count(database) == 1


async def test_two_that_start_together_migrate_once(database: Database) -> None:
    await asyncio.gather(database.migrate(), database.migrate())
    assert await count(database) == 0


async def test_the_migration_makes_what_the_models_describe(database: Database) -> None:
    """Names, nullability, keys, lengths and indexes of every table of every package."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: Any) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))

    def unfinished(connection: Any) -> list[str]:
        """What autogenerate does not look at: cascades and primary keys."""
        found = inspect(connection)
        wrong = []
        for table in Base.metadata.sorted_tables:
            keys = found.get_pk_constraint(table.name)["constrained_columns"]
            if sorted(keys) != sorted(c.name for c in table.primary_key):
                wrong.append(f"{table.name}: primary key {keys}")
            cascades = {
                tuple(k["constrained_columns"]): k.get("options", {}).get("ondelete")
                for k in found.get_foreign_keys(table.name)
            }
            wrong += [
                f"{table.name}: foreign key {key}"
                for key in table.foreign_key_constraints
                if cascades.get(tuple(c.name for c in key.columns)) != key.ondelete
            ]
        return wrong

    async with database._engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(unfinished) == []


async def test_ping(database: Database) -> None:
    await database.ping()


async def test_a_second_writing_session_in_one_task_is_refused_on_sqlite(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.db")
    await database.migrate()
    async with database.session() as session:
        session.add(row())
        with pytest.raises(RuntimeError, match="already has a writing session"):
            async with database.session():
                pass
    assert await count(database) == 1
    await database.close()


@pytest.mark.parametrize("url", ["mysql://a@b/c", "nonsense", "sqlite+pysqlcipher://x"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url"):
        Database(url)


async def test_an_absent_server_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"postgresql://lianxin:secret@/none?host={tmp_path}")
    with pytest.raises(Unavailable) as caught:
        await database.migrate()
    assert "secret" not in caught.value.message_en
    with pytest.raises(Unavailable):
        await database.ping()
    await database.close()
