"""The store's promises in dictionaries, for tests: of this project, and of those who use it. Nothing survives the process.

It goes through the same writer's thread as the store on disk, so that callbacks come in the same order and from
another thread. It is also the contract in its plainest form: what SQL says in statements stands here in lines of Python.

`memory_run` holds what is recorded of a run and how it changes; here are the questions, and one lock around everything.
May import nothing of ours but errors, model, the interface, the writer and what stores say alike.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from dagengine.errors import InternalError, RunNotFound
from dagengine.model import (
    SHORT_RESULT,
    AttemptRecord,
    Claim,
    Definition,
    EventRecord,
    Failure,
    Frontier,
    NewRun,
    OutsideStep,
    ProcessRecord,
    RecordedCall,
    RunRecord,
    RunState,
    SavedState,
    Share,
    Standing,
    StepInput,
    StepRecord,
    StepState,
    Value,
)
from dagengine.storage import children, tags
from dagengine.storage.claims import Claimed, claimed_each, may_be_claimed
from dagengine.storage.interface import Figures, RunFilter
from dagengine.storage.lifetime_notes import is_expired, refuse_expired
from dagengine.storage.lookup import (
    AMBIGUOUS_SHOWN,
    donor_gone,
    fenced,
    fenced_now,
    no_run,
    no_step,
    refuse_altered,
    run_exists,
    run_owned,
    run_succeeded,
    the_one_run,
)
from dagengine.storage.memory_lifetime import MemoryLifetime
from dagengine.storage.memory_run import Misfit, Run, Step, new_record
from dagengine.storage.memory_side import MemorySide
from dagengine.storage.revisions import CURRENT
from dagengine.storage.side import write_side
from dagengine.storage.unleased import Unleased
from dagengine.storage.writer import Batch, GroupWriter, Refusal, Refusals
from dagengine.storage.writes import SideWrite, Write

T = TypeVar("T")


class MemoryStore(MemoryLifetime, Unleased):
    """A `Store` that is gone when it is closed."""

    url = "memory:"
    address: str | None = None

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._by_number: dict[int, Run] = {}
        self._last_number = 0
        self._side = MemorySide()
        self._writer = GroupWriter(self._commit, self.url)

    def close(self) -> None:
        self._writer.close()
        self._side.close()

    # ---- begin and own ------------------------------------------------------------------

    def create_run(
        self,
        run: NewRun,
        process: ProcessRecord | None,
        share: Share | None = None,
        also: Callable[[Any], None] | None = None,
    ) -> Claim | None:
        def create() -> Claim | None:
            with self._lock:
                if run.id in self._runs:
                    raise run_exists(run.id)
                self._last_number = number = self._last_number + 1  # never given twice
                created = Run(new_record(number, run, process))
                if share is not None:
                    donor = self._by_number.get(share.donor)
                    if donor is None or (self._side.used and is_expired(self._side.connection, share.donor)):
                        raise donor_gone()
                    created.share(donor, share)
                if also is not None or run.facts.get("tags"):
                    with self._side.transaction() as connection:
                        tags.index(connection, number, run.facts)
                        if also is not None:
                            also(connection)
                self._runs[run.id] = self._by_number[number] = created
                return None if process is None else created.claim()

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
        while True:
            with self._reading():
                seen = self._whole(run_id).record
            if seen.state is RunState.SUCCEEDED:
                raise run_succeeded(run_id)
            if seen.owner is not None and alive(seen.owner):
                raise run_owned(run_id, seen.owner)
            refuse_altered(seen, as_it_was)
            claim = self._writer.call(lambda seen=seen: self._take(seen, process, reopen))  # type: ignore[misc]
            if claim is not None:
                return claim
            refuse_expired(self, seen)

    def claim_all(
        self, run_ids: Sequence[str], process: ProcessRecord, alive: Callable[[str, ProcessRecord], bool]
    ) -> Claimed:
        def claim(run_id: str) -> Claim:
            return self.claim(run_id, process, partial(alive, run_id), reopen=False)

        free, found = may_be_claimed(run_ids, self.find_runs(run_ids), alive, self.url)

        def take() -> dict[str, Claim | None]:
            return {run.id: self._take(run, process, reopen=False) for run in free}

        taken = self._writer.call(take)
        claims = {run_id: made for run_id, made in taken.items() if made is not None}
        return found | claims | claimed_each([run_id for run_id in taken if run_id not in claims], claim)

    def _take(self, seen: RunRecord, process: ProcessRecord, reopen: bool) -> Claim | None:
        """Claim the run, or answer None if it is not as it was seen."""
        with self._lock:
            run = self._whole(seen.id)
            now = run.record
            if (now.token, now.state, now.owner) != (seen.token, seen.state, seen.owner):
                return None
            if self._side.used and is_expired(self._side.connection, now.number):
                return None
            run.record = replace(
                now,
                token=now.token + 1,
                state=RunState.RUNNING,
                owner=process,
                started_at=self._clock() if now.started_at is None else now.started_at,
                finished_at=None,
                failure=None,
                cancel_requested_at=None if reopen else now.cancel_requested_at,
            )
            if reopen:
                run.reopen()
            self._writer.forget(now.number)
            return run.claim()

    # ---- write --------------------------------------------------------------------------

    def write(self, claim: Claim, batch: Sequence[Write], done: Callable[[Refusal | None], None]) -> None:
        self._writer.write(claim, batch, done)

    def _commit(self, batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        outcomes = []
        with self._lock:
            for batch in batches:
                refusal = refusals.get(batch.key) or self._apply(batch)
                if refusal is not None:
                    refusals[batch.key] = refusal
                outcomes.append(refusal)
        return outcomes

    def _apply(self, batch: Batch) -> Refusal | None:
        claim = batch.claim
        run = self._by_number.get(claim.run_number)
        if run is None or run.claim() != claim:
            return fenced_now(run.record, self.url) if run else fenced(claim.run_id, self.url)
        undo: list[Callable[[], object]] = []
        side = [(claim.run_number, write) for write in batch.writes if isinstance(write, SideWrite)]
        write: object = None
        try:
            for write in batch.writes:
                if not isinstance(write, SideWrite):
                    run.apply(write, undo)
            if side:
                write = side[0][1]
                with self._side.transaction() as connection:
                    write_side(side, connection)
                    if run.record.state is RunState.WAITING and run.record.cancel_requested_at is not None:
                        from dagengine.storage.sleepers import wake_in

                        wake_in(connection, run.record)  # other stores see the run in SQL
        except (Misfit, AttributeError, TypeError, ValueError, sqlite3.Error) as error:
            for step_back in reversed(undo):
                step_back()
            return InternalError(f"run {claim.run_id} refuses a {type(write).__name__}: {error}")
        return None

    def side(self, work: Callable[[Any], T], write: bool = True) -> T:
        def done() -> T:
            with self._lock, self._side.transaction() as connection:
                return work(connection)

        if write:
            return self._writer.call(done)
        self._writer.check_open()
        return done()

    def ask(self, query: Callable[..., Any], **given: Any) -> list[Any]:
        return self.side(lambda connection: list(query(connection, **given)), write=False)

    def request_cancel(self, run_id: str, at: float) -> RunState:
        def request() -> RunState:
            with self._lock:
                run = self._whole(run_id)
                state = run.record.state
                if state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED):
                    return state
                if run.record.cancel_requested_at is None:
                    run.record = replace(run.record, cancel_requested_at=at)
                if state is not RunState.RUNNING:
                    run.record = replace(run.record, state=RunState.CANCELLED, finished_at=at)
                    self._come_to_parent(run.record)
                return run.record.state

        return self._writer.call(request)

    def _come_to_parent(self, run: RunRecord) -> None:
        parent = None if run.parent is None else self._runs.get(run.parent[0])
        if parent is not None:
            with self._side.transaction() as connection:
                children.COME(connection, parent=parent.record.number, id=parent.record.id)

    # ---- read: the engine ---------------------------------------------------------------

    def frontier(self, run_number: int) -> Frontier:
        with self._reading():
            run = self._numbered(run_number)
            waiting = [step for step in run.in_order() if step.state is StepState.WAITING]
            read = {part.seq for step in waiting for part in step.new.inputs if isinstance(part, StepInput)}
            for step in waiting:
                if step.items is not None:
                    read.update(range(step.items[0], step.items[0] + abs(step.items[1])))
            ended = {
                seq: run.steps[seq].state
                for seq in read
                if seq in run.steps and run.steps[seq].state is not StepState.WAITING
            }
            steps = tuple(run.pending(step) for step in waiting)
            definitions, lineage = run.definitions_in_order(), run.lineage(waiting)
            return Frontier(steps, ended, run.record.steps, definitions, lineage, run.unhandled())

    def values(self, run_number: int, seqs: Sequence[int]) -> dict[int, Value]:
        with self._reading():
            found = self._some(run_number, seqs)
            return {
                step.new.seq: step.value
                for step in found
                if step.state is StepState.SUCCEEDED and step.value is not None
            }

    def failures(self, run_number: int, seqs: Sequence[int]) -> dict[int, tuple[StepState, Failure]]:
        with self._reading():
            found = self._some(run_number, seqs)
            return {step.new.seq: (step.state, step.failure) for step in found if step.failure is not None}

    def recorded_calls(self, run_number: int) -> Iterator[RecordedCall]:
        with self._reading():
            run = self._by_number.get(run_number)
            calls = [] if run is None else [run.recorded_call(step) for step in run.in_order()]
        yield from calls

    def saved_state(self, run_number: int, instance: int) -> SavedState:
        with self._reading():
            found = self._some(run_number, [instance])
            if not found:
                raise no_step(run_number, instance, self.url)
            return self._by_number[run_number].saved_state(found[0])

    def finish_order(self, run_number: int, seqs: Sequence[int]) -> dict[int, int]:
        with self._reading():
            found = self._some(run_number, seqs)
            return {step.new.seq: step.order for step in found if step.order is not None}

    # ---- read: people -------------------------------------------------------------------

    def find_run(self, prefix: str) -> RunRecord:
        with self._reading():
            if prefix in self._runs:
                return self._runs[prefix].record
            found = sorted(run_id for run_id in self._runs if run_id.startswith(prefix))[: AMBIGUOUS_SHOWN + 1]
            return the_one_run([self._runs[run_id].record for run_id in found], prefix, self.url)

    def find_runs(self, run_ids: Sequence[str]) -> dict[str, RunRecord]:
        with self._reading():
            return {run_id: self._runs[run_id].record for run_id in run_ids if run_id in self._runs}

    def runs(self, which: RunFilter) -> list[RunRecord]:
        with self._reading():
            found = [
                run.record
                for run in self._runs.values()
                if (not which.states or run.record.state in which.states)
                and (which.name is None or run.record.workflow == which.name)
                and (which.since is None or run.record.created_at >= which.since)
                and (which.before is None or run.record.created_at < which.before)
                and tags.has(run.record.facts, which.tags)
            ]
        found.sort(key=lambda run: (run.created_at, run.number), reverse=True)
        return found[: which.limit]

    def standings(self, ids: Sequence[str]) -> list[Standing]:
        with self._reading():
            found = [self._runs[run_id].record for run_id in set(ids) if run_id in self._runs]
        return [Standing(run.id, run.state, run.owner, run.lease_expired, _short(run.result_call)) for run in found]

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
        with self._reading():
            run = self._by_number.get(run_number)
            if run is None:
                return []
            asked = None if seqs is None else set(seqs)
            found = [
                run.listed(step)
                for step in run.in_order()
                if (key is None or step.new.key == key)
                and (asked is None or step.new.seq in asked)
                and (not states or step.state in states)
                and step.new.seq > after
            ]
        return found[:limit]

    def counts(self, run_number: int) -> dict[tuple[str, StepState], int]:
        with self._reading():
            run = self._by_number.get(run_number)
            return dict(Counter((run.task_of(step), step.state) for step in run.steps.values())) if run else {}

    def steps_done(self, run_numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
        with self._reading():
            runs = [self._by_number[number] for number in run_numbers if number in self._by_number]
            return {
                run.record.number: (
                    sum(step.state is StepState.SUCCEEDED for step in run.steps.values()),
                    len(run.steps),
                )
                for run in runs
                if run.steps
            }

    def outside(self, run_numbers: Sequence[int], limit: int) -> list[OutsideStep]:
        found: list[OutsideStep] = []
        with self._reading():
            for number in sorted(set(run_numbers) & self._by_number.keys()):
                waiting = (
                    OutsideStep(number, step.new.key, step.new.kind)
                    for step in self._by_number[number].in_order()
                    if step.state is StepState.WAITING and step.new.kind.is_outside
                )
                found += islice(waiting, limit)
        return found

    def edges(self, run_number: int) -> Iterator[tuple[int, int]]:
        with self._reading():
            run = self._by_number.get(run_number)
            found = {
                (step.new.seq, part.seq)
                for step in (run.steps.values() if run else ())
                for part in step.new.inputs
                if isinstance(part, StepInput)
            }
        yield from sorted(found)

    def attempts(self, run_number: int, seq: int | None = None, open_only: bool = False) -> list[AttemptRecord]:
        with self._reading():
            run = self._by_number.get(run_number)
            asked = [] if run is None else sorted(run.attempts) if seq is None else [seq]
            found = [attempt for of in asked for attempt in run.tried(of)] if run else []
            return [attempt for attempt in found if not open_only or attempt.outcome is None]

    def definitions(self, run_number: int) -> list[Definition]:
        with self._reading():
            run = self._by_number.get(run_number)
            return list(run.definitions_in_order()) if run else []

    def events(self, run_number: int) -> list[EventRecord]:
        with self._reading():
            run = self._by_number.get(run_number)
            return list(run.events) if run else []

    # ---- the store itself ----------------------------------------------------------------

    def figures(self) -> Figures:
        with self._reading():
            steps = sum(run.record.steps for run in self._runs.values())
            return Figures(CURRENT, 0, 0, len(self._runs), steps)

    def census(self) -> tuple[dict[RunState, int], dict[str, int]]:
        with self._reading():
            records = [run.record for run in self._runs.values()]
        return dict(Counter(run.state for run in records)), dict(Counter(run.workflow for run in records))

    def check(self) -> dict[str, Any]:
        return {**self.figures()._asdict(), "integrity": "ok"}

    # ---- finding ------------------------------------------------------------------------

    def _reading(self) -> threading.RLock:
        self._writer.check_open()
        return self._lock

    def _whole(self, run_id: str) -> Run:
        if run_id not in self._runs:
            raise no_run(run_id, self.url)
        return self._runs[run_id]

    def _numbered(self, run_number: int) -> Run:
        if run_number not in self._by_number:
            raise RunNotFound(f"there is no run number {run_number} in {self.url}", run_id="")
        return self._by_number[run_number]

    def _some(self, run_number: int, seqs: Sequence[int]) -> list[Step]:
        run = self._by_number.get(run_number)
        return [run.steps[seq] for seq in seqs if seq in run.steps] if run else []


def _short(returned: bytes | None) -> bytes | None:
    return returned if returned is not None and len(returned) <= SHORT_RESULT else None
