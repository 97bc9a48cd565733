"""`continue_with`: a run ends, and another of the same workflow goes on with new arguments, for loops without an end.

The id of the successor follows from the run's, so it is made once. In this order: the successor is recorded, and waits;
the run's body is closed; the run ends; the successor begins. After a crash in between, resuming the run, or a run that it
was continued as, does the rest: whether a run was continued is recorded with what its body returned.

May import everything of the workflow layer.
"""

from __future__ import annotations

import contextlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NoReturn

from dagengine.calls import encode_call
from dagengine.core.events import BodyReturned
from dagengine.errors import DefinitionError, RunConflict, RunExists, RunNotFound
from dagengine.model import NewRun, PayloadInput, RunRecord, RunState, StepInput
from dagengine.refs import Ref
from dagengine.scopes import current_scope, outside
from dagengine.storage.interface import RunFilter
from dagengine.values import encode

if TYPE_CHECKING:
    from dagengine.body import Body
    from dagengine.storage.interface import Store

_CONTINUED = encode((("the run goes on in another",), {})).to_bytes()
"""What is recorded as returned by a body that was continued."""


LOOKED_THROUGH = 2_000
"""Runs that have not begun, the newest, looked through for those that a process was about to begin when it died."""


class Continuation(BaseException):
    """The way from `continue_with` to whoever called the body. No `except Exception` of the body's stops it."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__("continue_with(...) goes on with the workflow whose body calls it; here is none")
        self.arguments = (args, kwargs)


def continue_with(*args: Any, **kwargs: Any) -> NoReturn:
    """End this run, and go on with a new run of the same workflow, called with these arguments; refs give their values.

    What the body has called is waited for first. `Run.result()` and `dagengine result` give what the last run returned.
    Raises BadArguments; DefinitionError in a workflow that was called by another one, and in a branch.
    """
    scope = current_scope.get()
    if scope is not None:
        if scope.depth:
            raise DefinitionError(
                f"continue_with() in {scope.path}: it ends the whole run. Call it in the body of {scope.body.workflow_name}."
            )
        scope.body.workflow.check_arguments(args, kwargs)
    raise Continuation(args, kwargs)


def successor_id(run_id: str) -> str:
    """The id of the run that goes on after this one."""
    return sha256(f"{run_id}/continued".encode()).hexdigest()[:32]


def continued_as(run: RunRecord) -> str | None:
    """The id of the run that goes on after this one, if its body was continued."""
    return successor_id(run.id) if is_continued(run.result_call) else None


def is_continued(returned: bytes | None) -> bool:
    """Whether what a body has returned, encoded, says that its run goes on in another one."""
    return returned == _CONTINUED


def record_successor(body: Body, asked: Continuation) -> BodyReturned:
    """Record the run that goes on, and return what is recorded of this body. On the body's thread."""
    stage = body.stage
    call, inputs = encode_call(*asked.arguments, f"the call {body.workflow_name}", stage.keep, body)
    if any(isinstance(item, StepInput) for item in inputs):
        body.wait([Ref(body, item.seq, "") for item in inputs if isinstance(item, StepInput)])
        with outside():
            args, kwargs = stage.read_call(call, inputs)
            call, inputs = encode_call(args, kwargs, f"the call {body.workflow_name}", stage.keep)
    stage.begin_successor(call, tuple(item for item in inputs if not isinstance(item, StepInput)))
    return BodyReturned(_CONTINUED, ())


def begin_successor(store: Store, run: RunRecord, call: bytes, inputs: tuple[PayloadInput, ...], at: float) -> None:
    """Record the run that goes on after `run`, at `at`; harmless if a process that died has done so."""
    facts = {name: fact for name, fact in run.facts.items() if name not in ("fork", "forked_from", "logical_time")}
    facts["continued_from"] = run.id
    facts["first"] = run.facts.get("first", run.id)
    with contextlib.suppress(RunExists):
        store.create_run(NewRun(successor_id(run.id), run.workflow, run.entry, call, inputs, at, facts), None)


# ---- looking runs up ----------------------------------------------------------------------------


def find(store: Store, run_id: str) -> RunRecord | None:
    """The run of this whole id."""
    try:
        found = store.find_run(run_id)
    except RunNotFound:
        return None
    return found if found.id == run_id else None


def before(store: Store, run: RunRecord) -> RunRecord | None:
    """The run after whose success this one is to begin, if that has not come."""
    if run.state is not RunState.PENDING or "continued_from" not in run.facts:
        return None
    found = find(store, str(run.facts["continued_from"]))
    return None if found is None or found.state is RunState.SUCCEEDED else found


def refuse_early(store: Store, run: RunRecord) -> None:
    """A run that goes on from another one is not begun before that has succeeded. Raises RunConflict."""
    first = before(store, run)
    if first is not None:
        raise RunConflict(
            f"run {run.id[:8]} goes on from run {first.id[:8]}, which has not succeeded. Resume that:"
            f" dagengine resume {first.id[:8]}",
            run_id=run.id,
        )


def left_to_begin(store: Store, until: float) -> list[RunRecord]:
    """Runs that nobody has begun, although those that they go on from have succeeded, before `until`: whoever was to begin
    them is gone."""
    found = []
    for run in store.runs(RunFilter((RunState.PENDING,), limit=LOOKED_THROUGH)):
        first = find(store, str(run.facts["continued_from"])) if "continued_from" in run.facts else None
        if first is not None and first.state is RunState.SUCCEEDED and (first.finished_at or until) < until:
            found.append(run)
    return found


def last_of(store: Store, run: RunRecord) -> RunRecord:
    """The run that the run was continued as, and so on: where its result is."""
    while run.state is RunState.SUCCEEDED and (successor := continued_as(run)) is not None:
        after = find(store, successor)
        if after is None:
            raise RunNotFound(
                f"run {run.id} goes on in run {successor}, which is gone: was it removed?", run_id=successor
            )
        run = after
    return run
