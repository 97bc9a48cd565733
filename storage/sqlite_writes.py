"""What one group of batches does to the tables, in few statements.

A group's writes are sorted by kind into a `Plan`, and each kind is one statement for many rows. Every run of a
statement lets other threads have the interpreter, and with a busy thread beside it, each costs up to 5 ms to get it
back: 460 steps a second one by one, 48,000 in rows of 64. That, not SQLite, is what the bulk statements are for.

Sorting by kind must not change what the writes mean. `Plan.add` refuses the orders for which it would
(`OutOfOrder`), none of which a sound caller hands over; such a group is applied again batch by batch, write by write,
and so is a group in which a statement did not change the rows that it should have (`Refused`).

May import nothing of ours but errors, model, the interface and what builds rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

from dagengine.model import RunState, StepKind, StepState
from dagengine.storage.interface import (
    AddEvent,
    CloseBody,
    ExpandStep,
    FinishRun,
    FinishStep,
    HandleFailures,
    KeepValue,
    RecordAttempt,
    RecordSteps,
    StateChange,
    Write,
)
from dagengine.storage.rows import edge_row, failure_text, inputs_text, to_json


class Refused(Exception):
    """A write does not fit what is recorded. The text says how."""


class OutOfOrder(Exception):
    """The writes can't be sorted by kind without changing what they mean."""


# ---- statements for many rows ---------------------------------------------------------------

_SIZES = (64, 32, 16, 8, 4, 2, 1)
"""Rows in one statement. Powers of two, so that any number is a few statements, and all of them stay prepared."""


class Bulk:
    """`sql` has `{rows}` where the parentheses with `width` parameters go, once for each row.

    `alone`: a cheaper statement for one row, whose first `keys` columns come last, in its WHERE.
    """

    def __init__(self, sql: str, width: int, alone: str | None = None, keys: int = 0) -> None:
        head, _, tail = " ".join(sql.split()).partition("{rows}")
        row = "(" + ", ".join("?" * width) + ")"
        self._sql = {size: head + ", ".join([row] * size) + tail for size in _SIZES}
        self._keys = keys
        if alone is not None:
            self._sql[1] = " ".join(alone.split())

    def __call__(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        at, left = 0, len(rows)
        for size in _SIZES:
            while left >= size:
                if size == 1 and self._keys:
                    row = rows[at]
                    connection.execute(self._sql[1], row[self._keys :] + row[: self._keys])
                else:
                    connection.execute(self._sql[size], list(chain.from_iterable(rows[at : at + size])))
                at += size
                left -= size


_INSERT_DEFINITIONS = Bulk("INSERT INTO definition (run, number, name, reference, options) VALUES {rows}", 5)

_INSERT_STEPS = Bulk(
    "INSERT INTO step (run, seq, key, kind, definition, state, handled, attempts, created_at, call) VALUES {rows}", 10
)

_INSERT_EDGES = Bulk("INSERT INTO edge (run, child, position, parent, digest, size) VALUES {rows}", 6)

_UPSERT_ATTEMPTS = Bulk(
    """
    INSERT INTO attempt (run, seq, number, worker, pid, host, started_at, finished_at, outcome, failure) VALUES {rows}
    ON CONFLICT (run, seq, number) DO UPDATE SET
        worker = excluded.worker, pid = excluded.pid, host = excluded.host, started_at = excluded.started_at,
        finished_at = excluded.finished_at, outcome = excluded.outcome, failure = excluded.failure
    """,
    10,
)

# A map keeps its items also where it ends without a value, so that it can go on when it is opened again.
_FINISH_STEPS = Bulk(
    """
    WITH ended (run, seq, state, attempts, finish_order, finished_at, value_size, value_digest, value, items_first,
                items_count, failure, failure_pickled) AS (VALUES {rows})
    UPDATE step SET
        state = ended.state, attempts = ended.attempts, finish_order = ended.finish_order,
        finished_at = ended.finished_at, value_size = ended.value_size, value_digest = ended.value_digest,
        value = ended.value, items_first = coalesce(ended.items_first, step.items_first),
        items_count = coalesce(ended.items_count, step.items_count), failure = ended.failure,
        failure_pickled = ended.failure_pickled
    FROM ended WHERE step.run = ended.run AND step.seq = ended.seq AND step.state = 'waiting'
    """,
    13,
    """
    UPDATE step SET
        state = ?, attempts = ?, finish_order = ?, finished_at = ?, value_size = ?, value_digest = ?, value = ?,
        items_first = coalesce(?, items_first), items_count = coalesce(?, items_count), failure = ?,
        failure_pickled = ?
    WHERE run = ? AND seq = ? AND state = 'waiting'
    """,
    keys=2,
)

_EXPAND_STEPS = Bulk(
    """
    WITH expanded (run, seq, items_first, items_count) AS (VALUES {rows})
    UPDATE step SET items_first = expanded.items_first, items_count = expanded.items_count
    FROM expanded
    WHERE step.run = expanded.run AND step.seq = expanded.seq AND step.state = 'waiting' AND step.kind = 'map'
    """,
    4,
)

_INSERT_EVENTS = Bulk("INSERT INTO event (run, at, kind, seq, data) VALUES {rows}", 5)

# ---- statements for one ---------------------------------------------------------------------

_HANDLE_FAILURES = """
    UPDATE step SET handled = ?
    WHERE run = ? AND seq IN (SELECT value FROM json_each(?)) AND state IN ('failed', 'skipped', 'cancelled')
"""
_CLOSE_BODY = "UPDATE run SET body_closed = 1, result_call = ?, result_inputs = ? WHERE number = ?"
_FINISH_RUN = """
    UPDATE run SET state = ?, finished_at = ?, failure = ?, failure_pickled = ?, owner = NULL WHERE number = ?
"""
_KEEP_VALUE = """
    UPDATE step SET value_size = ?, value_digest = ?, value = ?
    WHERE run = ? AND seq = ? AND state = 'succeeded' AND value_digest = x'' AND items_first IS NULL
"""
_ADD_UNSAVED_CALL = "INSERT INTO unsaved_call (run, instance, seq) VALUES (?, ?, ?)"
_FORGET_STATE = "DELETE FROM state_version WHERE run = ? AND instance = ?"
_FORGET_UNSAVED_CALLS = "DELETE FROM unsaved_call WHERE run = ? AND instance = ?"
_ADD_STATE = "INSERT INTO state_version (run, instance, after, size, digest, value) VALUES (?, ?, ?, ?, ?, ?)"
_COUNT_SEQ = "UPDATE run SET next_seq = max(next_seq, ?) WHERE number = ?"


_PLAIN: dict[str, str] = {word.value: word.value for words in (StepState, StepKind, RunState) for word in words}
"""Members of enumerations as the strings that they are: the driver takes those without asking its adapters."""

_seq = attrgetter("seq")


class Plan:
    """The rows to write, by kind. `add` what comes in its order, then `apply`."""

    def __init__(self) -> None:
        self._definitions: list[tuple[Any, ...]] = []
        self._steps: list[tuple[Any, ...]] = []
        self._edges: list[tuple[Any, ...]] = []
        self._expanded: list[tuple[Any, ...]] = []
        self._finished: list[tuple[Any, ...]] = []
        self._handled: list[tuple[int, tuple[int, ...], bool]] = []
        self._attempts: dict[tuple[int, int, int], tuple[Any, ...]] = {}
        self._kept: list[tuple[Any, ...]] = []
        self._state_changes: list[tuple[str, tuple[Any, ...]]] = []
        self._run_changes: list[tuple[str, tuple[Any, ...]]] = []
        self._events: list[tuple[Any, ...]] = []
        self._next_seq: dict[int, int] = {}  # by run
        self._touched: dict[int, int] = {}  # run -> the greatest seq that something was done to
        self._ended: set[tuple[int, int]] = set()  # steps that end in this plan
        self._given: set[tuple[int, int]] = set()  # steps whose failures are handled in this plan

    def add(self, run: int, writes: Sequence[Write]) -> None:
        """Sort in one batch of the run. Raises OutOfOrder; and TypeError or ValueError for what no column takes."""
        for write in writes:
            match write:
                case FinishStep():
                    self._finish_step(run, write)
                case RecordAttempt():
                    self._record_attempt(run, write)
                case RecordSteps():
                    self._record_steps(run, write)
                case ExpandStep(seq, first, count):
                    if (run, seq) in self._ended:
                        raise OutOfOrder
                    self._expanded.append((run, seq, first, count))
                    self._touch(run, seq)
                case KeepValue(seq, value):
                    self._kept.append((value.size, bytes.fromhex(value.digest), value.inline, run, seq))
                case HandleFailures(seqs, handled):
                    self._handled.append((run, seqs, handled))
                    for seq in seqs:
                        self._given.add((run, seq))
                        self._touch(run, seq)
                case CloseBody(call, inputs):
                    self._run_changes.append((_CLOSE_BODY, (call, inputs_text(inputs), run)))
                case FinishRun(state, at, failure):
                    row = (_PLAIN[state], at, failure_text(failure), failure and failure.pickled, run)
                    self._run_changes.append((_FINISH_RUN, row))
                case AddEvent(event):
                    self._events.append((run, event.at, event.kind, event.seq, to_json(event.data)))

    def apply(self, connection: sqlite3.Connection) -> None:
        """Write it, in the transaction that is open. Raises Refused or sqlite3.Error."""
        if self._definitions:
            _INSERT_DEFINITIONS(connection, self._definitions)
        if self._steps:
            _INSERT_STEPS(connection, self._steps)
        if self._edges:
            _INSERT_EDGES(connection, self._edges)
        if self._expanded:
            before = connection.total_changes
            _EXPAND_STEPS(connection, self._expanded)
            if connection.total_changes - before != len(self._expanded):
                raise Refused("it expands a step that is not a waiting map")
        if self._finished:
            before = connection.total_changes
            _FINISH_STEPS(connection, self._finished)
            if connection.total_changes - before != len(self._finished):
                raise Refused("it ends a step that is not waiting; what is recorded is never replaced")
        for row in self._kept:
            before = connection.total_changes
            connection.execute(_KEEP_VALUE, row)
            if connection.total_changes - before != 1:
                raise Refused("it keeps the value of a step that has one; what is recorded is never replaced")
        for run, seqs, handled in self._handled:
            before = connection.total_changes
            connection.execute(_HANDLE_FAILURES, (int(handled), run, json.dumps(seqs)))
            if connection.total_changes - before != len(set(seqs)):
                raise Refused("it handles the failure of a step that did not fail")
        if self._attempts:
            _UPSERT_ATTEMPTS(connection, list(self._attempts.values()))
        for statement, row in chain(self._state_changes, self._run_changes):
            connection.execute(statement, row)
        if self._events:
            _INSERT_EVENTS(connection, self._events)
        for run, next_seq in self._next_seq.items():
            connection.execute(_COUNT_SEQ, (next_seq, run))

    # ---- one kind each ------------------------------------------------------------------

    def _touch(self, run: int, seq: int) -> None:
        if seq > self._touched.get(run, -1):
            self._touched[run] = seq

    def _record_steps(self, run: int, write: RecordSteps) -> None:
        for new in write.definitions:
            texts = (to_json(new.reference), to_json(new.options))
            self._definitions.append((run, new.number, new.name, *texts))
        if not write.steps:
            return
        if min(map(_seq, write.steps)) <= self._touched.get(run, -1):
            raise OutOfOrder  # something was done to a step before it was recorded
        at = write.at
        for step in write.steps:
            seq = step.seq
            row = (run, seq, step.key, _PLAIN[step.kind], step.definition, "waiting", 0, 0, at, step.call)
            self._steps.append(row)
            for position, read in enumerate(step.inputs):
                self._edges.append(edge_row(run, seq, position, read))
        next_seq = max(map(_seq, write.steps)) + 1
        self._next_seq[run] = max(next_seq, self._next_seq.get(run, 0))

    def _finish_step(self, run: int, write: FinishStep) -> None:
        seq, state, order, attempts, at, value, failure, changed = write
        if self._given and (run, seq) in self._given:
            raise OutOfOrder
        self._ended.add((run, seq))
        if seq > self._touched.get(run, -1):
            self._touched[run] = seq
        size = digest = inline = first = count = text = pickled = None
        if value is not None:
            size, digest, inline = value.size, bytes.fromhex(value.digest), value.inline
            if value.items is not None:
                first, count = value.items
        if failure is not None:
            text, pickled = failure_text(failure), failure.pickled
        row = (run, seq, _PLAIN[state], attempts, order, at)
        self._finished.append((*row, size, digest, inline, first, count, text, pickled))
        if changed is not None:
            self._change_state(run, seq, changed)

    def _change_state(self, run: int, seq: int, changed: StateChange) -> None:
        instance, state = changed
        if state is None:
            self._state_changes.append((_ADD_UNSAVED_CALL, (run, instance, seq)))
            return
        of = (run, instance)
        row = (*of, seq, state.size, bytes.fromhex(state.digest), state.inline)
        self._state_changes += [(_FORGET_STATE, of), (_FORGET_UNSAVED_CALLS, of), (_ADD_STATE, row)]

    def _record_attempt(self, run: int, write: RecordAttempt) -> None:
        """The last one wins: an attempt that started and ended in one group is written once."""
        attempt = write.attempt
        self._attempts[run, attempt.seq, attempt.number] = (
            *(run, attempt.seq, attempt.number, attempt.worker, attempt.pid, attempt.host),
            *(attempt.started_at, attempt.finished_at, attempt.outcome, failure_text(attempt.failure)),
        )
