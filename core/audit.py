"""The audit trail: who did what to what, when.  Rows are only ever added."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Float, Integer, String, Text, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from core.clock import Clock
from core.database import Base, Database


class AuditRow(Base):
    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[float] = mapped_column(Float, index=True)
    actor: Mapped[str] = mapped_column(String(64), index=True)
    action: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(128))
    detail: Mapped[str] = mapped_column(Text)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    seq: int
    at: float  # epoch seconds
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class Audit:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def record(
        self,
        actor: str,
        action: str,
        subject: str,
        detail: dict[str, Any] | None = None,
        *,
        session: AsyncSession | None = None,
    ) -> None:
        """Adds one row.  With ``session`` it belongs to the caller's transaction: both happen or neither.

        Texts that strangers may have chosen are cut to the column's width rather than refused, so that
        an attack can't keep itself out of the trail.
        """
        row = AuditRow(
            at=self._clock.now(),
            actor=_fit(actor, 64),
            action=_fit(action, 64),
            subject=_fit(subject, 128),
            detail=_clean(
                json.dumps(detail or {}, ensure_ascii=False, sort_keys=True).replace("\\u0000", "")
            ),
        )
        if session is not None:
            session.add(row)
            await session.flush()
            return
        async with self._database.session() as own:
            own.add(row)

    async def list(
        self,
        *,
        limit: int = 100,
        before: int | None = None,
        actor: str | None = None,
        action: str | None = None,
    ) -> Sequence[AuditEntry]:
        """Newest first; ``before`` is the smallest ``seq`` of the page before."""
        query = select(AuditRow).order_by(AuditRow.seq.desc()).limit(max(1, min(limit, 1000)))
        if before is not None:
            query = query.where(AuditRow.seq < before)
        if actor is not None:
            query = query.where(AuditRow.actor == actor)
        if action is not None:
            query = query.where(AuditRow.action == action)
        async with self._database.session(read_only=True) as session:
            rows = (await session.scalars(query)).all()
            return [
                AuditEntry(row.seq, row.at, row.actor, row.action, row.subject, json.loads(row.detail))
                for row in rows
            ]


def _fit(text: str, length: int) -> str:
    return _clean(text)[:length]


def _clean(text: str) -> str:
    # PostgreSQL's text can't hold NUL, and neither engine half a surrogate pair.
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
