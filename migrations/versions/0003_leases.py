"""Leases: until when a process owns its runs, and which transaction wrote to a run last.

Only adds columns that may be empty, so it may be applied before or after the code that writes them is deployed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both columns."""
    op.add_column("run", sa.Column("batch", sa.BigInteger))
    op.add_column("process", sa.Column("expires_at", sa.Float))
