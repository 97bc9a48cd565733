"""What each unfinished step of a live run waits for: the run core's view, and below it the runtime's.

For whoever asks why nothing moves. Pure; may import nothing of ours but core, model and the runtime's protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dagengine.core.core import RunCore
from dagengine.core.states import STATE_OF, Phase
from dagengine.core.step import Step
from dagengine.model import StepInput
from dagengine.runtime.protocol import TaskId

NAMED = 3
"""So many of the steps that one waits for are named; a person follows one of them."""


@dataclass(frozen=True, slots=True)
class Wait:
    key: str
    state: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def waits_of(
    core: RunCore, index: int, runtime: Mapping[TaskId, str], outside: Mapping[int, str] | None = None
) -> Iterator[Wait]:
    """One reason for each unfinished step, in the order of seq. `index`: the run's, in the runtime's task ids. `outside`:
    what steps wait for that the world ends."""
    for seq in sorted(core.steps):
        step = core.steps[seq]
        if step.phase < Phase.SUCCEEDED:
            told = (outside or {}).get(seq) if step.phase is Phase.OUTSIDE else None
            yield Wait(step.key, str(STATE_OF[step.phase]), told or _reason(core, step, index, runtime))


def _reason(core: RunCore, step: Step, index: int, runtime: Mapping[TaskId, str]) -> str:
    if step.phase in (Phase.NEW, Phase.ENDING):
        return "for the store: " + ("its record" if step.phase is Phase.NEW else "its end") + " is being written"
    if step.phase is Phase.WAITING:
        return f"for {_named(core, [item.seq for item in step.inputs if isinstance(item, StepInput)])}"
    if step.phase is Phase.OUTSIDE:
        return "for the world"
    if step.phase is Phase.LOOKING:
        return "for the cache: its value may be there, or be computed by another step"
    if step.phase is Phase.EXPANDED:
        return f"for its items: {_named(core, step.item_seqs())}"
    if step.phase is Phase.RETRYING:
        return f"for the delay after attempt {step.attempt}"
    if step.phase is Phase.READY:
        return "the run is being stopped" if core.stop else f"for one of the {core.window} attempts that are out to end"
    return runtime.get((index, step.seq, step.attempt), "the runtime has it")


def _named(core: RunCore, seqs: Any) -> str:
    """The steps among these that have not ended, the first few by name."""
    steps = core.steps
    left = [steps[seq] for seq in seqs if seq in steps and steps[seq].phase < Phase.SUCCEEDED]
    names = ", ".join(f"{step.key} ({STATE_OF[step.phase]})" for step in left[:NAMED])
    return names + (f" and {len(left) - NAMED:,} more" if len(left) > NAMED else "") if left else "an input"
