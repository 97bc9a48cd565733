"""What is read from a store in SQL: rows become words of the record here.

Each question is one short read transaction on a connection of the store's pool, so that it sees one state of the run.
Long answers (`recorded_calls`, `edges`) come page by page.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from dagengine.errors import RunNotFound
from dagengine.model import (
    AttemptRecord,
    Definition,
    EventRecord,
    Failure,
    Frontier,
    Input,
    OutsideStep,
    PendingStep,
    RecordedCall,
    RunRecord,
    RunState,
    SavedState,
    Standing,
    StepInput,
    StepKind,
    StepRecord,
    StepState,
    Value,
)
from dagengine.storage import statements, tallies
from dagengine.storage.interface import RunFilter
from dagengine.storage.lookup import AMBIGUOUS_SHOWN, no_step, the_one_run
from dagengine.storage.rows import (
    attempt_of,
    definition_of,
    edge_input,
    event_of,
    failure_of,
    inputs_of,
    run_of,
    standing_of,
    value_of,
)

_PAGE = 1_000
"""Steps in one page of a long answer: a read transaction of a few milliseconds."""

_ALL = 2**62  # a limit that is none
_NEVER = 1e300  # after whatever a time is
_AFTER_ANY = "\U0010ffff"  # sorts after whatever an id goes on with


class Readers(Protocol):
    """Connections that only read, for any thread: `statements` are asked of them."""

    def reading(self) -> AbstractContextManager[Any]:
        """A connection that sees one state of the store until the end of the block."""
        ...

    def alone(self) -> AbstractContextManager[Any]:
        """A connection for one question, whose answer is read to its end in the block."""
        ...


class Reads:
    """The questions of the interface."""

    def __init__(self, pool: Readers, url: str) -> None:
        self._pool = pool
        self.url = url

    # ---- the engine ---------------------------------------------------------------------

    def frontier(self, run_number: int) -> Frontier:
        with self._pool.reading() as connection:
            recorded = statements.next_seq(connection, run=run_number).fetchone()
            if recorded is None:
                raise RunNotFound(f"there is no run number {run_number} in {self.url}", run_id="")
            edges = statements.waiting_edges(connection, run=run_number).fetchall()
            inputs = _inputs_by_step(edges)
            states = {seq: state for _, seq, _, _, state in edges if state is not None and state != "waiting"}
            attempts = {
                seq: greatest
                for seq, _, greatest in statements.waiting_attempts(connection, run=run_number)
                if greatest
            }
            steps = tuple(
                PendingStep(
                    seq,
                    key,
                    _KINDS[kind],
                    definition,
                    call,
                    inputs.get(seq, ()),
                    max(ended, attempts[seq]) if seq in attempts else ended,
                    None if first is None else (first, count),
                )
                for seq, key, kind, definition, call, ended, first, count in statements.waiting_steps(
                    connection, run=run_number
                )
            )
            for step in steps:
                if step.items is not None:
                    first, count = step.items
                    states.update(
                        statements.ended_between(connection, run=run_number, first=first, last=first + abs(count) - 1)
                    )
            definitions = tuple(map(definition_of, statements.definitions(connection, run=run_number)))
            ephemeral = _Lineage(connection, run_number, definitions).of(steps)
            unhandled = statements.unhandled_failures(connection, run=run_number).fetchall()
        failures = ((seq, key, failure_of(text, pickled)) for seq, key, text, pickled in unhandled)
        failed = {seq: (key, failure) for seq, key, failure in failures if failure is not None}
        ended_inputs = {seq: _STATES[state] for seq, state in states.items()}
        return Frontier(steps, ended_inputs, recorded[0], definitions, ephemeral, failed)

    def values(self, run_number: int, seqs: Sequence[int]) -> dict[int, Value]:
        with self._pool.alone() as connection:
            rows = statements.values(connection, run=run_number, seqs=json.dumps(list(seqs))).fetchall()
        found = ((seq, value_of(*value)) for seq, *value in rows)
        return {seq: value for seq, value in found if value is not None}

    def failures(self, run_number: int, seqs: Sequence[int]) -> dict[int, tuple[StepState, Failure]]:
        with self._pool.alone() as connection:
            rows = statements.failures(connection, run=run_number, seqs=json.dumps(list(seqs))).fetchall()
        found = ((seq, state, failure_of(text, pickled)) for seq, state, text, pickled in rows)
        return {seq: (_STATES[state], failure) for seq, state, failure in found if failure is not None}

    def recorded_calls(self, run_number: int) -> Iterator[RecordedCall]:
        first = 0
        while True:
            with self._pool.reading() as connection:
                rows = statements.recorded_calls(connection, run=run_number, first=first, limit=_PAGE).fetchall()
                if not rows:
                    return
                edges = statements.edges_between(connection, run=run_number, first=rows[0][0], last=rows[-1][0])
                inputs = _inputs_by_step(edges)
            yield from _recorded_calls(rows, inputs)
            first = rows[-1][0] + 1

    def saved_state(self, run_number: int, instance: int) -> SavedState:
        with self._pool.reading() as connection:
            rows = statements.calls_to_rebuild(connection, run=run_number, instance=instance).fetchall()
            if not rows or rows[0][0] != instance:
                raise no_step(run_number, instance, self.url)
            seqs = json.dumps([row[0] for row in rows])
            inputs = _inputs_by_step(statements.edges_of(connection, run=run_number, seqs=seqs))
            saved = statements.state_of(connection, run=run_number, instance=instance).fetchone()
        create, *calls = _recorded_calls(rows, inputs)
        if saved is None:
            return SavedState(create, tuple(calls))
        after, digest, size, inline = saved
        return SavedState(create, tuple(calls), after, value_of(digest, size, inline, None, None))

    def finish_order(self, run_number: int, seqs: Sequence[int]) -> dict[int, int]:
        with self._pool.alone() as connection:
            return dict(statements.finish_order(connection, run=run_number, seqs=json.dumps(list(seqs))).fetchall())

    # ---- people -------------------------------------------------------------------------

    def find_run(self, prefix: str) -> RunRecord:
        with self._pool.alone() as connection:
            exact = statements.run_by_id(connection, id=prefix).fetchone()
        if exact is not None:
            return run_of(exact)
        limit = AMBIGUOUS_SHOWN + 1
        with self._pool.alone() as connection:
            rows = statements.runs_by_prefix(connection, low=prefix, high=prefix + _AFTER_ANY, limit=limit).fetchall()
        return the_one_run([run_of(row) for row in rows], prefix, self.url)

    def find_runs(self, run_ids: Sequence[str]) -> dict[str, RunRecord]:
        with self._pool.alone() as connection:
            rows = statements.runs_by_ids(connection, ids=json.dumps(list(run_ids))).fetchall()
        return {run.id: run for run in map(run_of, rows)}

    def runs(self, which: RunFilter) -> list[RunRecord]:
        asked = statements.runs_listed(
            bool(which.states), which.name is not None, tuple(text is not None for _, text in which.tags)
        )
        tags = {f"tag_{number}": name for number, (name, _) in enumerate(which.tags)}
        tags |= {f"text_{number}": text for number, (_, text) in enumerate(which.tags) if text is not None}
        since = 0.0 if which.since is None else which.since
        before = _NEVER if which.before is None else which.before
        found = []
        with self._pool.reading() as connection:
            for state in dict.fromkeys(which.states) or [None]:
                # One state at a time: then the newest of it are the first that its index gives.
                given = {"state": state, "name": which.name, "since": since, "before": before, "limit": which.limit}
                rows = asked(connection, **given, **tags)
                found += [run_of(row) for row in rows]
        found.sort(key=lambda run: (run.created_at, run.number), reverse=True)
        return found[: which.limit]

    def standings(self, ids: Sequence[str]) -> list[Standing]:
        with self._pool.reading() as connection:
            return list(map(standing_of, statements.standings(connection, ids=json.dumps(list(ids)))))

    def steps(
        self,
        run_number: int,
        *,
        key: str | None = None,
        seqs: Sequence[int] | None = None,
        states: Sequence[StepState] = (),
        after: int = -1,
        limit: int | None = None,
    ) -> list[StepRecord]:
        asked = statements.steps_listed(key is not None, seqs is not None, tuple(states))
        most = _ALL if limit is None else limit
        given = {"key": key, "seqs": json.dumps(list(seqs or ())), "after": after, "limit": most}
        with self._pool.reading() as connection:
            rows = asked(connection, run=run_number, **given).fetchall()
            tried: dict[int, int] = {}
            if any(row[5] == StepState.WAITING for row in rows):
                tried = {seq: ended for seq, ended, _ in statements.waiting_attempts(connection, run=run_number)}
        found = []
        for seq, name, kind, task, definition, state, attempts, *rest in rows:
            failure, digest, size, created_at, finished_at = rest
            found.append(
                StepRecord(
                    seq=seq,
                    key=name,
                    kind=_KINDS[kind],
                    task=task or "",
                    definition=definition,
                    state=_STATES[state],
                    attempts=max(attempts, tried.get(seq, 0)),
                    failure=failure_of(failure),
                    value_digest=None if digest is None else digest.hex(),
                    value_size=size,
                    created_at=created_at,
                    finished_at=finished_at,
                )
            )
        return found

    def counts(self, run_number: int) -> dict[tuple[str, StepState], int]:
        with self._pool.reading() as connection:
            (steps,) = statements.next_seq(connection, run=run_number).fetchone() or (0,)
            noted = tallies.counts(connection, run_number, steps)
            if noted is None:
                rows = statements.step_counts(connection, run=run_number).fetchall()
                return {(name or "", _STATES[state]): steps for name, state, steps in rows}
            names = {row[0]: row[1] for row in statements.definitions(connection, run=run_number)}
        found: Counter[tuple[str, StepState]] = Counter()
        for (definition, state), count in noted.items():
            found[names.get(definition, ""), _STATES[state]] += count
        return dict(found)

    def steps_done(self, run_numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
        with self._pool.reading() as connection:
            rows = statements.steps_done(connection, runs=json.dumps(list(run_numbers)))
            return {run: (succeeded, steps) for run, succeeded, steps in rows}

    def outside(self, run_numbers: Sequence[int], limit: int) -> list[OutsideStep]:
        with self._pool.reading() as connection:
            rows = statements.outside_steps(connection, runs=json.dumps(list(run_numbers)), limit=limit)
            return [OutsideStep(run, key, _KINDS[kind]) for run, key, kind in rows]

    def edges(self, run_number: int) -> Iterator[tuple[int, int]]:
        with self._pool.reading() as connection:
            recorded = statements.next_seq(connection, run=run_number).fetchone() or (0,)
        for first in range(0, recorded[0], _PAGE):
            with self._pool.reading() as connection:
                rows = statements.edges_between(
                    connection, run=run_number, first=first, last=first + _PAGE - 1
                ).fetchall()
            for child, read in groupby(rows, itemgetter(0)):
                yield from ((child, parent) for parent in sorted({row[1] for row in read if row[1] is not None}))

    def attempts(self, run_number: int, seq: int | None = None, open_only: bool = False) -> list[AttemptRecord]:
        asked = statements.attempts_listed(seq is not None, open_only)
        with self._pool.alone() as connection:
            return list(map(attempt_of, asked(connection, run=run_number, seq=seq)))

    def definitions(self, run_number: int) -> list[Definition]:
        with self._pool.alone() as connection:
            return list(map(definition_of, statements.definitions(connection, run=run_number)))

    def events(self, run_number: int) -> list[EventRecord]:
        with self._pool.alone() as connection:
            return list(map(event_of, statements.events(connection, run=run_number)))

    def census(self) -> tuple[dict[RunState, int], dict[str, int]]:
        with self._pool.reading() as connection:
            states = {RunState(state): count for state, count in statements.runs_by_state(connection)}
            return states, dict(statements.runs_by_workflow(connection).fetchall())

    def totals(self) -> tuple[int, int]:
        """How many runs and steps there are."""
        with self._pool.alone() as connection:
            runs, steps = statements.totals(connection).fetchone()
        return runs, steps


class _Lineage:
    """Steps that succeeded and whose value was not recorded, with what they are made from."""

    def __init__(self, connection: Any, run_number: int, definitions: Iterable[Definition]) -> None:
        self._connection = connection
        self._run = run_number
        ephemeral = [found.number for found in definitions if found.options.get("checkpoint") is False]
        self._definitions = json.dumps(ephemeral) if ephemeral else ""

    def of(self, unfinished: Sequence[PendingStep]) -> tuple[PendingStep, ...]:
        """Those that the frontier promises for these unfinished steps."""
        if not self._definitions:
            return ()
        closed, result = statements.returned(self._connection, run=self._run).fetchone()
        if not closed:
            given = {"run": self._run, "definitions": self._definitions}
            return self._pending(statements.unrecorded(self._connection, **given).fetchall())
        found: dict[int, PendingStep] = {}
        wanted = {seq for step in unfinished for seq in step.reads()}
        wanted |= {read.seq for read in inputs_of(result) if isinstance(read, StepInput)}
        while wanted:
            seqs = json.dumps(sorted(wanted))
            given = {"run": self._run, "definitions": self._definitions, "seqs": seqs}
            level = self._pending(statements.unrecorded_among(self._connection, **given).fetchall())
            found.update((step.seq, step) for step in level)
            wanted = {seq for step in level for seq in step.reads()} - found.keys()
        return tuple(found[seq] for seq in sorted(found))

    def _pending(self, rows: Sequence[tuple[Any, ...]]) -> tuple[PendingStep, ...]:
        seqs = json.dumps([row[0] for row in rows])
        inputs = _inputs_by_step(statements.edges_of(self._connection, run=self._run, seqs=seqs))
        tried = dict(statements.greatest_attempts(self._connection, run=self._run, seqs=seqs).fetchall())
        return tuple(
            PendingStep(
                *(seq, key, _KINDS[kind], definition, call, inputs.get(seq, ()), max(ended, tried.get(seq, 0))),
                None if first is None else (first, count),
            )
            for seq, key, kind, definition, call, ended, first, count in rows
        )


_STATES = {state.value: state for state in StepState}
_KINDS = {kind.value: kind for kind in StepKind}


def _recorded_calls(rows: Iterable[tuple[Any, ...]], inputs: dict[int, tuple[Input, ...]]) -> Iterator[RecordedCall]:
    for seq, key, kind, definition, call, state, handled in rows:
        yield RecordedCall(
            *(seq, key, _KINDS[kind], definition, call, inputs.get(seq, ())), _STATES[state], bool(handled)
        )


def _inputs_by_step(rows: Iterable[tuple[Any, ...]]) -> dict[int, tuple[Input, ...]]:
    """From (child, parent, digest, size, …) in the order of child and position."""
    found: dict[int, tuple[Input, ...]] = {}
    for child, edges in groupby(rows, itemgetter(0)):
        if child is not None:
            found[child] = tuple([StepInput(edge[1]) if edge[2] is None else edge_input(*edge[1:4]) for edge in edges])
    return found
