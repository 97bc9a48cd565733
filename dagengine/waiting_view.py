"""What a run that waits without a process waits for, and until when: for people, from the record alone.

May import nothing of ours but approvals, model and storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dagengine.approvals import LOOKED_THROUGH, asked_by
from dagengine.model import RunRecord, RunState, StepKind, StepRecord, StepState
from dagengine.storage.interface import Store
from dagengine.storage.sleepers import sleeper

SHOWN = 10
"""Steps that are named. A run may wait for ten thousand."""

_WHAT = {StepKind.TIMER: "its time", StepKind.CHILD: "the run that it began"}


@dataclass(frozen=True, slots=True)
class WaitingView:
    """`until`: when it is woken, if nothing comes before. `steps`: (key, what it waits for) of the first few."""

    until: float | None
    steps: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {"until": self.until, "steps": [{"key": key, "waits_for": what} for key, what in self.steps]}


def waiting_view(store: Store, run: RunRecord) -> WaitingView | None:
    """None if the run is not one that waits without a process."""
    if run.state is not RunState.WAITING:
        return None
    found = sleeper(store, run.number)
    steps = [step for step in store.steps(run.number, states=[StepState.WAITING], limit=100) if step.kind.is_outside]
    named = tuple((step.key, waits_for(step)) for step in steps[:SHOWN])
    return WaitingView(None if found is None else found.wake_at, named)


def signals_awaited(store: Store, run: RunRecord) -> list[str]:
    """The names of the signals that the run waits for now, each once."""
    steps = store.steps(run.number, states=[StepState.WAITING], limit=LOOKED_THROUGH)
    return list(dict.fromkeys(_event(one) for one in steps if one.kind is StepKind.EVENT and asked_by(one) is None))


def waits_for(step: StepRecord) -> str:
    """What an unfinished step that the world ends waits for."""
    if step.kind is StepKind.EVENT:
        return f"the signal {_event(step)}" if asked_by(step) is None else f"an approval of {_event(step)}"
    return _WHAT.get(step.kind, "its inputs")


def _event(step: StepRecord) -> str:
    """The name of the event, which its key has."""
    return step.key.rpartition("/")[2].rpartition("[")[0].rpartition(".")[0]
