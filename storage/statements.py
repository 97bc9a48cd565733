"""What is asked of the tables: selects as SQLAlchemy expressions, compiled once, run by the driver.

Compiled at first use, so that a process pays only for what it asks. A `Query` is called with a driver's connection and
its parameters by name, and returns a driver's cursor: SQLAlchemy's own execution costs more than most of these
statements. Another database than SQLite compiles them in its own dialect: its connections have a method `ask`.

Literals stand where a partial index has to match (`state = 'waiting'`); everything that comes from a caller is a bound
parameter. May import nothing of ours but model and the schemas.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, Protocol

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from dagengine.model import SHORT_RESULT, StepKind, StepState
from dagengine.storage.schema import ATTEMPT, DEFINITION, EDGE, EVENT, PROCESS, RUN, STATE_VERSION, STEP, UNSAVED_CALL


class _Compiler(SQLiteCompiler):
    """SQLite's compiler, which leaves out hints, with hints."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        return text


_DIALECT = sqlite.dialect(paramstyle="qmark")
_DIALECT.statement_compiler = _Compiler

# The planner knows nothing of how many rows there are. It prefers the primary key, whose rows are at hand, to a partial
# index, and so would pass all that is done in order to find what is left. These make it an error not to use the index;
# and where steps are joined to others, outer joins fix the order of the loops.
BY_WAITING = (STEP, "INDEXED BY step_waiting", "sqlite")
BY_UNSUCCESSFUL = (STEP, "INDEXED BY step_unsuccessful", "sqlite")
_BY_OPEN = (ATTEMPT, "INDEXED BY attempt_open", "sqlite")


class Cursor(Protocol):
    """What every driver's cursor can do."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Any: ...


class Asked(Protocol):
    """A connection that compiles the questions itself."""

    def ask(self, query: Query, given: dict[str, Any]) -> Cursor: ...


class Query:
    """A statement that is built and compiled at its first use."""

    def __init__(self, build: Callable[[], Executable]) -> None:
        self.build = build

    @cached_property
    def compiled(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """For SQLite: the SQL, the names of its parameters in their order, and the constants that SQLAlchemy adds."""
        return compile_query(self, _DIALECT)

    def __call__(self, connection: sqlite3.Connection | Asked, **given: Any) -> Cursor:
        if not isinstance(connection, sqlite3.Connection):
            return connection.ask(self, given)
        sql, names, constants = self.compiled
        if constants:
            given |= constants
        return connection.execute(sql, [given[name] for name in names])


def compile_query(query: Query, dialect: Any, **options: Any) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    compiled: Any = query.build().compile(dialect=dialect, **options)  # type: ignore[attr-defined]
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), tuple(compiled.positiontup or ()), constants


def _query(build: Callable[[], Executable]) -> Query:
    return Query(build)


def _is(column: ColumnElement[str], *states: StepState) -> ColumnElement[bool]:
    """`column` is one of `states`, as literals: only so does the planner see that a partial index fits."""
    literals: list[ColumnElement[str]] = [literal_column(f"'{StepState(state).value}'") for state in states]
    return column == literals[0] if len(literals) == 1 else column.in_(literals)


WAITING = _is(STEP.c.state, StepState.WAITING)
_UNSUCCESSFUL_STATES = (StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED)
UNSUCCESSFUL = _is(STEP.c.state, *_UNSUCCESSFUL_STATES)
_this_run = bindparam("run", type_=Integer)


LISTS = frozenset({"seqs", "definitions", "ids", "runs"})
"""The parameters that are lists of numbers, or of texts: JSON arrays."""


class _IsListed(FunctionElement[bool]):
    """A column's value is in a list that is given as one parameter, of any length: a JSON array, or what the database has."""

    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        """As it is. Where a dialect has no booleans, others are compared with 1, and SQLite then finds no index for it."""
        return self


@compiles(_IsListed)
def _is_listed_anywhere(element: _IsListed, compiler: SQLCompiler, **options: Any) -> str:
    column, given = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({given}) AS listed)"  # noqa: S608


@compiles(_IsListed, "postgresql")
def _is_listed_postgresql(element: _IsListed, compiler: SQLCompiler, **options: Any) -> str:
    column, given = element.clauses
    listed = "text[]" if isinstance(column.type, String) else "integer[]"
    return f"{compiler.process(column, **options)} = ANY (CAST({compiler.process(given, **options)} AS {listed}))"


def is_listed(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    return _IsListed(column, bindparam(name))


class _Now(FunctionElement[float]):
    """The database's clock, where processes of several machines go by it."""

    type = Float()
    inherit_cache = True


@compiles(_Now)
def _now_anywhere(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    return "0.0"  # leases are PostgreSQL's


@compiles(_Now, "postgresql")
def _now_postgresql(element: _Now, compiler: SQLCompiler, **options: Any) -> str:
    return "extract(epoch FROM clock_timestamp())::double precision"


# ---- runs -----------------------------------------------------------------------------------

RUN_COLUMNS = (
    *(RUN.c.number, RUN.c.id, RUN.c.workflow, RUN.c.state, RUN.c.token, RUN.c.next_seq, RUN.c.body_closed),
    *(RUN.c.created_at, RUN.c.started_at, RUN.c.finished_at, RUN.c.cancel_requested_at),
    *(RUN.c.entry, RUN.c.facts, RUN.c.inputs, RUN.c.result_inputs),
    *(RUN.c.failure, RUN.c.failure_pickled, RUN.c.call, RUN.c.result_call),
    *(PROCESS.c.id, PROCESS.c.host, PROCESS.c.boot_id, PROCESS.c.pid, PROCESS.c.start_time, PROCESS.c.started_at),
    (PROCESS.c.expires_at < _Now()).label("expired"),
)


def _runs() -> Select[*tuple[Any, ...]]:
    return select(*RUN_COLUMNS).select_from(RUN.outerjoin(PROCESS, PROCESS.c.id == RUN.c.owner))


@_query
def run_by_id() -> Executable:
    """`id`: the whole id."""
    return _runs().where(RUN.c.id == bindparam("id"))


@_query
def runs_by_ids() -> Executable:
    """`ids`: whole ids."""
    return _runs().where(is_listed(RUN.c.id, "ids"))


@_query
def runs_by_prefix() -> Executable:
    """Ids from `low` to before `high`, at most `limit`."""
    found = _runs().where(RUN.c.id >= bindparam("low"), RUN.c.id < bindparam("high"))
    return found.order_by(RUN.c.id).limit(bindparam("limit"))


@cache
def runs_listed(by_state: bool, by_name: bool, by_tags: tuple[bool, ...] = ()) -> Query:
    """Runs created since `since` and before `before`, newest first, at most `limit`; of one `state` and one `name`, if asked for.

    by_tags: of each tag that they have to have, whether with a text: `tag_0` and `text_0` are the first one's.
    """
    from dagengine.storage.side_schema import TAG

    def build() -> Executable:
        found = _runs().where(RUN.c.created_at >= bindparam("since"), RUN.c.created_at < bindparam("before"))
        if by_state:
            found = found.where(RUN.c.state == bindparam("state"))
        if by_name:
            found = found.where(RUN.c.workflow == bindparam("name"))
        for number, with_text in enumerate(by_tags):
            has = select(TAG.c.run).where(TAG.c.name == bindparam(f"tag_{number}"))
            # A list of its own, from the tags' index: few runs may have it among very many.
            found = found.where(
                RUN.c.number.in_(has.where(TAG.c.value == bindparam(f"text_{number}")) if with_text else has)
            )
        return found.order_by(RUN.c.created_at.desc(), RUN.c.number.desc()).limit(bindparam("limit"))

    return Query(build)


@_query
def standings() -> Executable:
    """Of the runs `ids`: what `Standing` has."""
    returned = case((func.length(RUN.c.result_call) <= SHORT_RESULT, RUN.c.result_call))
    owner = (PROCESS.c.id, PROCESS.c.host, PROCESS.c.boot_id, PROCESS.c.pid, PROCESS.c.start_time, PROCESS.c.started_at)
    found = select(RUN.c.id, RUN.c.state, returned, *owner, (PROCESS.c.expires_at < _Now()).label("expired"))
    return found.select_from(RUN.outerjoin(PROCESS, PROCESS.c.id == RUN.c.owner)).where(is_listed(RUN.c.id, "ids"))


# ---- what is left of a run ------------------------------------------------------------------


@_query
def next_seq() -> Executable:
    return select(RUN.c.next_seq).where(RUN.c.number == _this_run)


@_query
def waiting_steps() -> Executable:
    columns = (STEP.c.seq, STEP.c.key, STEP.c.kind, STEP.c.definition, STEP.c.call, STEP.c.attempts)
    found = select(*columns, STEP.c.items_first, STEP.c.items_count).with_hint(*BY_WAITING)
    return found.where(STEP.c.run == _this_run, WAITING).order_by(STEP.c.seq)


@_query
def waiting_edges() -> Executable:
    """The inputs of waiting steps, with the states of the steps that they read; a row of nulls for each without any."""
    parent = STEP.alias("parent")
    read = and_(EDGE.c.run == STEP.c.run, EDGE.c.child == STEP.c.seq)
    is_read = and_(parent.c.run == EDGE.c.run, parent.c.seq == EDGE.c.parent)
    found = select(EDGE.c.child, EDGE.c.parent, EDGE.c.digest, EDGE.c.size, parent.c.state)
    found = found.select_from(STEP.outerjoin(EDGE, read).outerjoin(parent, is_read)).with_hint(*BY_WAITING)
    return found.where(STEP.c.run == _this_run, WAITING).order_by(STEP.c.seq, EDGE.c.position)


@_query
def waiting_attempts() -> Executable:
    """Of each waiting step: how many attempts have ended, and the greatest number of one, if there is any."""
    tried = and_(ATTEMPT.c.run == STEP.c.run, ATTEMPT.c.seq == STEP.c.seq)
    found = select(STEP.c.seq, func.count(ATTEMPT.c.outcome), func.max(ATTEMPT.c.number))
    found = found.select_from(STEP.outerjoin(ATTEMPT, tried)).with_hint(*BY_WAITING)
    return found.where(STEP.c.run == _this_run, WAITING).group_by(STEP.c.seq)


@_query
def unhandled_failures() -> Executable:
    columns = (STEP.c.seq, STEP.c.key, STEP.c.failure, STEP.c.failure_pickled)
    found = select(*columns).with_hint(*BY_UNSUCCESSFUL)
    failed = STEP.c.state == literal_column("'failed'")
    found = found.where(STEP.c.run == _this_run, UNSUCCESSFUL, failed, STEP.c.handled == literal_column("false"))
    return found.order_by(STEP.c.finish_order)


@_query
def ended_between() -> Executable:
    """The ended steps `first` … `last`, with their states."""
    found = select(STEP.c.seq, STEP.c.state).where(STEP.c.run == _this_run)
    found = found.where(STEP.c.seq.between(bindparam("first"), bindparam("last")))
    return found.where(STEP.c.state != literal_column("'waiting'"))


def _unrecorded() -> Select[*tuple[Any, ...]]:
    """Steps of the given `definitions` that succeeded, and whose value has no digest: no bytes are recorded."""
    columns = (STEP.c.seq, STEP.c.key, STEP.c.kind, STEP.c.definition, STEP.c.call, STEP.c.attempts)
    found = select(*columns, STEP.c.items_first, STEP.c.items_count).where(STEP.c.run == _this_run)
    found = found.where(STEP.c.state == literal_column("'succeeded'"), STEP.c.value_digest == b"")
    return found.where(is_listed(STEP.c.definition, "definitions")).order_by(STEP.c.seq)


@_query
def unrecorded() -> Executable:
    return _unrecorded()


@_query
def unrecorded_among() -> Executable:
    """Of the steps `seqs`."""
    return _unrecorded().where(is_listed(STEP.c.seq, "seqs"))


@_query
def greatest_attempts() -> Executable:
    """Of the steps `seqs` that were attempted: the greatest number of an attempt."""
    found = select(ATTEMPT.c.seq, func.max(ATTEMPT.c.number)).where(ATTEMPT.c.run == _this_run)
    return found.where(is_listed(ATTEMPT.c.seq, "seqs")).group_by(ATTEMPT.c.seq)


@_query
def returned() -> Executable:
    """Whether the run's body has returned, and what it returned of steps."""
    return select(RUN.c.body_closed, RUN.c.result_inputs).where(RUN.c.number == _this_run)


# ---- steps by number ------------------------------------------------------------------------


@_query
def values() -> Executable:
    columns = (STEP.c.seq, STEP.c.value_digest, STEP.c.value_size, STEP.c.value, STEP.c.items_first, STEP.c.items_count)
    found = select(*columns).where(STEP.c.run == _this_run, is_listed(STEP.c.seq, "seqs"))
    return found.where(STEP.c.state == literal_column("'succeeded'"))


@_query
def failures() -> Executable:
    columns = (STEP.c.seq, STEP.c.state, STEP.c.failure, STEP.c.failure_pickled)
    found = select(*columns).where(STEP.c.run == _this_run, is_listed(STEP.c.seq, "seqs"))
    return found.where(STEP.c.failure.is_not(None))


@_query
def finish_order() -> Executable:
    found = select(STEP.c.seq, STEP.c.finish_order).where(STEP.c.run == _this_run, is_listed(STEP.c.seq, "seqs"))
    return found.where(STEP.c.finish_order.is_not(None))


@_query
def recorded_calls() -> Executable:
    """A page: at most `limit` steps from `first` on."""
    columns = (STEP.c.seq, STEP.c.key, STEP.c.kind, STEP.c.definition, STEP.c.call, STEP.c.state, STEP.c.handled)
    found = select(*columns).where(STEP.c.run == _this_run, STEP.c.seq >= bindparam("first"))
    return found.order_by(STEP.c.seq).limit(bindparam("limit"))


@_query
def state_of() -> Executable:
    """The state of `instance` that was saved last."""
    table = STATE_VERSION.c
    found = select(table.after, table.digest, table.size, table.value)
    return found.where(table.run == _this_run, table.instance == bindparam("instance"))


@_query
def calls_to_rebuild() -> Executable:
    """The creation of `instance`, and the calls that changed its state since it was saved, in the order of their ends."""
    unsaved = select(UNSAVED_CALL.c.seq)
    unsaved = unsaved.where(UNSAVED_CALL.c.run == _this_run, UNSAVED_CALL.c.instance == bindparam("instance"))
    columns = (STEP.c.seq, STEP.c.key, STEP.c.kind, STEP.c.definition, STEP.c.call, STEP.c.state, STEP.c.handled)
    found = select(*columns).where(STEP.c.run == _this_run)
    found = found.where(or_(STEP.c.seq == bindparam("instance"), STEP.c.seq.in_(unsaved)))
    return found.order_by(STEP.c.seq != bindparam("instance"), STEP.c.finish_order, STEP.c.seq)


@_query
def edges_of() -> Executable:
    """The inputs of the steps `seqs`."""
    found = select(EDGE.c.child, EDGE.c.parent, EDGE.c.digest, EDGE.c.size).where(EDGE.c.run == _this_run)
    return found.where(is_listed(EDGE.c.child, "seqs")).order_by(EDGE.c.child, EDGE.c.position)


@_query
def edges_between() -> Executable:
    """The inputs of the steps `first` … `last`."""
    found = select(EDGE.c.child, EDGE.c.parent, EDGE.c.digest, EDGE.c.size).where(EDGE.c.run == _this_run)
    found = found.where(EDGE.c.child.between(bindparam("first"), bindparam("last")))
    return found.order_by(EDGE.c.child, EDGE.c.position)


# ---- for people -----------------------------------------------------------------------------


@cache
def steps_listed(by_key: bool, by_seq: bool, states: Sequence[StepState]) -> Query:
    """Steps with the names of their functions, in the order of seq, at most `limit` `after` one. `states`: a tuple."""

    def build() -> Executable:
        columns = (
            *(STEP.c.seq, STEP.c.key, STEP.c.kind, DEFINITION.c.name, STEP.c.definition, STEP.c.state, STEP.c.attempts),
            *(STEP.c.failure, STEP.c.value_digest, STEP.c.value_size, STEP.c.created_at, STEP.c.finished_at),
        )
        of = and_(DEFINITION.c.run == STEP.c.run, DEFINITION.c.number == STEP.c.definition)
        found = select(*columns).select_from(STEP.outerjoin(DEFINITION, of))
        # A sum is nothing that a planner could go along: steps that are asked for by number are looked up one by one.
        seq = STEP.c.seq + literal_column("0") if by_seq else STEP.c.seq
        found = found.where(STEP.c.run == _this_run, seq > bindparam("after", type_=Integer))
        if by_key:
            found = found.where(STEP.c.key == bindparam("key"))
        if by_seq:
            found = found.where(is_listed(STEP.c.seq, "seqs"))
        if states:
            found = found.where(_is(STEP.c.state, *states))
        if states and set(states) <= set(_UNSUCCESSFUL_STATES):
            # Implied, but the planner has to see the index's own condition.
            found = found.where(UNSUCCESSFUL).with_hint(*BY_UNSUCCESSFUL)
        return found.order_by(STEP.c.seq).limit(bindparam("limit"))

    return Query(build)


@_query
def step_counts() -> Executable:
    counted = (
        select(STEP.c.definition, STEP.c.state, func.count().label("steps"))
        .where(STEP.c.run == _this_run)
        .group_by(STEP.c.definition, STEP.c.state)
        .subquery()
    )
    of = and_(DEFINITION.c.run == _this_run, DEFINITION.c.number == counted.c.definition)
    found = select(DEFINITION.c.name, counted.c.state, cast(func.sum(counted.c.steps), BigInteger))
    return found.select_from(counted.outerjoin(DEFINITION, of)).group_by(DEFINITION.c.name, counted.c.state)


@_query
def steps_done() -> Executable:
    """Of the runs `runs`: the steps that have succeeded, and all."""
    succeeded = func.sum(case((_is(STEP.c.state, StepState.SUCCEEDED), 1), else_=0))
    found = select(STEP.c.run, cast(succeeded, BigInteger), func.count())
    return found.where(is_listed(STEP.c.run, "runs")).group_by(STEP.c.run)


@_query
def outside_steps() -> Executable:
    """Of each of the runs `runs` the first `limit` unfinished steps that the world ends."""
    kinds: list[ColumnElement[str]] = [literal_column(f"'{kind.value}'") for kind in StepKind if kind.is_outside]
    place = func.row_number().over(partition_by=STEP.c.run, order_by=STEP.c.seq)
    found = select(STEP.c.run, STEP.c.seq, STEP.c.key, STEP.c.kind, place.label("place")).with_hint(*BY_WAITING)
    some = found.where(is_listed(STEP.c.run, "runs"), WAITING, STEP.c.kind.in_(kinds)).subquery()
    first = select(some.c.run, some.c.key, some.c.kind).where(some.c.place <= bindparam("limit"))
    return first.order_by(some.c.run, some.c.seq)


@cache
def attempts_listed(by_step: bool, open_only: bool) -> Query:
    """Attempts in the order of (seq, number); of step `seq`, and those without an outcome, if asked for."""

    def build() -> Executable:
        columns = [column for column in ATTEMPT.c if column is not ATTEMPT.c.run]
        found = select(*columns).where(ATTEMPT.c.run == _this_run)
        if by_step:
            found = found.where(ATTEMPT.c.seq == bindparam("seq"))
        if open_only:
            found = found.where(ATTEMPT.c.outcome.is_(None)).with_hint(*_BY_OPEN)
        return found.order_by(ATTEMPT.c.seq, ATTEMPT.c.number)

    return Query(build)


@_query
def definitions() -> Executable:
    columns = (
        *(DEFINITION.c.number, DEFINITION.c.name, DEFINITION.c.reference, DEFINITION.c.options),
        DEFINITION.c.fingerprint,
    )
    return select(*columns).where(DEFINITION.c.run == _this_run).order_by(DEFINITION.c.number)


@_query
def events() -> Executable:
    columns = (EVENT.c.at, EVENT.c.kind, EVENT.c.seq, EVENT.c.data)
    return select(*columns).where(EVENT.c.run == _this_run).order_by(EVENT.c.number)


@_query
def runs_by_state() -> Executable:
    return select(RUN.c.state, func.count()).group_by(RUN.c.state)


@_query
def runs_by_workflow() -> Executable:
    return select(RUN.c.workflow, func.count()).group_by(RUN.c.workflow)


@_query
def totals() -> Executable:
    """How many runs there are, and how many steps they have."""
    return select(func.count(), func.coalesce(func.sum(RUN.c.next_seq), 0)).select_from(RUN)
