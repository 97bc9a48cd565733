"""The side tables: what is kept beside the record (`schema`), one section for each thing.

`run` is the number of a run in this store. Times are seconds since the epoch; digests are hex. A change here needs one in
`migrations/versions/`; a test holds the two against each other. May import nothing of ours but the schema.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text

from dagengine.storage.schema import METADATA

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

# ---- what attempts at a step have noted, until the step succeeds ------------------------------

MEMO = Table(
    "memo",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("name", Text, nullable=False),  # "once:…", "checkpoint", "external:…"
    Column("at", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("value", LargeBinary),  # the encoded bytes, if they are few; else they are the artifact of this digest
    PrimaryKeyConstraint("run", "seq", "name", name="memo_pk"),
    sqlite_with_rowid=False,
)
