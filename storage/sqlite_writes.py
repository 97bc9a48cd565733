"""What one group of batches does to the tables of SQLite, in few statements.

A group's writes are sorted by kind into a `Plan`, and each kind is one statement for many rows. Every run of a
statement lets other threads have the interpreter, and with a busy thread beside it, each costs up to 5 ms to get it
back: 460 steps a second one by one, 48,000 in rows of 64. That, not SQLite, is what the bulk statements are for.

May import nothing of ours but the plan and what writes side tables.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from dagengine.storage.plan import Plan, Refused
from dagengine.storage.side import write_side

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


_INSERT_DEFINITIONS = Bulk(
    "INSERT INTO definition (run, number, name, reference, options, fingerprint) VALUES {rows}", 6
)

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
    WHERE step.run = expanded.run AND step.seq = expanded.seq AND step.state = 'waiting'
        AND step.kind IN ('map', 'task')
    """,
    4,
)

_INSERT_EVENTS = Bulk("INSERT INTO event (run, at, kind, seq, data) VALUES {rows}", 5)

# ---- statements for one ---------------------------------------------------------------------

_DROP_STEPS = tuple(
    f"DELETE FROM {table} WHERE run = ? AND {column} IN (SELECT value FROM json_each(?))"  # noqa: S608
    for table, column in (("step", "seq"), ("edge", "child"), ("state_version", "after"), ("unsaved_call", "seq"))
)
_REOPEN_STEPS = """
    UPDATE step
    SET state = 'waiting', handled = 0, finish_order = NULL, finished_at = NULL, failure = NULL, failure_pickled = NULL
    WHERE run = ? AND seq IN (SELECT value FROM json_each(?)) AND state IN ('failed', 'skipped', 'cancelled')
"""
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
_RENAME_STEP = "UPDATE step SET key = ? WHERE run = ? AND seq = ?"
_COUNT_SEQ = "UPDATE run SET next_seq = max(next_seq, ?) WHERE number = ?"


def apply(plan: Plan, connection: sqlite3.Connection) -> None:
    """Write it, in the transaction that is open. Raises Refused or sqlite3.Error."""
    for run, seqs in plan.dropped:
        for drop in _DROP_STEPS:
            connection.execute(drop, (run, json.dumps(seqs)))
    for run, seqs in plan.reopened:
        before = connection.total_changes
        connection.execute(_REOPEN_STEPS, (run, json.dumps(seqs)))
        if connection.total_changes - before != len(set(seqs)):
            raise Refused("it opens a step again that did not end without success")
    if plan.renamed:
        before = connection.total_changes
        connection.executemany(_RENAME_STEP, [(key, run, seq) for run, seq, key in plan.renamed])
        if connection.total_changes - before != len(plan.renamed):
            raise Refused("it gives a step that is not there another key")
    if plan.definitions:
        _INSERT_DEFINITIONS(connection, plan.definitions)
    if plan.steps:
        _INSERT_STEPS(connection, plan.steps)
    if plan.edges:
        _INSERT_EDGES(connection, plan.edges)
    if plan.expanded:
        before = connection.total_changes
        _EXPAND_STEPS(connection, plan.expanded)
        if connection.total_changes - before != len(plan.expanded):
            raise Refused("it expands a step that is not a waiting map or task")
    if plan.finished:
        before = connection.total_changes
        _FINISH_STEPS(connection, plan.finished)
        if connection.total_changes - before != len(plan.finished):
            raise Refused("it ends a step that is not waiting; what is recorded is never replaced")
    for run, seq, *kept in plan.kept:
        before = connection.total_changes
        connection.execute(_KEEP_VALUE, (*kept, run, seq))
        if connection.total_changes - before != 1:
            raise Refused("it keeps the value of a step that has one; what is recorded is never replaced")
    for run, seqs, handled in plan.handled:
        before = connection.total_changes
        connection.execute(_HANDLE_FAILURES, (int(handled), run, json.dumps(seqs)))
        if connection.total_changes - before != len(set(seqs)):
            raise Refused("it handles the failure of a step that did not fail")
    if plan.attempts:
        _UPSERT_ATTEMPTS(connection, list(plan.attempts.values()))
    for run, seq, (instance, state) in plan.state_changes:
        if state is None:
            connection.execute(_ADD_UNSAVED_CALL, (run, instance, seq))
            continue
        connection.execute(_FORGET_STATE, (run, instance))
        connection.execute(_FORGET_UNSAVED_CALLS, (run, instance))
        row = (run, instance, seq, state.size, bytes.fromhex(state.digest), state.inline)
        connection.execute(_ADD_STATE, row)
    for run, row in plan.closed.items():
        connection.execute(_CLOSE_BODY, (*row, run))
    for run, row in plan.finished_runs.items():
        connection.execute(_FINISH_RUN, (*row, run))
    if plan.events:
        _INSERT_EVENTS(connection, plan.events)
    for run, next_seq in plan.next_seq.items():
        connection.execute(_COUNT_SEQ, (next_seq, run))
    write_side(plan.side, connection)
