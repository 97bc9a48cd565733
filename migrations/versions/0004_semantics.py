"""What is kept beside the record: side tables, and the fingerprints of functions.

Only adds tables and a column that may be empty, so it may be applied before or after the code that writes them is deployed.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Make the tables, in the order of `storage/side_schema.py`."""
    op.add_column("definition", sa.Column("fingerprint", sa.Text))
    op.create_table(
        "origin",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", name="origin_pk"),
        sqlite_with_rowid=False,
    )
    _effects()
    op.create_table(
        "removed",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", name="removed_pk"),
    )
    op.create_table(
        "expired",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("cleared", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run", name="expired_pk"),
    )
    op.create_table(
        "pin",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", name="pin_pk"),
    )
    _caches()
    artifact = "value IS NULL AND length(value_digest) = 32"
    op.create_index("step_artifact", "step", ["value_digest"], **_where(artifact))
    op.create_index("edge_artifact", "edge", ["digest"], **_where("digest IS NOT NULL"))
    _code()
    _signals()


def _caches() -> None:
    op.create_table(
        "cache_entry",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("mark", sa.Text, nullable=False),
        sa.Column("of_run", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("parts", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("digest", sa.Text),
        sa.Column("size", sa.BigInteger),
        sa.Column("value", sa.LargeBinary),
    )
    op.create_index("cache_entry_of_task", "cache_entry", ["task", "at"])
    op.create_table(
        "cache_use",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", name="cache_use_pk"),
        sqlite_with_rowid=False,
    )


def _effects() -> None:
    def run_and_seq() -> list[sa.Column[int]]:
        return [sa.Column("run", sa.Integer, nullable=False), sa.Column("seq", sa.Integer, nullable=False)]

    def value() -> list[sa.Column[Any]]:
        return [
            sa.Column("at", sa.Float, nullable=False),
            sa.Column("size", sa.BigInteger, nullable=False),
            sa.Column("digest", sa.Text, nullable=False),
            sa.Column("value", sa.LargeBinary),
        ]

    op.create_table(
        "memo",
        *run_and_seq(),
        sa.Column("name", sa.Text, nullable=False),
        *value(),
        sa.PrimaryKeyConstraint("run", "seq", "name", name="memo_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "beat",
        *run_and_seq(),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", name="beat_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outbox",
        *run_and_seq(),
        *value(),
        sa.PrimaryKeyConstraint("run", "seq", name="outbox_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "compensation",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("failure", sa.Text),
        sa.PrimaryKeyConstraint("run", name="compensation_pk"),
    )
    op.create_table(
        "queue",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("tokens", sa.Float),
        sa.Column("filled_at", sa.Float),
    )
    op.create_table(
        "queued",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("dedup", sa.Text),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("server", sa.Text),
    )
    op.create_index("queued_next", "queued", ["queue", "state", "rank", "submitted_at", "id"])
    op.create_index("queued_due", "queued", ["state", "queue", "not_before"])
    op.create_index("queued_dedup", "queued", ["queue", "dedup", "state"])
    op.create_table(
        "schedule",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("call", sa.Text, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("next_at", sa.Float),
    )
    op.create_index("schedule_next", "schedule", ["next_at"])
    op.create_table(
        "server",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )


def _code() -> None:
    op.create_table(
        "code",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("modules", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "code_file",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "code_part",
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("code", "file", name="code_part_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "code_used",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("run", name="code_used_pk"),
    )


def _signals() -> None:
    op.create_table(
        "signal",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("taken", sa.Integer),
        sa.Column("value", sa.LargeBinary),
        sa.PrimaryKeyConstraint("run", "number", name="signal_pk"),
        sa.UniqueConstraint("run", "id", name="signal_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sleeper",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("latest", sa.Integer, nullable=False),
        sa.Column("asleep", sa.Integer, nullable=False),
        sa.Column("wake_at", sa.Float),
        sa.Column("process", sa.Text),
        sa.PrimaryKeyConstraint("run", name="sleeper_pk"),
    )
    op.create_index("sleeper_due", "sleeper", ["asleep", "wake_at"])
