"""When a wait for a run, or for steps of it, is over, as somebody sees it who works on neither: Airflow's triggers and sensors.

A run that is paused, waits for a timer or an event, or whose process died goes on some day, and is waited for. A step that
failed may be opened again for as long as its run has not ended. `run_end` and `steps_end` decide, and are pure.

May import errors, model, continuing, submission, the store's interface and modules of storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from dagengine.continuing import last_of
from dagengine.model import RunState
from dagengine.serving.submission import is_expected

if TYPE_CHECKING:
    from dagengine.storage.interface import Store
    from dagengine.storage.step_states import StepStates


class Awaited(NamedTuple):
    """What is waited for, in the run of this whole id.

    step: one step's key, or a group of steps, as in `dagengine.storage.step_states`; None: the run itself
    count: so many steps of the group that have succeeded are enough
    """

    run_id: str
    step: str | None = None
    count: int | None = None


NONE: Final = "none"
"""The run has ended without such a step."""

_UNSUCCESSFUL = ("failed", "cancelled", "skipped")
"""Ends of steps, the one first that says most about a group that has several."""


def run_end(state: RunState, expected: bool = False) -> str | None:
    """The state with which a wait for a run is over; None: it is not.

    expected: an interrupted run is in a queue, so that a server takes it up again
    """
    goes_on = state is RunState.PAUSED or (state is RunState.INTERRUPTED and expected)
    return str(state) if state.ended and not goes_on else None


def steps_end(found: StepStates, count: int | None = None, expected: bool = False) -> str | None:
    """The state with which a wait for a step, or a group of them, is over, NONE included; None: it is not.

    count: so many steps that have succeeded are enough; without it a group is whole when the body has returned
    expected: as of `run_end`
    """
    states = {str(state): number for state, number in found.counts.items()}
    succeeded, known = states.get("succeeded", 0), sum(states.values())
    over = run_end(found.run, expected)
    whole = succeeded >= count if count is not None else succeeded == known > 0 and found.closed
    if whole or over is None:
        return "succeeded" if whole else None
    for state in _UNSUCCESSFUL:
        if states.get(state):
            return state
    if succeeded < known:
        return over  # the run stopped on the way
    return "succeeded" if succeeded else NONE


def ends(
    store: Store, states: Callable[[Iterable[str]], Mapping[str, RunState]], awaited: Iterable[Awaited]
) -> dict[Awaited, str | None]:
    """How each of these waits has ended: a state, or None where it goes on. What is of no run is left out.

    states: of runs, by id, in one query. Raises BadArguments for a pattern that can't be; StoreError
    """
    asked = list(awaited)
    of_runs = [one for one in asked if one.step is None]
    found: dict[Awaited, str | None] = {}
    known = states([one.run_id for one in of_runs]) if of_runs else {}
    for one in of_runs:
        if one.run_id in known:
            found[one] = _run_end(store, one.run_id, known[one.run_id])
    if len(of_runs) < len(asked):
        from dagengine.storage.step_states import step_states

        steps = step_states(store, [(one.run_id, one.step) for one in asked if one.step is not None])
        for one in asked:
            if one.step is not None and (one.run_id, one.step) in steps:
                now = steps[one.run_id, one.step]
                found[one] = steps_end(now, one.count if "*" in one.step else 1, _expected(store, one.run_id, now.run))
    return found


def _run_end(store: Store, run_id: str, state: RunState) -> str | None:
    if state is RunState.SUCCEEDED:  # perhaps it goes on in another run
        last = last_of(store, store.find_run(run_id))
        run_id, state = last.id, last.state
    return run_end(state, _expected(store, run_id, state))


def _expected(store: Store, run_id: str, state: RunState) -> bool:
    return state is RunState.INTERRUPTED and is_expected(store, run_id)
