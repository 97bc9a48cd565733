"""Child runs: a workflow that is started in the body of another is a run of its own, and a step of its parent.

Its id follows from the parent's id and the step, so that it is begun once, however often that is tried; the step is
recorded first. An attached child is resumed and cancelled with its parent, and the step has its result or its failure; a
detached one lives on its own, and the step's value is its id.

    body: child.start(…) ─▶ step recorded ─▶ `begin` (helper thread): run recorded, begun ─▶ … its end ─▶ parent looks

The end of a child is written together with the word for its parent that something came (`storage/children.py`), so a
parent that nobody works on is due from that moment; one of this engine is told at once.

May import everything of the workflow layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from dagengine.continuing import find, last_of
from dagengine.core.events import Event, OutsideEnded
from dagengine.core.step import Step
from dagengine.errors import DagengineError, DefinitionError, RunExists, RunOwned, RuntimeStopped, StoreError
from dagengine.functions import Reference, resolve
from dagengine.model import (
    INLINE_LIMIT,
    Failure,
    RunRecord,
    RunState,
    StepInput,
    StepKind,
    StepState,
    Value,
)
from dagengine.reading import Reader
from dagengine.runtime.failures import describe_failure
from dagengine.scopes import Scope, outside
from dagengine.tags import tags_of
from dagengine.values import Encoded, Placeholder, encode
from dagengine.workflows import Workflow

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine
    from dagengine.refs import Ref

RESUMED = (RunState.PENDING, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED, RunState.MISMATCH)
"""States of a child that goes on when somebody has asked its parent to go on. A paused one waits for its own word."""

FAILED = (RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH)
"""States in which a child is over for its parent, without a result."""


class _Settings:
    """`to_json`: of the definition of a child's step. What its call says of the workflow, which has other options where it
    is found by its name."""

    def __init__(self, workflow: Workflow[..., Any], detached: bool) -> None:
        child = {name: said for name, said in (("timeout", workflow.timeout), ("tags", workflow.tags)) if said}
        self._said = {name: said for name, said in (("detached", detached), ("child", child)) if said}

    def to_json(self) -> dict[str, Any]:
        return dict(self._said)


class ChildCall:
    """What the step of a child run is a call of: the workflow. There is one for each way to start it."""

    def __init__(self, workflow: Workflow[..., Any], detached: bool) -> None:
        self.referred = workflow
        self.name = workflow.name
        self.settings = _Settings(workflow, detached)
        self._same = (workflow.function, workflow.name, detached, workflow.timeout, tuple(workflow.tags.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChildCall) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)


def call(scope: Scope, child: ChildCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ref:
    """In a body: the ref to the child's result, or to its id if it is detached. Raises BadArguments, Unpicklable."""
    child.referred.check_arguments(args, kwargs)
    return scope.body._record(scope.key(child.name), StepKind.CHILD, child, args, kwargs)


def child_id(parent: str, seq: int) -> str:
    """The id of the run that step `seq` of run `parent` starts."""
    return sha256(f"{parent}/{seq}".encode()).hexdigest()[:32]


# ---- the helper threads of an engine ------------------------------------------------------------


def seen_to(driver: Driver, new: Iterable[Step], steps: Iterable[Step]) -> list[Event]:
    """Begin the runs of the `new` steps; and how those of `steps` have ended that have."""
    failed = begin(driver, new)
    return [*failed, *look(driver, steps)]


def begin(driver: Driver, steps: Iterable[Step]) -> list[Event]:
    """See to it that the runs of these steps are there, and under way; the ends of steps for which that can't be.

    Those of a run that is over are not begun any more."""
    failed: list[Event] = []
    for step in steps:
        if step.call is not None:
            try:
                driver.below.begin(partial(_begin_one, driver, step, step.call))
            except (RuntimeStopped, RunOwned):
                pass  # this engine is being closed; or another process works on the child
            except StoreError:
                raise  # whether the child is there is not known
            except Exception as error:  # reading its arguments runs the user's code
                failure = replace(describe_failure(error), retriable=False)
                if isinstance(error, DagengineError):
                    failure = replace(failure, traceback="")
                failed.append(OutsideEnded(step.seq, StepState.FAILED, driver.engine.clock.now(), failure=failure))
    return failed


def _begin_one(driver: Driver, step: Step, encoded: bytes) -> None:
    engine, run_id = driver.engine, child_id(driver.run_id, step.seq)
    known = find(engine.store, run_id)
    if known is not None:
        known = last_of(engine.store, known)
        detached = is_detached(driver, step)
        asked = known.state in RESUMED and (known.state is RunState.PENDING or (driver.reopened and not detached))
        left = known.state is RunState.WAITING and engine.sleeping.wakes and not engine.sleeping.knows(known.id)
        if known.state is RunState.RUNNING or asked or left:  # left by a process that is gone, as far as is known here
            engine.resume(known.id, reopen=driver.reopened)
        return
    workflow = resolve(Reference.from_json(driver.definitions[step.definition].reference))
    if not isinstance(workflow, Workflow):
        raise DefinitionError(f"{step.key}: {workflow!r} is not a workflow any more.")
    said = driver.definitions[step.definition].options.get("child", {})
    if "timeout" in said:
        workflow = workflow.limited(said["timeout"])
    with outside():
        args, kwargs = driver.reader.call(encoded, step.inputs)
    facts: dict[str, Any] = {"parent": [driver.run_id, step.seq]}
    for fact in ("code", "cwd"):
        if driver.record.facts.get(fact) is not None:
            facts[fact] = driver.record.facts[fact]
    if tags := {**tags_of(driver.record), **workflow.tags, **said.get("tags", {})}:
        facts["tags"] = tags
    try:
        engine.begin(workflow, args, kwargs, run_id, facts=facts)
    except RunExists:  # since we looked, by an owner of the parent that did not know yet that it is ours
        _begin_one(driver, step, encoded)


def look(driver: Driver, steps: Iterable[Step]) -> list[Event]:
    """Of these steps, those whose runs have ended by now, or which need no more than that they are there."""
    ends: list[Event] = []
    for step in steps:
        child = find(driver.engine.store, child_id(driver.run_id, step.seq))
        if child is not None:
            end = _end_of(driver, step, child)
            if end is not None:
                ends.append(end)
    return ends


def _end_of(driver: Driver, step: Step, child: RunRecord) -> OutsideEnded | None:
    now = driver.engine.clock.now()
    if is_detached(driver, step):
        return OutsideEnded(step.seq, StepState.SUCCEEDED, now, _value(driver.engine, encode(child.id)))
    child = last_of(driver.engine.store, child)
    if child.state is RunState.SUCCEEDED:
        try:
            return OutsideEnded(step.seq, StepState.SUCCEEDED, now, _result(driver.engine, child))
        except Exception as error:  # reading the result runs the user's code
            return OutsideEnded(step.seq, StepState.FAILED, now, failure=describe_failure(error))
    if child.state in FAILED:
        return OutsideEnded(step.seq, StepState.FAILED, now, failure=_failure(child))
    return None


def _failure(child: RunRecord) -> Failure:
    name = f"child run {child.id[:8]} of {child.workflow}"
    if child.failure is None:
        message = f"{name} was cancelled"
        return Failure("error", "dagengine.errors.RunCancelled", message, retriable=False, facts={"child": child.id})
    facts = {"child": child.id, **{key: child.failure.facts[key] for key in ("step",) if key in child.failure.facts}}
    return replace(child.failure, retriable=False, facts=facts)


class _Whole(Placeholder):
    """Stands for a step's value, as all that a body returned."""

    __slots__ = ()


_ONE_VALUE = encode(((_Whole(),), {})).to_bytes()
"""What a body returned that returned the value of one step."""


def _result(engine: Engine, child: RunRecord) -> Value:
    """What the child's body returned, as a value of its parent. A step's own value is not read for that."""
    assert child.result_call is not None
    if child.result_call == _ONE_VALUE and isinstance(child.result_inputs[0], StepInput):
        seq = child.result_inputs[0].seq
        value = engine.store.values(child.number, [seq]).get(seq)
        if value is not None and value.digest and value.items is None:
            return value
    with outside():
        reader = Reader(engine.store, engine.artifacts, child.number)
        (result,), _ = reader.call(child.result_call, child.result_inputs)
        return _value(engine, encode(result, f"the result of {child.workflow}", "result"))


def _value(engine: Engine, encoded: Encoded) -> Value:
    digest = encoded.digest()
    if encoded.size <= INLINE_LIMIT:
        return Value(digest, encoded.size, encoded.to_bytes())
    engine.artifacts.put(digest, encoded.size, encoded.to_bytes())
    return Value(digest, encoded.size)


def is_detached(driver: Driver, step: Step) -> bool:
    return bool(driver.definitions[step.definition].options.get("detached"))
