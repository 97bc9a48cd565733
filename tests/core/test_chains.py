"""Stateful objects in the run core: whose turn it is, when their actors are made, rebuilt and let go of."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagengine.core.actions import Actions
from dagengine.core.actors import WORKER_LOSSES
from dagengine.core.chain import Life
from dagengine.core.core import RunCore
from dagengine.core.events import (
    ActorBuilt,
    ActorGone,
    ActorNotBuilt,
    AttemptDropped,
    AttemptFailed,
    AttemptLost,
    AttemptStarted,
    AttemptSucceeded,
    BodyReturned,
    CancelRequested,
    DelayOver,
    Event,
    InstanceLetGo,
    InterruptRequested,
    PatienceOver,
    Recorded,
    StepsCalled,
)
from dagengine.core.invariants import check
from dagengine.core.states import Phase
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
from dagengine.storage.writes import FinishStep, RecordSteps, StateChange
from tests.core.kit import VALUE, ends, go

TRAINER, EPOCH, TASK, RARELY = range(4)
DEFINITIONS = [
    Definition(TRAINER, "Trainer", {}, {}),
    Definition(EPOCH, "Trainer.epoch", {}, {"retries": 1}),
    Definition(TASK, "task", {}, {}),
    Definition(RARELY, "Rarely.epoch", {}, {"checkpoint_every": 3}),
]
STATE = Value("11", 1, b"s")
NO = Failure("error", "ValueError", "no", retriable=False)
AGAIN = Failure("error", "ValueError", "no")
LOST = Failure("lost", "WorkerLost", "gone")

M, R, C, T = StepKind.METHOD, StepKind.READONLY, StepKind.CREATE, StepKind.TASK


def new(seq: int, kind: StepKind, *reads: int, definition: int | None = None) -> NewStep:
    """A step. Of a call, the last of `reads` is the object."""
    default = {C: TRAINER, T: TASK}.get(kind, EPOCH)
    inputs = tuple(StepInput(read) for read in reads)
    return NewStep(seq, f"w/s[{seq}]", kind, default if definition is None else definition, b"", inputs)


def begun(*steps: NewStep, closed: bool = False) -> tuple[RunCore, Actions]:
    """A run with these steps, recorded."""
    core = RunCore()
    go(core, StepsCalled(DEFINITIONS, list(steps)), *([BodyReturned(b"", ())] if closed else []))
    return core, go(core, Recorded())


def succeed(core: RunCore, seq: int, state: Value | None = STATE) -> Actions:
    """The current attempt at the step succeeds, and its end is recorded. The actions of both, together."""
    step = core.steps[seq]
    saved = state if core.saves(step) else None
    first = go(core, AttemptSucceeded(seq, step.attempt, 0, 0.0, 1.0, VALUE, saved))
    then = go(core, Recorded())
    then.writes = first.writes + then.writes
    then.release = first.release + then.release
    return then


def fail(core: RunCore, seq: int, failure: Failure = NO) -> Actions:
    return go(core, AttemptFailed(seq, core.steps[seq].attempt, 0, 0.0, 1.0, failure))


def changes(actions: Actions) -> list[StateChange]:
    return [write.changed for write in actions.writes if isinstance(write, FinishStep) and write.changed is not None]


def test_calls_that_change_the_state_run_one_after_the_other() -> None:
    """Each starts when the end of the one before it is durable, and not when it is only told."""
    core, actions = begun(new(0, C), new(1, M, 0), new(2, M, 0))
    assert actions.submit == [(0, 1)]
    assert succeed(core, 0).submit == [(1, 1)]
    assert go(core, AttemptSucceeded(1, 1, 0, 0.0, 1.0, VALUE, STATE)).submit == []
    assert go(core, Recorded()).submit == [(2, 1)]


def test_read_only_calls_run_side_by_side_between_those_that_change_the_state() -> None:
    """M R R M R: both readers after the first call, the second one after both of them, the last reader after that."""
    core, _ = begun(new(0, C), new(1, M, 0), new(2, R, 0), new(3, R, 0), new(4, M, 0), new(5, R, 0))
    assert succeed(core, 0).submit == [(1, 1)]
    assert succeed(core, 1).submit == [(2, 1), (3, 1)]
    assert succeed(core, 3).submit == []
    assert succeed(core, 2).submit == [(4, 1)]
    assert succeed(core, 4).submit == [(5, 1)]


def test_an_object_is_made_when_a_call_waits_for_nothing_else() -> None:
    """It may hold a device: not while its first call waits for its arguments."""
    core, actions = begun(new(0, T), new(1, C), new(2, M, 0, 1))
    assert actions.submit == [(0, 1)]
    assert succeed(core, 0).submit == [(1, 1)]
    assert succeed(core, 1).submit == [(2, 1)]


def test_an_object_that_is_never_called_is_made_when_no_call_can_come() -> None:
    """So that what its constructor raises is not lost; then it is let go of."""
    core, actions = begun(new(0, C))
    assert actions.submit == []
    assert go(core, BodyReturned(b"", ())).submit == [(0, 1)]
    go(core, Recorded())
    actions = go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))
    assert actions.release == [(0, 1, False)]
    assert go(core, Recorded()).finished is RunState.SUCCEEDED


def test_a_skipped_call_does_not_let_the_next_one_pass_those_before_it() -> None:
    """The middle one's argument fails while the first runs: the last waits for the first all the same."""
    core, actions = begun(new(0, T), new(1, C), new(2, M, 1), new(3, M, 0, 1), new(4, M, 1))
    assert actions.submit == [(0, 1), (1, 1)]
    assert succeed(core, 1).submit == [(2, 1)]
    assert ends(fail(core, 0)) == {0: StepState.FAILED, 3: StepState.SKIPPED}
    assert go(core, Recorded()).submit == []
    assert succeed(core, 2).submit == [(4, 1)]


def test_a_failed_call_leaves_the_state_as_it_was_and_the_next_one_runs() -> None:
    """The process that may hold half of a change is ended, and the state rebuilt before the next call."""
    core, _ = begun(new(0, C), new(1, M, 0), new(2, M, 0))
    succeed(core, 0)
    actions = fail(core, 1)
    assert ends(actions) == {1: StepState.FAILED}
    assert actions.release == [(0, 1, True)]
    actions = go(core, Recorded())
    assert actions.rebuild == [(0, 2)]
    assert actions.submit == []
    assert core.steps[2].phase is Phase.PARKED
    assert go(core, ActorBuilt(0, 2, 0)).submit == [(2, 1)]


def test_a_retry_of_a_call_starts_from_the_state_before_it() -> None:
    """The failed attempt's process is not used again."""
    core, _ = begun(new(0, C), new(1, M, 0))
    succeed(core, 0)
    actions = fail(core, 1, AGAIN)
    assert actions.release == [(0, 1, True)]
    assert go(core, Recorded(), DelayOver(1, 1)).rebuild == [(0, 2)]
    assert go(core, ActorBuilt(0, 2, 0)).submit == [(1, 2)]


def test_a_failed_read_only_call_leaves_the_process_in_use() -> None:
    """It has changed nothing; but if it was ended by a timeout, so was the process."""
    core, _ = begun(new(0, C), new(1, R, 0), new(2, R, 0), new(3, M, 0))
    succeed(core, 0)
    assert fail(core, 1).release == []
    assert fail(core, 2, Failure("timeout", "StepTimeout", "", retriable=False)).release == [(0, 1, True)]
    go(core, Recorded())
    assert go(core, Recorded()).rebuild == [(0, 2)]


def test_a_constructor_that_fails_skips_all_calls() -> None:
    """There is nothing to call."""
    core, _ = begun(new(0, C), new(1, M, 0), new(2, R, 0), closed=True)
    assert ends(fail(core, 0)) == {0: StepState.FAILED, 1: StepState.SKIPPED, 2: StepState.SKIPPED}
    assert go(core, Recorded()).finished is RunState.FAILED


def test_the_state_is_saved_with_every_third_call() -> None:
    """checkpoint_every=3: two calls are to be replayed, the third brings the state in its own commit."""
    steps = [new(seq, M, 0, definition=RARELY) for seq in range(1, 6)]
    core, _ = begun(new(0, C, definition=RARELY), *steps)
    succeed(core, 0)
    told = [changes(succeed(core, seq)) for seq in range(1, 6)]
    assert told == [[StateChange(0, STATE if seq == 3 else None)] for seq in range(1, 6)]


def test_read_only_calls_save_nothing() -> None:
    """They don't count, either."""
    core, _ = begun(new(0, C), new(1, R, 0))
    succeed(core, 0)
    assert not core.saves(core.steps[1])
    assert changes(succeed(core, 1)) == []


def test_what_was_replayed_counts_for_the_next_saving() -> None:
    """Two unsaved calls were replayed, every third is saved: the next one is."""
    pending = (PendingStep(3, "w/s[3]", M, RARELY, b"", (StepInput(0),), 0, None),)
    core = RunCore()
    actions = core.load(Frontier(pending, {0: StepState.SUCCEEDED}, 4, tuple(DEFINITIONS)), True, 0.0)
    check(core)
    assert actions.rebuild == [(0, 1)]
    assert go(core, ActorBuilt(0, 1, 2)).submit == [(3, 1)]
    assert core.saves(core.steps[3])


def test_a_lost_worker_has_the_state_rebuilt_and_the_call_tried_again() -> None:
    """On the budget for lost workers."""
    core, _ = begun(new(0, C), new(1, M, 0))
    succeed(core, 0)
    for loss in range(WORKER_LOSSES):
        assert ends(go(core, AttemptLost(1, loss + 1, 0, 0.0, 1.0, LOST))) == {}
        assert go(core, Recorded(), DelayOver(1, loss + 1)).rebuild == [(0, loss + 2)]
        go(core, ActorBuilt(0, loss + 2, 0))
    assert ends(go(core, AttemptLost(1, WORKER_LOSSES + 1, 0, 0.0, 1.0, LOST))) == {1: StepState.FAILED}


def test_a_rebuilding_that_loses_its_worker_is_tried_again_on_the_calls_budget() -> None:
    """And in the end the call fails, without an attempt of its own."""
    core, _ = begun(new(0, C), new(1, M, 0))
    succeed(core, 0)
    go(core, AttemptLost(1, 1, 0, 0.0, 1.0, LOST))
    go(core, Recorded(), DelayOver(1, 1))
    for loss in range(WORKER_LOSSES - 1):
        assert ends(go(core, ActorNotBuilt(0, loss + 2, LOST, True, 0.0))) == {}
        assert go(core, DelayOver(1, 1)).rebuild == [(0, loss + 3)]
    actions = go(core, ActorNotBuilt(0, WORKER_LOSSES + 1, LOST, True, 0.0))
    assert ends(actions) == {1: StepState.FAILED}


def test_a_state_that_can_not_be_rebuilt_fails_the_calls_that_wait_for_it() -> None:
    """What the replay raised is their failure; the next call tries anew."""
    core, _ = begun(new(0, C), new(1, M, 0), new(2, R, 0), new(3, R, 0), new(4, M, 0))
    succeed(core, 0)
    fail(core, 1)
    assert go(core, Recorded()).rebuild == [(0, 2)]
    assert ends(go(core, ActorNotBuilt(0, 2, NO, False, 0.0))) == {2: StepState.FAILED, 3: StepState.FAILED}
    assert go(core, Recorded()).rebuild == [(0, 3)]


def test_an_actor_that_dies_idle_is_rebuilt_for_the_next_call() -> None:
    """Nothing happens until there is one."""
    core, _ = begun(new(0, C), new(1, M, 0))
    succeed(core, 0)
    succeed(core, 1)
    assert go(core, ActorGone(0, 1, LOST, 0.0)).rebuild == []
    go(core, StepsCalled([], [new(2, M, 0)]))
    assert go(core, Recorded()).rebuild == [(0, 2)]


def test_actors_that_die_before_they_serve_a_call_fail_it_in_the_end() -> None:
    """Rebuilding them for ever would be a loop that nobody sees. The next call has a budget of its own."""
    core, _ = begun(new(0, C), new(1, M, 0), new(2, M, 0))
    go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE), ActorGone(0, 1, LOST, 0.0))
    assert go(core, Recorded()).rebuild == [(0, 2)]
    for incarnation in range(2, WORKER_LOSSES + 1):
        actions = go(core, ActorBuilt(0, incarnation, 0), ActorGone(0, incarnation, LOST, 0.0))
        assert actions.rebuild == [(0, incarnation + 1)]
    last = WORKER_LOSSES + 1
    actions = go(core, ActorBuilt(0, last, 0), ActorGone(0, last, LOST, 0.0))
    assert ends(actions) == {1: StepState.FAILED}
    assert go(core, Recorded()).rebuild == [(0, last + 1)]
    assert go(core, ActorBuilt(0, last + 1, 0)).submit == [(2, 1)]


def test_news_of_an_old_actor_is_ignored() -> None:
    """Its death, its readiness, its failure: another one has taken its place."""
    core, _ = begun(new(0, C), new(1, M, 0), new(2, M, 0))
    succeed(core, 0)
    fail(core, 1)
    go(core, Recorded())
    assert go(core, ActorBuilt(0, 1, 0)).submit == []
    go(core, ActorNotBuilt(0, 1, NO, False, 0.0))
    go(core, ActorBuilt(0, 2, 0))
    go(core, ActorGone(0, 1, LOST, 0.0))
    assert core.actors() == [(0, 2)]
    assert core.steps[2].phase is Phase.SUBMITTED


def test_an_object_is_let_go_of_when_no_call_can_come() -> None:
    """Its last call has ended, and the body has returned; or the body has dropped the object."""
    core, _ = begun(new(0, C), new(1, M, 0), closed=True)
    succeed(core, 0)
    assert succeed(core, 1).release == [(0, 1, False)]
    core, _ = begun(new(0, C), new(1, M, 0))
    succeed(core, 0)
    assert go(core, InstanceLetGo(0)).release == []
    assert succeed(core, 1).release == [(0, 1, False)]
    assert core.instances == {}


def test_idle_objects_give_way_to_attempts_that_have_waited_for_long() -> None:
    """A run must not wait for what it holds itself: one object has the only device, the other's creation waits for it."""
    core, _ = begun(new(0, C), new(1, M, 0))
    succeed(core, 0)
    succeed(core, 1)
    go(core, StepsCalled([], [new(2, C), new(3, M, 2)]))
    actions = go(core, Recorded())
    assert (actions.submit, actions.patience) == ([(2, 1)], True)
    assert go(core, PatienceOver()).release == [(0, 1, False)]
    go(core, StepsCalled([], [new(4, M, 0)]))
    assert go(core, Recorded()).rebuild == [(0, 2)]


def test_idle_objects_stay_while_nothing_waits() -> None:
    """What went out has been started meanwhile."""
    core, _ = begun(new(0, C), new(1, M, 0))
    succeed(core, 0)
    succeed(core, 1)
    go(core, StepsCalled([], [new(2, T)]))
    assert go(core, Recorded()).patience
    go(core, AttemptStarted(2, 1, 0, 1, 0.0))
    actions = go(core, PatienceOver())
    assert (actions.release, actions.patience) == ([], False)


@pytest.mark.parametrize("force", [False, True])
def test_a_run_that_stops_lets_go_of_its_objects(force: bool) -> None:
    """Politely when it drains: the call that runs may end."""
    core, _ = begun(new(0, C), new(1, M, 0), new(2, M, 0))
    succeed(core, 0)
    actions = go(core, InterruptRequested(force))
    assert actions.release == [(0, 1, force)]
    actions = go(core, AttemptSucceeded(1, 1, 0, 0.0, 1.0, VALUE, STATE))
    assert changes(actions) == [StateChange(0, STATE)]
    assert go(core, Recorded()).finished is RunState.INTERRUPTED


# ---- random chains, random orders -----------------------------------------------------------


class World:
    """A store, and a runtime with actors whose state is the list of calls that changed it.

    What a call finds must be exactly what is recorded before it: that is the promise of the chain.
    """

    def __init__(self, seed: int, kinds: list[tuple[StepKind, int, bool]], every: int) -> None:
        self.random = random.Random(seed)
        self.core = RunCore(window=self.random.choice([1, 3, 100]))
        self.every = every
        self.kinds = kinds
        self.events: list[Event] = []
        self.batches: list[Actions] = []
        self.actors: dict[tuple[int, int], list[int]] = {}  # alive: the calls in its state
        self.recorded: dict[int, list[int]] = {}  # by object: what changed it, as the store has it
        self.saved: dict[int, list[int]] = {}
        self.states: dict[int, StepState] = {}
        self.steps: dict[int, NewStep] = {}
        self.finished: RunState | None = None

    def act(self, actions: Actions) -> None:
        for seq, number in actions.submit:
            self.submit(seq, number)
        for seq, incarnation in actions.rebuild:
            self.rebuild(seq, incarnation)
        for seq, incarnation, _ in actions.release:
            self.actors.pop((seq, incarnation), None)
        self.events += [DelayOver(seq, number) for _, seq, number in actions.timers]
        if actions.patience:
            self.events.append(PatienceOver())
        for seq, number in actions.drop + actions.force_drop:
            self.drop(seq, number)
        if actions.writes:
            self.batches.append(actions)
        self.finished = self.finished or actions.finished

    def submit(self, seq: int, number: int) -> None:
        step = self.steps[seq]
        roll = self.random.random()
        if step.kind is C:
            if roll < 0.7:
                self.actors[seq, self.core.instances[seq].incarnation] = []
        elif step.kind.is_call:
            place = self.core.steps[seq].place
            assert place is not None
            instance = place.instance.seq
            state = self.actors[instance, place.incarnation]
            assert state == self.recorded.get(instance, []), "a call finds another state than what is recorded"
            if step.kind is M:
                state.append(seq)  # also where it fails: half of a change
        if roll < 0.7:
            saved = VALUE if self.core.saves(self.core.steps[seq]) else None
            self.events.append(AttemptSucceeded(seq, number, 0, 0.0, 0.0, VALUE, saved))
        elif roll < 0.85:
            failure = Failure(self.random.choice(["error", "timeout"]), "E", "", retriable=roll < 0.8)
            self.events.append(AttemptFailed(seq, number, 0, 0.0, 0.0, failure, roll))
        else:
            self.events.append(AttemptLost(seq, number, 0, 0.0, 0.0, LOST, roll))

    def rebuild(self, seq: int, incarnation: int) -> None:
        roll = self.random.random()
        unsaved = self.recorded.get(seq, [])[len(self.saved.get(seq, [])) :]
        assert len(unsaved) < self.every
        if roll < 0.8:
            self.actors[seq, incarnation] = list(self.recorded.get(seq, []))
            self.events.append(ActorBuilt(seq, incarnation, len(unsaved)))
        else:
            self.events.append(ActorNotBuilt(seq, incarnation, LOST if roll < 0.9 else NO, roll < 0.9, 0.0, roll))

    def drop(self, seq: int, number: int) -> None:
        self.events = [e for e in self.events if not (getattr(e, "seq", None) == seq and hasattr(e, "worker"))]
        if self.steps[seq].kind is C:
            self.actors.pop((seq, self.core.instances[seq].incarnation), None)
        self.events.append(AttemptDropped(seq, number, self.random.random() < 0.5, 0.0))

    def commit(self) -> None:
        for write in self.batches.pop(0).writes:
            if isinstance(write, FinishStep):
                assert write.seq not in self.states
                self.states[write.seq] = write.state
                if write.changed is not None:
                    calls = self.recorded.setdefault(write.changed.instance, [])
                    calls.append(write.seq)
                    if write.changed.state is not None:
                        self.saved[write.changed.instance] = list(calls)
            elif isinstance(write, RecordSteps):
                assert {step.seq for step in write.steps} <= set(self.steps)
        self.step(Recorded())

    def step(self, event: Event) -> None:
        actions = self.core.apply([event], 0.0)
        check(self.core)
        self.act(actions)

    def call(self) -> None:
        """The body: objects and tasks first, then calls on them in random order."""
        definitions = [
            Definition(number, found.name, {}, {"retries": 1, "checkpoint_every": self.every})
            if number != TASK
            else found
            for number, found in enumerate(DEFINITIONS)
        ]
        for seq, (kind, instance, reads) in enumerate(self.kinds):
            inputs = ([0] if reads and seq > 0 and kind.is_call else []) + ([instance] if kind.is_call else [])
            self.steps[seq] = new(seq, kind, *inputs)
            self.step(StepsCalled(definitions if seq == 0 else [], [self.steps[seq]]))
            if self.random.random() < 0.3:
                self.turn()
        for instance in [seq for seq, (kind, *_) in enumerate(self.kinds) if kind is C]:
            if self.random.random() < 0.5:
                self.step(InstanceLetGo(instance))
        self.step(BodyReturned(b"", ()))

    def turn(self) -> bool:
        idle = [(found.seq, found.incarnation) for found in self.core.instances.values() if found.life is Life.UP]
        idle = [actor for actor in idle if not self.core.instances[actor[0]].out]
        if idle and self.random.random() < 0.05:
            died = self.random.choice(idle)
            del self.actors[died]
            self.step(ActorGone(*died, LOST, 0.0))
        elif self.batches and (not self.events or self.random.random() < 0.5):
            self.commit()
        elif self.events:
            self.step(self.events.pop(self.random.randrange(len(self.events))))
        else:
            return bool(self.batches)
        return True


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[StepKind, int, bool]]:
    """A task, one or two objects, and calls on them."""
    objects = draw(st.integers(1, 2))
    calls = draw(st.lists(st.tuples(st.sampled_from([M, M, R]), st.integers(1, objects), st.booleans()), max_size=12))
    return [(T, 0, False), *[(C, 0, False)] * objects, *calls]


@settings(max_examples=400, deadline=None)
@given(
    kinds=chains(),
    seed=st.integers(0, 2**32),
    every=st.integers(1, 3),
    disturbance=st.sampled_from([None, None, InterruptRequested(), InterruptRequested(True), CancelRequested()]),
)
def test_a_call_finds_exactly_the_recorded_state_whatever_happens(
    kinds: list[tuple[StepKind, int, bool]], seed: int, every: int, disturbance: Any
) -> None:
    """Random chains, failures, losses and orders: invariants hold, states are those of the record, and the run ends."""
    world = World(seed, kinds, every)
    world.call()
    at = world.random.randrange(30) if disturbance is not None else -1
    for turn in range(100_000):
        if turn == at:
            world.step(disturbance)
        if not world.turn():
            break
    assert world.finished is not None
    assert world.actors == {}, "an actor was not let go of"
    if world.finished is RunState.SUCCEEDED:
        assert set(world.states.values()) == {StepState.SUCCEEDED}
    if disturbance is None:
        assert set(world.states) == set(world.steps)
