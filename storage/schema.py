"""The tables of the record, as SQLAlchemy knows them: what a new store gets, and what statements are built from.

Laid out for ten million steps. What belongs to a run is clustered by (run, seq), without a rowid, so that a run's rows
lie together and are found without an index. Unfinished and unsuccessful steps have partial indexes: what is left of a
run is found without passing what is done. In a row the short columns come first: a listing never touches the pages
that long values flow over to.

- A step's inputs are its edges, in placeholder order, and nothing else says what it reads.
- Digests are 32 bytes, not 64 letters; times are seconds since the epoch; failures are JSON for people, with the
  exception itself in a column beside it.
- There are no foreign keys: the one writer refuses what does not fit, and a lookup for each edge costs as much as
  the edge.

A change here needs a revision in `migrations/versions/`; a test holds the two against each other.
May import nothing of ours.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData()

# What is looked for by its beginning is sorted by its bytes, as SQLite does: of PostgreSQL that has to be asked.
_NAME = Text().with_variant(Text(collation="C"), "postgresql")
_COUNTER = Integer().with_variant(BigInteger, "postgresql")  # SQLite's rowids are of 64 bits under any name


def _where(condition: str) -> dict[str, Any]:
    """The condition of a partial index, on every database."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


RUN = Table(
    "run",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("id", _NAME, nullable=False),
    Column("workflow", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("token", Integer, nullable=False),  # the fencing token: grows with each claim
    Column("owner", Text),  # process.id
    Column("next_seq", Integer, nullable=False),
    Column("body_closed", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("cancel_requested_at", Float),
    Column("entry", Text, nullable=False),  # JSON
    Column("facts", Text, nullable=False),  # JSON
    Column("inputs", Text, nullable=False),  # JSON: [[digest, size], …]
    Column("result_inputs", Text, nullable=False),  # JSON: [seq or [digest, size], …]
    Column("failure", Text),  # JSON
    Column("failure_pickled", LargeBinary),
    Column("call", LargeBinary, nullable=False),
    Column("result_call", LargeBinary),
    Column("batch", BigInteger),  # PostgreSQL: which transaction wrote to the run last (postgres_groups.py)
    UniqueConstraint("id", name="run_id"),
    Index("run_created", "created_at"),
    Index("run_state_created", "state", "created_at"),
    Index("run_workflow_created", "workflow", "created_at"),
    sqlite_autoincrement=True,  # a number is never given twice, so an old claim can't fit a new run
)

PROCESS = Table(
    "process",
    METADATA,
    Column("id", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("start_time", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("expires_at", Float),  # PostgreSQL: the end of its lease, on the database's clock
    PrimaryKeyConstraint("id", name="process_pk"),
)

DEFINITION = Table(
    "definition",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("reference", Text, nullable=False),  # JSON
    Column("options", Text, nullable=False),  # JSON
    Column("fingerprint", Text),  # of the code; null: not known
    PrimaryKeyConstraint("run", "number", name="definition_pk"),
    sqlite_with_rowid=False,
)

STEP = Table(
    "step",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("key", _NAME, nullable=False),
    Column("kind", Text, nullable=False),
    Column("definition", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("handled", Boolean, nullable=False),  # the body was given the failure, and went on
    Column("attempts", Integer, nullable=False),  # that had ended when the step ended
    Column("finish_order", _COUNTER),  # place in the run's order of completion
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("items_first", Integer),  # of a map: its items are the steps items_first … + items_count - 1
    Column("items_count", Integer),
    Column("value_size", BigInteger),
    Column("value_digest", LargeBinary),
    Column("failure", Text),  # JSON
    Column("failure_pickled", LargeBinary),
    Column("call", LargeBinary, nullable=False),
    Column("value", LargeBinary),  # the bytes, if they are few; else they are the artifact of this digest
    PrimaryKeyConstraint("run", "seq", name="step_pk"),
    UniqueConstraint("run", "key", name="step_key"),
    # `state` is in these indexes, though it says little there, because the planner counts matched columns.
    Index("step_waiting", "run", "state", "seq", **_where("state = 'waiting'")),
    Index(
        "step_unsuccessful",
        "run",
        "state",
        "seq",
        **_where("state IN ('failed', 'skipped', 'cancelled')"),
    ),
    Index("step_artifact", "value_digest", **_where("value IS NULL AND length(value_digest) = 32")),
    sqlite_with_rowid=False,
)

EDGE = Table(
    "edge",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("child", Integer, nullable=False),  # seq of the step that reads
    Column("position", Integer, nullable=False),  # number of the placeholder
    Column("parent", Integer),  # seq of the step that is read, or else:
    Column("digest", LargeBinary),  # the large argument that is read
    Column("size", BigInteger),
    PrimaryKeyConstraint("run", "child", "position", name="edge_pk"),
    Index("edge_artifact", "digest", **_where("digest IS NOT NULL")),
    sqlite_with_rowid=False,
)

ATTEMPT = Table(
    "attempt",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", Integer),
    Column("pid", Integer),
    Column("host", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("outcome", Text),
    Column("failure", Text),  # JSON; the exception itself is kept with the step only
    PrimaryKeyConstraint("run", "seq", "number", name="attempt_pk"),
    Index("attempt_open", "run", "seq", **_where("outcome IS NULL")),
    sqlite_with_rowid=False,
)

EVENT = Table(
    "event",
    METADATA,
    Column("number", _COUNTER, primary_key=True),
    Column("run", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False),
    Column("seq", Integer),
    Column("data", Text, nullable=False),  # JSON
    Index("event_run", "run"),
)

STATE_VERSION = Table(
    "state_version",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("instance", Integer, nullable=False),  # seq of the step that created the stateful object
    Column("after", Integer, nullable=False),  # seq of the call whose state this is; older versions go with its commit
    Column("size", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("value", LargeBinary),  # the bytes, if they are few; else they are the artifact of this digest
    PrimaryKeyConstraint("run", "instance", "after", name="state_version_pk"),
    sqlite_with_rowid=False,
)

UNSAVED_CALL = Table(
    "unsaved_call",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("instance", Integer, nullable=False),
    Column("seq", Integer, nullable=False),  # of a call that changed the state since it was saved
    PrimaryKeyConstraint("run", "instance", "seq", name="unsaved_call_pk"),
    sqlite_with_rowid=False,
)

VERSION = Table(
    "alembic_version",  # Alembic's own table, under its name: which revision the tables have
    METADATA,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
