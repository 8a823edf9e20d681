"""Venues and meetings in the database.  A meeting is stored whole, as the JSON of its room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from sqlalchemy import Float, Integer, String, Text, select, update
from sqlalchemy.orm import Mapped, mapped_column

from core.audit import Audit
from core.database import Base, Database
from rooms.model import MeetingStatus, Room, Venue, decode, encode

log = structlog.get_logger(__name__)


class VenueRow(Base):
    __tablename__ = "venue"

    venue_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    org_id: Mapped[str] = mapped_column(String(32))
    parent_id: Mapped[str | None] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(128))
    short: Mapped[str] = mapped_column(String(64))
    pinyin: Mapped[str] = mapped_column(String(64))
    order_no: Mapped[int] = mapped_column(Integer)
    tier: Mapped[int] = mapped_column(Integer)


class MeetingRow(Base):
    __tablename__ = "meeting"

    meeting_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16), index=True)
    main_venue: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Float, index=True)
    ended_at: Mapped[float | None] = mapped_column(Float)


@dataclass(frozen=True, slots=True)
class AuditNote:
    """What the audit trail is to say, in the same transaction as the room's new state."""

    actor: str
    action: str
    subject: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MeetingSummary:
    """Times in epoch seconds."""

    meeting_id: str
    title: str
    status: str
    main_venue: str
    created_at: float
    ended_at: float | None


class RoomStore:
    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    async def venues(self) -> dict[str, Venue]:
        """All, in protocol order."""
        async with self._database.session(read_only=True) as session:
            rows = await session.scalars(select(VenueRow).order_by(VenueRow.order_no, VenueRow.venue_id))
            return {
                row.venue_id: Venue(
                    row.venue_id, row.name, row.short, row.pinyin, row.parent_id, row.tier, row.order_no,
                    row.org_id,
                )
                for row in rows
            }  # fmt: skip

    async def add_venues(self, venues: Iterable[Venue]) -> int:
        """Adds those that are not there yet, and says how many; names that an operator changed stay."""
        async with self._database.session() as session:
            known = set(await session.scalars(select(VenueRow.venue_id)))
            rows = [
                VenueRow(
                    venue_id=v.venue_id, org_id=v.org_id or v.venue_id, parent_id=v.parent_id, name=v.name,
                    short=v.short, pinyin=v.pinyin, order_no=v.order_no, tier=v.tier,
                )
                for v in venues
                if v.venue_id not in known
            ]  # fmt: skip
            session.add_all(rows)
            return len(rows)

    async def add(self, room: Room, note: AuditNote) -> None:
        async with self._database.session() as session:
            session.add(
                MeetingRow(
                    meeting_id=room.meeting_id, title=room.title, status=room.status,
                    main_venue=room.main_venue, state=encode(room), revision=room.revision,
                    created_at=room.created_at, ended_at=room.ended_at,
                )
            )  # fmt: skip
            await session.flush()
            await self._audit.record(note.actor, note.action, note.subject, note.detail, session=session)

    async def save(self, room: Room | None, notes: Sequence[AuditNote] = ()) -> None:
        """State and audit notes together, or neither.  ``room`` None: nothing changed but the notes."""
        async with self._database.session() as session:
            if room is not None:
                await session.execute(
                    update(MeetingRow)
                    .where(MeetingRow.meeting_id == room.meeting_id)
                    .values(
                        status=room.status, state=encode(room), revision=room.revision, ended_at=room.ended_at
                    )
                )
            for note in notes:
                await self._audit.record(note.actor, note.action, note.subject, note.detail, session=session)

    async def active(self) -> list[Room]:
        """Every meeting that has not ended, oldest first.  One that can't be read is left out and logged."""
        query = select(MeetingRow).where(MeetingRow.status == MeetingStatus.ACTIVE)
        rooms = []
        async with self._database.session(read_only=True) as session:
            for row in await session.scalars(query.order_by(MeetingRow.created_at)):
                try:
                    rooms.append(decode(row.state))
                except msgspec.MsgspecError as error:
                    log.error("meeting can't be read", meeting=row.meeting_id, error=str(error))
        return rooms

    async def find(self, meeting_id: str) -> Room | None:
        async with self._database.session(read_only=True) as session:
            row = await session.get(MeetingRow, meeting_id)
            return None if row is None else decode(row.state)

    async def summaries(self, limit: int = 200) -> list[MeetingSummary]:
        """Newest first."""
        query = (
            select(
                MeetingRow.meeting_id, MeetingRow.title, MeetingRow.status, MeetingRow.main_venue,
                MeetingRow.created_at, MeetingRow.ended_at,
            )
            .order_by(MeetingRow.created_at.desc())
            .limit(limit)
        )  # fmt: skip
        async with self._database.session(read_only=True) as session:
            return [MeetingSummary(*row) for row in await session.execute(query)]
