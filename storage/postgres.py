"""The store in a PostgreSQL database: for several machines.

    postgres_url          what a URL says
    postgres_connections  connections, and how long a server that has gone is waited for
    postgres_schema       making the tables, knowing whose they are
    writer                the thread that everything written goes through, in one order
    postgres_groups       a group of batches as one transaction, known again when its answer is lost
    postgres_writes       what it does, in few statements; postgres_wire: in one round trip
    postgres_reads        everything that is asked
    postgres_errors       what is told when the server does not do its part

**Leases.** A process owns its runs until a time on the database's clock (`process.expires_at`), which it moves on with
`renew`. A run whose owner is proved dead is taken at once, like anywhere; one whose owner can't be judged from here, or
does not move, is taken when the lease is over. What is on its way from the old owner then is refused by its token.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import psycopg

from dagengine.errors import StoreUnavailable
from dagengine.model import Claim, NewRun, ProcessRecord, RunRecord, RunState, Share
from dagengine.storage import statements, tags
from dagengine.storage.children import come_to_parent
from dagengine.storage.claims import Claimed, claimed_each, may_be_claimed
from dagengine.storage.interface import Figures
from dagengine.storage.lifetime import SqlLifetime
from dagengine.storage.lifetime_notes import refuse_expired
from dagengine.storage.lookup import no_run, refuse_altered, run_exists, run_owned, run_succeeded
from dagengine.storage.postgres_connections import NOT_DURABLE, Link, connect
from dagengine.storage.postgres_errors import Unsuitable, translate
from dagengine.storage.postgres_groups import Groups, WriteConnection
from dagengine.storage.postgres_listening import Ear
from dagengine.storage.postgres_reads import PostgresReads, ReadPool
from dagengine.storage.postgres_schema import prepare, upgrade
from dagengine.storage.postgres_url import Target, parse
from dagengine.storage.postgres_writes import Writes
from dagengine.storage.revisions import CURRENT
from dagengine.storage.rows import inputs_text, process_row, run_of, to_json
from dagengine.storage.writer import GroupWriter, Refusal
from dagengine.storage.writes import Write

T = TypeVar("T")

_log = logging.getLogger("dagengine.storage")

_NOW = "extract(epoch FROM clock_timestamp())::double precision"

_INSERT_PROCESS = f"""
    INSERT INTO {{schema}}.process (id, host, boot_id, pid, start_time, started_at, expires_at)
    VALUES (%s, %s, %s, %s, %s, %s, {_NOW} + %s)
    ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
"""
_INSERT_RUN = """
    INSERT INTO {schema}.run (id, workflow, state, token, owner, next_seq, body_closed, created_at, started_at,
                              entry, facts, inputs, result_inputs, call, batch)
    VALUES (%s, %s, %s, %s, %s, 0, false, %s, %s, %s, %s, %s, '[]', %s, %s)
    ON CONFLICT (id) DO NOTHING
    RETURNING number
"""
# An owner that has moved on its lease since it was looked at keeps the run.
_CLAIM_RUNS = f"""
    UPDATE {{schema}}.run
    SET token = run.token + 1, state = 'running', owner = %s, started_at = coalesce(run.started_at, %s),
        finished_at = NULL, failure = NULL, failure_pickled = NULL, batch = %s
    FROM unnest(%s::integer[], %s::integer[], %s::text[], %s::text[], %s::boolean[])
        AS seen (number, token, state, owner, expired)
    WHERE run.number = seen.number AND run.token = seen.token AND run.state = seen.state
        AND run.owner IS NOT DISTINCT FROM seen.owner
        AND NOT EXISTS (SELECT FROM {{schema}}.expired WHERE expired.run = seen.number)
        AND (NOT seen.expired OR EXISTS (SELECT FROM {{schema}}.process WHERE id = seen.owner AND expires_at < {_NOW}))
    RETURNING run.number
"""
_HELD = "SELECT number, batch FROM {schema}.run WHERE number = ANY(%s) ORDER BY number FOR UPDATE"
_FORGET_CANCEL = "UPDATE {schema}.run SET cancel_requested_at = NULL WHERE number = ANY(%s)"
_REOPEN_STEPS = """
    UPDATE {schema}.step
    SET state = 'waiting', finish_order = NULL, finished_at = NULL, failure = NULL, failure_pickled = NULL
    WHERE run = ANY(%s) AND state IN ('failed', 'skipped', 'cancelled') AND NOT handled
"""
_REQUEST_CANCEL = """
    UPDATE {schema}.run SET cancel_requested_at = coalesce(cancel_requested_at, %s) WHERE number = %s
"""
_CANCEL_RUN = "UPDATE {schema}.run SET state = 'cancelled', finished_at = %s WHERE number = %s"
_TOLD = "SELECT pg_notify(%s, %s)"
_OWNED = """
    SELECT number, cancel_requested_at IS NOT NULL FROM {schema}.run WHERE owner = %s AND state = 'running'
"""
_SIZE = """
    SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint
    FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace
    WHERE space.nspname = %s AND relkind = 'r'
"""


class PostgresStore(PostgresReads, SqlLifetime):
    """A `Store` at a `postgresql:` URL, whose tables are made if they are not there (without `make`: NothingThere).

    `on_commit`, for tests of crashes, is called with ("before" or "after", n) around the n-th COMMIT of a run's data.
    `clock`: when a run was started.
    """

    def __init__(
        self,
        url: str,
        on_commit: Callable[[str, int], None] | None = None,
        clock: Callable[[], float] = time.time,
        make: bool = True,
    ) -> None:
        self._target = target = parse(url)
        first = _connect(target)
        try:
            prepare(first, target, make)
        except BaseException:
            first.close()
            raise
        self.lease: float | None = target.lease
        self.address: str | None = url
        self._clock = clock
        self._pid = os.getpid()
        self._durable, self._told = first.durable, False
        self._connection = WriteConnection(target, on_commit, first, self._spare)
        super().__init__(ReadPool(target, self._connection.over, self._spare), target.url)
        self._groups = Groups(self._connection, Writes(target.schema), self._readers.asking)
        self._writer = GroupWriter(self._groups.commit, self.url, self._groups.begin)
        self._ear = Ear(target)

    def close(self) -> None:
        if os.getpid() != self._pid:  # the connections are the opening process's
            return
        self._writer.close()
        self._connection.close()
        self._readers.close()
        self._ear.close()

    def hurry(self) -> None:
        """Wait for no server any more that is gone: who asked is about to end."""
        self._connection.over.set()

    def _spare(self) -> None:
        """Give up the connections that nobody uses just now. On any thread."""
        self._readers.drop_idle()
        self._writer.while_it_sleeps(self._connection.close)

    # ---- begin and own ------------------------------------------------------------------

    def create_run(
        self,
        run: NewRun,
        process: ProcessRecord | None,
        share: Share | None = None,
        also: Callable[[Any], None] | None = None,
    ) -> Claim | None:
        marks: list[int] = []

        def recorded(link: Link) -> Claim | None:
            mark = self._connection.next_mark()
            inserted = self._execute(
                link,
                _INSERT_RUN,
                *(run.id, run.workflow, str(RunState.PENDING if process is None else RunState.RUNNING)),
                *(0 if process is None else 1, process and process.id),
                *(run.created_at, None if process is None else run.created_at),
                *(to_json(run.entry), to_json(run.facts), inputs_text(run.inputs), run.call, mark),
            ).fetchone()
            if inserted is None:  # the id is taken: maybe by us, when the answer was lost
                row = self._execute(link, "SELECT number, batch FROM {schema}.run WHERE id = %s", run.id).fetchone()
                if row is None or row[1] not in marks:
                    raise run_exists(run.id)
                number, mark = row
            else:
                marks.append(mark)
                (number,) = inserted
                if process is not None:
                    self._insert_process(link, process)
                tags.index(self._readers.asking(link), number, run.facts)
                if share is not None:
                    from dagengine.storage.shares import share_steps

                    share_steps(self._readers.asking(link), number, share, run.created_at)
                if also is not None:
                    also(self._readers.asking(link))
            self._groups.marked(number, mark)
            return None if process is None else Claim(number, run.id, 1)

        def create() -> Claim | None:
            # Not on the writer's connection: nothing that is written there has to do with a run that is not there yet, and
            # who begins a run would wait for a commit of other runs, and they for his.
            with self._readers.link() as link:
                link.begin()
                claim = recorded(link)
                link.commit()
            return claim

        return self._readers.persistently(create)

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
            before = self._whole(run_id)
            if before.state is RunState.SUCCEEDED:
                raise run_succeeded(run_id)
            lives = before.owner is not None and alive(before.owner)
            if before.owner is not None and lives and not before.lease_expired:
                raise run_owned(run_id, before.owner)
            refuse_altered(before, as_it_was)
            claims = self._take([(before, lives)], process, reopen)
            if claims:
                return claims[run_id]
            refuse_expired(self, before)

    def claim_all(
        self, run_ids: Sequence[str], process: ProcessRecord, alive: Callable[[str, ProcessRecord], bool]
    ) -> Claimed:
        def claim(run_id: str) -> Claim:
            return self.claim(run_id, process, partial(alive, run_id), reopen=False)

        free, found = may_be_claimed(run_ids, self.find_runs(run_ids), alive, self.url)
        # Of one whose lease is over nothing else is known: whether the owner is dead, too, makes no difference.
        seen = [(run, run.owner is not None and run.lease_expired) for run in free]
        taken = self._take(seen, process, reopen=False) if seen else {}
        changed = [run.id for run in free if run.id not in taken]  # since they were looked at
        return found | taken | claimed_each(changed, claim)

    def _take(self, seen: Sequence[tuple[RunRecord, bool]], process: ProcessRecord, reopen: bool) -> dict[str, Claim]:
        """Claim the runs, but for those that are not as they were seen. With each: whether because its lease is over."""
        numbers = [run.number for run, _ in seen]
        columns = (
            numbers,
            [run.token for run, _ in seen],
            [str(run.state) for run, _ in seen],
            [None if run.owner is None else run.owner.id for run, _ in seen],
            [by_lease for _, by_lease in seen],
        )
        marks: list[int] = []

        def take(link: Link) -> dict[str, Claim]:
            held = dict(self._execute(link, _HELD, numbers).fetchall())
            taken = [number for number, mark in held.items() if mark in marks]
            if not taken:
                mark = self._connection.next_mark()
                marks.append(mark)
                self._insert_process(link, process)
                rows = self._execute(link, _CLAIM_RUNS, process.id, self._clock(), mark, *columns).fetchall()
                taken = [number for (number,) in rows]
                if reopen and taken:
                    self._execute(link, _FORGET_CANCEL, taken)
                    self._execute(link, _REOPEN_STEPS, taken)
            claims = {}
            for run, _ in seen:
                if run.number in taken:
                    self._writer.forget(run.number)
                    self._groups.marked(run.number, held[run.number] if held[run.number] in marks else marks[-1])
                    claims[run.id] = Claim(run.number, run.id, run.token + 1)
            return claims

        return self._transaction(take)

    def renew(self, process: ProcessRecord) -> dict[int, bool]:
        def renewed() -> dict[int, bool]:
            with self._readers.link() as link:
                link.begin()
                # Not worth a wait for the disk: a server that crashes is away for longer than this is good for.
                link.raw.execute(b"SET LOCAL synchronous_commit = off")
                self._insert_process(link, process)
                rows = self._execute(link, _OWNED, process.id).fetchall()
                link.commit()
            return {number: bool(asked) for number, asked in rows}

        return self._readers.persistently(renewed)

    def listen(self, process: ProcessRecord, seconds: float) -> None:
        self._ear.wait(channel_of(process.id), seconds)

    def wake(self, process: ProcessRecord) -> None:
        self._ear.wake()

    def _insert_process(self, link: Link, process: ProcessRecord) -> None:
        if not self._durable and not self._told:  # once, by each process that has something to lose
            self._told = True
            _log.warning("the store %s is not safe: %s", self.url, NOT_DURABLE)
        self._execute(link, _INSERT_PROCESS, *process_row(process), self._target.lease)

    # ---- write --------------------------------------------------------------------------

    def write(self, claim: Claim, batch: Sequence[Write], done: Callable[[Refusal | None], None]) -> None:
        self._writer.write(claim, batch, done)

    def request_cancel(self, run_id: str, at: float) -> RunState:
        def request(link: Link) -> RunState:
            row = self._execute(
                link, "SELECT number, state, owner FROM {schema}.run WHERE id = %s FOR UPDATE", run_id
            ).fetchone()
            if row is None:
                raise no_run(run_id, self.url)
            number, state, owner = row[0], RunState(row[1]), row[2]
            if state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED):
                return state
            self._execute(link, _REQUEST_CANCEL, at, number)
            if state is RunState.RUNNING:
                if owner is not None:
                    self._execute(link, _TOLD, channel_of(owner), str(number))
                return state
            self._execute(link, _CANCEL_RUN, at, number)
            come_to_parent(self._readers.asking(link), number)
            return RunState.CANCELLED

        return self._transaction(request)

    def side(self, work: Callable[[Any], T], write: bool = True) -> T:
        if write:
            return self._transaction(lambda link: work(self._readers.asking(link)))

        def ask() -> T:
            with self._readers.reading() as connection:
                return work(connection)

        return self._readers.persistently(ask)

    def ask(self, query: Callable[..., Any], **given: Any) -> list[Any]:
        def asked() -> list[Any]:
            with self._readers.alone() as connection:
                rows: list[Any] = query(connection, **given).fetchall()
                return rows

        return self._readers.persistently(asked)

    # ---- with the server ----------------------------------------------------------------

    def _transaction(self, work: Callable[[Link], T]) -> T:
        """One transaction on the writer's thread, done again until it is known to be done."""

        def once() -> T:
            link = self._connection.link
            link.begin()
            done = work(link)
            link.commit()
            return done

        def persistently() -> T:
            try:
                return self._connection.persistently(once)
            except psycopg.Error as error:
                raise translate(error, self._target) from None

        return self._writer.call(persistently)

    def _execute(self, link: Link, sql: str, *given: Any) -> psycopg.Cursor[Any]:
        return link.raw.execute(self._sql(sql), given)

    def _sql(self, sql: str) -> bytes:
        return sql.format(schema=f'"{self._target.schema}"').encode()

    def _whole(self, run_id: str) -> RunRecord:
        def ask() -> Any:
            with self._readers.alone() as connection:
                return statements.run_by_id(connection, id=run_id).fetchone()

        row = self._readers.persistently(ask)
        if row is None:
            raise no_run(run_id, self.url)
        return run_of(row)

    # ---- check --------------------------------------------------------------------------

    def figures(self) -> Figures:
        def ask() -> int:
            with self._readers.link() as link:
                (size,) = self._execute(link, _SIZE, self._target.schema).fetchone() or (0,)
                return int(size)

        durability = "ok" if self._durable else NOT_DURABLE
        return Figures(CURRENT, self._readers.persistently(ask), 0, *self.totals(), durability)

    def check(self) -> dict[str, Any]:
        return {**self.figures()._asdict(), "integrity": "ok"}


def channel_of(process_id: str) -> str:
    """Where a process hears that something is asked of its runs."""
    return f"dagengine_{process_id}"[:63]


def upgrade_store(url: str) -> tuple[str, str]:
    """Bring the store's tables up to date; returns the revisions before and after."""
    target = parse(url)
    link = _connect(target)
    try:
        return upgrade(link, target)
    finally:
        link.close()


def _connect(target: Target) -> Link:
    try:
        return connect(target)
    except Unsuitable as error:
        raise StoreUnavailable(f"the store {target.url} can't be used: {error}", store=target.url) from None
