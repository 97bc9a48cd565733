"""When a wait for a run, or for steps of it, is over, as somebody sees it who works on neither: Airflow's triggers and sensors.

A run that is paused, waits for a timer or an event, or whose process died goes on some day, and is waited for. A step that
failed may be opened again for as long as its run has not ended. `run_end` and `steps_end` decide, and are pure.

May import errors, model, submission, the store's interface and modules of storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dagengine.model import RunState

if TYPE_CHECKING:
    from dagengine.storage.interface import Store
    from dagengine.storage.step_states import StepStates


@dataclass(frozen=True, slots=True)
class Awaited:
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

    states: `Client.states`. Raises BadArguments for a pattern that can't be; StoreError
    """
    asked = list(awaited)
    found: dict[Awaited, str | None] = {}
    runs = [one for one in asked if one.step is None]
    known = states([one.run_id for one in runs]) if runs else {}
    for one in runs:
        if one.run_id in known:
            state = known[one.run_id]
            found[one] = run_end(state, _expected(store, one.run_id, state))
    of_runs = [(one.run_id, one.step) for one in asked if one.step is not None]
    if of_runs:
        from dagengine.storage.step_states import step_states

        steps = step_states(store, of_runs)
        for one in asked:
            if one.step is not None and (one.run_id, one.step) in steps:
                now = steps[one.run_id, one.step]
                found[one] = steps_end(now, one.count if "*" in one.step else 1, _expected(store, one.run_id, now.run))
    return found


def _expected(store: Store, run_id: str, state: RunState) -> bool:
    if state is not RunState.INTERRUPTED:
        return False
    from dagengine.serving.submission import is_expected

    return is_expected(store, run_id)
