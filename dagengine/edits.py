"""What people change of a recorded run: steps to be tried again, steps decided by hand, pauses.

Each change is one batch with an event that says who made it, and why. A run that nobody works on is claimed for the moment
of the change; a run that is worked on is changed by its owner, who is asked through its control socket.

    retry    a failed step, and what was skipped because of it, is to be done again; other failures stay
    mark     a step that has not succeeded ends as a person says
    pause    the run is drained, and nobody goes on with it before `unpause`

May import everything of the workflow layer but the engine and the command line.
"""

from __future__ import annotations

import base64
import getpass
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from dagengine.approvals import asked_by
from dagengine.compensating import refuse_over
from dagengine.control import NoAnswer, ask
from dagengine.errors import RunConflict, RunOwned, StoreUnavailable
from dagengine.identity import is_alive, this_process
from dagengine.model import (
    Claim,
    EventRecord,
    Failure,
    ProcessRecord,
    RunRecord,
    RunState,
    StepKind,
    StepRecord,
    StepState,
    Value,
)
from dagengine.signals import left_by, tell, tell_process
from dagengine.storage import sleepers
from dagengine.storage.interface import Store
from dagengine.storage.writes import AddEvent, FinishRun, FinishStep, HandleFailures, RecordAttempt, ReopenSteps, Write
from dagengine.views import find_step, run_state

ANSWER_SECONDS = 60.0
"""For a run's owner to record a change: it may be waiting for its store."""

MARKS = (StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED)

_OVER = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH)
_UNSUCCESSFUL = (StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED)


def author() -> str:
    """Who is taken for the author of a change that does not say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process of a user that the machine does not know
        return "unknown"


# ---- retry --------------------------------------------------------------------------------------


def retry(
    store: Store, run: RunRecord, names: Iterable[str], *, by: str | None = None, why: str = "", process: ProcessRecord | None = None
) -> list[StepRecord]:  # fmt: skip
    """Open these failed steps of a run that nobody works on again, with what was skipped because of them; returns them.

    To go on: `Engine.resume(run.id, reopen=False)`, which leaves other failures as they are. Raises RunNotFound,
    RunConflict for a step that has not failed or whose failure the workflow has handled, RunOwned.
    """
    refuse_over(store, run)
    if run.state is RunState.CANCELLED:
        raise RunConflict(
            f"run {run.id[:8]} was cancelled: go on with all of it: dagengine resume {run.id[:8]}", run_id=run.id
        )
    chosen = [find_step(store, run, name) for name in names]
    for step in chosen:
        if step.state is not StepState.FAILED:
            raise RunConflict(f"{step.key} {_how(step)}: only a failed step can be retried.", run_id=run.id)
    handled = {call.seq for call in store.recorded_calls(run.number) if call.handled} if chosen else set[int]()
    for step in chosen:
        if step.seq in handled:
            raise RunConflict(
                f"the workflow has handled the failure of {step.key}, and went on: it stays. Do it anew with: dagengine"
                f" fork {run.id[:8]} --from '{step.key}'",
                run_id=run.id,
            )
    seqs = {step.seq for step in chosen}
    skipped = [step.seq for step in _because_of(store, run, seqs) if step.seq not in handled]
    lost = [
        RecordAttempt(attempts[-1]._replace(outcome="lost"))
        for attempts in (store.attempts(run.number, seq) for seq in sorted(seqs))
        if attempts and attempts[-1].outcome in (None, "unknown")  # with that it would count as begun, for ever
    ]
    data = {"steps": [step.key for step in chosen], **_note(by, why)}
    reopened = ReopenSteps(tuple(sorted({*seqs, *skipped})))
    _change(store, run, lambda claim: [reopened, *lost, _event("step.retry", None, data)], _changed(run), process)
    return chosen


def _because_of(store: Store, run: RunRecord, roots: set[int]) -> list[StepRecord]:
    """The steps that were skipped because one of these did not succeed."""
    skipped = store.steps(run.number, states=(StepState.SKIPPED,))
    return [step for step in skipped if step.failure is not None and step.failure.facts.get("root_seq") in roots]


# ---- mark ---------------------------------------------------------------------------------------


def mark(
    store: Store,
    run: RunRecord,
    name: str,
    state: StepState,
    *,
    value: Value | None = None,
    by: str | None = None,
    why: str = "",
    process: ProcessRecord | None = None,
    control: Path | None = None,
) -> StepRecord:
    """Decide how a step ends that has not succeeded; returns it as it was.

    value: of a step that is to succeed, durable if it is large (`forks.keep_value`); control: the folder of the control
    sockets, to reach the owner of a run that is worked on. A failed step is done again by a resume, a skipped one is not.
    Raises RunNotFound, RunConflict, RunOwned.
    """
    refuse_over(store, run)
    step = find_step(store, run, name)
    if step.state is StepState.SUCCEEDED:
        raise RunConflict(
            f"{step.key} has succeeded, and what is recorded is never replaced. Have another value in a new run:"
            f" dagengine fork {run.id[:8]} --set '{step.key}=VALUE'",
            run_id=run.id,
        )
    if (value is not None) is not (state is StepState.SUCCEEDED):
        says = "needs a value" if value is None else "has no value"
        raise RunConflict(f"a step that is marked {state} {says}. Say --value JSON with success only.", run_id=run.id)
    asked = asked_by(step)
    if asked is not None and state is StepState.SUCCEEDED:
        raise RunConflict(
            f"{step.key} asks somebody for approval, and needs an answer. Say yes or no: dagengine approve|reject"
            f" {run.id[:8]} {asked}",
            run_id=run.id,
        )
    if run_state(run) is RunState.RUNNING:
        given = None if value is None else _value_json(value)
        asked_for = {"verb": "mark", "seq": step.seq, "state": str(state), "value": given, **_note(by, why)}
        if not _ask_owner(run, control, asked_for):
            left = _as_it_was_left(store, run)
            return mark(store, left, name, state, value=value, by=by, why=why, process=process, control=control)
        return step
    reason = _unmarkable(store, run, step)
    if reason is not None:
        raise RunConflict(f"{step.key} can't be marked: {reason}.", run_id=run.id)
    behind = [other.seq for other in _because_of(store, run, {step.seq})]
    reopened = tuple(sorted({*behind, *([step.seq] if step.state in _UNSUCCESSFUL else [])}))
    failure = decided(step.key, step.seq, state, _note(by, why))

    def writes(claim: Claim) -> list[Write]:
        end = FinishStep(step.seq, state, claim.token << 32, step.attempts, time.time(), value=value, failure=failure)
        stays = [HandleFailures((step.seq,))] if state is StepState.SKIPPED else []
        event = _event("step.marked", step.seq, {"state": str(state), **_note(by, why)})
        return [*([ReopenSteps(reopened)] if reopened else []), end, *stays, event, *due]

    waits = run.state is RunState.WAITING  # for what has ended now, maybe
    due = [sleepers.falls_asleep(run.id, 0.0, 0, left_by(store, run))] if waits else []
    _change(store, run, writes, _changed(run), process)
    if waits and control is not None:
        tell(store, control, run)
    return step


def _unmarkable(store: Store, run: RunRecord, step: StepRecord) -> str | None:
    if step.kind is StepKind.CREATE or step.kind.is_call:
        return "it makes or calls a stateful object, whose state would not be known"
    [definition] = [found for found in store.definitions(run.number) if found.number == step.definition]
    if definition.options.get("checkpoint") is False:
        return "its value is not recorded (checkpoint=False)"
    pending = [found for found in store.frontier(run.number).steps if found.seq == step.seq]
    if step.kind is StepKind.MAP and any(found.items is not None for found in pending):
        return "it waits for the steps that it has called: mark these"
    return None


def decided(key: str, seq: int, state: StepState, note: dict[str, Any]) -> Failure | None:
    """The failure of a step that a person has ended without success."""
    if state is StepState.SUCCEEDED:
        return None
    reason = f": {note['why']}" if note["why"] else ""
    text = f"{key} was marked {state} by {note['by']}{reason}"
    if state is StepState.SKIPPED:
        return Failure("skipped", "dagengine.errors.StepSkipped", text, facts={"cause": key, "root_seq": seq})
    return Failure("error", "dagengine.errors.StepFailed", text)


def _value_json(value: Value) -> dict[str, Any]:
    inline = None if value.inline is None else base64.b64encode(value.inline).decode()
    return {"digest": value.digest, "size": value.size, "inline": inline}


def value_of_json(given: dict[str, Any] | None) -> Value | None:
    """What `_value_json` made, on the owner's side."""
    if given is None:
        return None
    inline = given["inline"]
    return Value(given["digest"], int(given["size"]), None if inline is None else base64.b64decode(inline))


# ---- pause --------------------------------------------------------------------------------------


def pause(
    store: Store,
    run: RunRecord,
    *,
    by: str | None = None,
    why: str = "",
    process: ProcessRecord | None = None,
    force: bool = False,
    control: Path | None = None,
) -> RunState:
    """Stop the run until `unpause`. One that is worked on starts nothing more, and is PAUSED when what runs has ended;
    with `force` that is ended. Returns the state: RUNNING while it drains. Raises RunConflict, RunOwned.
    """
    state = run_state(run)
    if state is RunState.PAUSED:
        raise RunConflict(
            f"run {run.id[:8]} is paused already. Let it go on: dagengine unpause {run.id[:8]}", run_id=run.id
        )
    if state in _OVER:
        raise RunConflict(f"run {run.id[:8]} has already ended: {state}. There is nothing to pause.", run_id=run.id)
    if state is RunState.RUNNING:
        if not _ask_owner(run, control, {"verb": "pause", "force": force, **_note(by, why)}):
            left = _as_it_was_left(store, run)
            return pause(store, left, by=by, why=why, process=process, force=force, control=control)
        return RunState.RUNNING
    writes: list[Write] = [_event("run.paused", None, {"before": str(state), **_note(by, why)})]
    asleep = None
    if state is RunState.WAITING:  # nobody is to wake it, and whoever waits for its end is told
        asleep = sleepers.sleeper(store, run.number)
        writes.append(sleepers.awake())
    _change(store, run, lambda claim: writes, RunState.PAUSED, process)
    if asleep is not None and asleep.process is not None and control is not None:
        tell_process(store, control, asleep.process, {"verb": "wake", "run": run.id})
    return RunState.PAUSED


def unpause(
    store: Store, run: RunRecord, *, by: str | None = None, why: str = "", process: ProcessRecord | None = None
) -> RunState:
    """Let a paused run go on: it is what it was before, or INTERRUPTED, where a process had worked on it. Raises
    RunConflict."""
    if run.state is not RunState.PAUSED:
        raise RunConflict(f"run {run.id[:8]} is not paused, but {run_state(run)}.", run_id=run.id)
    said = [event.data.get("before") for event in store.events(run.number) if event.kind == "run.paused"]
    state = RunState(said[-1]) if said and said[-1] in ("pending", "waiting") else RunState.INTERRUPTED
    writes: list[Write] = [_event("run.unpaused", None, _note(by, why))]
    if state is RunState.WAITING:  # due at once: it may have slept through what it waited for
        writes.append(sleepers.falls_asleep(run.id, 0.0, 0, None))
    _change(store, run, lambda claim: writes, state, process)
    return state


# ---- how a change is made ---------------------------------------------------------------------------


def _note(by: str | None, why: str) -> dict[str, str]:
    return {"by": by or author(), "why": why}


def _event(kind: str, seq: int | None, data: dict[str, Any]) -> AddEvent:
    return AddEvent(EventRecord(time.time(), kind, seq, data))


def _change(
    store: Store,
    run: RunRecord,
    writes: Callable[[Claim], Sequence[Write]],
    state: RunState,
    process: ProcessRecord | None,
) -> None:
    """Claim the run, write, and let go of it in this state, in one batch. Raises RunConflict if it is not any more what the
    change was decided on."""
    claim = store.claim(run.id, process or this_process(), is_alive, reopen=False, as_it_was=run)
    errors: SimpleQueue[Exception | None] = SimpleQueue()
    store.write(claim, [*writes(claim), FinishRun(state, time.time())], errors.put)
    error = errors.get()
    if error is not None:
        raise error


def _changed(run: RunRecord) -> RunState:
    """What a stopped run is after steps of it have changed: to be gone on with, where nothing else holds it."""
    holds = (RunState.CANCELLED, RunState.PAUSED, RunState.WAITING, RunState.PENDING)
    return run.state if run.state in holds else RunState.INTERRUPTED


def _ask_owner(run: RunRecord, control: Path | None, request: dict[str, Any]) -> bool:
    """Have the owner of a run that is worked on change it, and wait until that is recorded. False if it has let go of the
    run in this moment."""
    assert run.owner is not None
    where = f"process {run.owner.pid} on {run.owner.host}"
    if control is None or run.owner.host != platform.node():
        raise RunOwned(
            f"run {run.id[:8]} is being worked on by {where}. Ask there, or wait for its end.",
            run_id=run.id,
            owner=where,
        )
    try:
        answer = ask(control, run.owner.id, {**request, "run": run.id}, timeout=ANSWER_SECONDS)
    except (NoAnswer, TimeoutError):
        raise StoreUnavailable(
            f"{where}, which works on run {run.id[:8]}, does not answer: it is ending, or very busy. Try again.",
            store="",
        ) from None
    if "error" in answer:
        raise RunConflict(str(answer["error"]), run_id=run.id)
    return "let_go" not in answer


def _as_it_was_left(store: Store, run: RunRecord) -> RunRecord:
    """The run that its owner has let go of since it was looked at. Raises RunConflict if the record does not say so."""
    left = store.find_run(run.id)
    if (left.state, left.token) == (run.state, run.token):
        raise RunConflict(
            f"the process that has run {run.id[:8]} does not work on it at this moment. Try again.", run_id=run.id
        )
    return left


def _how(step: StepRecord) -> str:
    return {
        StepState.SUCCEEDED: "has succeeded",
        StepState.SKIPPED: "was skipped, and runs again when what it depends on does",
        StepState.CANCELLED: "was cancelled; `dagengine resume` goes on",
    }.get(step.state, "has not ended")
