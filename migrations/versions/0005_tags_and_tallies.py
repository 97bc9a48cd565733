"""Runs have tags, by which they are listed and kept, and of runs of millions of steps is noted how many there are of each task.

Only adds tables, so it may be applied before or after the code that writes them is deployed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, in the order of `storage/side_schema.py`."""
    op.create_table(
        "tag",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name="tag_pk"),
        sqlite_with_rowid=False,
    )
    op.create_index("tag_value", "tag", ["name", "value", "run"])
    op.create_table(
        "tally",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("block", sa.Integer, nullable=False),
        sa.Column("tasks", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "block", name="tally_pk"),
        sqlite_with_rowid=False,
    )
