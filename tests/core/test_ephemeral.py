"""Ephemeral values in the run core: held, lost, made again, kept, let go of; also after a resume."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from dagengine.core.actions import Actions
from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptLost,
    AttemptSucceeded,
    BodyReturned,
    CancelRequested,
    DelayOver,
    Event,
    InputsLost,
    InterruptRequested,
    Recorded,
    RefsDropped,
    StepsCalled,
    ValueKept,
    ValueLost,
    ValueWanted,
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
from dagengine.storage.writes import CloseBody, ExpandStep, FinishRun, FinishStep, KeepValue, RecordSteps
from tests.core.kit import VALUE, go

RECORDED, EPHEMERAL = 0, 1
DEFINITIONS = [
    Definition(RECORDED, "f", {}, {"retries": 1}),
    Definition(EPHEMERAL, "g", {}, {"retries": 1, "checkpoint": False}),
]
NO_BYTES = Value("", 1)
ERROR = Failure("error", "ValueError", "no", retriable=False)
LOST = Failure("lost", "WorkerLost", "gone")


def new(seq: int, *reads: int, ephemeral: bool = True, kind: StepKind = StepKind.TASK) -> NewStep:
    definition = EPHEMERAL if ephemeral else RECORDED
    name = f"w/g.map[{seq}]" if kind is StepKind.MAP else f"w/g[{seq}]"
    return NewStep(seq, name, kind, definition, b"", tuple(StepInput(read) for read in reads))


def begun(*steps: NewStep) -> RunCore:
    core = RunCore()
    go(core, StepsCalled(list(DEFINITIONS), list(steps)))
    go(core, Recorded())
    return core


def succeed(core: RunCore, seq: int) -> Actions:
    value = NO_BYTES if core.is_ephemeral(seq) else VALUE
    go(core, AttemptSucceeded(seq, core.steps[seq].attempt, 0, 0.0, 1.0, value))
    return go(core, Recorded())


def test_a_value_is_let_go_of_when_its_readers_have_ended_and_the_body_has_returned() -> None:
    """Until then somebody may ask for it."""
    core = begun(new(0), new(1, 0, ephemeral=False))
    assert succeed(core, 0).submit == [(1, 1)]
    assert succeed(core, 1).free == []
    assert go(core, BodyReturned(b"", ())).free == [(0, 1)]
    assert go(core, Recorded()).finished is RunState.SUCCEEDED


def test_a_value_that_the_body_has_no_ref_to_goes_with_its_last_reader() -> None:
    """A body that loops for days must not hold what it has dropped."""
    core = begun(new(0), new(1, 0, ephemeral=False))
    succeed(core, 0)
    assert go(core, RefsDropped((0,))).free == []
    assert succeed(core, 1).free == [(0, 1)]


def test_a_reader_whose_input_is_gone_waits_until_it_is_made_again() -> None:
    """The attempt that met the loss was none; the step that is remade has no second end."""
    core = begun(new(0), new(1, 0, ephemeral=False))
    succeed(core, 0)
    actions = go(core, InputsLost(1, 1, ((0, 1),)))
    assert actions.submit == [(0, 2)]
    assert actions.free == [(0, 1)]
    assert core.steps[1].phase is Phase.WAITING
    actions = go(core, AttemptSucceeded(0, 2, 0, 0.0, 1.0, NO_BYTES))
    assert not [write for write in actions.writes if isinstance(write, FinishStep)]
    actions = go(core, Recorded())
    assert (actions.remade, actions.submit, actions.ended) == ([0], [(1, 1)], [])


def test_recorded_values_stop_the_climb() -> None:
    """0 is recorded; 1 and 2 hang on it and are not; only these run again."""
    core = begun(new(0, ephemeral=False), new(1, 0), new(2, 1), new(3, 2, ephemeral=False))
    for seq in range(3):
        succeed(core, seq)
    assert go(core, ValueLost(((1, 1),))).submit == []
    assert go(core, InputsLost(3, 1, ((2, 1),))).submit == [(1, 2)]
    assert succeed(core, 1).submit == [(2, 2)]
    assert succeed(core, 2).submit == [(3, 1)]


def test_a_lineage_of_100_000_steps_is_made_again_without_recursion() -> None:
    """From the last value to the first."""
    count = 100_000
    core = RunCore()
    steps = [
        PendingStep(s, f"g[{s}]", StepKind.TASK, 1, b"", (StepInput(s - 1),) if s else (), 1, None)
        for s in range(count)
    ]
    reader = PendingStep(count, "f", StepKind.TASK, 0, b"", (StepInput(count - 1),), 0, None)
    frontier = Frontier((reader,), {}, count + 1, tuple(DEFINITIONS), tuple(steps))
    assert core.load(frontier, True, 0.0).submit == [(0, 2)]
    check(core)
    actions = core.apply([AttemptFailed(0, 2, 0, 0.0, 0.0, ERROR)], 0.0)
    assert [write.seq for write in actions.writes if isinstance(write, FinishStep)] == [count]
    check(core)


def test_a_value_that_can_not_be_made_again_fails_its_readers_and_not_its_step() -> None:
    """What is on record stays."""
    core = begun(new(0), new(1, 0, ephemeral=False))
    succeed(core, 0)
    go(core, InputsLost(1, 1, ((0, 1),)))
    actions = go(core, AttemptFailed(0, 2, 0, 0.0, 1.0, ERROR))
    (end,) = [write for write in actions.writes if isinstance(write, FinishStep)]
    assert (end.seq, end.state) == (1, StepState.FAILED)
    assert end.failure is not None
    assert "the value of w/g[0] was lost, and could not be made again: ValueError: no" in end.failure.message


def test_what_the_body_returns_is_recorded_in_full_before_the_run_ends() -> None:
    """And made again first, if it is gone."""
    core = begun(new(0))
    succeed(core, 0)
    assert go(core, BodyReturned(b"", (StepInput(0),))).keep == [(0, 1)]
    go(core, Recorded())
    assert go(core, ValueLost(((0, 1),))).submit == [(0, 2)]
    assert succeed(core, 0).keep == [(0, 2)]
    actions = go(core, ValueKept(0, VALUE))
    assert actions.writes == [KeepValue(0, VALUE)]
    actions = go(core, Recorded())
    assert actions.free == [(0, 2)]
    assert isinstance(actions.writes[-1], FinishRun)


def test_the_items_of_a_map_live_as_long_as_the_map_is_needed() -> None:
    """They are what its value consists of."""
    core = begun(new(0, kind=StepKind.MAP), new(1, 0, ephemeral=False))
    go(core, AttemptExpanded(0, 1, 0, 0.0, 1.0, [b"a", b"b"], 2))
    go(core, Recorded())
    go(core, BodyReturned(b"", ()))
    go(core, Recorded())
    assert succeed(core, 2).free == []
    actions = succeed(core, 3)
    assert (actions.free, actions.submit) == ([], [(1, 1)])
    assert go(core, InputsLost(1, 1, ((3, 1),))).submit == [(3, 2)]
    go(core, AttemptSucceeded(3, 2, 0, 0.0, 1.0, NO_BYTES))
    assert go(core, Recorded()).submit == [(1, 1)]
    assert sorted(succeed(core, 1).free) == [(2, 1), (3, 2)]


def test_a_cancelled_run_leaves_the_ends_of_remade_steps_as_they_were() -> None:
    """Their readers are cancelled."""
    core = begun(new(0), new(1, 0, ephemeral=False))
    succeed(core, 0)
    go(core, InputsLost(1, 1, ((0, 1),)))
    actions = go(core, CancelRequested())
    assert [(write.seq, write.state) for write in actions.writes if isinstance(write, FinishStep)] == [
        (1, StepState.CANCELLED)
    ]
    go(core, AttemptDropped(0, 2, True, 0.0))
    assert core.steps[0].end is StepState.SUCCEEDED


# ---- random graphs, losses, crashes ---------------------------------------------------------


class Record:
    """What a store would have of the run, after what is durable."""

    def __init__(self) -> None:
        self.steps: dict[int, NewStep] = {}
        self.ends: dict[int, StepState] = {}
        self.kept: set[int] = set()
        self.items: dict[int, tuple[int, int]] = {}
        self.attempts: dict[int, int] = {}
        self.result: tuple[int, ...] | None = None
        self.finished: RunState | None = None

    def commit(self, actions: Actions) -> None:
        for write in actions.writes:
            if isinstance(write, RecordSteps):
                self.steps.update({step.seq: step for step in write.steps})
            elif isinstance(write, FinishStep):
                assert write.seq not in self.ends, "a recorded end was replaced"
                self.ends[write.seq] = write.state
            elif isinstance(write, KeepValue):
                self.kept.add(write.seq)
            elif isinstance(write, ExpandStep):
                self.items[write.seq] = (write.first, write.count)
            elif isinstance(write, CloseBody):
                self.result = tuple(item.seq for item in write.inputs if isinstance(item, StepInput))
            elif isinstance(write, FinishRun):
                self.finished = write.state

    def reads(self, seq: int) -> list[int]:
        if seq in self.items:
            return list(range(self.items[seq][0], sum(self.items[seq])))
        return [item.seq for item in self.steps[seq].inputs if isinstance(item, StepInput)]

    def is_ephemeral(self, seq: int) -> bool:
        return (
            self.steps[seq].definition == EPHEMERAL
            and self.ends.get(seq) is StepState.SUCCEEDED
            and seq not in self.kept
        )

    def pending(self, seq: int, attempts: dict[int, int]) -> PendingStep:
        step = self.steps[seq]
        return PendingStep(
            seq, step.key, step.kind, step.definition, b"", step.inputs, attempts.get(seq, 0), self.items.get(seq)
        )

    def frontier(self, next_seq: int, attempts: dict[int, int]) -> Frontier:
        unfinished = [seq for seq in self.steps if seq not in self.ends]
        todo = [read for seq in unfinished for read in self.reads(seq)] + list(self.result or ())
        needed: set[int] = set()
        while todo:
            seq = todo.pop()
            if seq not in needed and self.is_ephemeral(seq):
                needed.add(seq)
                todo += self.reads(seq) + [item.seq for item in self.steps[seq].inputs if isinstance(item, StepInput)]
        read = {read: self.ends[read] for seq in unfinished for read in self.reads(seq) if read in self.ends}
        return Frontier(
            tuple(self.pending(seq, attempts) for seq in sorted(unfinished)),
            read,
            next_seq,
            tuple(DEFINITIONS),
            tuple(self.pending(seq, attempts) for seq in sorted(needed)),
        )


class World:
    """A store, a runtime that loses objects, and a process that may die: all in random order."""

    def __init__(
        self, seed: int, graph: Sequence[Sequence[int]], ephemeral: set[int], maps: set[int], faults: int
    ) -> None:
        self.random = random.Random(seed)
        self.graph, self.ephemeral, self.maps = graph, ephemeral, maps
        self.faults = faults
        self.record = Record()
        self.attempts: dict[int, int] = {}
        self.next_seq = len(graph)
        self.calm = False
        self.finished: RunState | None = None
        self.begin(RunCore(window=self.random.choice([1, 3, 100])))

    def begin(self, core: RunCore) -> None:
        self.core = core
        self.objects: set[tuple[int, int]] = set()
        self.out: list[tuple[int, int]] = []
        self.events: list[Event] = []
        self.batches: list[Actions] = []

    def act(self, actions: Actions) -> None:
        self.out += actions.submit
        self.attempts.update(dict(actions.submit))
        self.events += [DelayOver(seq, number) for _, seq, number in actions.timers]
        for dropped in actions.drop + actions.force_drop:
            if dropped in self.out:
                self.out.remove(dropped)
                self.events.append(AttemptDropped(*dropped, self.random.random() < 0.5, 0.0))
        for freed in actions.free:
            assert all(freed not in self.inputs(*attempt) for attempt in self.out) or freed not in self.objects
            self.objects.discard(freed)
        for seq, made in actions.keep:
            self.events.append(ValueKept(seq, VALUE) if (seq, made) in self.objects else ValueLost(((seq, made),)))
        if len(self.core._batches) > len(self.batches):
            assert actions.writes, "a batch that nobody will answer"
            self.batches.append(actions)
        if actions.finished is not None:
            self.finished = actions.finished

    def inputs(self, seq: int, number: int) -> set[tuple[int, int]]:
        """The objects that an attempt at the step reads, as the shell would name them."""
        step = self.core.steps[seq]
        found: set[tuple[int, int]] = set()
        todo = [item.seq for item in step.inputs if isinstance(item, StepInput)]
        while todo:
            read = todo.pop()
            other = self.core.steps.get(read)
            if other is None or not self.core.is_ephemeral(read):
                continue
            if other.items is not None:
                todo += range(other.items[0], sum(other.items))
            else:
                found.add((read, self.core.held.get(read, 0)))
        return found

    def attempt(self, seq: int, number: int) -> Event:
        gone = self.inputs(seq, number) - self.objects
        if gone:
            return InputsLost(seq, number, tuple(sorted(gone)))
        roll = 0.5 if self.calm else self.random.random()
        step = self.core.steps[seq]
        if step.kind is StepKind.MAP and step.items is None and roll < 0.9:
            count = self.random.randrange(4)
            first, self.next_seq = self.next_seq, self.next_seq + count
            return AttemptExpanded(seq, number, 0, 0.0, 0.0, [b""] * count, first)
        if roll < 0.9:
            if self.core.is_ephemeral(seq):
                self.objects.add((seq, number))
                return AttemptSucceeded(seq, number, 0, 0.0, 0.0, NO_BYTES)
            return AttemptSucceeded(seq, number, 0, 0.0, 0.0, VALUE)
        if roll < 0.93:
            return AttemptFailed(seq, number, 0, 0.0, 0.0, Failure("error", "E", "", retriable=True), roll)
        return AttemptLost(seq, number, 0, 0.0, 0.0, LOST, roll)

    def step(self, event: Event) -> None:
        actions = self.core.apply([event], 0.0)
        check(self.core)
        self.act(actions)

    def crash(self) -> None:
        """The process dies; what is durable is taken over by a new one."""
        for seq in [seq for seq, state in self.record.ends.items() if state is not StepState.SUCCEEDED]:
            del self.record.ends[seq]  # a resume opens what did not succeed
        core = RunCore(window=3, token=7)
        frontier = self.record.frontier(self.next_seq, self.attempts)
        self.begin(core)
        closed = self.record.result is not None
        actions = core.load(frontier, closed, 0.0, tuple(StepInput(seq) for seq in self.record.result or ()))
        check(core)
        self.act(actions)

    def run(self, result: tuple[int, ...]) -> None:
        for seq, reads in enumerate(self.graph):
            kind = StepKind.MAP if seq in self.maps else StepKind.TASK
            step = new(seq, *reads, ephemeral=seq in self.ephemeral, kind=kind)
            self.step(StepsCalled(list(DEFINITIONS) if seq == 0 else [], [step]))
        if self.random.random() < 0.5:
            self.step(RefsDropped(tuple(seq for seq in range(len(self.graph)) if seq not in result)))
        if self.random.random() < 0.5:
            self.step(ValueWanted(self.random.randrange(len(self.graph))))
        self.step(BodyReturned(b"", tuple(StepInput(seq) for seq in result)))
        for _ in range(50_000):
            if self.faults and self.random.random() < 0.1:
                self.faults -= 1
                self.fault()
            elif self.batches and (not (self.events or self.out) or self.random.random() < 0.4):
                self.record.commit(self.batches.pop(0))
                self.step(Recorded())
            elif self.out and (not self.events or self.random.random() < 0.7):
                self.step(self.attempt(*self.out.pop(self.random.randrange(len(self.out)))))
            elif self.events:
                self.step(self.events.pop(self.random.randrange(len(self.events))))
            elif not self.batches:
                return
        raise AssertionError("the run does not end")

    def fault(self) -> None:
        roll = self.random.random()
        if roll < 0.6 and self.objects:
            lost = self.random.choice(sorted(self.objects))
            self.objects.discard(lost)
            if roll < 0.3:
                self.step(ValueLost((lost,)))
        elif roll < 0.8 and self.record.result is not None and self.finished is None:
            self.crash()
        elif roll < 0.82:
            self.step(InterruptRequested())
        elif roll < 0.84:
            self.step(CancelRequested())


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(1, 10))
    return [
        draw(st.lists(st.integers(0, max(seq - 1, 0)), max_size=3, unique=True)) if seq else [] for seq in range(size)
    ]


@settings(max_examples=400, deadline=None)
@given(graph=graphs(), seed=st.integers(0, 2**32), faults=st.integers(0, 8), data=st.data())
def test_every_run_ends_whatever_is_lost(graph: list[list[int]], seed: int, faults: int, data: st.DataObject) -> None:
    """Random graphs, losses of values and of processes: no end is replaced, no needed value freed, and all end."""
    seqs = st.integers(0, len(graph) - 1)
    ephemeral = set(data.draw(st.lists(seqs, unique=True)))
    maps = set(data.draw(st.lists(seqs, max_size=2, unique=True)))
    result = tuple(data.draw(st.lists(seqs, max_size=2, unique=True)))
    world = World(seed, graph, ephemeral, maps, faults)
    world.run(result)
    assert world.finished is not None
    if world.finished is RunState.SUCCEEDED:
        assert not world.objects, "values are held after the run's end"
        kept = [seq for seq in result if seq in ephemeral and seq not in maps]
        assert all(seq in world.record.kept for seq in kept)
