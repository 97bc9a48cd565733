"""One transaction for a group of batches, sent at once; recognised again when its answer is lost.

    all at once    BEGIN · hold the runs, if all are as claimed · the plan of all batches · COMMIT     one round trip
    one by one     if that did not fit: the same with a savepoint around each batch, so that it is known which

A small batch for which nothing has to be waited for is sent off by whoever writes it (`begin`), as the first of these; all
that may follow is the same.

**Marks.** Each transaction writes a number of its own, its mark, into the rows of the runs that it writes to
(`run.batch`), and only if the mark that is there is that of the transaction before it. So there are two answers to a
COMMIT whose answer is lost: our mark is there, and all is recorded; or the one before it is, and the group is sent again,
under a new mark, with which the first one can't take effect any more, should it still be on its way. A mark that is
neither, under the same fencing token, means that the server has lost what it had said was durable (a failover to a
replica that lagged behind): the run is let go of, and whoever resumes it goes on from what is there.

Runs on the store's writer thread, but for `begin`, which is called while that sleeps. May import nothing of ours but errors,
model and modules of storage.
"""

from __future__ import annotations

import itertools
import secrets
import struct
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import psycopg

from dagengine.errors import InternalError, StoreUnavailable
from dagengine.storage.lookup import fenced
from dagengine.storage.plan import OutOfOrder, Plan
from dagengine.storage.postgres_connections import Link, persistently
from dagengine.storage.postgres_errors import translate
from dagengine.storage.postgres_reads import Asking
from dagengine.storage.postgres_url import Target
from dagengine.storage.postgres_wire import BEGIN, COMMIT, Command, Statement, receive, run, send
from dagengine.storage.postgres_writes import Writes
from dagengine.storage.side import write_side
from dagengine.storage.writer import Batch, Finish, Refusal, Refusals
from dagengine.storage.writes import ExpandStep, FinishStep

T = TypeVar("T")

_MISFITS = (
    OutOfOrder,
    psycopg.IntegrityError,
    psycopg.DataError,  # also what the statements raise themselves (postgres_writes.MISCOUNTED)
    struct.error,  # a value of a type that no column takes, or too large for one
    AttributeError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What one batch can be guilty of. All other errors are the server's, and concern the whole transaction."""


def _own(link: Link) -> Link:
    """What is prepared on it is ours alone: the driver drops all prepared statements after a ROLLBACK, also ours.

    And it is planned once: there is one way to find a row by its key, and to look for others each time takes the server
    as long as all the rest of a small transaction.
    """
    link.raw.prepare_threshold = None
    if not link.pooled:
        link.raw.execute(b"SET plan_cache_mode = force_generic_plan")
    return link


class WriteConnection:
    """The connection that writes. After an error of the server it is made anew: its state is not known."""

    def __init__(
        self,
        target: Target,
        on_commit: Callable[[str, int], None] | None,
        first: Link,
        spare: Callable[[], None],
    ) -> None:
        self.target = target
        self._spare = spare
        self.over = threading.Event()
        """Set when nobody can wait any more for a server that is gone."""
        self._on_commit = on_commit
        self._commits = 0
        self._link: Link | None = _own(first)
        self._prepared: set[bytes] = set()
        self._marks = itertools.count(secrets.randbits(62))

    def next_mark(self) -> int:
        """From any thread."""
        return next(self._marks)

    def persistently(self, work: Callable[[], T]) -> T:
        """Do `work`, a whole transaction, until the server has answered it. Raises psycopg.Error if it does not."""
        return persistently(lambda: self._undone_on_error(work), self.target, self.over, self._spare)

    def _undone_on_error(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except psycopg.OperationalError as error:
            if error.sqlstate is None:
                self.close()
            else:
                self._leave()
            raise
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        """Have the transaction undone; of a lost connection, the server does it by itself."""
        link = self._link
        try:
            if link is not None and not link.lost:
                link.roll_back()
                return
        except psycopg.Error:
            pass
        self.close()

    @property
    def link(self) -> Link:
        if self._link is None or self._link.lost:
            self.close()
            self._link = _own(Link(self.target))
        return self._link

    def run(self, commands: list[Command], commit: bool = True) -> None:
        """A whole transaction, or its beginning. Raises psycopg.Error."""
        at_once = commit and self._on_commit is None
        run(self.link, self._prepared, self._whole(commands) if at_once else self._whole(commands)[:-1])
        if commit and not at_once:
            self.commit()

    def _whole(self, commands: list[Command]) -> list[Command]:
        preamble = self.link.preamble
        more: list[Command] = [(Statement("preamble", preamble), [])] if preamble else []
        return [(BEGIN, []), *more, *commands, (COMMIT, [])]

    @property
    def can_send(self) -> bool:
        """Whether a transaction can be sent off without waiting: its connection is there, and nobody is to be told of it."""
        return self._link is not None and not self._link.lost and self._on_commit is None

    def send(self, commands: list[Command]) -> Callable[[], None]:
        """Send a whole transaction off. Returns what waits for its end, and raises what went wrong, also in sending it."""
        link = self.link
        try:
            sent = send(link, self._prepared, self._whole(commands))
        except Exception as error:
            return partial(_raise, error)
        return partial(receive, link, self._prepared, sent)

    def go_on(self, commands: list[Command]) -> None:
        run(self.link, self._prepared, commands)

    def commit(self) -> None:
        if self._on_commit is None:
            self.link.commit()
            return
        self._commits += 1
        self._on_commit("before", self._commits)
        self.link.commit()
        self._on_commit("after", self._commits)

    def close(self) -> None:
        link, self._link = self._link, None
        self._prepared = set()
        if link is not None:
            link.close()


def _raise(error: Exception) -> None:
    raise error


class _Group(NamedTuple):
    """outcomes: for each of its batches, why it is not written; claims: as `Writes.hold` takes them, by run number"""

    outcomes: list[Refusal | None]
    plan: Plan
    claims: dict[int, tuple[int, int, str, int | None]]
    commands: list[Command]


_Begun = tuple[int, Callable[[], None]]
"""A transaction that was sent off: its mark, and what waits for its end."""


class Groups:
    """Commits groups of batches; the `commit` of a GroupWriter."""

    def __init__(self, connection: WriteConnection, writes: Writes, asking: Callable[[Link], Asking]) -> None:
        self._connection = connection
        self._target = connection.target
        self._writes = writes
        self._asking = asking
        self._marks: dict[int, int] = {}
        """run number -> the mark that the last transaction of ours has left there"""
        run = f'"{self._target.schema}".run'
        self._found = f"SELECT number, token, id, batch FROM {run} WHERE number = ANY(%s) ORDER BY number FOR UPDATE"
        self._owner = (
            f'SELECT host, pid, state FROM {run} LEFT JOIN "{self._target.schema}".process ON process.id = run.owner '
            "WHERE run.number = %s"
        )

    def marked(self, run_number: int, mark: int) -> None:
        """The run was begun or claimed in a transaction with this mark."""
        self._marks[run_number] = mark

    def begin(self, batch: Batch, refusals: Refusals) -> Finish | None:
        """Send the batch's transaction off, on any thread while the writer's sleeps; None: it is for `commit`."""
        if not self._connection.can_send:
            return None
        try:
            group = self._together([batch], refusals)
        except _MISFITS:
            return None
        if not group.claims or group.plan.side:
            return None
        mark = self._connection.next_mark()
        begun = mark, self._connection.send(self._held(group, mark))
        return partial(self._commit, [batch], refusals, group, begun)

    def commit(self, batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        return self._commit(batches, refusals)

    def _commit(
        self, batches: list[Batch], refusals: Refusals, group: _Group | None = None, begun: _Begun | None = None
    ) -> list[Refusal | None]:
        try:
            group = group or self._together(batches, refusals)
            if group.claims:
                self._commit_together(group, begun)
            return group.outcomes
        except _MISFITS:
            pass
        except psycopg.Error as error:
            return self._refuse_all(batches, refusals, error)
        try:
            return self._commit_one_by_one(batches, refusals)
        except psycopg.Error as error:
            return self._refuse_all(batches, refusals, error)

    def _together(self, batches: list[Batch], refusals: Refusals) -> _Group:
        outcomes = [refusals.get(batch.key) for batch in batches]
        plan = Plan()
        claims: dict[int, tuple[int, int, str, int | None]] = {}
        for batch, refusal in zip(batches, outcomes, strict=True):
            if refusal is not None:
                continue
            claim = batch.claim
            held = (claim.run_number, claim.token, claim.run_id, self._marks.get(claim.run_number))
            if claims.setdefault(claim.run_number, held) != held:
                raise OutOfOrder  # two claims on one run: not both are its last one
            plan.add(claim.run_number, batch.writes)
        return _Group(outcomes, plan, claims, list(self._writes.of(plan)) if claims else [])

    def _held(self, group: _Group, mark: int) -> list[Command]:
        held_runs = tuple(group.claims[number] for number in sorted(group.claims))
        return [self._writes.hold(held_runs, mark), *group.commands]

    def _commit_together(self, group: _Group, begun: _Begun | None) -> None:
        """begun: the first attempt is on its way already"""
        sent: list[int] = []  # marks of transactions whose answers were lost

        def attempt() -> int:
            nonlocal begun
            first, begun = begun, None
            if sent and self._is_recorded(group.claims, sent):
                return sent[-1]
            mark = self._connection.next_mark() if first is None else first[0]
            try:
                if first is not None:
                    first[1]()
                else:
                    self._connection.run(self._held(group, mark), commit=not group.plan.side)
                if group.plan.side:
                    write_side(group.plan.side, self._asking(self._connection.link))
                    self._connection.commit()
            except _MISFITS:
                raise
            except psycopg.Error:
                sent.append(mark)
                raise
            return mark

        mark = self._connection.persistently(attempt)
        self._note(group.claims, mark, group.plan)

    def _is_recorded(self, claims: dict[int, Any], sent: list[int]) -> bool:
        """Whether the last transaction took effect. Waits for it if it is still under way: it holds the rows."""
        link = self._connection.link
        link.begin()
        rows = link.raw.execute(self._found.encode(), [list(claims)]).fetchall()
        link.commit()
        return any(batch in sent for _, _, _, batch in rows)

    def _note(self, runs: Any, mark: int, plan: Plan) -> None:
        for number in runs:
            self._marks[number] = mark
        for number in plan.finished_runs:
            self._marks.pop(number, None)

    def _commit_one_by_one(self, batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        """All or nothing for each batch. A transaction whose answer was lost is looked for by its mark, as above."""
        found: dict[int, Refusal] = {}
        sent: list[int] = []
        before = dict(refusals)

        def attempt() -> list[Refusal | None]:
            link = self._connection.link
            link.begin()
            numbers = sorted({batch.claim.run_number for batch in batches})
            rows = {row[0]: row for row in link.raw.execute(self._found.encode(), [numbers]).fetchall()}
            if any(row[3] in sent for row in rows.values()):
                link.commit()
                return [found.get(index) for index in range(len(batches))]
            found.clear()
            refused = dict(before)
            mark = self._connection.next_mark()
            written = set()
            for index, batch in enumerate(batches):
                refusal = refused.get(batch.key) or self._unfit(link, batch, rows.get(batch.claim.run_number))
                if refusal is None:
                    refusal = self._apply_alone(batch)
                if refusal is not None:
                    found[index] = refused[batch.key] = refusal
                else:
                    written.add(batch.claim.run_number)
            if written:
                claims = [(number, rows[number][1], rows[number][2], None) for number in sorted(written)]
                self._connection.go_on([self._writes.hold(claims, mark)])
            try:
                self._connection.commit()
            except psycopg.Error:
                sent.append(mark)
                raise
            for number in written:
                self._marks[number] = mark
            return [found.get(index) for index in range(len(batches))]

        outcomes = self._connection.persistently(attempt)
        for batch, outcome in zip(batches, outcomes, strict=True):
            if outcome is not None:
                refusals[batch.key] = outcome
        return outcomes

    def _unfit(self, link: Link, batch: Batch, row: tuple[Any, ...] | None) -> Refusal | None:
        """Why the batch may not be written, if its claim is not the run's last one, or the record is not what it was."""
        claim, url = batch.claim, self._target.url
        if row is None or (row[1], row[2]) != (claim.token, claim.run_id):
            owner = link.raw.execute(self._owner.encode(), [claim.run_number]).fetchone()
            return fenced(claim.run_id, url, *(owner or ()))
        if row[3] != self._marks.get(claim.run_number, row[3]):
            return StoreUnavailable(
                f"the store {url} has lost what was recorded of run {claim.run_id} (a failover to a server that lagged "
                "behind?): resume the run, it goes on from what is there",
                store=url,
            )
        return None

    def _apply_alone(self, batch: Batch) -> InternalError | None:
        """Apply the batch write by write, or not at all."""
        self._connection.go_on([(_SAVEPOINT, [])])
        for write in batch.writes:
            try:
                plan = Plan()
                plan.add(batch.claim.run_number, [write])
                commands = list(self._writes.of(plan))
                if commands:
                    self._connection.go_on(commands)
                write_side(plan.side, self._asking(self._connection.link))
            except _MISFITS as error:
                self._connection.go_on([(_ROLLBACK, []), (_RELEASE, [])])
                what = type(write).__name__ + (
                    f" of step {write.seq}" if isinstance(write, (FinishStep, ExpandStep)) else ""
                )
                return InternalError(f"run {batch.claim.run_id} refuses a {what}: {_why(error)}")
        self._connection.go_on([(_RELEASE, [])])
        return None

    def _refuse_all(self, batches: list[Batch], refusals: Refusals, error: psycopg.Error) -> list[Refusal | None]:
        """The server did not come back in time. Whether the group is recorded is not known, so nothing may follow
        under these claims; who claims the runs anew reads what there is."""
        told = translate(error, self._target)
        for batch in batches:
            refusals.setdefault(batch.key, told)
            self._marks.pop(batch.claim.run_number, None)
        return [refusals[batch.key] for batch in batches]


_SAVEPOINT = Statement("savepoint", "SAVEPOINT batch")
_ROLLBACK = Statement("rollback_to", "ROLLBACK TO SAVEPOINT batch")
_RELEASE = Statement("release", "RELEASE SAVEPOINT batch")


def _why(error: BaseException) -> str:
    if isinstance(error, psycopg.errors.DivisionByZero):
        return "it changes steps that are not as it says; what is recorded is never replaced"
    return " ".join(str(error).split())[:200]
