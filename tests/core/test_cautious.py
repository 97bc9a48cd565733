"""Steps that are started at most once, in the run core alone."""

from __future__ import annotations

import pytest

from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptDropped,
    AttemptFailed,
    AttemptLost,
    AttemptRefused,
    AttemptSucceeded,
    CancelRequested,
    Event,
    InterruptRequested,
    Recorded,
    StepsCalled,
)
from dagengine.model import AttemptRecord, Definition, Failure, Frontier, PendingStep, RunState, StepKind, StepState
from dagengine.storage.writes import FinishRun, FinishStep, RecordAttempt, Write
from tests.core.kit import VALUE, ends, go, returned
from tests.core.test_core import ERROR, LOST, new

ONCE = Definition(0, "f", {}, {"at_most_once": True})


def outcomes(writes: list[Write]) -> list[str | None]:
    return [write.attempt.outcome for write in writes if isinstance(write, RecordAttempt)]


def begun() -> RunCore:
    """A run whose only step was called and recorded, and whose attempt's start is being recorded."""
    core = RunCore()
    go(core, StepsCalled([ONCE], [new(0)]))
    actions = go(core, Recorded())
    assert actions.submit == []
    assert outcomes(actions.writes) == [None]
    return core


def out() -> RunCore:
    """The same with the attempt in the runtime's hands."""
    core = begun()
    assert go(core, Recorded()).submit == [(0, 1)]
    return core


def failure_of(writes: list[Write]) -> Failure:
    (found,) = [write.failure for write in writes if isinstance(write, FinishStep)]
    assert found is not None
    return found


def test_an_attempt_goes_out_when_its_start_is_durable() -> None:
    """And its success is recorded like any other."""
    core = out()
    actions = go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))
    assert ends(actions) == {0: StepState.SUCCEEDED}


MEMORY = Failure("memory", "OutOfMemory", "ended")
TIMEOUT = Failure("timeout", "StepTimeout", "too long")


@pytest.mark.parametrize(
    "event",
    [
        AttemptLost(0, 1, 0, 0.0, 1.0, LOST),
        AttemptFailed(0, 1, 0, 0.0, 1.0, TIMEOUT),
        AttemptFailed(0, 1, 0, 0.0, 1.0, MEMORY),
        AttemptDropped(0, 1, True, 1.0),
    ],
    ids=["lost", "timeout", "memory", "ended"],
)
def test_an_attempt_whose_end_is_not_known_fails_the_step_as_unknown(event: Event) -> None:
    """It is not tried again; the record says so of the attempt and of the step."""
    core = out()
    actions = go(core, event)
    assert ends(actions) == {0: StepState.FAILED}
    assert failure_of(actions.writes).kind == "unknown"
    assert outcomes(actions.writes) == ["unknown"]
    assert not actions.timers


def test_what_the_task_raised_is_known() -> None:
    """An exception of its own is an ordinary failure."""
    actions = go(out(), AttemptFailed(0, 1, 0, 0.0, 1.0, ERROR))
    assert failure_of(actions.writes) == ERROR
    assert outcomes(actions.writes) == ["failed"]


def test_a_cancelled_run_does_not_hide_that_an_attempt_was_ended() -> None:
    """The step would be opened by a resume if it were cancelled: it is unknown instead."""
    core = out()
    go(core, CancelRequested())
    actions = go(core, AttemptDropped(0, 1, True, 1.0))
    assert ends(actions) == {0: StepState.FAILED}
    assert [write.state for write in actions.writes if isinstance(write, FinishRun)] == [RunState.CANCELLED]


@pytest.mark.parametrize(("stop", "state"), [(CancelRequested(), {0: StepState.CANCELLED}), (InterruptRequested(), {})])
def test_an_attempt_that_never_went_out_is_said_to_be_none(stop: Event, state: dict[int, StepState]) -> None:
    """The run stops while the start is being recorded: nobody will take it for one that vanished."""
    core = begun()
    go(core, stop)
    actions = go(core, Recorded())
    assert actions.submit == []
    assert outcomes(actions.writes) == ["cancelled"]
    assert ends(actions) == state


def test_an_attempt_that_the_runtime_refuses_was_none() -> None:
    """It has failed, and not vanished."""
    actions = go(out(), AttemptRefused(0, 1, 1.0, ERROR))
    assert outcomes(actions.writes) == ["failed"]
    assert failure_of(actions.writes) == ERROR


def test_an_attempt_that_is_given_back_unstarted_may_go_out_again() -> None:
    """With a number of its own, as the first is on record."""
    core = out()
    actions = go(core, AttemptDropped(0, 1, False, 1.0))
    assert outcomes(actions.writes) == ["cancelled", None]
    assert go(core, Recorded()).submit == [(0, 2)]


def test_an_attempt_that_vanished_with_its_owner_is_not_made_again() -> None:
    """Whoever takes the run over ends the step, and the run fails of it; so does the next one."""
    pending = PendingStep(0, "w/f[0]", StepKind.TASK, 0, b"", (), 1, None)
    core = RunCore()
    vanished = {0: AttemptRecord(0, 1, 3, 77, "here", 5.0)}
    actions = core.load(Frontier((pending,), {}, 1, (ONCE,)), True, 9.0, vanished=vanished)
    assert actions.submit == []
    assert ends(actions) == {0: StepState.FAILED}
    assert "process 77 on here" in failure_of(actions.writes).message
    go(core, Recorded())
    assert core.finish_asked


def test_a_map_is_expanded_like_any_other() -> None:
    """To make the calls of its items is no effect; each of these is started once."""
    core = RunCore()
    go(core, StepsCalled([ONCE], [new(0, kind=StepKind.MAP)]), returned())
    assert go(core, Recorded()).submit == [(0, 1)]
