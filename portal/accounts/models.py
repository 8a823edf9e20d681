"""Tables of accounts and organisations.  Times are epoch seconds."""

from __future__ import annotations

from sqlalchemy import Float, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from core.database import Base


class OrgRow(Base):
    """One organisation of the union tree; ``order_no`` is the customary order among its siblings."""

    __tablename__ = "org"

    org_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    parent_id: Mapped[str | None] = mapped_column(String(32), ForeignKey("org.org_id"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    short: Mapped[str] = mapped_column(String(64))
    pinyin: Mapped[str] = mapped_column(String(64))
    order_no: Mapped[int] = mapped_column(Integer)
    tier: Mapped[int] = mapped_column(Integer)
    tile_x: Mapped[int | None] = mapped_column(Integer)
    tile_y: Mapped[int | None] = mapped_column(Integer)


class UserRow(Base):
    __tablename__ = "account"  # "user" is a reserved word in PostgreSQL

    user_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    username: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(128))
    password_hash: Mapped[str] = mapped_column(String(256))
    role: Mapped[str] = mapped_column(String(16))
    venue_id: Mapped[str | None] = mapped_column(String(32))
    failed_count: Mapped[int] = mapped_column(Integer, default=0)
    locked_until: Mapped[float | None] = mapped_column(Float)
    created_at: Mapped[float] = mapped_column(Float)


class LoginSessionRow(Base):
    """Only the SHA-256 of the token is stored: who reads the table can't sign in with it."""

    __tablename__ = "login_session"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[str] = mapped_column(
        String(32), ForeignKey("account.user_id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float] = mapped_column(Float, index=True)
    seen_at: Mapped[float] = mapped_column(Float)
