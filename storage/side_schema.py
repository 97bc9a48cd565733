"""The side tables: what is kept beside the record (`schema`), one section for each thing.

`run` is the number of a run in this store. Times are seconds since the epoch; digests are hex. A change here needs one in
`migrations/versions/`; a test holds the two against each other. May import nothing of ours but the schema.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, PrimaryKeyConstraint, Table, Text

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

# ---- queues, schedules, and the processes that serve them ----------------------------------------

QUEUE = Table(
    "queue",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("settings", Text, nullable=False),  # JSON of queue_rules.QueueSettings
    Column("tokens", Float),  # of its rate: how many runs may begin, as of `filled_at`
    Column("filled_at", Float),
)

QUEUED = Table(
    "queued",
    METADATA,
    Column("id", Text, primary_key=True),  # of the run, which is recorded after this row
    Column("queue", Text, nullable=False),
    Column("state", Integer, nullable=False),  # queues.RECORDING, WAITING, STARTED, DROPPED, OVER
    Column("rank", Integer, nullable=False),  # the priority, less than zero: the least is the first
    Column("key", Text),
    Column("dedup", Text),
    Column("submitted_at", Float, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("started_at", Float),
    Column("server", Text),  # server.id of who has it
    Index("queued_next", "queue", "state", "rank", "submitted_at", "id"),
    Index("queued_due", "state", "not_before"),
    Index("queued_dedup", "queue", "dedup", "state"),
)

SCHEDULE = Table(
    "schedule",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("settings", Text, nullable=False),  # JSON of schedules.Schedule
    Column("call", Text, nullable=False),  # hex of the encoded arguments
    Column("paused", Boolean, nullable=False),
    Column("next_at", Float),  # the logical time of the next run; none: never again
    Index("schedule_next", "next_at"),
)

SERVER = Table(
    "server",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("process", Text, nullable=False),  # JSON of model.ProcessRecord
    Column("settings", Text, nullable=False),  # JSON, for people
    Column("seen_at", Float, nullable=False),
)
