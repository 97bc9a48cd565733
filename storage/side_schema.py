"""The side tables: what is kept beside the record (`schema`), one section for each thing.

`run` is the number of a run in this store. Times are seconds since the epoch; digests are hex. A change here needs one in
`migrations/versions/`; a test holds the two against each other. May import nothing of ours but the schema.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

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

BEAT = Table(
    "beat",  # the last heartbeat of an attempt
    METADATA,
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("progress", Text, nullable=False),  # JSON
    PrimaryKeyConstraint("run", "seq", name="beat_pk"),
    sqlite_with_rowid=False,
)

OUTBOX = Table(
    "outbox",  # what transactional steps returned, committed with what they did to this database
    METADATA,
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("value", LargeBinary),  # as a memo's
    PrimaryKeyConstraint("run", "seq", name="outbox_pk"),
    sqlite_with_rowid=False,
)

COMPENSATION = Table(
    "compensation",  # runs whose steps are to be undone, and how such a run ends after that
    METADATA,
    Column("run", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("failure", Text),  # JSON
    PrimaryKeyConstraint("run", name="compensation_pk"),
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
    Index("queued_due", "state", "queue", "not_before"),
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

# ---- values that runs share -------------------------------------------------------------------

CACHE_ENTRY = Table(
    "cache_entry",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("scope", Text, nullable=False),  # "project", or the id of a run, or of the first of its forks
    Column("mark", Text, nullable=False),  # who computes it, or "=…": it has a value
    Column("of_run", Text, nullable=False),  # its id; the run may be gone
    Column("seq", Integer, nullable=False),
    Column("parts", Text, nullable=False),  # JSON: part of the key -> digest
    Column("at", Float, nullable=False),
    Column("digest", Text),
    Column("size", BigInteger),
    Column("value", LargeBinary),  # as a memo's
    Index("cache_entry_of_task", "task", "at"),
)

CACHE_USE = Table(
    "cache_use",  # what the cache said to a step
    METADATA,
    Column("run", Integer, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("why", Text, nullable=False),
    PrimaryKeyConstraint("run", "seq", name="cache_use_pk"),
    sqlite_with_rowid=False,
)


# ---- the code that runs were started with -------------------------------------------------------

CODE = Table(
    "code",
    METADATA,
    Column("digest", Text, primary_key=True),  # of the manifest
    Column("entry", Text, nullable=False),  # the workflow's module
    Column("modules", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("manifest", Text, nullable=False),  # JSON: packs.Pack
    Column("created_at", Float, nullable=False),
)

CODE_FILE = Table(
    "code_file",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("data", LargeBinary, nullable=False),  # compressed (zlib)
)

CODE_PART = Table(
    "code_part",  # which files are in which pack
    METADATA,
    Column("code", Text, nullable=False),
    Column("file", Text, nullable=False),
    PrimaryKeyConstraint("code", "file", name="code_part_pk"),
    sqlite_with_rowid=False,
)

CODE_USED = Table(
    "code_used",  # runs that go on with another pack than the one they were started with
    METADATA,
    Column("run", Integer, nullable=False),
    Column("code", Text, nullable=False),
    Column("at", Float, nullable=False),
    PrimaryKeyConstraint("run", name="code_used_pk"),
)

# ---- signals, and runs that wait without a process --------------------------------------------

SIGNAL = Table(
    "signal",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, … in the order in which they were sent
    Column("id", Text, nullable=False),  # the sender's: the same one again is no second signal
    Column("name", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("taken", Integer),  # seq of the step that it was given to
    Column("value", LargeBinary),  # the encoded payload, if it is small; else it is the artifact of this digest
    PrimaryKeyConstraint("run", "number", name="signal_pk"),
    UniqueConstraint("run", "id", name="signal_id"),
    sqlite_with_rowid=False,
)

SLEEPER = Table(
    "sleeper",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("id", Text, nullable=False),  # the run's
    Column("latest", Integer, nullable=False),  # the number of the last signal that was sent to it
    Column("asleep", Integer, nullable=False),  # 1: no process holds it, and it wants to be woken
    Column("wake_at", Float),  # when; none: only by somebody
    Column("process", Text),  # who let go of it and wakes it itself, as long as that process lives
    PrimaryKeyConstraint("run", name="sleeper_pk"),
    Index("sleeper_due", "asleep", "wake_at"),
)

# ---- what runs are called, and how many steps they have -----------------------------------------

TAG = Table(
    "tag",
    METADATA,
    Column("run", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Text, nullable=False),
    PrimaryKeyConstraint("run", "name", name="tag_pk"),
    Index("tag_value", "name", "value", "run"),
    sqlite_with_rowid=False,
)

TALLY = Table(
    "tally",  # of blocks of steps that are recorded whole (tallies.py)
    METADATA,
    Column("run", Integer, nullable=False),
    Column("block", Integer, nullable=False),
    Column("tasks", Text, nullable=False),  # JSON: number of a definition -> steps in the block
    PrimaryKeyConstraint("run", "block", name="tally_pk"),
    sqlite_with_rowid=False,
)
