"""One transaction for a group of batches: each checked for its fencing token, refused ones without harm to the others.

    all at once    BEGIN IMMEDIATE · tokens · the plan of all batches · COMMIT
    one by one     if that did not fit: the same with a savepoint around each batch, so that it is known which

Runs on the store's writer thread only. May import nothing of ours but errors, model and modules of storage.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dagengine.errors import Fenced, InternalError
from dagengine.storage.lookup import fenced
from dagengine.storage.plan import OutOfOrder, Plan, Refused
from dagengine.storage.sqlite_errors import translate, url_of
from dagengine.storage.sqlite_files import connect
from dagengine.storage.sqlite_writes import apply
from dagengine.storage.writer import Batch, Refusal, Refusals
from dagengine.storage.writes import ExpandStep, FinishStep

_MISFITS = (
    Refused,
    OutOfOrder,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,  # a value of a type that no column takes, …
    sqlite3.ProgrammingError,
    sqlite3.DataError,  # … or too large for one
    AttributeError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What one batch can be guilty of. All other errors are the database's, and concern the whole transaction."""


_TOKEN = "SELECT token, id FROM run WHERE number = ?"
_OWNER = "SELECT host, pid, state FROM run LEFT JOIN process ON process.id = run.owner WHERE run.number = ?"


WAL_BYTES = 4 * 1024 * 1024
"""What the write-ahead log grows to before SQLite begins it again (1,000 pages, its default)."""

WAL_PATIENCE = 64
"""Transactions before it is worth to make the log that long at once. A commit that only overwrites the file is synced in
about two thirds of the time of one that makes it longer, since the file system has nothing of its own to record."""


class WriteConnection:
    """The connection that writes. After an error of the database it is opened anew: its state is not known."""

    def __init__(self, path: str, on_commit: Callable[[str, int], None] | None) -> None:
        self._path = path
        self._on_commit = on_commit
        self._commits = 0
        self._transactions = 0
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Committed at the end, rolled back where something is raised. Errors of SQLite leave as they are."""
        if self._connection is None:
            self._connection = connect(self._path)
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._transactions += 1
            if self._transactions == WAL_PATIENCE:
                self._lengthen_wal()
            yield connection
            self._commit(connection)
        except BaseException as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _MISFITS):
                self.close()
            elif connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _lengthen_wal(self) -> None:
        """Append zeros to the log, which readers of it take for its end.

        In a transaction, because whoever holds SQLite's write lock is alone in writing to the log; and at its end only.
        """
        with contextlib.suppress(OSError):  # it is only for speed: a full disk shows where it matters
            log = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                missing = WAL_BYTES - os.fstat(log).st_size
                if missing > 0:
                    os.write(log, bytes(missing))
                    os.fsync(log)
            finally:
                os.close(log)

    def _commit(self, connection: sqlite3.Connection) -> None:
        if self._on_commit is None:
            connection.execute("COMMIT")
            return
        self._commits += 1
        self._on_commit("before", self._commits)
        connection.execute("COMMIT")
        self._on_commit("after", self._commits)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # what is committed is durable with or without it
                connection.close()


class Groups:
    """Commits groups of batches; the `commit` of a GroupWriter."""

    def __init__(self, path: str, connection: WriteConnection) -> None:
        self._path = path
        self._connection = connection

    def commit(self, batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        try:
            return self._commit_together(batches, refusals)
        except _MISFITS:
            pass
        except sqlite3.Error as error:
            return self._refuse_all(batches, refusals, error)
        try:
            return self._commit_one_by_one(batches, refusals)
        except sqlite3.Error as error:
            return self._refuse_all(batches, refusals, error)

    def _commit_together(self, batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        outcomes: list[Refusal | None] = []
        fenced: Refusals = {}
        tokens: dict[int, Any] = {}
        plan = Plan()
        with self._connection.transaction() as connection:
            for batch in batches:
                refusal = refusals.get(batch.key) or self._fenced(connection, batch, tokens)
                outcomes.append(refusal)
                if refusal is None:
                    plan.add(batch.claim.run_number, batch.writes)
                else:
                    fenced[batch.key] = refusal
            apply(plan, connection)
        refusals.update(fenced)
        return outcomes

    def _commit_one_by_one(self, batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        outcomes: list[Refusal | None] = []
        tokens: dict[int, Any] = {}
        with self._connection.transaction() as connection:
            for batch in batches:
                refusal = refusals.get(batch.key) or self._fenced(connection, batch, tokens)
                if refusal is None:
                    refusal = _apply_alone(connection, batch)
                if refusal is not None:
                    refusals[batch.key] = refusal
                outcomes.append(refusal)
        return outcomes

    def _fenced(self, connection: sqlite3.Connection, batch: Batch, tokens: dict[int, Any]) -> Fenced | None:
        """Why the batch may not be written, if its claim is not the run's last one."""
        claim = batch.claim
        run = claim.run_number
        if run not in tokens:
            tokens[run] = connection.execute(_TOKEN, (run,)).fetchone()
        if tokens[run] == (claim.token, claim.run_id):
            return None
        owner = connection.execute(_OWNER, (run,)).fetchone()
        return fenced(claim.run_id, url_of(self._path), *(owner or ()))

    def _refuse_all(self, batches: list[Batch], refusals: Refusals, error: sqlite3.Error) -> list[Refusal | None]:
        """Whether the group is recorded is not known if COMMIT failed. So nothing may follow under these claims; who
        claims the runs anew reads what there is."""
        told = translate(error, self._path)
        for batch in batches:
            refusals.setdefault(batch.key, told)
        return [refusals[batch.key] for batch in batches]


def _apply_alone(connection: sqlite3.Connection, batch: Batch) -> InternalError | None:
    """Apply the batch write by write, or not at all."""
    run = batch.claim.run_number
    connection.execute("SAVEPOINT batch")
    for write in batch.writes:
        try:
            plan = Plan()
            plan.add(run, [write])
            apply(plan, connection)
        except _MISFITS as error:
            connection.execute("ROLLBACK TO batch")
            connection.execute("RELEASE batch")
            what = type(write).__name__ + (
                f" of step {write.seq}" if isinstance(write, (FinishStep, ExpandStep)) else ""
            )
            return InternalError(f"run {batch.claim.run_id} refuses a {what}: {error}")
    connection.execute("RELEASE batch")
    return None
