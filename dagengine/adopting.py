"""`resume --adopt`: the calls that the code makes now stand in the place of those that were recorded.

A run that stopped in a mismatch names the step that its body called differently. That step and all that the body had called
after it are superseded: they stay on record, under keys that end in `~1` (or `~2`, …), and are never asked for again; what
had not ended is cancelled. Then the body is called again, and what it calls is recorded as new. What a step that stays has
grown, stays with it.

A call that has changed the state of a stateful object can't be taken back, so a mismatch before one can't be adopted.

May import base modules and the interfaces of storage.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from queue import SimpleQueue

from dagengine.errors import InternalError, RunMismatch, StoreError
from dagengine.model import (
    Claim,
    Failure,
    RecordedCall,
    RunRecord,
    RunState,
    StepKind,
    StepRecord,
    StepState,
)
from dagengine.storage.interface import Store
from dagengine.storage.writes import FinishStep, HandleFailures, RenameSteps, Write

_SUPERSEDED = re.compile(r"~\d+$")
_BELOW = re.compile(r"/@(\d+)$")

LOOKED_UP = 1_000
"""Keys that are looked up to tell what the body has called from what its steps have grown; beyond, nothing is said."""

_GROWING = (StepKind.TASK, StepKind.MAP)
_UNSUCCESSFUL = (StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED)


def superseded_by_adoption(store: Store, run: RunRecord) -> list[tuple[StepRecord, str]]:
    """What is to be superseded if today's calls are adopted, each with its new key; nothing if the run has no mismatch.

    Raises RunMismatch if that can't be.
    """
    facts = {} if run.failure is None else run.failure.facts
    if run.state is not RunState.MISMATCH or "seq" not in facts:
        return []
    steps = store.steps(run.number)
    dropped = dropped_from(steps, facts["seq"], facts["below"])
    _refuse_state(run, steps, dropped)
    return list(zip(dropped, new_keys(steps, dropped), strict=True))


def supersede(store: Store, claim: Claim, steps: list[tuple[StepRecord, str]], at: float) -> None:
    """Do it, durable when this returns. The claim has opened again what had ended without success. Raises StoreError."""
    states = {step.seq: step for step in store.steps(claim.run_number, seqs=[step.seq for step, _ in steps])}
    open_ones = [step for step in states.values() if not step.state.ended]
    order = (claim.token << 32) - len(open_ones)  # after all ends of the owners before, before all of this one's
    failure = Failure("cancelled", "dagengine.errors.StepCancelled", "another call was adopted in its place")
    batch: list[Write] = [
        FinishStep(step.seq, StepState.CANCELLED, order + place, step.attempts, at, failure=failure)
        for place, step in enumerate(open_ones)
    ]
    handled = [step.seq for step in states.values() if not step.state.ended or step.state in _UNSUCCESSFUL]
    if handled:
        batch.append(HandleFailures(tuple(handled)))  # so that no resume opens them again
    batch.append(RenameSteps(tuple((step.seq, key) for step, key in steps)))
    answer: SimpleQueue[StoreError | InternalError | None] = SimpleQueue()
    store.write(claim, batch, answer.put)
    error = answer.get()
    if error is not None:
        raise error


def is_superseded(key: str) -> bool:
    """Whether the key is that of a step in whose place another call was adopted."""
    return _SUPERSEDED.search(key) is not None


def orphans(store: Store, run_number: int, left: Sequence[RecordedCall]) -> list[str]:
    """Keys of the recorded calls that the body has not asked for: not of those that steps have grown, or superseded ones."""
    grown: dict[str, bool] = {}
    found = []
    for call in left:
        start = call.key.rpartition("/")[0]
        if start not in grown and len(grown) < LOOKED_UP:
            grown[start] = any(step.kind in _GROWING for step in store.steps(run_number, key=start))
        if not (grown.get(start, True) or is_superseded(call.key) or _BELOW.search(start)):
            found.append(call.key)
    return found


# ---- which -----------------------------------------------------------------------------------------


def dropped_from(steps: Sequence[StepRecord], first: int, below: int) -> list[StepRecord]:
    """Those that the body had called from step `first` on, before step `below`, with what they have grown."""
    by_key = {step.key: step for step in steps}
    by_seq = {step.seq: step for step in steps}
    dropped: dict[int, StepRecord] = {}
    for step in steps:
        above = _grown_by(step, by_key, by_seq)
        if above is not None:
            drop = above.seq in dropped
        else:
            drop = first <= step.seq < below and not is_superseded(step.key)
        if drop:
            dropped[step.seq] = step
    return list(dropped.values())


def _grown_by(step: StepRecord, by_key: dict[str, StepRecord], by_seq: dict[int, StepRecord]) -> StepRecord | None:
    """The step whose item this is, or which has deferred it; None if the body has called it."""
    start = step.key.rpartition("/")[0]
    deep = _BELOW.search(start)
    above = by_seq.get(int(deep[1])) if deep is not None else by_key.get(start)
    return above if above is not None and above.kind in _GROWING else None


def new_keys(steps: Sequence[StepRecord], dropped: Sequence[StepRecord]) -> list[str]:
    """A key for each: its own with a number behind it; below a superseded step, its own below that one's new key."""
    taken = {step.key for step in steps}
    renamed: dict[str, str] = {}
    for step in dropped:
        start, slash, name = step.key.rpartition("/")
        if start in renamed:
            renamed[step.key] = renamed[start] + slash + name
            continue
        number = 1
        while f"{step.key}~{number}" in taken:
            number += 1
        renamed[step.key] = f"{step.key}~{number}"
    return list(renamed.values())


def _refuse_state(run: RunRecord, steps: Sequence[StepRecord], dropped: Sequence[StepRecord]) -> None:
    by_key = {step.key: step for step in steps}
    gone = {step.seq for step in dropped}
    for step in dropped:
        if step.kind is StepKind.METHOD and step.state is StepState.SUCCEEDED:
            start = step.key.rpartition("/")[0]
            while start and (start not in by_key or by_key[start].kind is not StepKind.CREATE):
                start = start.rpartition("/")[0]
            if start and by_key[start].seq not in gone:
                raise RunMismatch(
                    f"run {run.id[:8]}: the new calls can't be adopted, because {step.key} has changed the state of"
                    f" {start}. Put the code back as it was, or fork the run.",
                    run_id=run.id,
                    key=step.key,
                    difference="",
                )
