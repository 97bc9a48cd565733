"""Stateful objects: the state saved last of each, and the calls that changed it since.

Only adds tables, so it may be applied before or after the code that writes them is deployed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "state_version",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("instance", sa.Integer, nullable=False),
        sa.Column("after", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.PrimaryKeyConstraint("run", "instance", "after", name="state_version_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "unsaved_call",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("instance", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run", "instance", "seq", name="unsaved_call_pk"),
        sqlite_with_rowid=False,
    )
