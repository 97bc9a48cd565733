"""Why a run ended as it did: what failed in it, and where; what depends on that, and never ran. From the record alone.

A run of a million steps is counted, not loaded: of each kind of failure one step is kept, of all else a few names.

May import nothing of ours but failing, model and storage's interface.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from dagengine.failing import Failed, Kind, by_kind, failed_steps, raised_at
from dagengine.model import RunRecord, RunState, StepState
from dagengine.storage.interface import Store

ENDED: Final = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH)

NAMED: Final = 3
"""Keys that are kept of the steps of a state."""

LEFT: Final = (StepState.SKIPPED, StepState.CANCELLED, StepState.WAITING)


@dataclass(frozen=True, slots=True)
class RunExplanation:
    """failed: the steps that failed; handled: how many of these failures the workflow was given, and went on with
    left: of each other state in which steps have not succeeded, how many there are, and the first keys
    body: whether the run's own failure is its body's, and no step's
    """

    failed: Failed
    handled: int
    left: dict[StepState, tuple[int, tuple[str, ...]]]
    body: bool

    def to_json(self) -> dict[str, Any]:
        """Without tracebacks."""
        return {
            "failed": [_kind_json(kind) for kind in self.failed.kinds],
            "failed_total": self.failed.count,
            "failed_handled": self.handled,
            "left": {str(state): {"count": count, "keys": list(keys)} for state, (count, keys) in self.left.items()},
        }


def explain_run(store: Store, run: RunRecord) -> RunExplanation:
    """Of a run that has ended."""
    failed = by_kind(failed_steps(store, run))
    counts: Counter[StepState] = Counter()
    for (_, state), count in store.counts(run.number).items():
        counts[state] += count
    left = {}
    for state in LEFT:
        if counts[state]:
            some = store.steps(run.number, states=[state], limit=NAMED)
            left[state] = counts[state], tuple(step.key for step in some)
    facts = run.failure.facts if run.failure is not None else {}
    named = facts.get("step")
    body = run.failure is not None and named is None
    unhandled = 0 if named is None else int(facts.get("count", 1))
    return RunExplanation(failed, max(0, failed.count - unhandled), left, body)


def _kind_json(kind: Kind) -> dict[str, Any]:
    failure = kind.first.failure
    return {
        "key": kind.first.key,
        "task": kind.first.task,
        "attempts": kind.first.attempts,
        "count": kind.count,
        "others": kind.others,
        "type": None if failure is None else failure.type,
        "message": None if failure is None else failure.message,
        "at": None if failure is None else raised_at(failure),
    }
