"""What has been recorded: two tables, and questions to them.  Times in epoch seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, String, Text, delete, select, tuple_, update
from sqlalchemy.orm import Mapped, mapped_column

from core.database import Base, Database
from core.ids import new_id

RECORDING, PROCESSING, READY, FAILED = "recording", "processing", "ready", "failed"
MAX_PAGE = 200


class RecordingRow(Base):
    """``directory`` is relative to the recordings' folder, so that the folder can move."""

    __tablename__ = "recording"

    recording_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    meeting_id: Mapped[str] = mapped_column(String(32), index=True)
    title: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16), index=True)
    started_at: Mapped[float] = mapped_column(Float, index=True)
    ended_at: Mapped[float | None] = mapped_column(Float)
    duration_s: Mapped[float | None] = mapped_column(Float)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    directory: Mapped[str] = mapped_column(String(512))
    error: Mapped[str | None] = mapped_column(Text)


class RecordingFileRow(Base):
    """``path`` is relative to the recording's directory; ``offset_s`` after the recording's beginning."""

    __tablename__ = "recording_file"

    file_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    recording_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("recording.recording_id", ondelete="CASCADE"), index=True
    )
    kind: Mapped[str] = mapped_column(String(16))
    venue_id: Mapped[str | None] = mapped_column(String(32))
    source: Mapped[str | None] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(256))
    path: Mapped[str] = mapped_column(String(512))
    mime: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    duration_s: Mapped[float | None] = mapped_column(Float)
    offset_s: Mapped[float | None] = mapped_column(Float)
    sha256: Mapped[str | None] = mapped_column(String(64))


@dataclass(frozen=True, slots=True)
class Entry:
    """A recording and its files, the program first."""

    recording: RecordingRow
    files: tuple[RecordingFileRow, ...]


class Catalog:
    """``directory``: the recordings' folder."""

    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self.directory = directory

    async def page(self, limit: int = 50, after: str | None = None) -> tuple[list[Entry], str | None]:
        """The newest first, from behind recording ``after``; and the id to ask behind for more, or None."""
        limit = max(1, min(limit, MAX_PAGE))
        query = select(RecordingRow).order_by(
            RecordingRow.started_at.desc(), RecordingRow.recording_id.desc()
        )
        async with self._database.session(read_only=True) as session:
            if after is not None:
                mark = await session.get(RecordingRow, after)
                if mark is None:
                    return [], None
                key = tuple_(RecordingRow.started_at, RecordingRow.recording_id)
                query = query.where(key < (mark.started_at, mark.recording_id))
            rows = list((await session.scalars(query.limit(limit + 1))).all())
            more = rows[limit - 1].recording_id if len(rows) > limit else None
            rows = rows[:limit]
            ids = [row.recording_id for row in rows]
            files = (
                await session.scalars(select(RecordingFileRow).where(RecordingFileRow.recording_id.in_(ids)))
            ).all()
        return [Entry(row, _ordered(files, row.recording_id)) for row in rows], more

    async def entry(self, recording_id: str) -> Entry | None:
        async with self._database.session(read_only=True) as session:
            row = await session.get(RecordingRow, recording_id)
            if row is None:
                return None
            files = (
                await session.scalars(
                    select(RecordingFileRow).where(RecordingFileRow.recording_id == recording_id)
                )
            ).all()
        return Entry(row, _ordered(files, recording_id))

    async def file(self, recording_id: str, file_id: str) -> tuple[RecordingFileRow, Path] | None:
        """The row and where the file lies; None when there is no such file in the recording's folder."""
        async with self._database.session(read_only=True) as session:
            row = await session.get(RecordingFileRow, file_id)
            recording = await session.get(RecordingRow, recording_id)
        if row is None or recording is None or row.recording_id != recording_id:
            return None
        path = self.within(recording.directory, row.path)
        return (row, path) if path is not None and path.is_file() else None

    def within(self, directory: str, name: str = "") -> Path | None:
        """The path of ``name`` in a recording's folder; None when it would lead out of it."""
        folder = (self.directory / directory).resolve()
        path = (folder / name).resolve()
        root = self.directory.resolve()
        return (
            path if folder.is_relative_to(root) and folder != root and path.is_relative_to(folder) else None
        )

    # ------------------------------------------------------------ written by RecordingSessions only

    async def add(self, row: RecordingRow) -> None:
        async with self._database.session() as session:
            session.add(row)

    async def with_status(self, *statuses: str) -> list[RecordingRow]:
        async with self._database.session(read_only=True) as session:
            query = select(RecordingRow).where(RecordingRow.status.in_(statuses))
            return list((await session.scalars(query.order_by(RecordingRow.started_at))).all())

    async def change(self, recording_id: str, only_from: str | None = None, **values: Any) -> bool:
        """Sets columns; with ``only_from``, only while that is the status.  False: nothing changed."""
        query = update(RecordingRow).where(RecordingRow.recording_id == recording_id)
        if only_from is not None:
            query = query.where(RecordingRow.status == only_from)
        async with self._database.session() as session:
            result = await session.execute(query.values(**values).returning(RecordingRow.recording_id))
            return result.first() is not None

    async def finish(self, recording_id: str, result: dict[str, Any]) -> None:
        """Enters what a job has made (its result.json), in place of what an earlier one had."""
        files = result["files"]
        ended_at = (result["started_ms"] + result["duration_s"] * 1000) / 1000
        async with self._database.session() as session:
            row = await session.get(RecordingRow, recording_id)
            if row is None:
                return
            await session.execute(
                delete(RecordingFileRow).where(RecordingFileRow.recording_id == recording_id)
            )
            row.status, row.error = READY, None
            row.duration_s = result["duration_s"]
            row.ended_at = row.ended_at or ended_at
            row.size_bytes = sum(file["size_bytes"] for file in files)
            session.add_all(
                RecordingFileRow(file_id=new_id("rf_"), recording_id=recording_id, **file) for file in files
            )

    async def remove(self, recording_id: str) -> None:
        async with self._database.session() as session:
            await session.execute(
                delete(RecordingFileRow).where(RecordingFileRow.recording_id == recording_id)
            )
            await session.execute(delete(RecordingRow).where(RecordingRow.recording_id == recording_id))


def _ordered(files: Sequence[RecordingFileRow], recording_id: str) -> tuple[RecordingFileRow, ...]:
    mine = [file for file in files if file.recording_id == recording_id]
    return tuple(sorted(mine, key=lambda f: (f.kind != "program", f.venue_id or "", f.source or "", f.name)))
