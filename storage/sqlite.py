"""The store in one SQLite file: for one machine, with nothing to install or start.

    sqlite_files    making the file, knowing whose it is
    writer          the thread that everything written goes through, in one order
    sqlite_groups   a group of batches as one transaction; sqlite_writes: as few statements
    reads           everything that is asked, on connections of its own (sqlite_reads)
    sqlite_errors   what is told when the file or the disk does not do its part

Write-ahead log, `synchronous=FULL`: a commit is synced before anybody hears of it, and readers and the writer never
wait for each other.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dagengine.identity import sockets_in
from dagengine.model import Claim, NewRun, ProcessRecord, RunRecord, RunState, Share
from dagengine.storage import statements, tags
from dagengine.storage.children import come_to_parent
from dagengine.storage.claims import Claimed, claimed_each, may_be_claimed
from dagengine.storage.interface import Figures
from dagengine.storage.lifetime import SqlLifetime
from dagengine.storage.lifetime_notes import is_expired, refuse_expired
from dagengine.storage.lookup import no_run, refuse_altered, run_exists, run_owned, run_succeeded
from dagengine.storage.reads import Reads
from dagengine.storage.revisions import CURRENT
from dagengine.storage.rows import inputs_text, process_row, run_of, to_json
from dagengine.storage.sqlite_errors import translated, url_of
from dagengine.storage.sqlite_files import prepare
from dagengine.storage.sqlite_groups import Groups, WriteConnection
from dagengine.storage.sqlite_reads import ReadPool
from dagengine.storage.unleased import Unleased
from dagengine.storage.writer import GroupWriter, Refusal
from dagengine.storage.writes import Write

T = TypeVar("T")

_INSERT_RUN = """
    INSERT INTO run (id, workflow, state, token, owner, next_seq, body_closed, created_at, started_at,
                     entry, facts, inputs, result_inputs, call)
    VALUES (?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?, '[]', ?)
"""
_INSERT_PROCESS = """
    INSERT INTO process (id, host, boot_id, pid, start_time, started_at) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO NOTHING
"""
_CLAIM_RUN = """
    UPDATE run SET token = token + 1, state = 'running', owner = ?, started_at = coalesce(started_at, ?),
                   finished_at = NULL, failure = NULL, failure_pickled = NULL
    WHERE number = ?
"""
_FORGET_CANCEL = "UPDATE run SET cancel_requested_at = NULL WHERE number = ?"
_REOPEN_STEPS = """
    UPDATE step INDEXED BY step_unsuccessful
    SET state = 'waiting', finish_order = NULL, finished_at = NULL, failure = NULL, failure_pickled = NULL
    WHERE run = ? AND state IN ('failed', 'skipped', 'cancelled') AND handled = 0
"""
_REQUEST_CANCEL = "UPDATE run SET cancel_requested_at = coalesce(cancel_requested_at, ?) WHERE number = ?"
_CANCEL_RUN = "UPDATE run SET state = 'cancelled', finished_at = ? WHERE number = ?"


class SqliteStore(Reads, Unleased, SqlLifetime):
    """A `Store` in the file at `path`, which is made if it is not there.

    `on_commit`, for tests of crashes, is called with ("before" or "after", n) around the n-th COMMIT of a run's data.
    `clock`: when a run was started.
    """

    def __init__(
        self,
        path: str,
        on_commit: Callable[[str, int], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        prepare(path)
        self._readers = ReadPool(path)
        super().__init__(self._readers, url_of(path))
        sockets_in(Path(path).parent / "control")
        self._path = path
        self.address: str | None = path
        self._clock = clock
        self._pid = os.getpid()
        self._connection = WriteConnection(path, on_commit)
        self._writer = GroupWriter(Groups(path, self._connection).commit, self.url)

    def close(self) -> None:
        if os.getpid() != self._pid:  # SQLite's connections may not even be closed by a forked child
            return
        self._writer.close()
        self._connection.close()
        self._readers.close()

    # ---- begin and own ------------------------------------------------------------------

    def create_run(
        self,
        run: NewRun,
        process: ProcessRecord | None,
        share: Share | None = None,
        also: Callable[[Any], None] | None = None,
    ) -> Claim | None:
        def create() -> Claim | None:
            with self._transaction() as connection:
                if statements.run_by_id(connection, id=run.id).fetchone() is not None:
                    raise run_exists(run.id)
                if process is not None:
                    connection.execute(_INSERT_PROCESS, process_row(process))
                row = (
                    *(run.id, run.workflow, RunState.PENDING if process is None else RunState.RUNNING),
                    *(0 if process is None else 1, process and process.id),
                    *(run.created_at, None if process is None else run.created_at),
                    *(to_json(run.entry), to_json(run.facts), inputs_text(run.inputs), run.call),
                )
                number = connection.execute(_INSERT_RUN, row).lastrowid
                tags.index(connection, number or 0, run.facts)
                if share is not None:
                    from dagengine.storage.shares import share_steps

                    share_steps(connection, number or 0, share, run.created_at)
                if also is not None:
                    also(connection)
            return None if process is None else Claim(number or 0, run.id, 1)

        return self._writer.call(create)

    def claim(
        self,
        run_id: str,
        process: ProcessRecord,
        alive: Callable[[ProcessRecord], bool],
        reopen: bool = True,
        *,
        as_it_was: RunRecord | None = None,
    ) -> Claim:
        # Whether the owner lives is asked outside of the transaction, and asked again if the owner has changed since.
        while True:
            with self._pool.reading() as connection:
                before = _read(connection, run_id, self.url)
            if before.state is RunState.SUCCEEDED:
                raise run_succeeded(run_id)
            if before.owner is not None and alive(before.owner):
                raise run_owned(run_id, before.owner)
            refuse_altered(before, as_it_was)
            taken = self._writer.call(lambda seen=before: self._take([seen], process, reopen))  # type: ignore[misc]
            if taken:
                return taken[run_id]
            refuse_expired(self, before)

    def claim_all(
        self, run_ids: Sequence[str], process: ProcessRecord, alive: Callable[[str, ProcessRecord], bool]
    ) -> Claimed:
        def claim(run_id: str) -> Claim:
            return self.claim(run_id, process, partial(alive, run_id), reopen=False)

        free, found = may_be_claimed(run_ids, self.find_runs(run_ids), alive, self.url)
        if free:
            taken = self._writer.call(lambda: self._take(free, process, reopen=False))
            changed = [run.id for run in free if run.id not in taken]  # since they were looked at
            found |= taken | claimed_each(changed, claim)
        return found

    def _take(self, seen: Sequence[RunRecord], process: ProcessRecord, reopen: bool) -> dict[str, Claim]:
        """Claim the runs, but for those that are not as they were seen."""
        taken = {}
        with self._transaction() as connection:
            connection.execute(_INSERT_PROCESS, process_row(process))
            for before in seen:
                run = _read(connection, before.id, self.url)
                if (run.token, run.state) != (before.token, before.state) or run.owner != before.owner:
                    continue
                if is_expired(connection, run.number):
                    continue
                connection.execute(_CLAIM_RUN, (process.id, self._clock(), run.number))
                if reopen:
                    connection.execute(_FORGET_CANCEL, (run.number,))
                    connection.execute(_REOPEN_STEPS, (run.number,))
                taken[run.id] = Claim(run.number, run.id, run.token + 1)
        for claim in taken.values():
            self._writer.forget(claim.run_number)
        return taken

    # ---- write --------------------------------------------------------------------------

    def write(self, claim: Claim, batch: Sequence[Write], done: Callable[[Refusal | None], None]) -> None:
        self._writer.write(claim, batch, done)

    def request_cancel(self, run_id: str, at: float) -> RunState:
        def request() -> RunState:
            with self._transaction() as connection:
                run = _read(connection, run_id, self.url)
                if run.state is RunState.RUNNING:
                    connection.execute(_REQUEST_CANCEL, (at, run.number))
                    return run.state
                if run.state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED):
                    return run.state
                connection.execute(_REQUEST_CANCEL, (at, run.number))
                connection.execute(_CANCEL_RUN, (at, run.number))
                come_to_parent(connection, run.number)
            return RunState.CANCELLED

        return self._writer.call(request)

    def side(self, work: Callable[[Any], T], write: bool = True) -> T:
        def written() -> T:
            with self._transaction() as connection:
                return work(connection)

        if write:
            return self._writer.call(written)
        with self._pool.reading() as connection:
            return work(connection)

    def ask(self, query: Callable[..., Any], **given: Any) -> list[Any]:
        with self._pool.alone() as connection:
            rows: list[Any] = query(connection, **given).fetchall()
            return rows

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with translated(self._path), self._connection.transaction() as connection:
            yield connection

    # ---- check --------------------------------------------------------------------------

    def figures(self) -> Figures:
        size = 0
        for end in ("", "-wal"):
            with suppress(OSError):
                size += Path(self._path + end).stat().st_size
        with self._pool.reading() as connection:
            (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        return Figures(CURRENT, size, pages * page_size, *self.totals())

    def check(self) -> dict[str, Any]:
        integrity = self._integrity()
        return {**self.figures()._asdict(), "integrity": integrity}

    def _integrity(self) -> str:
        """ "ok", or the first things that are wrong with the file, as SQLite says them."""
        with self._pool.reading() as connection:
            try:
                rows = connection.execute("PRAGMA integrity_check(10)").fetchall()
            except sqlite3.DatabaseError as error:
                return str(error)
        return "; ".join(str(row[0]).replace("\n", " ") for row in rows)


def _read(connection: sqlite3.Connection, run_id: str, url: str) -> RunRecord:
    row = statements.run_by_id(connection, id=run_id).fetchone()
    if row is None:
        raise no_run(run_id, url)
    return run_of(row)
