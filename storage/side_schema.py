"""The side tables: what is kept beside the record (`schema`), one section for each thing.

`run` is the number of a run in this store. Times are seconds since the epoch; digests are hex. A change here needs one in
`migrations/versions/`; a test holds the two against each other. May import nothing of ours but the schema.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, PrimaryKeyConstraint, Table, Text

from dagengine.storage.schema import METADATA

RECORD = tuple(METADATA.sorted_tables)
"""The tables of the record itself."""

# ---- where a step's value came from, if it was not computed in its run ------------------------

ORIGIN = Table(
    "origin",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("source", Text, nullable=False),  # JSON: {"by": "fork" or "cache", "run": id, "seq": number}
    PrimaryKeyConstraint("run", "seq", name="origin_pk"),
    sqlite_with_rowid=False,
)

# ---- runs that are gone, or whose values are, and runs to be kept -----------------------------

REMOVED = Table(
    "removed",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("id", Text, nullable=False),
    Column("at", Float, nullable=False),
    PrimaryKeyConstraint("run", name="removed_pk"),
)

EXPIRED = Table(
    "expired",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("cleared", Integer, nullable=False),  # 1: nothing of its values is left
    PrimaryKeyConstraint("run", name="expired_pk"),
)

PIN = Table(
    "pin",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    PrimaryKeyConstraint("run", name="pin_pk"),
)
