"""What one group of batches does to the tables of PostgreSQL, in few statements and one round trip.

Each kind of row is one statement, whose parameters are its columns as arrays; or, where a group has only one such row, as
the steps of a chain do, another one, whose parameters are that row. A statement that has to change a number of
rows divides by zero if it does not (22012), which ends the transaction on the server: nothing has to be asked in between.

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

import re
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
    items_of,
    number,
    scalar,
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
        names = "number, token, id, batch"
        self._hold = self._change(
            "hold",
            "UPDATE run SET batch = $1",
            (names, "iitq"),
            _OF_RUN,
            "one.token = given.token AND one.id = given.id AND (given.batch IS NULL OR one.batch = given.batch)",
            before=(INT8, INT8),
            expected="$2",
        )
        self._drop = [
            self._change(
                f"drop_{table}", f"DELETE FROM {table}", ("run, seq", "ii"), f"one.run = given.run AND {found}"
            )
            for table, found in (
                ("step", "one.seq = given.seq"),
                ("edge", "one.child = given.seq"),
                ("state_version", "one.after = given.seq"),
                ("unsaved_call", "one.seq = given.seq"),
            )
        ]
        self._rename = self._change(
            "rename",
            "UPDATE step SET key = given.key",
            ("run, seq, key", "iit"),
            _OF_STEP,
            expected="cardinality($1)",
        )
        self._definitions = self._insert("definition", "run, number, name, reference, options, fingerprint", "iitttt")
        self._steps = self._insert(
            "step",
            "run, seq, key, kind, definition, created_at, call",
            "iittidb",
            more=("state, handled, attempts", "'waiting', false, 0"),
        )
        self._edges = self._insert("edge", "run, child, position, parent, digest, size", "iiiibq")
        names = "run, seq, number, worker, pid, host, started_at, finished_at, outcome, failure"
        changed = names.split(", ")[3:]
        self._attempts = self._insert(
            "attempt",
            names,
            "iiiiitddtt",
            "ON CONFLICT (run, seq, number) DO UPDATE SET "
            + ", ".join(f"{column} = excluded.{column}" for column in changed),
        )
        self._events = self._insert("event", "run, at, kind, seq, data", "idtit")
        # A map keeps its items also where it ends without a value, so that it can go on when it is opened again.
        names = (
            "run, seq, state, attempts, finish_order, finished_at, value_size, value_digest, value, items_first, "
            "items_count, failure, failure_pickled"
        )
        self._finish = self._change(
            "finish",
            """
            UPDATE step SET
                state = given.state, attempts = given.attempts, finish_order = given.finish_order,
                finished_at = given.finished_at, value_size = given.value_size, value_digest = given.value_digest,
                value = given.value, items_first = coalesce(given.items_first, old.items_first),
                items_count = coalesce(given.items_count, old.items_count), failure = given.failure,
                failure_pickled = given.failure_pickled
            """,
            (names, "iitiqdqbbiitb"),
            _OF_STEP,
            "one.state = 'waiting'",
            expected="cardinality($1)",
        )
        self._expand = self._change(
            "expand",
            "UPDATE step SET items_first = given.items_first, items_count = given.items_count",
            ("run, seq, items_first, items_count", "iiii"),
            _OF_STEP,
            "one.state = 'waiting' AND one.kind IN ('map', 'task')",
            expected="cardinality($1)",
        )
        self._keep = self._change(
            "keep",
            "UPDATE step SET value_size = given.value_size, value_digest = given.value_digest, value = given.value",
            ("run, seq, value_size, value_digest, value", "iiqbb"),
            _OF_STEP,
            "one.state = 'succeeded' AND one.value_digest = '' AND one.items_first IS NULL",
            expected="cardinality($1)",
        )
        self._handle = self._change(
            "handle",
            "UPDATE step SET handled = given.handled",
            ("run, seq, handled", "iio"),
            _OF_STEP,
            "one.state IN ('failed', 'skipped', 'cancelled')",
            expected="cardinality($1)",
        )
        self._reopen = self._change(
            "reopen",
            """
            UPDATE step SET state = 'waiting', handled = false, finish_order = NULL, finished_at = NULL,
                            failure = NULL, failure_pickled = NULL
            """,
            ("run, seq", "ii"),
            _OF_STEP,
            "one.state IN ('failed', 'skipped', 'cancelled')",
            expected="cardinality($1)",
        )
        of_object = "one.run = given.run AND one.instance = given.instance"
        self._forget_states, self._forget_unsaved = (
            self._change(f"forget_{table}", f"DELETE FROM {table}", ("run, instance", "ii"), of_object)
            for table in ("state_version", "unsaved_call")
        )
        self._states = self._insert("state_version", "run, instance, after, size, digest, value", "iiiqbb")
        self._unsaved = self._insert("unsaved_call", "run, instance, seq", "iii")
        self._close = self._change(
            "close",
            "UPDATE run SET body_closed = true, result_call = given.call, result_inputs = given.inputs",
            ("number, call, inputs", "ibt"),
            _OF_RUN,
        )
        self._end = self._change(
            "end",
            """
            UPDATE run SET owner = NULL, state = given.state, finished_at = given.finished_at,
                           failure = given.failure, failure_pickled = given.failure_pickled
            """,
            ("number, state, finished_at, failure, failure_pickled", "itdtb"),
            _OF_RUN,
        )
        self._count = self._change(
            "count",
            "UPDATE run SET next_seq = greatest(old.next_seq, given.next_seq)",
            ("number, next_seq", "ii"),
            _OF_RUN,
        )

    # ---- statements ---------------------------------------------------------------------

    def _insert(
        self, table: str, columns: str, kinds: str, tail: str = "", more: tuple[str, str] = ("", "")
    ) -> Statement:
        types = _types(kinds)
        names, constants = (f", {part}" if part else "" for part in more)
        into = f"INSERT INTO {self._schema}.{table} ({columns}{names})"
        values = ", ".join(f"${index + 1}" for index in range(len(types)))
        single = Statement(f"insert_one_{table}", f"{into} VALUES ({values}{constants}) {tail}", items_of(types))
        many = f"{into} SELECT {columns}{constants} FROM {_unnested(types, columns)} {tail}"
        return Statement(f"insert_{table}", many, types, single)

    def _change(
        self,
        name: str,
        change: str,
        given: tuple[str, str],
        key: str,
        fit: str = "true",
        *,
        before: tuple[Type, ...] = (),
        expected: str = "",
    ) -> Statement:
        """Change the row `old` of a table that has the `key` of each row that is `given` (names, kinds), if it does `fit`.

        They are looked for one by one, by the key: `OFFSET 0` is what keeps the planner from turning it round. It would,
        where it has no statistics yet and thinks that a run has one row; 10,000 ends took it 2 s. `expected`: how many
        it must be.
        """
        names, kinds = given
        types = (*before, *_types(kinds))
        verb, _, rest = " ".join(change.split()).partition(" ")
        table, _, sets = (rest if verb == "UPDATE" else rest.removeprefix("FROM ")).partition(" ")
        whole = f"{self._schema}.{table}"
        changing = f"UPDATE {whole} AS old {sets} FROM" if verb == "UPDATE" else f"DELETE FROM {whole} AS old USING"
        sql = (
            f"WITH found AS MATERIALIZED (SELECT given.*, one.place FROM {_unnested(types[len(before) :], names, len(before) + 1)} "
            f"CROSS JOIN LATERAL (SELECT one.*, one.ctid AS place FROM {whole} AS one WHERE {key} OFFSET 0) AS one WHERE {fit})"
        )
        changed = f"{changing} found AS given WHERE old.ctid = given.place"
        if expected:
            sql += f", changed AS ({changed} RETURNING 1) SELECT 1 / (count(*) = {expected})::integer FROM changed"
        else:
            sql += f" {changed}"
        single = None
        if verb == "UPDATE":
            numbers = {column: f"${len(before) + index + 1}" for index, column in enumerate(names.split(", "))}
            sets, key, fit = (_in_place_of_given(part, numbers) for part in (sets, key, fit.replace("one.", "old.")))
            place = f"(SELECT one.ctid FROM {whole} AS one WHERE {key})"
            one = f"UPDATE {whole} AS old {sets} WHERE old.ctid = {place} AND {fit}"
            if expected:
                one = f"WITH changed AS ({one} RETURNING 1) SELECT 1 / (count(*) = 1)::integer FROM changed"
            single = Statement(f"{name}_one", one, (*before, *items_of(_types(kinds))))
        return Statement(name, sql, types, single)

    # ---- what to run --------------------------------------------------------------------

    def hold(self, claims: Claims, mark: int) -> Command:
        """Lock the runs until the end of the transaction, check that they are as claimed, and mark them."""
        statement, columns = _rows(self._hold, "iitq", claims)
        return statement, [number(mark), number(len(claims)), *columns]

    def of(self, plan: Plan) -> Iterator[Command]:
        """The plan's writes, in their order."""
        dropped = [(run, seq) for run, seqs in plan.dropped for seq in seqs]
        if dropped:
            for drop in self._drop:
                yield _rows(drop, "ii", dropped)
        reopened = [(run, seq) for run, seqs in plan.reopened for seq in dict.fromkeys(seqs)]
        if reopened:
            yield _rows(self._reopen, "ii", reopened)
        if plan.renamed:
            yield _rows(self._rename, "iit", plan.renamed)
        if plan.definitions:
            yield _rows(self._definitions, "iitttt", plan.definitions)
        if plan.steps:
            short = [row[:5] + row[8:] for row in plan.steps]
            yield _rows(self._steps, "iittidb", short)
        if plan.edges:
            yield _rows(self._edges, "iiiibq", plan.edges)
        if plan.expanded:
            yield _rows(self._expand, "iiii", plan.expanded)
        if plan.finished:
            yield _rows(self._finish, "iitiqdqbbiitb", plan.finished)
        if plan.kept:
            yield _rows(self._keep, "iiqbb", plan.kept)
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


_OF_RUN = "one.number = given.number"
# By its number in the run. The order, which only the primary key's index gives, is there for the planner: to it the index
# of (run, key) costs the same while the table is small, and the plan stays when it is not; 10,000 ends took that 12 s.
_OF_STEP = "one.run = given.run AND one.seq BETWEEN given.seq AND given.seq ORDER BY one.seq LIMIT 1"
_LETTERS = {"i": INT4S, "q": INT8S, "d": FLOATS, "t": TEXTS, "b": BLOBS, "o": BOOLS}


def _types(kinds: str) -> tuple[Type, ...]:
    return tuple(_LETTERS[kind] for kind in kinds)


def _in_place_of_given(sql: str, parameters: dict[str, str]) -> str:
    """With a row's columns as parameters instead of columns of `given`."""
    return re.sub(r"\bgiven\.(\w+)", lambda found: parameters[found[1]], sql)


def _rows(statement: Statement, kinds: str, rows: Sequence[Sequence[Any]]) -> Command:
    if len(rows) == 1 and statement.single is not None:
        return statement.single, [scalar(_LETTERS[kind], value) for kind, value in zip(kinds, rows[0], strict=True)]
    columns = zip(*rows, strict=True)
    return statement, [array(_LETTERS[kind], column) for kind, column in zip(kinds, columns, strict=True)]
