"""A person's decision on how an unfinished step ends, in the run core.

The step ends in one batch with the event that says who decided, and why. An attempt that is out is taken back, and what it
still says changes nothing. Whoever asks has checked that the step can be marked (`edits`).

May import model and the store's vocabulary of writes.
"""

from __future__ import annotations

from dagengine.core.events import StepMarked
from dagengine.core.growing import Growing
from dagengine.core.states import Phase
from dagengine.model import StepKind, StepState
from dagengine.storage.writes import AddEvent, HandleFailures, RecordAttempt


class Marks(Growing):
    """A run whose steps people may decide."""

    def unmarkable(self, seq: int) -> str | None:
        """Why step `seq` can't be marked now; None if it can."""
        step = self.steps.get(seq)
        if step is None or step.end is StepState.SUCCEEDED:
            return "it has succeeded"
        if step.end is not None:
            return f"it has ended in this process, {step.end}; wait for the run's end"
        if step.phase is Phase.NEW:
            return "it is just being recorded; ask again"
        if step.phase is Phase.EXPANDED:
            return "it waits for the steps that it has called: mark these"
        if step.kind is StepKind.CREATE or step.kind.is_call:
            return "it makes or calls a stateful object, whose state would not be known"
        if self.is_ephemeral(seq):
            return "its value is not recorded (checkpoint=False)"
        return None

    def _step_marked(self, event: StepMarked, now: float) -> None:
        if self.stop or self.unmarkable(event.seq) is not None:
            return
        step = self.steps[event.seq]
        if step.phase in (Phase.SUBMITTED, Phase.RUNNING):
            self._actions.force_drop.append((step.seq, step.attempt))
            started = self._started.pop(step.seq, None)
            self._to_write.pop(step.seq, None)
            if started is not None:
                ended = started._replace(finished_at=event.at, outcome="cancelled")
                self._actions.writes.append(RecordAttempt(ended))
        self._end(step, event.state, event.at, value=event.value, failure=event.failure)
        if event.state is StepState.SKIPPED:
            self._actions.writes.append(HandleFailures((step.seq,)))
        self._actions.writes.append(AddEvent(event.note))
