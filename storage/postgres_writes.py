"""What one group of batches does to the tables of PostgreSQL, in few statements and one round trip.

Each kind of row is one statement, whose parameters are its columns as arrays. A statement that has to change a number of
rows divides by zero if it does not (22012), which ends the transaction on the server: nothing has to be asked in between.

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dagengine.storage.plan import Plan
from dagengine.storage.postgres_wire import (
    BLOBS,
    BOOLS,
    FLOATS,
    INT4S,
    INT8,
    INT8S,
    TEXTS,
    Command,
    Statement,
    Type,
    array,
    number,
)

MISCOUNTED = "22012"
"""The code of the error by which a statement of these says that it did not change the rows that it should have."""

Claims = Sequence[tuple[int, int, str, int | None]]
"""(run number, token, run id, mark of the last transaction that is known to have written to the run)"""


def _unnested(types: Sequence[Type], names: str, first: int = 1) -> str:
    """The arrays `$first` … as rows with columns of these names."""
    arrays = ", ".join(f"${first + index}" for index in range(len(types)))
    return f"unnest({arrays}) AS given ({names})"


class Writes:
    """The statements for the tables of one schema."""

    def __init__(self, schema: str) -> None:
        self._schema = f'"{schema}"'
        step, run = f"{self._schema}.step", f"{self._schema}.run"
        self._hold_types = (INT8, INT8, INT4S, INT4S, TEXTS, INT8S)
        self._hold = self._counted(
            "hold",
            self._hold_types,
            f"""
            UPDATE {run} AS run SET batch = $1
            FROM {_unnested(self._hold_types[2:], "number, token, id, batch", 3)}
            WHERE run.number = given.number AND run.token = given.token AND run.id = given.id
                AND (given.batch IS NULL OR run.batch = given.batch)
            """,
            "$2",
        )
        self._definitions = self._insert("definition", "run, number, name, reference, options", "iittt")
        self._steps = self._insert(
            "step",
            "run, seq, key, kind, definition, created_at, call",
            "iittidb",
            more=("state, handled, attempts", "'waiting', false, 0"),
        )
        self._edges = self._insert("edge", "run, child, position, parent, digest, size", "iiiibq")
        columns = "run, seq, number, worker, pid, host, started_at, finished_at, outcome, failure"
        changed = columns.split(", ")[3:]
        self._attempts = self._insert(
            "attempt",
            columns,
            "iiiiitddtt",
            "ON CONFLICT (run, seq, number) DO UPDATE SET "
            + ", ".join(f"{column} = excluded.{column}" for column in changed),
        )
        self._events = self._insert("event", "run, at, kind, seq, data", "idtit")
        types = _types("iitiidqbbiitb")
        # A map keeps its items also where it ends without a value, so that it can go on when it is opened again.
        self._finish = self._changed(
            "finish",
            types,
            f"""
            UPDATE {step} AS step SET
                state = given.state, attempts = given.attempts, finish_order = given.finish_order,
                finished_at = given.finished_at, value_size = given.value_size, value_digest = given.value_digest,
                value = given.value, items_first = coalesce(given.items_first, step.items_first),
                items_count = coalesce(given.items_count, step.items_count), failure = given.failure,
                failure_pickled = given.failure_pickled
            FROM {
                _unnested(
                    types,
                    "run, seq, state, attempts, finish_order, finished_at, value_size, value_digest, value, "
                    "items_first, items_count, failure, failure_pickled",
                )
            }
            WHERE step.run = given.run AND step.seq = given.seq AND step.state = 'waiting'
            """,
        )
        self._expand = self._changed(
            "expand",
            _types("iiii"),
            f"""
            UPDATE {step} AS step SET items_first = given.items_first, items_count = given.items_count
            FROM {_unnested(_types("iiii"), "run, seq, items_first, items_count")}
            WHERE step.run = given.run AND step.seq = given.seq AND step.state = 'waiting' AND step.kind = 'map'
            """,
        )
        self._handle = self._changed(
            "handle",
            _types("iio"),
            f"""
            UPDATE {step} AS step SET handled = given.handled FROM {_unnested(_types("iio"), "run, seq, handled")}
            WHERE step.run = given.run AND step.seq = given.seq AND step.state IN ('failed', 'skipped', 'cancelled')
            """,
        )
        self._forget_states, self._forget_unsaved = (
            Statement(
                f"forget_{table}",
                f"DELETE FROM {self._schema}.{table} AS old USING {_unnested(_types('ii'), 'run, instance')} "
                "WHERE old.run = given.run AND old.instance = given.instance",
                _types("ii"),
            )
            for table in ("state_version", "unsaved_call")
        )
        self._states = self._insert("state_version", "run, instance, after, size, digest, value", "iiiqbb")
        self._unsaved = self._insert("unsaved_call", "run, instance, seq", "iii")
        self._close = self._update_run("close", "body_closed = true, {}", "result_call, result_inputs", "bt")
        columns = "state, finished_at, failure, failure_pickled"
        self._end = self._update_run("end", "owner = NULL, {}", columns, "tdtb")
        self._count = Statement(
            "count",
            f"UPDATE {run} AS run SET next_seq = greatest(run.next_seq, given.next_seq) "
            f"FROM {_unnested(_types('ii'), 'number, next_seq')} WHERE run.number = given.number",
            _types("ii"),
        )

    # ---- statements ---------------------------------------------------------------------

    def _insert(
        self, table: str, columns: str, kinds: str, tail: str = "", more: tuple[str, str] = ("", "")
    ) -> Statement:
        types = _types(kinds)
        names, constants = (f", {part}" if part else "" for part in more)
        return Statement(
            f"insert_{table}",
            f"INSERT INTO {self._schema}.{table} ({columns}{names}) "
            f"SELECT {columns}{constants} FROM {_unnested(types, columns)} {tail}",
            types,
        )

    def _update_run(self, name: str, sets: str, columns: str, kinds: str) -> Statement:
        types = _types("i" + kinds)
        changes = sets.format(", ".join(f"{column} = given.{column}" for column in columns.split(", ")))
        return Statement(
            name,
            f"UPDATE {self._schema}.run AS run SET {changes} FROM {_unnested(types, f'number, {columns}')} "
            "WHERE run.number = given.number",
            types,
        )

    def _counted(self, name: str, types: Sequence[Type], update: str, expected: str) -> Statement:
        sql = f"WITH changed AS ({update} RETURNING 1) SELECT 1 / (count(*) = {expected})::integer FROM changed"
        return Statement(name, sql, types)

    def _changed(self, name: str, types: Sequence[Type], update: str) -> Statement:
        """It has to change as many rows as it is given."""
        return self._counted(name, types, update, "cardinality($1)")

    # ---- what to run --------------------------------------------------------------------

    def hold(self, claims: Claims, mark: int) -> Command:
        """Lock the runs until the end of the transaction, check that they are as claimed, and mark them."""
        numbers, tokens, ids, batches = zip(*claims, strict=True)
        columns = (array(INT4S, numbers), array(INT4S, tokens), array(TEXTS, ids), array(INT8S, batches))
        return self._hold, [number(mark), number(len(claims)), *columns]

    def of(self, plan: Plan) -> Iterator[Command]:
        """The plan's writes, in their order."""
        if plan.definitions:
            yield _rows(self._definitions, "iittt", plan.definitions)
        if plan.steps:
            short = [row[:5] + row[8:] for row in plan.steps]
            yield _rows(self._steps, "iittidb", short)
        if plan.edges:
            yield _rows(self._edges, "iiiibq", plan.edges)
        if plan.expanded:
            yield _rows(self._expand, "iiii", plan.expanded)
        if plan.finished:
            yield _rows(self._finish, "iitiidqbbiitb", plan.finished)
        for run, seqs, handled in plan.handled:
            if seqs:
                yield _rows(self._handle, "iio", [(run, seq, handled) for seq in dict.fromkeys(seqs)])
        if plan.attempts:
            yield _rows(self._attempts, "iiiiitddtt", list(plan.attempts.values()))
        if plan.state_changes:
            yield from self._state_changes(plan)
        if plan.closed:
            yield _rows(self._close, "ibt", [(run, *row) for run, row in plan.closed.items()])
        if plan.finished_runs:
            yield _rows(self._end, "itdtb", [(run, *row) for run, row in plan.finished_runs.items()])
        if plan.events:
            yield _rows(self._events, "idtit", plan.events)
        if plan.next_seq:
            yield _rows(self._count, "ii", list(plan.next_seq.items()))

    def _state_changes(self, plan: Plan) -> Iterator[Command]:
        """Of what a group saves of an object, the last state counts, and the calls after it."""
        saved: dict[tuple[int, int], tuple[Any, ...]] = {}
        unsaved: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for run, seq, (instance, state) in plan.state_changes:
            of = (run, instance)
            if state is None:
                unsaved.setdefault(of, []).append((run, instance, seq))
            else:
                saved[of] = (*of, seq, state.size, bytes.fromhex(state.digest), state.inline)
                unsaved.pop(of, None)
        if saved:
            yield _rows(self._forget_states, "ii", list(saved))
            yield _rows(self._forget_unsaved, "ii", list(saved))
            yield _rows(self._states, "iiiqbb", list(saved.values()))
        if unsaved:
            yield _rows(self._unsaved, "iii", [row for rows in unsaved.values() for row in rows])


_LETTERS = {"i": INT4S, "q": INT8S, "d": FLOATS, "t": TEXTS, "b": BLOBS, "o": BOOLS}


def _types(kinds: str) -> tuple[Type, ...]:
    return tuple(_LETTERS[kind] for kind in kinds)


def _rows(statement: Statement, kinds: str, rows: Sequence[Sequence[Any]]) -> Command:
    columns = zip(*rows, strict=True)
    return statement, [array(_LETTERS[kind], column) for kind, column in zip(kinds, columns, strict=True)]
