"""What is kept beside the record: side tables, and the fingerprints of functions.

Only adds tables and a column that may be empty, so it may be applied before or after the code that writes them is deployed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


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
    op.create_table(
        "memo",
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.PrimaryKeyConstraint("run", "seq", "name", name="memo_pk"),
        sqlite_with_rowid=False,
    )
