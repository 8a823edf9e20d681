"""The database: SQLAlchemy 2 async on SQLite (WAL) or PostgreSQL, with the same behaviour on both.

A session is one transaction: committed when the block ends, rolled back when it raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from core.errors import ConfigError, Unavailable

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_READ_ONLY = "lianxin_read_only"
# Any constant: two control processes that start together migrate one after the other.
_MIGRATION_LOCK = 0x4C69616E78696E


class Base(DeclarativeBase):
    """Every table of every package; ``Base.metadata`` must agree with core/migrations (a test compares)."""


class Database:
    """``url``: sqlite:///relative, sqlite:////absolute, postgresql://user@host/name or …?host=/socket."""

    def __init__(self, url: str) -> None:
        self._url = _with_driver(url)
        self.kind = "sqlite" if self._url.drivername.startswith("sqlite") else "postgresql"
        self._engine = self._open_engine()
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        # SQLite has one writer: waiting here is fair and costs nothing, its busy handler is neither.
        self._writer = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None

    def _open_engine(self) -> AsyncEngine:
        if self.kind == "postgresql":
            return create_async_engine(self._url, pool_size=10, max_overflow=10, pool_pre_ping=True)
        engine = create_async_engine(self._url, connect_args={"timeout": 10})
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine

    @asynccontextmanager
    async def session(self, *, read_only: bool = False) -> AsyncIterator[AsyncSession]:
        """One transaction.  ``read_only`` sessions run beside a writer and refuse to write.

        Raises RuntimeError when a task opens a second writing session inside its first (it would wait
        for itself on SQLite): pass the session on instead.
        """
        if read_only:
            async with self._sessions() as session:
                await session.connection(
                    execution_options={_READ_ONLY: True}
                    if self.kind == "sqlite"
                    else {"postgresql_readonly": True}
                )
                yield session
            return
        if self.kind == "postgresql":
            async with self._sessions.begin() as session:
                yield session
            return
        task = asyncio.current_task()
        if task is not None and self._writing is task:
            raise RuntimeError("this task already has a writing session open: pass it on")
        async with self._writer:
            self._writing = task
            try:
                async with self._sessions.begin() as session:
                    yield session
            finally:
                self._writing = None

    async def migrate(self) -> None:
        """Brings the tables to the newest revision (Alembic).  Raises Unavailable when there is no answer."""
        if self.kind == "sqlite" and self._url.database and self._url.database != ":memory:":
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            async with self._engine.begin() as connection:
                if self.kind == "postgresql":
                    await connection.execute(
                        text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                    )
                await connection.run_sync(_upgrade)
        except (SQLAlchemyError, OSError) as error:
            raise Unavailable(
                "database_unavailable",
                "无法打开数据库。",
                f"The database {self._url.render_as_string()} can't be opened: {_first_line(error)}",
            ) from error

    async def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        try:
            async with self._engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError) as error:
            raise Unavailable(
                "database_unavailable",
                "数据库没有响应。",
                f"The database does not answer: {_first_line(error)}",
            ) from error

    async def close(self) -> None:
        await self._engine.dispose()


def _with_driver(url: str) -> URL:
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise ConfigError("database.url can't be read as a database address") from error
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ConfigError(f"database.url must begin with sqlite: or postgresql:, not {parsed.drivername}:")
    return parsed.set(drivername=driver)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN comes too late (not before SELECT or DDL); _begin_sqlite sends it.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 10000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get(_READ_ONLY):
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.exec_driver_sql("BEGIN")
    else:
        connection.exec_driver_sql("PRAGMA query_only = OFF")
        # IMMEDIATE: a transaction that reads first and writes later would otherwise fail at the write
        # when another process wrote in between (SQLITE_BUSY_SNAPSHOT, no waiting).
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(connection: Connection) -> None:
    # Imported here: only the start needs Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "core:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().split("\n", 1)[0]
