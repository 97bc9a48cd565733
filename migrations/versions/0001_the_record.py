"""The record: runs, their steps and edges, attempts, events, and the processes that own runs.

The first revision: there is nothing before it, and no code that it could come too late for.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_COUNTER = sa.Integer().with_variant(sa.BigInteger, "postgresql")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "run",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", _NAME, nullable=False),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("next_seq", sa.Integer, nullable=False),
        sa.Column("body_closed", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("cancel_requested_at", sa.Float),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("inputs", sa.Text, nullable=False),
        sa.Column("result_inputs", sa.Text, nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column("failure_pickled", sa.LargeBinary),
        sa.Column("call", sa.LargeBinary, nullable=False),
        sa.Column("result_call", sa.LargeBinary),
        sa.UniqueConstraint("id", name="run_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("run_created", "run", ["created_at"])
    op.create_index("run_state_created", "run", ["state", "created_at"])
    op.create_index("run_workflow_created", "run", ["workflow", "created_at"])
    op.create_table(
        "process",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("start_time", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="process_pk"),
    )
    op.create_table(
        "definition",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "number", name="definition_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "step",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("key", _NAME, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("definition", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("handled", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("finish_order", _COUNTER),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.Column("items_first", sa.Integer),
        sa.Column("items_count", sa.Integer),
        sa.Column("value_size", sa.BigInteger),
        sa.Column("value_digest", sa.LargeBinary),
        sa.Column("failure", sa.Text),
        sa.Column("failure_pickled", sa.LargeBinary),
        sa.Column("call", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.PrimaryKeyConstraint("run", "seq", name="step_pk"),
        sa.UniqueConstraint("run", "key", name="step_key"),
        sqlite_with_rowid=False,
    )
    op.create_index("step_waiting", "step", ["run", "state", "seq"], **_where("state = 'waiting'"))
    op.create_index(
        "step_unsuccessful",
        "step",
        ["run", "state", "seq"],
        **_where("state IN ('failed', 'skipped', 'cancelled')"),
    )
    op.create_table(
        "edge",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("child", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("digest", sa.LargeBinary),
        sa.Column("size", sa.BigInteger),
        sa.PrimaryKeyConstraint("run", "child", "position", name="edge_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "attempt",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("worker", sa.Integer),
        sa.Column("pid", sa.Integer),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.Column("outcome", sa.Text),
        sa.Column("failure", sa.Text),
        sa.PrimaryKeyConstraint("run", "seq", "number", name="attempt_pk"),
        sqlite_with_rowid=False,
    )
    op.create_index("attempt_open", "attempt", ["run", "seq"], **_where("outcome IS NULL"))
    op.create_table(
        "event",
        sa.Column("number", _COUNTER, primary_key=True),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("event_run", "event", ["run"])
