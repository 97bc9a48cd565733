"""What the run core asks before a run ends that may have to be compensated: is it, and what is there to undo?

The steps that succeeded and have an undo task, newest first, without those whose undoing is on record. A step's undo is
called with the step's result, then with its own arguments; its key is the step's key with `/undo` behind it.

May import everything of the workflow layer that a driver may.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dagengine.core.core import RunCore
from dagengine.core.events import UndoFound
from dagengine.errors import RunConflict, RunExists
from dagengine.model import Definition, NewStep, RecordedCall, RunRecord, RunState, StepInput, StepKind, StepState
from dagengine.views import run_state

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine
    from dagengine.storage.interface import Store


def request(engine: Engine, run: RunRecord) -> None:
    """Have the run compensated: by whoever works on it, or by this engine. Raises RunExists if it has succeeded."""
    works = run_state(run, lambda owner: engine._works(run.id, owner)) is RunState.RUNNING
    if not note(engine.store, run, engine.clock.now()) or works:
        engine.cancel(run.id)
    else:
        engine.resume(run.id)


def note(store: Store, run: RunRecord, at: float) -> bool:
    """Note that the run is to be compensated, unless there is nothing in it that could be. Raises RunExists."""
    from dagengine.storage.compensation import request

    if run.state is RunState.SUCCEEDED:
        raise RunExists(f"run {run.id[:8]} has succeeded: there is nothing to cancel.", run_id=run.id)
    if run.state is not RunState.RUNNING and not any(
        "undo" in found.options for found in store.definitions(run.number)
    ):
        return False
    request(store, run.number, at)
    return True


def look(driver: Driver, core: RunCore, state: RunState) -> None:
    """Answer the core, which is about to end the run in `state`. Reads elsewhere: the run may have many steps."""
    undoable = frozenset(core.undoable)

    def job() -> None:
        found = _candidates(driver.engine.store, driver.record, undoable) if _wanted(driver, state) else None
        driver.engine.tell(driver, partial(_answer, driver, found))

    driver.engine.helpers.work_for(driver, job)


def _wanted(driver: Driver, state: RunState) -> bool:
    from dagengine.storage.compensation import requested

    if state is RunState.FAILED and driver.record.facts.get("compensate"):
        return True
    return requested(driver.engine.store, driver.claim.run_number) is not None


def over(store: Store, run: RunRecord) -> bool:
    """Whether the run was compensated, to the end: nothing in it goes on any more."""
    from dagengine.storage.compensation import requested

    if run.state not in (RunState.FAILED, RunState.CANCELLED):
        return False
    noted = requested(store, run.number)
    undoable = frozenset(found.number for found in store.definitions(run.number) if "undo" in found.options)
    if noted is None or noted[0] is not run.state or not undoable:
        return False
    calls = [call for call in store.recorded_calls(run.number) if call.kind is StepKind.UNDO]
    undone = all(call.state is StepState.SUCCEEDED for call in calls)
    return undone and not _candidates(store, run, undoable)


def refuse_over(store: Store, run: RunRecord) -> None:
    """Raises RunConflict."""
    if over(store, run):
        short = run.id[:8]
        raise RunConflict(
            f"run {short} was compensated: what it did is undone, and nothing in it goes on. Begin a new one: dagengine"
            f" rerun {short}",
            run_id=run.id,
        )


def _candidates(store: Store, record: RunRecord, undoable: frozenset[int]) -> list[RecordedCall]:
    """Newest first."""
    run = record.number
    undone = set()
    found = []
    for call in store.recorded_calls(run):
        if call.kind is StepKind.UNDO:
            undone.add(call.key)
        elif call.kind is StepKind.TASK and call.definition in undoable and call.state is StepState.SUCCEEDED:
            found.append(call)
    left = [call for call in found if f"{call.key}/undo" not in undone]
    order = store.finish_order(run, [call.seq for call in left]) if left else {}
    fork = record.facts.get("fork")
    if isinstance(fork, dict):  # what it shares with its donor, the donor did
        left = [call for call in left if order.get(call.seq, 0) >= int(fork.get("order", 0))]
    return sorted(left, key=lambda call: order.get(call.seq, 0), reverse=True)


def _answer(driver: Driver, found: list[RecordedCall] | None) -> None:
    if found is None:
        driver.engine.tell(driver, UndoFound(False, (), ()))
        return
    driver._note("run.compensating", None, {"steps": len(found)})
    new: list[Definition] = []
    numbers: dict[int, int] = {}
    first = driver.stage.take_seqs(len(found))
    steps = []
    for index, call in enumerate(found):
        number = numbers.get(call.definition)
        if number is None:
            number, made = driver.definitions.of_undo(call.definition)
            numbers[call.definition] = number
            if made is not None:
                new.append(made)
        inputs = (*call.inputs, StepInput(call.seq))
        steps.append(NewStep(first + index, f"{call.key}/undo", StepKind.UNDO, number, call.call, inputs))
    driver.engine.tell(driver, UndoFound(True, tuple(new), tuple(steps)))
