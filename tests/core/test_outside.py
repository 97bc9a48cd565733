"""The run core: steps whose value is known when they are called, and steps that the world ends."""

from __future__ import annotations

import pytest

from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptSucceeded,
    BodyReturned,
    CancelRequested,
    InterruptRequested,
    OutsideEnded,
    Recorded,
    StepKnown,
    StepsCalled,
)
from dagengine.core.invariants import check
from dagengine.core.states import Phase
from dagengine.model import (
    Definition,
    EventRecord,
    Failure,
    Frontier,
    NewStep,
    PendingStep,
    RunState,
    StepInput,
    StepKind,
    StepState,
)
from dagengine.storage.writes import AddEvent, FinishRun, FinishStep, RecordSteps
from tests.core.kit import VALUE, go

DEFINITION = Definition(0, "f", {}, {})
NOTE = AddEvent(EventRecord(0.0, "note", None, {}))


def new(seq: int, *reads: int, kind: StepKind = StepKind.TASK) -> NewStep:
    return NewStep(seq, f"w/f[{seq}]", kind, 0, b"", tuple(StepInput(read) for read in reads))


def waiting(*kinds: StepKind) -> RunCore:
    """A core with one recorded step of each kind."""
    core = RunCore()
    go(core, StepsCalled([DEFINITION], [new(seq, kind=kind) for seq, kind in enumerate(kinds)]))
    go(core, Recorded())
    return core


def test_a_known_step_is_recorded_with_its_value_at_once() -> None:
    """One batch has the step, its end and what is written with it; its readers go when that is durable."""
    core = RunCore()
    actions = go(core, StepKnown(DEFINITION, new(0, kind=StepKind.RECORDED), VALUE, (NOTE,)))
    assert [type(write) for write in actions.writes] == [RecordSteps, FinishStep, AddEvent]
    assert actions.writes[0].definitions == (DEFINITION,)  # type: ignore[union-attr]
    assert actions.writes[1].value == VALUE  # type: ignore[union-attr]
    assert go(core, StepsCalled([], [new(1, 0)])).submit == []
    actions = go(core, Recorded())
    assert actions.ended == [(0, StepState.SUCCEEDED, 0)]
    assert go(core, Recorded()).submit == [(1, 1)]


def test_a_known_value_of_an_ephemeral_task_stays_recorded() -> None:
    """It is not taken for an object of the runtime's, which nobody has."""
    core = RunCore()
    ephemeral = Definition(0, "f", {}, {"checkpoint": False})
    go(core, StepKnown(ephemeral, new(0), VALUE), StepsCalled([], [new(1, 0)]))
    assert go(core, Recorded()).submit == [(1, 1)]
    assert not core.held


def test_what_is_called_while_the_run_stops_is_not_recorded() -> None:
    """A known value of a body that is let go of is made again on resume."""
    core = RunCore()
    go(core, InterruptRequested())
    actions = go(core, StepKnown(DEFINITION, new(0), VALUE))
    assert not any(isinstance(write, RecordSteps) for write in actions.writes)


@pytest.mark.parametrize("kind", [StepKind.TIMER, StepKind.EVENT, StepKind.CHILD])
def test_a_step_waits_for_the_world_once_it_and_its_inputs_are_durable(kind: StepKind) -> None:
    """It is never handed to a worker; the run goes on waiting for it."""
    core = RunCore()
    actions = go(core, StepsCalled([DEFINITION], [new(0), new(1, 0, kind=kind)]))
    assert actions.outside == []
    assert go(core, Recorded()).outside == []
    go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))
    actions = go(core, Recorded())
    assert actions.outside == [1]
    assert actions.submit == []
    actions = go(core, BodyReturned(b"", (StepInput(1),)))
    assert not any(isinstance(write, FinishRun) for write in actions.writes)
    go(core, Recorded())
    assert core.steps[1].phase is Phase.OUTSIDE


def test_the_world_ends_a_step_once_and_its_readers_go_on() -> None:
    """A second answer changes nothing, and what it brought is not written."""
    core = waiting(StepKind.EVENT)
    go(core, StepsCalled([], [new(1, 0)]))
    actions = go(core, OutsideEnded(0, StepState.SUCCEEDED, 1.0, VALUE, also=(NOTE,)))
    assert [type(write) for write in actions.writes] == [FinishStep, AddEvent]
    assert go(core, OutsideEnded(0, StepState.FAILED, 2.0, also=(NOTE,))).writes == []
    go(core, Recorded())
    assert go(core, Recorded()).submit == [(1, 1)]
    assert go(core, OutsideEnded(0, StepState.SUCCEEDED, 3.0, VALUE)).writes == []


def test_a_failure_of_the_world_is_a_failure_of_the_step() -> None:
    """What depends on it is skipped, and the run fails if nobody handles it."""
    core = waiting(StepKind.TIMER)
    go(core, StepsCalled([], [new(1, 0)]), BodyReturned(b"", ()))
    go(core, Recorded())
    failure = Failure("timeout", "dagengine.errors.EventTimeout", "no event came")
    actions = go(core, OutsideEnded(0, StepState.FAILED, 1.0, failure=failure))
    ends = [write for write in actions.writes if isinstance(write, (FinishStep, FinishRun))]
    assert [write.state for write in ends] == [StepState.FAILED, StepState.SKIPPED, RunState.FAILED]


def test_a_run_does_not_wait_for_what_nobody_asks_of_it() -> None:
    """A timer that lost a race is cancelled when the body returns; one that a step reads, or the result, is not."""
    core = waiting(StepKind.TIMER, StepKind.TIMER, StepKind.EVENT)
    go(core, StepsCalled([], [new(3, 1)]))
    go(core, Recorded())
    actions = go(core, BodyReturned(b"", (StepInput(2),)))
    ends = [(write.seq, write.state) for write in actions.writes if isinstance(write, FinishStep)]
    assert ends == [(0, StepState.CANCELLED)]
    go(core, Recorded())
    go(core, OutsideEnded(1, StepState.SUCCEEDED, 1.0, VALUE))
    go(core, Recorded())
    go(core, OutsideEnded(2, StepState.SUCCEEDED, 1.0, VALUE))
    go(core, Recorded())
    actions = go(core, AttemptSucceeded(3, 1, 0, 0.0, 1.0, VALUE))
    assert [write.state for write in actions.writes if isinstance(write, FinishRun)] == [RunState.SUCCEEDED]


def test_a_cancelled_run_waits_for_nothing() -> None:
    """A timer that has not fired ends with the run, and fires no more."""
    core = waiting(StepKind.TIMER)
    actions = go(core, CancelRequested())
    assert any(isinstance(write, FinishRun) and write.state is RunState.CANCELLED for write in actions.writes)
    assert go(core, OutsideEnded(0, StepState.SUCCEEDED, 1.0, VALUE, also=(NOTE,))).writes == []


def test_a_loaded_run_asks_for_the_world_again() -> None:
    """Who takes the run over is told what it waits for; a step that waits for another is not among that."""
    steps = (
        PendingStep(0, "w/f[0]", StepKind.TIMER, 0, b"", (), 0, None),
        PendingStep(1, "w/f[1]", StepKind.EVENT, 0, b"", (StepInput(0),), 0, None),
    )
    core = RunCore()
    assert core.load(Frontier(steps, {}, 2, (DEFINITION,)), True, 0.0).outside == [0]
    check(core)
    go(core, OutsideEnded(0, StepState.SUCCEEDED, 1.0, VALUE))
    assert go(core, Recorded()).outside == [1]
