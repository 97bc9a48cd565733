"""Why a step ran, waits, or was skipped: lines for people, from the record alone.

They name the step at the root of a skip and the way to it, the inputs that are not there yet and what is at their front,
each attempt with its worker and its end, and what to type next.

May import nothing of ours but advice, model, identity, views, provenance and storage's interface.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagengine.advice import for_step
from dagengine.identity import is_alive
from dagengine.model import AttemptRecord, Failure, RunRecord, RunState, StepKind, StepRecord, StepState
from dagengine.provenance import provenance
from dagengine.storage.caching import use
from dagengine.storage.interface import Store
from dagengine.views import Alive, StepView, failure_view, run_state, steps_view


@dataclass(frozen=True, slots=True)
class Explanation:
    step: StepView
    lines: tuple[str, ...]
    waits_for: tuple[StepView, ...]
    caused_by: tuple[StepView, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.step.to_json(),
            "because": list(self.lines),
            "waits_for": [{"key": step.key, "state": str(step.state)} for step in self.waits_for],
            "caused_by": [{"key": step.key, "state": str(step.state)} for step in self.caused_by],
            "tries": [attempt_view(attempt) for attempt in self.step.tries],
        }


def attempt_view(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "worker": attempt.worker,
        "pid": attempt.pid,
        "host": attempt.host,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "failure": failure_view(attempt.failure),
    }


def explain(
    store: Store, run: RunRecord, step: StepRecord, *, alive: Alive = is_alive, now: float | None = None
) -> Explanation:
    """Why the step ran, waits, or was skipped."""
    steps = {view.record.seq: view for view in steps_view(store, run, with_inputs=True, alive=alive)}
    this = steps[step.seq]
    story = _Story(
        store, run, state=run_state(run, alive), steps=steps, this=this, now=time.time() if now is None else now
    )
    lines = [
        f"{this.key} {_verb(this)}",
        *story.reasons(),
        *provenance(store, run, step),
        *map(story.attempt, this.tries),
    ]
    said = use(store, run.number, step.seq)
    if said is not None:
        lines.append(f"cache: {said.outcome}: {said.why}")
    if this.record.value_size is not None and not this.record.value_digest:
        if this.record.kind is not StepKind.MAP:
            lines.append(f"its value of {this.record.value_size:,} bytes was not recorded (checkpoint=False)")
    elif this.record.value_size is not None:
        lines.append(f"its value has {this.record.value_size:,} bytes (sha256 {(this.record.value_digest or '')[:12]})")
    return Explanation(this, tuple(lines), story.waits, story.causes)


def _verb(step: StepView) -> str:
    return {
        StepState.SUCCEEDED: "succeeded",
        StepState.FAILED: "failed",
        StepState.SKIPPED: "was skipped",
        StepState.CANCELLED: "was cancelled",
        StepState.RUNNING: "is running",
        StepState.RETRYING: "waits for its next attempt",
        StepState.READY: "is ready, and waits for a worker",
        StepState.WAITING: "has not run yet",
    }[step.state]


class _Story:
    """What is to be said of one step of a run."""

    def __init__(
        self,
        store: Store,
        run: RunRecord,
        *,
        state: RunState,
        steps: Mapping[int, StepView],
        this: StepView,
        now: float,
    ) -> None:
        self.store = store
        self.run = run
        self.state = state
        self.steps = steps
        self.this = this
        self.now = now
        self.inputs = [steps[seq] for seq in this.inputs]
        self.behind = [steps[seq] for seq in this.behind]
        self.waits = (*(step for step in self.inputs if not step.state.ended), *self.behind)
        self.causes = _causes(this, steps)
        self.resume = f"dagengine resume {run.id[:8]}"

    def reasons(self) -> list[str]:
        this = self.this
        if this.state is StepState.SKIPPED:
            lines = self.skipped()
        elif this.state is StepState.CANCELLED:
            asked = _at(self.run.cancel_requested_at)
            lines = [f"the run was cancelled{asked} before the step had ended", *self.advice(this)]
        elif not self.inputs:
            lines = [f"it reads no other step: it was ready when it was called{_at(this.record.created_at, ',')}"]
        elif self.waits:
            lines = self.waiting()
        else:
            lines = self.inputs_there()
        if not this.state.ended:
            lines += self.held_up()
        if this.state is StepState.FAILED:
            lines.append(f"it ended with{_said(this.record.failure) or ' a failure'}".replace("with: ", "with "))
            lines += self.advice(this)
        return lines

    def advice(self, *steps: StepView) -> list[str]:
        """What is to be done about these; each thing once."""
        said = (advice.text for step in steps for advice in for_step(self.store, self.run, step.record))
        return list(dict.fromkeys(said))

    def skipped(self) -> list[str]:
        lines = ["it did not run, because a step that it depends on did not succeed"]
        for cause in self.causes:
            lines.append(" ◀ ".join(_path(self.this, cause, self.steps)))
            lines.append(f"{cause.key} {_verb(cause)}{_said(cause.record.failure)}")
        return [*lines, *self.advice(*(self.causes or (self.this,)))]

    def waiting(self) -> list[str]:
        lines = []
        inputs = [step for step in self.inputs if not step.state.ended]
        if inputs:
            some = f"{len(inputs)} of " if len(inputs) < len(self.inputs) else ""
            lines += [f"it waits for {some}its {_inputs(len(self.inputs))}:", *_listed(inputs)]
        if self.behind:
            lines.append(f"it is a call on {self.object()}, and waits for its turn:")
            lines += _listed(self.behind)
        return lines + _front(self.waits, self.steps)

    def object(self) -> str:
        """The key of the stateful object that the step is a call on."""
        return next((step.key for step in self.inputs if step.record.kind is StepKind.CREATE), "a stateful object")

    def inputs_there(self) -> list[str]:
        if not all(step.state is StepState.SUCCEEDED for step in self.inputs):
            # A failure that the map's caller takes as a value: the step ran beside it.
            return [f"its {_inputs(len(self.inputs))} ended"]
        last = max(self.inputs, key=lambda step: step.record.finished_at or 0.0)
        line = f"its {_inputs(len(self.inputs))} succeeded; the last was {last.key}{_at(last.record.finished_at)}"
        if len(self.inputs) == 1:
            line = f"its one input, {last.key}, succeeded{_at(last.record.finished_at)}"
        lines = [line]
        ready_at = max([self.this.record.created_at, *(step.record.finished_at or 0.0 for step in self.inputs)])
        waited = (self.this.tries[0].started_at if self.this.tries else self.now) - ready_at
        if waited >= 0.001 and (self.this.tries or self.this.state is StepState.READY):
            lines.append(f"it {'waited' if self.this.tries else 'has waited'} {_seconds(waited)} for a worker")
        return lines

    def held_up(self) -> list[str]:
        """Why an unfinished step does not go on, if that is not for its inputs."""
        lines = []
        if self.this.record.kind is StepKind.MAP and not self.waits:
            lines.append("it is a map: it ends when all its items have")
        if self.state is not RunState.RUNNING:
            why = {
                RunState.PENDING: "nobody has begun the run",
                RunState.CRASHED: "the process that worked on the run has died",
            }.get(self.state, f"the run is {self.state}")
            lines.append(f"{why}; to go on: {self.resume}")
        return lines

    def attempt(self, attempt: AttemptRecord) -> str:
        where = "" if attempt.worker is None else f" on worker {attempt.worker}"
        if attempt.pid is not None:
            where += f" (pid {attempt.pid} of {attempt.host})"
        line = f"attempt {attempt.number}{where}{_at(attempt.started_at)}: "
        if attempt.outcome is None:
            running = self.this.state is StepState.RUNNING and attempt is self.this.tries[-1]
            return line + ("running" if running else "vanished with its process")
        took = "" if attempt.finished_at is None else f" after {_seconds(attempt.finished_at - attempt.started_at)}"
        return f"{line}{attempt.outcome}{took}{_said(attempt.failure)}"


def _inputs(count: int) -> str:
    return "one input" if count == 1 else f"{count} inputs"


def _listed(steps: Sequence[StepView]) -> list[str]:
    more = [f"  … and {len(steps) - 8} more"] if len(steps) > 8 else []
    return [f"  {step.key} {_verb(step)}" for step in steps[:8]] + more


def _front(waits: Sequence[StepView], steps: Mapping[int, StepView]) -> list[str]:
    """What is at the front of all that the step waits for: what runs, is ready, or retries."""
    seen: set[int] = set()
    front: list[StepView] = []
    todo = [step.record.seq for step in waits if step.state is StepState.WAITING]
    while todo:
        seq = todo.pop()
        if seq in seen:
            continue
        seen.add(seq)
        unfinished = [read for read in (*steps[seq].inputs, *steps[seq].behind) if not steps[read].state.ended]
        for read in unfinished:
            if steps[read].state is StepState.WAITING:
                todo.append(read)
            elif read not in seen:
                seen.add(read)
                front.append(steps[read])
    if not front:
        return []
    names = ", ".join(f"{step.key} ({step.state})" for step in front[:5])
    return [f"at the front of them: {names}" + (f", and {len(front) - 5} more" if len(front) > 5 else "")]


def _causes(this: StepView, steps: Mapping[int, StepView]) -> tuple[StepView, ...]:
    """The steps at the root of a skip: those that failed or were cancelled, first called first."""
    if this.state is not StepState.SKIPPED:
        return ()
    seen: set[int] = set()
    roots: list[int] = []
    todo = [this.record.seq]
    while todo:
        seq = todo.pop()
        if seq in seen or seq not in steps:
            continue
        seen.add(seq)
        if steps[seq].state in (StepState.FAILED, StepState.CANCELLED):
            roots.append(seq)
        elif steps[seq].state is StepState.SKIPPED:
            todo += steps[seq].inputs
    if not roots and this.record.failure is not None:
        # An item of a map or a body's own decision: the edge is not in the graph, the failure names the step.
        cause = this.record.failure.facts.get("cause")
        roots = [step.record.seq for step in steps.values() if step.key == cause]
    return tuple(steps[seq] for seq in sorted(roots)[:5])


def _path(this: StepView, root: StepView, steps: Mapping[int, StepView]) -> list[str]:
    """Keys from the step back to the root, the shortest way; the middle of a long one left out."""
    came_from: dict[int, int] = {}
    todo = [this.record.seq]
    for seq in todo:
        if seq == root.record.seq:
            break
        for read in steps[seq].inputs:
            if read in steps and read not in came_from and read != this.record.seq:
                came_from[read] = seq
                todo.append(read)
    path = [root.key]
    at = root.record.seq
    while at in came_from:
        at = came_from[at]
        path.append(steps[at].key)
    path.reverse()
    return path if len(path) <= 8 else [*path[:4], "…", *path[-3:]]


def _said(failure: Failure | None) -> str:
    if failure is None:
        return ""
    text = " ".join(failure.message.split())
    name = failure.type.removeprefix("builtins.")
    return f": {name}: {text}" if text else f": {name}"


def _at(when: float | None, before: str = "") -> str:
    return "" if when is None else before + time.strftime(" at %H:%M:%S", time.localtime(when))


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
