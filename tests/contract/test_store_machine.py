"""Any sequence of operations means the same to every store: random ones, on all of them at once, compared after each.

Batches are handed over in bursts while the writer is held up, so that they share commits in every mixture: sound ones,
fenced ones, and ones that do not fit.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dagengine.errors import DagengineError, InternalError
from dagengine.model import Claim, Definition, RunState, StepKind, StepState, Value
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.writes import CloseBody, ExpandStep, FinishRun, HandleFailures, RecordSteps, StateChange, Write
from tests.contract.conftest import STORES
from tests.storage.kit import (
    ME,
    NOW,
    PATIENCE,
    Outcome,
    alive,
    attempt,
    begin,
    changed,
    dead,
    event,
    fail,
    large,
    new_run,
    process,
    step,
    succeed,
    value,
)

RUNS = ("run-a", "run-b")

seqs = st.integers(0, 5)
orders = st.integers(0, 9)
BADLY = (StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED)
ended_badly = st.sampled_from(BADLY)
values = st.sampled_from([value(), value(b""), Value("ab" * 32, 1 << 20), Value("", 0, items=(2, 2))])
changes = st.builds(StateChange, seqs, st.none() | st.sampled_from([value(), Value("cd" * 32, 1 << 20)]))
inputs = st.lists(seqs | st.builds(large), max_size=3)

new_steps = st.builds(
    lambda first, count, read, is_map: RecordSteps(
        (),
        tuple(step(seq, *read, kind=StepKind.MAP if is_map else StepKind.TASK) for seq in range(first, first + count)),
        NOW,
    ),
    seqs,
    st.integers(1, 3),
    inputs,
    st.booleans(),
)
writes: st.SearchStrategy[Write] = st.one_of(
    new_steps,
    new_steps,
    st.builds(lambda number: RecordSteps((Definition(number, f"task{number}", {}, {}),), (), NOW), st.integers(0, 3)),
    st.builds(succeed, seqs, orders, values),
    st.builds(changed, seqs, orders, seqs, st.none() | st.sampled_from([value(), Value("cd" * 32, 1 << 20)])).filter(
        lambda write: write.changed is None or write.changed.instance != write.seq
    ),
    st.builds(fail, seqs, orders, ended_badly),
    st.builds(attempt, seqs, st.integers(1, 2), st.sampled_from([None, "succeeded", "failed"])),
    st.builds(lambda seq, count: ExpandStep(seq, seq + 1, count), seqs, st.integers(-1, 2)),
    st.builds(HandleFailures, st.lists(seqs, max_size=2).map(tuple)),
    st.builds(lambda of: CloseBody(b"result", (large(), *step(0, *of).inputs)), inputs),
    st.builds(FinishRun, st.sampled_from([RunState.FAILED, RunState.INTERRUPTED, RunState.SUCCEEDED]), st.just(NOW)),
    st.builds(event, st.sampled_from(["run.started", "step.failed"])),
)
mostly = st.integers(0, 9).map(bool)
tokens = mostly.map(lambda last: 0 if last else 1)  # how far behind the claim is


class Left:
    """What would be sound to write next to a run, if all that was drawn before is recorded."""

    def __init__(
        self, waiting: list[int], maps: list[int], unsuccessful: list[int], next_seq: int, orders: Iterator[int]
    ) -> None:
        self.waiting = waiting
        self.maps = maps
        self.unsuccessful = unsuccessful
        self.next_seq = next_seq
        self.orders = orders

    def writes(self) -> st.SearchStrategy[Write]:
        """One write, which is noted when it is drawn."""
        choices = [st.builds(self._record, st.integers(1, 3), st.booleans(), st.data())]
        if self.waiting:
            choices.append(st.builds(self._finish, st.sampled_from(list(self.waiting)), values | changes | ended_badly))
        if self.unsuccessful:
            choices.append(st.builds(lambda seq: HandleFailures((seq,)), st.sampled_from(list(self.unsuccessful))))
        if self.maps:
            choices.append(st.builds(ExpandStep, st.sampled_from(list(self.maps)), st.just(0), st.integers(-1, 2)))
        return st.one_of(*choices, st.builds(attempt, seqs, st.integers(1, 2), st.sampled_from([None, "failed"])))

    def _record(self, count: int, is_map: bool, data: st.DataObject) -> Write:
        read = data.draw(st.lists(st.integers(0, max(self.next_seq - 1, 0)), max_size=3)) if self.next_seq else []
        kind = StepKind.MAP if is_map else StepKind.TASK
        new = tuple(step(self.next_seq + index, *read, kind=kind) for index in range(count))
        self.waiting += [one.seq for one in new]
        self.maps += [one.seq for one in new if is_map]
        self.next_seq += count
        return RecordSteps((), new, NOW)

    def _finish(self, seq: int, how: Value | StateChange | StepState) -> Write:
        if seq in self.waiting:  # else an end of it was drawn meanwhile: one too many
            self.waiting.remove(seq)
        if seq in self.maps:
            self.maps.remove(seq)
        if isinstance(how, StateChange):
            how = how._replace(instance=how.instance if how.instance != seq else seq + 1)  # nothing is a call on itself
            return succeed(seq, next(self.orders), value())._replace(changed=how)
        if isinstance(how, Value):
            return succeed(seq, next(self.orders), how)
        self.unsuccessful.append(seq)
        return fail(seq, next(self.orders), how)


class AllStoresAgree(RuleBasedStateMachine):
    """Each rule does one thing to each store, and compares what they say."""

    names: tuple[str, ...] = ("sqlite", "memory")
    after_each_rule = True

    @initialize()
    def open(self) -> None:
        """Every store, empty but for the runs that the rules write to, and one that holds up the writer."""
        self.folder = tempfile.TemporaryDirectory()
        self.orders = itertools.count()
        self.stores = {name: STORES[name](Path(self.folder.name)) for name in self.names}
        self.anchors = {name: begin(store, "anchor") for name, store in self.stores.items()}
        self.claims = {run_id: self._begin(run_id) for run_id in RUNS}

    def _begin(self, run_id: str) -> Claim:
        claim: Claim = self.all(lambda store: begin(store, run_id))
        return claim

    def teardown(self) -> None:
        if not hasattr(self, "stores"):
            return
        try:
            if not self.after_each_rule and hasattr(self, "claims"):
                self._compare_all()
        finally:
            for store in self.stores.values():
                store.close()
            self.folder.cleanup()

    def all(self, ask: Callable[[Store], Any]) -> Any:
        """What every store answers, or raises; they have to agree."""
        answers = {}
        for name, store in self.stores.items():
            try:
                answers[name] = ask(store)
            except DagengineError as error:
                answers[name] = type(error)
        first, *rest = answers.values()
        assert all(answer == first for answer in rest), answers
        return first

    @rule(run_id=st.sampled_from(["run-a", "other"]), owned=st.booleans())
    def create(self, run_id: str, owned: bool) -> None:
        """Begin another run, or one that is there. Which number it gets is each store's affair."""

        def created(store: Store) -> int | None:
            claim = store.create_run(new_run(run_id), ME if owned else None)
            return None if claim is None else claim.token

        self.all(created)

    @rule(run_id=st.sampled_from(RUNS), name=st.sampled_from("pq"), lives=st.booleans(), reopen=st.booleans())
    def claim(self, run_id: str, name: str, lives: bool, reopen: bool) -> None:
        """Take a run over, or try to."""
        claimed = self.all(lambda store: store.claim(run_id, process(name), alive if lives else dead, reopen))
        if isinstance(claimed, Claim):
            self.claims[run_id] = claimed

    @rule(data=st.data(), size=st.integers(1, 5))
    def write(self, data: st.DataObject, size: int) -> None:
        """Several batches at once, most of them sound, some with claims that have passed."""
        batches = []
        left = {run_id: self._left(run_id) for run_id in RUNS}
        for _ in range(size):
            run_id = data.draw(st.sampled_from(RUNS))
            claim = self.claims[run_id]
            behind = data.draw(tokens)
            batch = data.draw(st.lists(left[run_id].writes() if data.draw(mostly) else writes, min_size=1, max_size=4))
            batches.append((Claim(claim.run_number, run_id, claim.token - behind), batch))
        told = {name: self._burst(name, batches) for name in self.stores}
        first, *rest = told.values()
        assert all(other == first for other in rest), told

    def _left(self, run_id: str) -> Left:
        store = self.stores["memory"]
        number = self.claims[run_id].run_number
        frontier = store.frontier(number)
        waiting = [pending.seq for pending in frontier.steps]
        maps = [pending.seq for pending in frontier.steps if pending.kind is StepKind.MAP]
        unsuccessful = [found.seq for found in store.steps(number, states=BADLY)]
        return Left(waiting, maps, unsuccessful, frontier.next_seq, self.orders)

    def _burst(self, name: str, batches: Sequence[tuple[Claim, list[Write]]]) -> list[type]:
        store = self.stores[name]
        handed_over = threading.Event()

        def hold(_: object) -> None:
            handed_over.wait(PATIENCE)

        store.write(self.anchors[name], [event("hold")], hold)
        outcomes = [Outcome() for _ in batches]
        for (claim, batch), outcome in zip(batches, outcomes, strict=True):
            store.write(claim, batch, outcome)
        handed_over.set()
        return [type(outcome.wait()) for outcome in outcomes]

    @rule(run_id=st.sampled_from([*RUNS, "other"]))
    def cancel(self, run_id: str) -> None:
        """Ask a run to stop, whatever it is."""
        self.all(lambda store: store.request_cancel(run_id, NOW + 1))

    @rule(
        which=st.sampled_from([RunFilter(), RunFilter(states=(RunState.RUNNING, RunState.FAILED)), RunFilter(limit=1)])
    )
    def list_runs(self, which: RunFilter) -> None:
        """Runs, by a filter; a run that was begun meanwhile may have another number in each store."""
        self.all(lambda store: [replace(run, number=0) for run in store.runs(which)])

    @invariant()
    def every_answer_is_the_same(self) -> None:
        """All that can be asked of a run."""
        if self.after_each_rule and hasattr(self, "claims"):
            self._compare_all()

    def _compare_all(self) -> None:
        for run_id in RUNS:
            self._compare(run_id, self.claims[run_id].run_number)

    def _compare(self, run_id: str, number: int) -> None:
        self.all(lambda store: store.find_run(run_id))
        self.all(lambda store: store.frontier(number))
        self.all(lambda store: list(store.recorded_calls(number)))
        self.all(lambda store: store.steps(number))
        self.all(lambda store: store.values(number, range(10)))
        for seq in range(6):
            self.all(lambda store, seq=seq: store.saved_state(number, seq))  # type: ignore[misc]
        self.all(lambda store: store.failures(number, range(10)))
        self.all(lambda store: store.finish_order(number, range(10)))
        self.all(lambda store: store.counts(number))
        self.all(lambda store: list(store.edges(number)))
        self.all(lambda store: store.attempts(number))
        self.all(lambda store: store.attempts(number, open_only=True))
        self.all(lambda store: store.events(number))
        self.all(lambda store: store.definitions(number))

    @invariant()
    def every_store_is_sound(self) -> None:
        """Integrity, and what is counted."""
        if self.after_each_rule and hasattr(self, "claims"):
            sizes = {"bytes", "free_bytes"}
            checks = self.all(lambda store: {name: found for name, found in store.check().items() if name not in sizes})
            assert checks["integrity"] == "ok", InternalError


class AServerAgrees(AllStoresAgree):
    """The same with a server, whose answers take milliseconds: they are compared at the end of each example."""

    names = ("postgres", "memory")
    after_each_rule = False


TestAllStoresAgree = AllStoresAgree.TestCase
TestAllStoresAgree.settings = settings(max_examples=60, stateful_step_count=30)
TestAServerAgrees = AServerAgrees.TestCase
TestAServerAgrees.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def test_every_store_is_compared() -> None:
    """A store that joins the contract joins one of these machines."""
    by_another_way = {"pooler"}  # it is the server's store, too
    assert {*AllStoresAgree.names, *AServerAgrees.names} == set(STORES) - by_another_way
