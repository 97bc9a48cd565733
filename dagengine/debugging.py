"""A step again, here, in this process: with its recorded inputs and its run's code, in a debugger. Nothing is recorded.

`prepare` finds the function and its arguments; `Prepared.call` calls it as an attempt would be. May import everything of the
workflow layer but the engine and the command line.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagengine.code.pinning import PINNED, pin
from dagengine.errors import LoadError, RunConflict
from dagengine.functions import Reference, resolve
from dagengine.model import RecordedCall, RunRecord, StepInput, StepKind, StepRecord, StepState
from dagengine.reading import Reader
from dagengine.views import find_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagengine.forks import Place


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step, ready to be called. `function`: without its decorator."""

    step: StepRecord
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    facts: dict[str, Any]

    def call(self, caller: Callable[..., Any] | None = None) -> Any:
        """What the function returns. `caller`: calls it in our place, e.g. `pdb.runcall`. Raises what it raises."""
        caller = _call if caller is None else caller
        with _in_context(self.facts):
            if inspect.iscoroutinefunction(self.function):
                return caller(lambda: asyncio.run(self.function(*self.args, **self.kwargs)))
            return caller(self.function, *self.args, **self.kwargs)


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def prepare(place: Place, run: RunRecord, name: str, code: str = PINNED) -> Prepared:
    """The step with its recorded inputs, and its function from the run's code, or code="current". Raises RunNotFound;
    RunConflict for a step that is no call of a task, or whose inputs are not there; LoadError; StoreError."""
    step = find_step(place.store, run, name)
    if step.kind is not StepKind.TASK:
        what = "a call on a stateful object" if step.kind.is_call else f"a step of kind {step.kind}"
        raise RunConflict(f"{step.key} is {what}: only calls of tasks can be debugged.", run_id=run.id)
    recorded = _recorded(place, run, step)
    reads = [part.seq for part in recorded.inputs if isinstance(part, StepInput)]
    missing = [one.key for one in place.store.steps(run.number, seqs=reads) if one.state is not StepState.SUCCEEDED]
    if missing:
        raise RunConflict(
            f"{step.key} can't be called: {missing[0]}, which it reads, has no value. Debug that step instead.",
            run_id=run.id,
        )
    pin(place.store, run, code, place.shelf)
    [definition] = [one for one in place.store.definitions(run.number) if one.number == step.definition]
    found: Any = resolve(Reference.from_json(definition.reference))
    function = getattr(found, "function", found)
    if not callable(function):
        raise LoadError(f"{definition.name} is no function any more.")
    args, kwargs = Reader(place.store, place.artifacts, run.number).call(recorded.call, recorded.inputs)
    facts = {
        "run_id": run.id,
        "workflow": run.workflow,
        "key": step.key,
        "task": step.task,
        "attempt": max(1, step.attempts),
        "idempotency_key": f"debug/{run.id}/{step.key}",  # a service must not take it for the run's own request
    }
    return Prepared(step, function, args, kwargs, facts)


def _recorded(place: Place, run: RunRecord, step: StepRecord) -> RecordedCall:
    for call in place.store.recorded_calls(run.number):
        if call.seq == step.seq:
            return call
    raise RunConflict(f"{step.key} is not recorded any more.", run_id=run.id)


@contextmanager
def _in_context(facts: dict[str, Any]) -> Iterator[None]:
    from dagengine.runtime.current import context

    token = context.set(facts)
    try:
        yield
    finally:
        context.reset(token)
