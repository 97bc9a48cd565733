"""Undoing in the run core alone: what is undone, in which order, and how the run ends then."""

from __future__ import annotations

import json

from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptDropped,
    AttemptFailed,
    AttemptSucceeded,
    BodyRaised,
    CancelRequested,
    InterruptRequested,
    Recorded,
    StepsCalled,
    UndoFound,
)
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
)
from dagengine.storage.writes import FinishRun, RecordSteps, SideWrite, Write
from tests.core.kit import VALUE, ends, go
from tests.core.test_core import ERROR, new, succeed

UNDOABLE = Definition(0, "f", {}, {"undo": {"name": "u", "reference": {}, "options": {}}})
UNDO = Definition(1, "u", {}, {})
FOUND = UndoFound(
    True,
    (UNDO,),
    tuple(
        NewStep(seq, f"w/f[{undone}]/undo", StepKind.UNDO, 1, b"", (StepInput(undone),))
        for seq, undone in ((3, 1), (4, 0))
    ),
)


def finish(writes: list[Write]) -> list[tuple[RunState, Failure | None]]:
    return [(write.state, write.failure) for write in writes if isinstance(write, FinishRun)]


def recorded(writes: list[Write]) -> list[int]:
    return [step.seq for write in writes if isinstance(write, RecordSteps) for step in write.steps]


def cancelled() -> RunCore:
    """Two steps have succeeded, a third runs; the run is cancelled, and asks what is to be undone."""
    core = RunCore()
    go(core, StepsCalled([UNDOABLE], [new(0), new(1), new(2)]))
    go(core, Recorded())
    succeed(core, 0)
    succeed(core, 1)
    go(core, CancelRequested())
    actions = go(core, AttemptDropped(2, 1, True, 1.0))
    assert actions.compensate is None
    assert go(core, Recorded()).compensate is RunState.CANCELLED
    return core


def undo(core: RunCore, seq: int) -> list[Write]:
    """The undo step is recorded, attempted and succeeds; what is written when its end is durable."""
    assert go(core, Recorded()).submit == [(seq, 1)]
    go(core, AttemptSucceeded(seq, 1, 0, 0.0, 1.0, VALUE))
    return go(core, Recorded()).writes


def test_steps_are_undone_one_after_the_other_newest_first() -> None:
    """The first with the note, the next when the end of the one before is durable; then the run ends as it was about to."""
    core = cancelled()
    actions = go(core, FOUND)
    assert recorded(actions.writes) == [3]
    (note,) = [write for write in actions.writes if isinstance(write, SideWrite)]
    assert note.rows[0]["state"] == "cancelled"
    writes = undo(core, 3)
    assert recorded(writes) == [4]
    writes = undo(core, 4)
    assert finish(writes) == [(RunState.CANCELLED, None)]


def test_a_run_that_is_not_to_be_compensated_ends_at_once() -> None:
    """The answer is no, and nothing is noted."""
    core = cancelled()
    actions = go(core, UndoFound(False, (), ()))
    assert finish(actions.writes) == [(RunState.CANCELLED, None)]
    assert not any(isinstance(write, SideWrite) for write in actions.writes)


def test_a_run_without_undo_tasks_does_not_ask() -> None:
    """It ends with its last step."""
    core = RunCore()
    go(core, StepsCalled([Definition(0, "f", {}, {})], [new(0)]))
    go(core, Recorded())
    actions = go(core, CancelRequested(), AttemptDropped(0, 1, True, 1.0))
    assert actions.compensate is None
    assert finish(actions.writes) == [(RunState.CANCELLED, None)]


def test_a_failed_run_ends_with_its_failure_after_it_is_compensated() -> None:
    """The failure is noted before the first step is undone, and is the run's in the end."""
    core = RunCore()
    go(core, StepsCalled([UNDOABLE], [new(0), new(1)]))
    go(core, Recorded())
    succeed(core, 0)
    succeed(core, 1)
    assert go(core, BodyRaised(ERROR)).compensate is RunState.FAILED
    actions = go(core, FOUND)
    (note,) = [write for write in actions.writes if isinstance(write, SideWrite)]
    assert json.loads(note.rows[0]["failure"])["message"] == ERROR.message
    undo(core, 3)
    assert finish(undo(core, 4)) == [(RunState.FAILED, ERROR)]


def test_an_undo_that_fails_stops_the_run_and_names_the_step() -> None:
    """Older steps are not undone before newer ones are."""
    core = cancelled()
    go(core, FOUND)
    go(core, Recorded())
    ((state, failure),) = finish(go(core, AttemptFailed(3, 1, 0, 0.0, 1.0, ERROR)).writes)
    assert state is RunState.FAILED
    assert failure is not None
    assert failure.facts["step"] == "w/f[1]/undo"
    assert "w/f[1] could not be undone" in failure.message


def test_a_run_that_is_taken_over_goes_on_undoing() -> None:
    """What waits is cancelled, the undo step that was recorded runs, then what is left is asked for."""
    pending = (
        PendingStep(2, "w/f[2]", StepKind.TASK, 0, b"", (), 1, None),
        PendingStep(3, "w/f[1]/undo", StepKind.UNDO, 1, b"", (StepInput(1),), 1, None),
    )
    core = RunCore()
    actions = core.load(Frontier(pending, {}, 4, (UNDOABLE, UNDO)), False, 9.0, compensating=(RunState.CANCELLED, None))
    assert ends(actions) == {2: StepState.CANCELLED}
    assert actions.submit == [(3, 2)]
    go(core, Recorded())
    go(core, AttemptSucceeded(3, 2, 0, 0.0, 1.0, VALUE))
    assert go(core, Recorded()).compensate is RunState.CANCELLED
    actions = go(core, UndoFound(True, (), FOUND.steps[1:]))
    assert recorded(actions.writes) == [4]
    assert finish(undo(core, 4)) == [(RunState.CANCELLED, None)]


def test_a_compensating_run_can_be_interrupted_and_is_not_cancelled_again() -> None:
    """To be told once more to cancel it changes nothing; an interrupt stops it where it is."""
    core = cancelled()
    go(core, FOUND)
    go(core, Recorded())
    assert go(core, CancelRequested()).force_drop == []
    go(core, InterruptRequested())
    actions = go(core, AttemptDropped(3, 1, False, 1.0))
    assert finish(actions.writes) == [(RunState.INTERRUPTED, None)]
