"""First tables of all packages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _core()
    _accounts()
    _rooms()
    _recording()


def _core() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("at", sa.Float(), nullable=False, index=True),
        sa.Column("actor", sa.String(64), nullable=False, index=True),
        sa.Column("action", sa.String(64), nullable=False, index=True),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )


def _accounts() -> None:
    op.create_table(
        "org",
        sa.Column("org_id", sa.String(32), primary_key=True),
        sa.Column("parent_id", sa.String(32), sa.ForeignKey("org.org_id"), nullable=True, index=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("short", sa.String(64), nullable=False),
        sa.Column("pinyin", sa.String(64), nullable=False),
        sa.Column("order_no", sa.Integer(), nullable=False),
        sa.Column("tier", sa.Integer(), nullable=False),
        sa.Column("tile_x", sa.Integer(), nullable=True),
        sa.Column("tile_y", sa.Integer(), nullable=True),
    )
    op.create_table(
        "account",
        sa.Column("user_id", sa.String(32), primary_key=True),
        sa.Column("username", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("password_hash", sa.String(256), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("venue_id", sa.String(32), nullable=True),
        sa.Column("failed_count", sa.Integer(), nullable=False),
        sa.Column("locked_until", sa.Float(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "login_session",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column(
            "user_id",
            sa.String(32),
            sa.ForeignKey("account.user_id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False, index=True),
        sa.Column("seen_at", sa.Float(), nullable=False),
    )


def _rooms() -> None:
    op.create_table(
        "venue",
        sa.Column("venue_id", sa.String(32), primary_key=True),
        sa.Column("org_id", sa.String(32), nullable=False),
        sa.Column("parent_id", sa.String(32), nullable=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("short", sa.String(64), nullable=False),
        sa.Column("pinyin", sa.String(64), nullable=False),
        sa.Column("order_no", sa.Integer(), nullable=False),
        sa.Column("tier", sa.Integer(), nullable=False),
    )
    op.create_table(
        "meeting",
        sa.Column("meeting_id", sa.String(32), primary_key=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("status", sa.String(16), nullable=False, index=True),
        sa.Column("main_venue", sa.String(32), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False, index=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
    )


def _recording() -> None:
    op.create_table(
        "recording",
        sa.Column("recording_id", sa.String(32), primary_key=True),
        sa.Column("meeting_id", sa.String(32), nullable=False, index=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("status", sa.String(16), nullable=False, index=True),
        sa.Column("started_at", sa.Float(), nullable=False, index=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("duration_s", sa.Float(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("directory", sa.String(512), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
    )
    op.create_table(
        "recording_file",
        sa.Column("file_id", sa.String(32), primary_key=True),
        sa.Column(
            "recording_id",
            sa.String(32),
            sa.ForeignKey("recording.recording_id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("venue_id", sa.String(32), nullable=True),
        sa.Column("source", sa.String(32), nullable=True),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("path", sa.String(512), nullable=False),
        sa.Column("mime", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=True),
        sa.Column("offset_s", sa.Float(), nullable=True),
        sa.Column("sha256", sa.String(64), nullable=True),
    )


def downgrade() -> None:
    for table in (
        "recording_file",
        "recording",
        "meeting",
        "venue",
        "login_session",
        "account",
        "org",
        "audit",
    ):
        op.drop_table(table)
