"""The run core: steps whose value another run may have."""

from __future__ import annotations

import pytest

from dagengine.core.actions import Actions
from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    CacheHit,
    CacheMissed,
    CancelRequested,
    DelayOver,
    Event,
    Recorded,
    StepsCalled,
)
from dagengine.core.invariants import check
from dagengine.core.states import Phase
from dagengine.model import Definition, EventRecord, Failure, NewStep, StepInput, StepKind, StepState
from dagengine.storage.writes import AddEvent, FinishStep, SideWrite
from tests.core.kit import VALUE

DEFINITIONS = [
    Definition(0, "f", {}, {"cache": {"scope": "project"}, "retries": 1, "retry_delay": 0}),
    Definition(1, "g", {}, {}),
]
NOTE = AddEvent(EventRecord(0.0, "note", None, {}))
FAILURE = Failure("error", "ValueError", "no")


def go(core: RunCore, *events: Event) -> Actions:
    actions = core.apply(list(events), 0.0)
    check(core)
    return actions


@pytest.fixture
def core() -> RunCore:
    """Step 0 is of a task with a cache, and recorded; step 1 reads it, and has none."""
    made = RunCore()
    steps = [
        NewStep(0, "w/f[0]", StepKind.TASK, 0, b"", ()),
        NewStep(1, "w/g[0]", StepKind.TASK, 1, b"", (StepInput(0),)),
    ]
    go(made, StepsCalled(DEFINITIONS, steps))
    assert go(made, Recorded()).lookup == [0]
    return made


def claims(actions: Actions) -> list[tuple[str, str]]:
    return [(write.statement, write.rows[0]["claim"]) for write in actions.writes if isinstance(write, SideWrite)]


def test_a_hit_ends_the_step_without_an_attempt(core: RunCore) -> None:
    """With what is to be written beside it, in one batch; what reads it runs when that is durable."""
    actions = go(core, CacheHit(0, VALUE, (NOTE,)))
    [end] = [write for write in actions.writes if isinstance(write, FinishStep)]
    assert (end.state, end.value, end.attempts) == (StepState.SUCCEEDED, VALUE, 0)
    assert NOTE in actions.writes
    assert (actions.submit, claims(actions)) == ([], [])
    assert go(core, Recorded()).submit == [(1, 1)]


def test_a_miss_runs_and_is_kept_with_its_end(core: RunCore) -> None:
    """The value goes to the cache in the batch of the step's end."""
    assert go(core, CacheMissed(0, "key", "claim", (NOTE,))).submit == [(0, 1)]
    actions = go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))
    assert claims(actions) == [("caching:KEEP", "claim")]


def test_a_claim_lasts_over_retries_and_is_let_go_of_with_the_failure(core: RunCore) -> None:
    """What failed for good is not kept, and those that wait are not kept waiting."""
    go(core, CacheMissed(0, "key", "claim"))
    actions = go(core, AttemptFailed(0, 1, 0, 0.0, 1.0, FAILURE))
    assert claims(actions) == []
    assert go(core, DelayOver(0, 1)).submit == [(0, 2)]
    assert claims(go(core, AttemptFailed(0, 2, 0, 0.0, 1.0, FAILURE))) == [("caching:LET_GO", "claim")]


def test_a_step_that_is_not_kept_leaves_the_cache_alone(core: RunCore) -> None:
    """A miss without a key: it runs as any step."""
    go(core, CacheMissed(0))
    assert claims(go(core, AttemptSucceeded(0, 1, 0, 0.0, 1.0, VALUE))) == []


def test_a_cancelled_step_is_not_run_by_a_late_answer(core: RunCore) -> None:
    """The answer comes when the step has ended, or from a second look: it changes nothing."""
    assert core.steps[0].phase is Phase.LOOKING
    go(core, CancelRequested())
    for late in (CacheHit(0, VALUE), CacheMissed(0, "key", "claim")):
        actions = go(core, late)
        assert (actions.writes, actions.submit) == ([], [])
