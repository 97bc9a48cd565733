"""What a run that waits without a process waits for, and until when: for people, from the record alone.

May import nothing of ours but approvals, model and storage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dagengine.approvals import LOOKED_THROUGH, asked_by
from dagengine.model import OutsideStep, RunRecord, RunState, StepKind, StepRecord, StepState
from dagengine.storage.interface import Store
from dagengine.storage.sleepers import sleepers

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
    return waiting_views(store, [run]).get(run.number)


def waiting_views(store: Store, runs: Sequence[RunRecord]) -> dict[int, WaitingView]:
    """By the numbers of those of the runs that wait without a process. Two questions, however many there are."""
    waiting = [run.number for run in runs if run.state is RunState.WAITING]
    if not waiting:
        return {}
    until = {found.run: found.wake_at for found in sleepers(store, waiting)}
    named: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for step in store.outside(waiting, SHOWN):
        named[step.run].append((step.key, waits_for(step)))
    return {number: WaitingView(until.get(number), tuple(named[number])) for number in waiting}


def signals_awaited(store: Store, run: RunRecord) -> list[str]:
    """The names of the signals that the run waits for now, each once."""
    steps = store.steps(run.number, states=[StepState.WAITING], limit=LOOKED_THROUGH)
    return list(dict.fromkeys(_event(one) for one in steps if one.kind is StepKind.EVENT and asked_by(one) is None))


def waits_for(step: StepRecord | OutsideStep) -> str:
    """What an unfinished step that the world ends waits for."""
    if step.kind is StepKind.EVENT:
        return f"the signal {_event(step)}" if asked_by(step) is None else f"an approval of {_event(step)}"
    return _WHAT.get(step.kind, "its inputs")


def _event(step: StepRecord | OutsideStep) -> str:
    """The name of the event, which its key has."""
    return step.key.rpartition("/")[2].rpartition("[")[0].rpartition(".")[0]
