"""What lets a run go on, or a step that did not succeed: which verb, and what it does.

Mostly that is `resume`. But some failures a resume leaves as they are, and who is told to resume then learns it only when
the run has failed again:

    the step's end is unknown (at_most_once)     mark, or retry
    nobody sent in time what it waited for       fork --from it: the time of a wait is not begun anew
    somebody said no                             fork --from it: what was answered is recorded
    the body has handled the failure             fork --from it
    the run was compensated                      rerun
    the bytes of a value are gone or damaged     recompute, then resume

May import model, units, compensating, continuing, forks' words and storage's interface.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dagengine.compensating import over
from dagengine.continuing import before
from dagengine.model import Failure, RunRecord, RunState, StepRecord, StepState
from dagengine.storage.interface import Store
from dagengine.units import short_id

LOOKED_AT = 10
"""Failed steps of a run that are looked at: as many as its own failure names."""

SHOWN = 3
"""Of these, steps for which something is said."""


@dataclass(frozen=True, slots=True)
class Advice:
    """`says`: what the command is for; `words`: what to type after `dagengine`."""

    says: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.says}: {shlex.join(('dagengine', *self.words))}"


def for_run(store: Store, run: RunRecord) -> list[Advice]:
    """How a run that has not succeeded, and that nobody works on, goes on. The first is what most will want."""
    if over(store, run):
        return [_anew(run)]
    if run.state is RunState.FAILED and run.failure is not None:
        stuck = _stuck_steps(store, run, run.failure)
        if stuck:
            return stuck
    return [Advice("to go on", _onward(store, run))]


def for_step(store: Store, run: RunRecord, step: StepRecord) -> list[Advice]:
    """What is to be done about a step that has failed, or that was cancelled or skipped."""
    if over(store, run):
        return [_anew(run)]
    stuck = [] if step.failure is None else _stuck(run, step.key, step.failure)
    if stuck:
        return stuck
    if step.state is StepState.FAILED and _is_handled(store, run, step):
        says = "the workflow has handled this failure, and went on; to do it anew, in a new run"
        return [Advice(says, ("fork", _short(run), "--from", step.key))]
    says = "to go on" if step.state is StepState.CANCELLED else "correct the cause, then"
    return [Advice(says, _onward(store, run))]


def _onward(store: Store, run: RunRecord) -> tuple[str, ...]:
    if run.state is RunState.PAUSED:
        return ("unpause", _short(run))
    return ("resume", _short(before(store, run) or run))


def _anew(run: RunRecord) -> Advice:
    return Advice("what it did is undone; to begin anew", ("rerun", _short(run)))


def _stuck_steps(store: Store, run: RunRecord, failure: Failure) -> list[Advice]:
    """What to do if no step that has failed goes on by a resume."""
    key = failure.facts.get("step")
    if not key:
        return []
    keys = failure.facts.get("failed") or [key]
    if int(failure.facts.get("count", len(keys))) > LOOKED_AT:
        return []
    found = [_stuck_named(store, run, str(name), failure) for name in keys]
    return [advice for one in found[:SHOWN] for advice in one] if all(found) else []


def _stuck_named(store: Store, run: RunRecord, key: str, of_run: Failure) -> list[Advice]:
    steps = store.steps(run.number, key=key)
    if not steps:
        return []
    return _stuck(run, key, of_run if steps[0].failure is None else steps[0].failure)


def _stuck(run: RunRecord, key: str, failure: Failure) -> list[Advice]:
    """What to do about a failure that a resume leaves as it is."""
    kind = failure.type.removeprefix("dagengine.errors.")
    if kind == "StepUnknown":  # of a child's step, perhaps: the parent is resumed when that has been decided
        short = short_id(str(failure.facts.get("child", run.id)))
        key = str(failure.facts.get("step", key))
        return [
            Advice("look what it has done, then say so", ("mark", short, key, "success", "--value", "JSON")),
            Advice("or have it done again", ("retry", short, key)),
        ]
    again = ("fork", _short(run), "--from", key)
    if kind == "EventTimeout":
        return [Advice("its time is over, also for a resume; to wait again, in a new run", again)]
    if kind in ("ArtifactMissing", "ArtifactDamaged"):
        bytes_again = Advice("to have its task make these bytes again", ("recompute", _short(run)))
        return [bytes_again, Advice("then", ("resume", _short(run)))]
    if kind == "ObjectStoreFull":
        return [Advice("to go on with room for what it reads", ("resume", _short(run), "--object-memory", "SIZE"))]
    if kind == "Rejected":
        return [Advice("the answer is recorded, also for a resume; to ask again, in a new run", again)]
    return []


def _is_handled(store: Store, run: RunRecord, step: StepRecord) -> bool:
    return any(call.seq == step.seq and call.handled for call in store.recorded_calls(run.number))


def _short(run: RunRecord) -> str:
    return short_id(run.id)


def sentence(advice: Sequence[Advice]) -> str:
    """The first of them, as the end of a line."""
    text = advice[0].text
    return text[:1].upper() + text[1:]
