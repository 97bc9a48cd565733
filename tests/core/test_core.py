"""The run core alone: events in, actions out, invariants after each event."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagengine.core.actions import Actions
from dagengine.core.actors import WORKER_LOSSES
from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptGrown,
    AttemptLost,
    AttemptStarted,
    AttemptSucceeded,
    CancelRequested,
    DelayOver,
    Event,
    FailuresHandled,
    GrownCall,
    InterruptRequested,
    Recorded,
    StepsCalled,
    TimeIsUp,
)
from dagengine.core.invariants import check
from dagengine.core.states import Phase
from dagengine.errors import InternalError
from dagengine.model import (
    Definition,
    Failure,
    Frontier,
    NewStep,
    PendingStep,
    RunState,
    StepInput,
    StepKind,
    StepState,
    Value,
)
from dagengine.storage.writes import ExpandStep, FinishRun, FinishStep, RecordSteps
from tests.core.kit import VALUE, ends, go, returned

RETRIES = 1
DEFINITIONS = [Definition(0, "f", {}, {"retries": RETRIES})]
ERROR = Failure("error", "ValueError", "no")
LOST = Failure("lost", "WorkerLost", "gone", facts={"signal": "SIGKILL"})


def new(seq: int, *reads: int, kind: StepKind = StepKind.TASK) -> NewStep:
    return NewStep(seq, f"w/f[{seq}]", kind, 0, b"", tuple(StepInput(read) for read in reads))


def called(*steps: NewStep) -> StepsCalled:
    return StepsCalled(list(DEFINITIONS) if steps[0].seq == 0 else [], list(steps))


def succeed(core: RunCore, seq: int) -> Actions:
    """The current attempt at the step succeeds, and its end is recorded."""
    go(core, AttemptSucceeded(seq, core.steps[seq].attempt, 0, 0.0, 1.0, VALUE))
    return go(core, Recorded())


def fail(core: RunCore, seq: int, *, retriable: bool = False) -> Actions:
    failure = Failure("error", "ValueError", "no", retriable=retriable)
    return go(core, AttemptFailed(seq, core.steps[seq].attempt, 0, 0.0, 1.0, failure))


def test_a_step_is_submitted_only_when_its_record_is_durable() -> None:
    """A call is recorded first; the answer of the store lets it run."""
    core = RunCore()
    actions = go(core, called(new(0)))
    assert [type(write) for write in actions.writes] == [RecordSteps]
    assert actions.submit == []
    assert go(core, Recorded()).submit == [(0, 1)]


def test_a_dependent_waits_for_the_durable_end_of_its_input() -> None:
    """Output commit: the result alone does not let a reader start."""
    core = RunCore()
    go(core, called(new(0), new(1, 0)))
    assert go(core, Recorded()).submit == [(0, 1)]
    actions = go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))
    assert actions.submit == []
    assert ends(actions) == {0: StepState.SUCCEEDED}
    actions = go(core, Recorded())
    assert actions.submit == [(1, 1)]
    assert actions.ended == [(0, StepState.SUCCEEDED, 0)]
    assert 0 not in core.steps


def test_the_run_finishes_in_the_batch_of_its_last_step() -> None:
    """Nothing is lost between the last step's end and the run's."""
    core = RunCore()
    go(core, called(new(0)))
    go(core, Recorded())
    go(core, returned())
    go(core, Recorded())
    actions = go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))
    assert isinstance(actions.writes[-1], FinishRun)
    assert actions.writes[-1].state is RunState.SUCCEEDED
    assert go(core, Recorded()).finished is RunState.SUCCEEDED


def test_an_empty_body_is_a_run_that_succeeds() -> None:
    """A workflow that calls nothing ends with its body."""
    core = RunCore()
    go(core, returned())
    assert go(core, Recorded()).finished is RunState.SUCCEEDED


def test_a_failure_skips_what_depends_on_it_and_lets_the_rest_finish() -> None:
    """0 fails; 1 and 2 hang on it; 3 does not."""
    core = RunCore()
    go(core, called(new(0), new(1, 0), new(2, 1), new(3)), returned())
    go(core, Recorded())
    actions = fail(core, 0)
    assert ends(actions) == {0: StepState.FAILED, 1: StepState.SKIPPED, 2: StepState.SKIPPED}
    go(core, Recorded())
    assert core.steps[3].phase is Phase.SUBMITTED
    assert succeed(core, 3).finished is RunState.FAILED


def test_a_call_that_reads_a_failed_step_is_skipped_at_once() -> None:
    """Also when the call comes after the failure."""
    core = RunCore()
    go(core, called(new(0)))
    go(core, Recorded())
    fail(core, 0)
    go(core, Recorded())
    assert ends(go(core, called(new(1, 0)))) == {1: StepState.SKIPPED}


def test_a_handled_failure_does_not_fail_the_run() -> None:
    """The body was given the failure and went on."""
    core = RunCore()
    go(core, called(new(0)))
    go(core, Recorded())
    fail(core, 0)
    go(core, Recorded())
    go(core, FailuresHandled([0]), returned())
    assert go(core, Recorded()).finished is RunState.SUCCEEDED


def test_a_failure_is_retried_after_its_delay_and_then_final() -> None:
    """One retry is allowed: two attempts, then the end."""
    core = RunCore()
    go(core, called(new(0)))
    go(core, Recorded())
    actions = fail(core, 0, retriable=True)
    ((delay, seq, number),) = actions.timers
    assert delay > 0
    assert go(core, Recorded()).submit == []
    assert go(core, DelayOver(seq, number)).submit == [(0, 2)]
    assert ends(fail(core, 0, retriable=True)) == {0: StepState.FAILED}


def test_an_exception_that_the_predicate_refuses_is_not_retried() -> None:
    """`retriable` is the predicate's verdict."""
    core = RunCore()
    go(core, called(new(0)))
    go(core, Recorded())
    assert ends(fail(core, 0, retriable=False)) == {0: StepState.FAILED}


def test_lost_workers_have_a_budget_of_their_own() -> None:
    """Losses don't draw on the task's retries, and are bounded."""
    core = RunCore()
    go(core, called(new(0)))
    go(core, Recorded())
    for loss in range(WORKER_LOSSES):
        actions = go(core, AttemptLost(0, loss + 1, 0, 0.0, 1.0, LOST))
        assert ends(actions) == {}
        go(core, Recorded(), DelayOver(0, loss + 1))
    fail(core, 0, retriable=True)
    go(core, Recorded(), DelayOver(0, WORKER_LOSSES + 1))
    actions = go(core, AttemptLost(0, WORKER_LOSSES + 2, 0, 0.0, 1.0, LOST))
    assert ends(actions) == {0: StepState.FAILED}


def test_news_of_an_old_attempt_is_ignored() -> None:
    """A late result of an attempt that was given up changes nothing."""
    core = RunCore()
    go(core, called(new(0)))
    go(core, Recorded())
    go(core, AttemptLost(0, 1, 0, 0.0, 1.0, LOST))
    go(core, Recorded(), DelayOver(0, 1))
    assert go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE)).writes == []
    assert core.steps[0].phase is Phase.SUBMITTED


def test_a_map_records_its_items_and_ends_with_them() -> None:
    """The items and the expansion are one batch, and so are the ends of the last item and of the map; the map's value is
    the range of its items."""
    core = RunCore()
    go(core, called(new(0), NewStep(1, "w/f.map[0]", StepKind.MAP, 0, b"", (StepInput(0),)), new(2, 1)), returned())
    go(core, Recorded())
    succeed(core, 0)
    actions = go(core, AttemptExpanded(1, 1, 0, 0.0, 1.0, [b"a", b"b"], 3))
    recorded = [write for write in actions.writes if isinstance(write, RecordSteps)]
    assert [step.key for step in recorded[0].steps] == ["w/f.map[0]/f[0]", "w/f.map[0]/f[1]"]
    assert ExpandStep(1, 3, 2) in actions.writes
    assert go(core, Recorded()).submit == [(3, 1), (4, 1)]
    succeed(core, 3)
    actions = go(core, AttemptSucceeded(4, 1, 0, 0.0, 1.0, VALUE))
    item_end, map_end = [write for write in actions.writes if isinstance(write, FinishStep)]
    assert (item_end.seq, map_end.seq) == (4, 1)
    assert map_end.value == Value("", 0, items=(3, 2))
    assert go(core, Recorded()).submit == [(2, 1)]


def test_a_map_over_nothing_is_an_empty_list() -> None:
    """No items: the map ends at once."""
    core = RunCore()
    go(core, called(NewStep(0, "w/f.map[0]", StepKind.MAP, 0, b"", ())), returned())
    go(core, Recorded())
    actions = go(core, AttemptExpanded(0, 1, 0, 0.0, 1.0, [], 1))
    assert ends(actions) == {0: StepState.SUCCEEDED}


def test_a_failed_item_skips_the_map_and_spares_its_siblings() -> None:
    """The map did not succeed because an item did not; the other items finish."""
    core = RunCore()
    go(core, called(NewStep(0, "w/f.map[0]", StepKind.MAP, 0, b"", ())), returned())
    go(core, Recorded())
    go(core, AttemptExpanded(0, 1, 0, 0.0, 1.0, [b"a", b"b"], 1))
    go(core, Recorded())
    assert ends(fail(core, 1)) == {1: StepState.FAILED, 0: StepState.SKIPPED}
    go(core, Recorded())
    assert succeed(core, 2).finished is RunState.FAILED


def test_an_interrupt_drains_and_leaves_the_rest_for_later() -> None:
    """What the runtime has is asked back; what it did not start counts as never begun."""
    core = RunCore()
    go(core, called(new(0), new(1), new(2, 0)))
    go(core, Recorded())
    actions = go(core, InterruptRequested())
    assert actions.stop_body
    assert actions.drop == [(0, 1), (1, 1)]
    go(core, AttemptDropped(1, 1, False, 0.0))
    assert core.steps[1].attempt == 0
    actions = go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))
    assert isinstance(actions.writes[-1], FinishRun)
    assert actions.writes[-1].state is RunState.INTERRUPTED
    assert core.steps[2].end is None


def test_a_cancelled_run_cancels_every_step_that_has_not_ended() -> None:
    """Running attempts are ended by force; the others never run."""
    core = RunCore()
    go(core, called(new(0), new(1, 0), new(2)))
    go(core, Recorded())
    actions = go(core, CancelRequested())
    assert set(actions.force_drop) == {(0, 1), (2, 1)}
    assert ends(actions) == {1: StepState.CANCELLED}
    go(core, AttemptDropped(0, 1, True, 0.0))
    actions = go(core, AttemptDropped(2, 1, True, 0.0))
    assert actions.writes[-1].state is RunState.CANCELLED  # type: ignore[union-attr]


def test_a_run_whose_time_is_up_fails_and_keeps_what_is_left_for_a_resume() -> None:
    """What runs is ended; what has not ended stays open."""
    core = RunCore()
    go(core, called(new(0), new(1, 0)))
    go(core, Recorded())
    actions = go(core, TimeIsUp(60.0))
    assert actions.force_drop == [(0, 1)]
    actions = go(core, AttemptDropped(0, 1, True, 0.0))
    (finish,) = [write for write in actions.writes if isinstance(write, FinishRun)]
    assert (finish.state, finish.failure and finish.failure.kind) == (RunState.FAILED, "timeout")
    assert ends(actions) == {}
    assert core.steps[0].end is None


def test_a_chain_of_100_000_steps_is_skipped_without_recursion() -> None:
    """The first fails."""
    core = RunCore()
    count = 100_000
    core.apply([called(*(new(seq, *([seq - 1] if seq else [])) for seq in range(count)))], 0.0)
    core.apply([Recorded()], 0.0)
    actions = core.apply([AttemptFailed(0, 1, 0, 0.0, 0.0, Failure("error", "E", "", retriable=False))], 0.0)
    assert len(ends(actions)) == count
    check(core)


def test_an_impossible_transition_is_refused_with_the_steps_name() -> None:
    """The table of transitions is the law, not a drawing."""
    core = RunCore()
    go(core, called(new(0)))
    with pytest.raises(InternalError, match=r"w/f\[0\] can't go from NEW to SUCCEEDED"):
        core._go(core.steps[0], Phase.SUCCEEDED)
    assert core.steps[0].phase is Phase.NEW


def test_a_resumed_run_goes_on_from_its_frontier() -> None:
    """Ended inputs count; attempts are numbered on."""
    pending = (
        PendingStep(1, "w/f[1]", StepKind.TASK, 0, b"", (StepInput(0),), 2, None),
        PendingStep(2, "w/f[2]", StepKind.TASK, 0, b"", (StepInput(1),), 0, None),
    )
    core = RunCore()
    actions = core.load(Frontier(pending, {0: StepState.SUCCEEDED}, 3, tuple(DEFINITIONS)), True, 0.0)
    check(core)
    assert actions.submit == [(1, 3)]
    succeed(core, 1)
    assert succeed(core, 2).finished is RunState.SUCCEEDED


def test_a_resumed_map_waits_for_the_items_that_are_left() -> None:
    """Items that ended before are not in the frontier."""
    pending = (
        PendingStep(0, "w/f.map[0]", StepKind.MAP, 0, b"", (), 1, (1, 3)),
        PendingStep(2, "w/f.map[0]/f[1]", StepKind.TASK, 0, b"", (), 0, None),
    )
    core = RunCore()
    actions = core.load(Frontier(pending, {}, 4, tuple(DEFINITIONS)), True, 0.0)
    check(core)
    assert actions.submit == [(2, 1)]
    assert ends(go(core, AttemptSucceeded(2, core.steps[2].attempt, 0, 0.0, 1.0, VALUE))) == {
        2: StepState.SUCCEEDED,
        0: StepState.SUCCEEDED,
    }
    assert go(core, Recorded()).finished is RunState.SUCCEEDED


# ---- random graphs, random orders -----------------------------------------------------------


class World:
    """A store and a runtime that answer in random order, and what they have seen."""

    def __init__(self, seed: int, graph: Sequence[Sequence[int]], maps: set[int]) -> None:
        self.random = random.Random(seed)
        self.core = RunCore(window=self.random.choice([1, 3, 100]))
        self.graph = graph
        self.maps = maps
        self.events: list[Event] = []  # of the runtime and timers: any order
        self.batches: list[Actions] = []  # of the store: in order
        self.durable: dict[int, StepState] = {}
        self.finished: RunState | None = None
        self.submitted: list[tuple[int, int]] = []
        self.next_seq = len(graph)
        self.recorded: set[int] = set()

    def act(self, actions: Actions) -> None:
        for seq, number in actions.submit:
            self.submitted.append((seq, number))
            self.events.append(self.outcome(seq, number))
        for _, seq, number in actions.timers:
            self.events.append(DelayOver(seq, number))
        for seq, number in actions.drop + actions.force_drop:
            self.events = [
                e for e in self.events if not (getattr(e, "seq", None) == seq and not isinstance(e, DelayOver))
            ]
            self.events.append(AttemptDropped(seq, number, self.random.random() < 0.5, 0.0))
        for write in actions.writes:
            if isinstance(write, RecordSteps):
                self.recorded.update(step.seq for step in write.steps)
        if actions.writes:
            self.batches.append(actions)
        for seq, state, _ in actions.ended:
            assert seq not in self.durable, "an end was told twice"
            self.durable[seq] = state
        if actions.finished is not None:
            self.finished = actions.finished

    def outcome(self, seq: int, number: int) -> Event:
        roll = self.random.random()
        if seq in self.maps and roll < 0.8:
            count = self.random.randrange(4)
            first, self.next_seq = self.next_seq, self.next_seq + count
            return AttemptExpanded(seq, number, 0, 0.0, 0.0, [b""] * count, first)
        if roll < 0.15:
            return self.growth(seq, number)
        if roll < 0.75:
            return AttemptSucceeded(seq, number, 0, 0.0, 0.0, VALUE)
        if roll < 0.9:
            return AttemptFailed(seq, number, 0, 0.0, 0.0, Failure("error", "E", "", retriable=roll < 0.85), roll)
        return AttemptLost(seq, number, 0, 0.0, 0.0, LOST, roll)

    def growth(self, seq: int, number: int) -> Event:
        """A task that has deferred a few calls, each of which reads some of those before it."""
        count = self.random.randrange(1, 4)
        first, self.next_seq = self.next_seq, self.next_seq + count
        calls = [
            GrownCall("f", None, 0, b"", tuple(self.random.sample(range(place), self.random.randrange(place + 1))))
            for place in range(count)
        ]
        last = self.random.choice([None, 1])
        return AttemptGrown(seq, number, 0, 0.0, 0.0, list(DEFINITIONS), calls, first, last)

    def step(self, event: Event) -> None:
        actions = self.core.apply([event], 0.0)
        check(self.core)
        self.act(actions)

    def run(self, disturbance: Event | None) -> None:
        calls: list[Event] = [
            called(
                NewStep(
                    seq,
                    f"w/f.map[{seq}]" if seq in self.maps else f"w/f[{seq}]",
                    StepKind.MAP if seq in self.maps else StepKind.TASK,
                    0,
                    b"",
                    tuple(StepInput(read) for read in reads),
                )
            )
            for seq, reads in enumerate(self.graph)
        ]
        for event in calls:
            self.step(event)
        self.step(returned())
        at = self.random.randrange(30) if disturbance is not None else -1
        for turn in range(100_000):
            if turn == at and disturbance is not None:
                self.step(disturbance)
            steps = self.core.steps
            started = [n for n in self.submitted if n[0] in steps and steps[n[0]].phase is Phase.SUBMITTED]
            if started and self.random.random() < 0.3:
                seq, number = self.random.choice(started)
                self.step(AttemptStarted(seq, number, 0, 1, 0.0))
            elif self.batches and (not self.events or self.random.random() < 0.5):
                self.batches.pop(0)
                self.step(Recorded())
            elif self.events:
                self.step(self.events.pop(self.random.randrange(len(self.events))))
            elif not self.batches:
                return
        raise AssertionError("the run does not end")


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(1, 12))
    return [
        draw(st.lists(st.integers(0, max(seq - 1, 0)), max_size=3, unique=True)) if seq else [] for seq in range(size)
    ]


@settings(max_examples=300, deadline=None)
@given(
    graph=graphs(),
    seed=st.integers(0, 2**32),
    disturbance=st.sampled_from([None, None, InterruptRequested(), InterruptRequested(True), CancelRequested()]),
    data=st.data(),
)
def test_every_run_ends_whatever_the_order_of_events(
    graph: list[list[int]], seed: int, disturbance: Event | None, data: Any
) -> None:
    """Random graphs with maps, random failures, losses and orders: invariants hold, and the run ends as it must."""
    maps = set(data.draw(st.lists(st.integers(0, len(graph) - 1), max_size=2, unique=True)))
    world = World(seed, graph, maps)
    world.run(disturbance)
    assert world.finished is not None
    if world.finished is RunState.SUCCEEDED:
        assert set(world.durable.values()) == {StepState.SUCCEEDED}
    if world.finished is RunState.FAILED:
        assert StepState.FAILED in world.durable.values()
    if world.finished in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED):
        assert set(world.durable) == world.recorded
    for seq, reads in enumerate(graph):
        if seq in world.durable and world.durable[seq] is StepState.SUCCEEDED and seq not in maps:
            assert all(world.durable[read] is StepState.SUCCEEDED for read in reads)
