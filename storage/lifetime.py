"""The end of runs in SQL: removed whole, or only their values; and which artifacts are still referred to.

A run is gone when its row is: one short transaction, which notes its number among the `removed`. What else there is of it
can't be reached any more, and is cleared away in bounded transactions, now or by the next `gc`, should this process be
killed. Numbers are never given twice, so nothing of it can come to belong to another run.

Values expire by a note, too: from then on nothing of the run keeps an artifact, and small values are cleared away.
Nobody counts references: what a row names is looked up by its digest, in partial indexes of rows that name artifacts.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.base import Executable

from dagengine.model import PayloadInput, ProcessRecord, RunRecord, RunState
from dagengine.storage import lifetime_notes as notes
from dagengine.storage.interface import EndedRun
from dagengine.storage.lookup import no_run, run_changed, run_owned
from dagengine.storage.rows import inputs_of
from dagengine.storage.schema import (
    ATTEMPT,
    DEFINITION,
    EDGE,
    EVENT,
    PROCESS,
    RUN,
    STATE_VERSION,
    STEP,
    UNSAVED_CALL,
)
from dagengine.storage.side_schema import EXPIRED, PIN
from dagengine.storage.statements import Query

T = TypeVar("T")

SEQS = 5_000
"""Steps whose rows are cleared away in one transaction: some tens of milliseconds, for which others wait."""

ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH, RunState.INTERRUPTED)
"""States of runs that may go. Paused ones wait for a person."""

PROCESSES = 1_000
"""Rows of processes that are looked at in one pass."""

_run = bindparam("run", type_=Integer)
_first, _last = bindparam("first", type_=Integer), bindparam("last", type_=Integer)
_digest = bindparam("digest", type_=LargeBinary)


_PINNED = select(PIN.c.run)
_SEEN = (RUN.c.number == _run, RUN.c.token == bindparam("token"), RUN.c.state == bindparam("state"))
"""It was not claimed since it was seen."""


def _delete_run() -> Executable:
    return delete(RUN).where(*_SEEN)


def _delete_run_unless_pinned() -> Executable:
    return delete(RUN).where(*_SEEN, RUN.c.number.not_in(_PINNED))


def _hold_run() -> Executable:
    """Nobody claims it until the transaction is done."""
    return select(RUN.c.number).where(*_SEEN, RUN.c.number.not_in(_PINNED)).with_for_update()


def _ended_runs() -> Executable:
    states: list[Any] = [literal_column(f"'{state}'") for state in ENDED]
    columns = (RUN.c.number, RUN.c.id, RUN.c.state, RUN.c.token, RUN.c.created_at, RUN.c.finished_at, RUN.c.next_seq)
    found = select(*columns).where(RUN.c.number > bindparam("after", type_=Integer), RUN.c.state.in_(states))
    found = found.where(RUN.c.created_at < bindparam("before", type_=Float), RUN.c.number.not_in(_PINNED))
    return found.order_by(RUN.c.number).limit(bindparam("limit", type_=Integer))


def _artifacts_of_steps() -> Executable:
    found = select(STEP.c.value_digest, STEP.c.value_size).where(STEP.c.run == _run, _between(STEP.c.seq))
    return found.where(STEP.c.value.is_(None), func.length(STEP.c.value_digest) == literal_column("32"))


def _artifacts_of_calls() -> Executable:
    return select(EDGE.c.digest, EDGE.c.size).where(
        EDGE.c.run == _run, _between(EDGE.c.child), EDGE.c.digest.is_not(None)
    )


def _first_seq() -> Executable:
    return select(func.min(STEP.c.seq)).where(STEP.c.run == _run)


def _between(column: ColumnElement[int]) -> ColumnElement[bool]:
    return column.between(_first, _last)


_DELETE_BETWEEN = tuple(
    Query(lambda table=table, seq=seq: delete(table).where(table.c.run == _run, _between(table.c[seq])))  # type: ignore[misc]
    for table, seq in ((EDGE, "child"), (ATTEMPT, "seq"), (STEP, "seq"))
)


def _delete_events() -> Executable:
    some = select(EVENT.c.number).where(EVENT.c.run == _run).limit(bindparam("limit"))
    return delete(EVENT).where(EVENT.c.number.in_(some.scalar_subquery()))


_DELETE_OF_RUN = tuple(
    Query(lambda table=table: delete(table).where(table.c.run == _run))  # type: ignore[misc]
    for table in (DEFINITION, STATE_VERSION, UNSAVED_CALL)
)


def _clear_values() -> Executable:
    of = and_(STEP.c.run == _run, _between(STEP.c.seq), STEP.c.value.is_not(None))
    return update(STEP).where(of).values(value=null())


def _bounds() -> Executable:
    return select(RUN.c.next_seq).where(RUN.c.number == _run)


def _is_referenced() -> Executable:
    """Whether a row names the artifact `digest`, of a run whose values have not expired."""
    expired = select(EXPIRED.c.run)
    step = exists().where(
        STEP.c.value_digest == _digest,
        STEP.c.value.is_(None),
        func.length(STEP.c.value_digest) == literal_column("32"),
        STEP.c.run.not_in(expired),
    )
    edge = exists().where(EDGE.c.digest == _digest, EDGE.c.digest.is_not(None), EDGE.c.run.not_in(expired))
    state = exists().where(STATE_VERSION.c.digest == _digest, STATE_VERSION.c.run.not_in(expired))
    return select(or_(step, edge, state))


def _payloads_of_runs() -> Executable:
    has = or_(RUN.c.inputs != literal_column("'[]'"), RUN.c.result_inputs.like(literal_column("'%\"%'")))
    return select(RUN.c.inputs, RUN.c.result_inputs).where(has, RUN.c.number.not_in(select(EXPIRED.c.run)))


_DELETE_RUN = Query(_delete_run)
_DELETE_RUN_UNLESS_PINNED = Query(_delete_run_unless_pinned)
_HOLD_RUN = Query(_hold_run)
_ENDED_RUNS = Query(_ended_runs)
_ARTIFACTS_OF = (Query(_artifacts_of_steps), Query(_artifacts_of_calls))
_ARTIFACTS_OF_STATES = Query(
    lambda: select(STATE_VERSION.c.digest, STATE_VERSION.c.size).where(
        STATE_VERSION.c.run == _run, STATE_VERSION.c.value.is_(None)
    )
)
_FIRST_SEQ = Query(_first_seq)
_DELETE_EVENTS = Query(_delete_events)
_CLEAR_VALUES = Query(_clear_values)
_BOUNDS = Query(_bounds)
_IS_REFERENCED = Query(_is_referenced)
_PAYLOADS_OF_RUNS = Query(_payloads_of_runs)
_FACTS = Query(
    lambda: (
        select(RUN.c.number, RUN.c.facts)
        .where(RUN.c.number > bindparam("after", type_=Integer))
        .order_by(RUN.c.number)
        .limit(bindparam("limit", type_=Integer))
    )
)


_OWNERS = select(RUN.c.owner).where(RUN.c.state == literal_column("'running'"), RUN.c.owner.is_not(None))
_OWNS_NOTHING = and_(
    PROCESS.c.id.not_in(_OWNERS),
    or_(PROCESS.c.expires_at.is_(None), PROCESS.c.expires_at < bindparam("at", type_=Float)),
)
_IDLE_PROCESSES = Query(lambda: select(PROCESS).where(_OWNS_NOTHING).limit(bindparam("limit", type_=Integer)))
_FORGET_PROCESS = Query(lambda: delete(PROCESS).where(PROCESS.c.id == bindparam("id"), _OWNS_NOTHING))


class SqlLifetime:
    """What a store in SQL does of the interface's section on lifetime."""

    url: str

    def side(self, work: Callable[[Any], T], write: bool = True) -> T:
        raise NotImplementedError

    def find_run(self, prefix: str) -> RunRecord:
        raise NotImplementedError

    def remove_run(
        self, run_id: str, alive: Callable[[ProcessRecord], bool], at: float, seen: EndedRun | None = None
    ) -> None:
        while True:
            run = self.find_run(run_id)
            if run.id != run_id:
                raise no_run(run_id, self.url)
            if seen is not None and (run.number, run.token, run.state) != (seen.number, seen.token, seen.state):
                raise run_changed(run_id)
            if run.owner is not None and run.state is RunState.RUNNING and alive(run.owner) and not run.lease_expired:
                raise run_owned(run_id, run.owner)

            def remove(connection: Any, run: RunRecord = run) -> bool:
                if notes.REMOVED_ID(connection, id=run.id).fetchone() is not None:
                    return True  # the answer to the first try was lost
                given = {"run": run.number, "token": run.token, "state": str(run.state)}
                if (_DELETE_RUN if seen is None else _DELETE_RUN_UNLESS_PINNED)(connection, **given).rowcount != 1:
                    if seen is not None:
                        raise run_changed(run_id)
                    return False
                notes.NOTE_REMOVED(connection, run=run.number, id=run.id, at=at)
                return True

            if self.side(remove):
                return

    def clear_removed(self) -> bool:
        def clear(connection: Any) -> bool:
            found = notes.NEXT_REMOVED(connection).fetchone()
            if found is None:
                return False
            (run,) = found
            (first,) = _FIRST_SEQ(connection, run=run).fetchone()
            if first is not None:
                for query in _DELETE_BETWEEN:
                    query(connection, run=run, first=first, last=first + SEQS - 1)
            elif _DELETE_EVENTS(connection, run=run, limit=SEQS).rowcount == 0:
                for query in (*_DELETE_OF_RUN, *notes.DELETE_OF_RUN):
                    query(connection, run=run)
                notes.FORGET_REMOVED(connection, run=run)
            return True

        return self.side(clear)

    def expire_values(self, run: EndedRun, at: float) -> bool:
        def expire(connection: Any) -> bool:
            if _HOLD_RUN(connection, run=run.number, token=run.token, state=str(run.state)).fetchone() is None:
                return False
            notes.NOTE_EXPIRED(connection, run=run.number, at=at, cleared=0)
            return True

        return self.side(expire)

    def ended_runs(self, before: float, after: int, limit: int) -> list[EndedRun]:
        def ask(connection: Any) -> list[Any]:
            return list(_ENDED_RUNS(connection, before=before, after=after, limit=limit).fetchall())

        rows = self.side(ask, write=False)
        return [EndedRun(number, run_id, RunState(state), *rest) for number, run_id, state, *rest in rows]

    def artifacts_of(self, run_number: int) -> Iterator[tuple[str, int]]:
        (steps,) = self.side(lambda connection: _BOUNDS(connection, run=run_number).fetchone(), write=False) or (0,)
        pages = [
            (query, {"first": at, "last": at + SEQS - 1}) for query in _ARTIFACTS_OF for at in range(0, steps, SEQS)
        ]
        for query, given in [*pages, (_ARTIFACTS_OF_STATES, {})]:

            def ask(connection: Any, query: Query = query, given: dict[str, int] = given) -> list[Any]:
                return list(query(connection, run=run_number, **given).fetchall())

            yield from ((digest.hex(), size) for digest, size in self.side(ask, write=False))

    def clear_expired(self) -> bool:
        run = notes.next_expired(self)
        if run is None:
            return False
        (steps,) = self.side(lambda connection: _BOUNDS(connection, run=run).fetchone(), write=False) or (0,)
        for first in range(0, steps, SEQS):
            given = {"run": run, "first": first, "last": first + SEQS - 1}
            self.side(lambda connection, given=given: _CLEAR_VALUES(connection, **given) and None)  # type: ignore[misc]
        notes.note_cleared(self, run)
        return True

    def expired_runs(self) -> dict[int, float]:
        return notes.expired_runs(self)

    def referenced(self, digests: Iterable[str]) -> set[str]:
        def ask(connection: Any) -> set[str]:
            return {
                digest for digest in digests if _IS_REFERENCED(connection, digest=bytes.fromhex(digest)).fetchone()[0]
            }

        return self.side(ask, write=False)

    def payloads(self) -> set[str]:
        def ask(connection: Any) -> set[str]:
            return {
                part.digest
                for row in _PAYLOADS_OF_RUNS(connection)
                for text in row
                for part in inputs_of(text)
                if isinstance(part, PayloadInput)
            }

        return self.side(ask, write=False) | notes.payloads_of_side_tables(self)

    def forget_processes(self, alive: Callable[[ProcessRecord], bool], at: float) -> int:
        def idle(connection: Any) -> list[Any]:
            return list(_IDLE_PROCESSES(connection, at=at, limit=PROCESSES).fetchall())

        found = self.side(idle, write=False)
        gone = [row[0] for row in found if row[-1] is not None or not alive(ProcessRecord(*row[:-1]))]

        def forget(connection: Any) -> int:
            # Asked again: one of them may have claimed a run since it was looked at, whose owner it is then.
            return sum(_FORGET_PROCESS(connection, id=process, at=at).rowcount for process in gone)

        return self.side(forget) if gone else 0

    def codes(self, after: int = 0) -> tuple[set[str], int]:
        found: set[str] = set()
        while True:
            rows = self.side(
                lambda connection, after=after: _FACTS(connection, after=after, limit=SEQS).fetchall(),  # type: ignore[misc]
                write=False,
            )
            if not rows:
                return found, after
            found.update(code for _, facts in rows if (code := json.loads(facts).get("code")))
            after = rows[-1][0]
