"""Steps without attempts, in the run core: those whose value is known when they are called, and those that the world ends.

A step that waits for its time, an event or a child run is OUTSIDE from when its inputs are durable. The shell is told
(`actions.outside`, again each time that the run is loaded), sees to it, and answers with OutsideEnded: once, late news
and doubled ones change nothing. What makes the end true elsewhere (an event is taken) is written in the end's own batch.

May import model and the store's vocabulary of writes.
"""

from __future__ import annotations

from dagengine.core.ephemeral import Ephemerals
from dagengine.core.events import OutsideEnded, StepKnown
from dagengine.core.states import BodyPhase, Phase
from dagengine.model import StepState
from dagengine.storage.interface import RecordSteps


class Outside(Ephemerals):
    """A run some of whose steps are not run."""

    def _step_known(self, event: StepKnown, now: float) -> None:
        if self.body is not BodyPhase.OPEN or self.stop:
            return  # as with other calls: made again on resume
        new = self._define_new(() if event.definition is None else (event.definition,))
        self._actions.writes.append(RecordSteps(tuple(new), (event.step,), now))
        step = self._add(event.step)
        if step.definition in self._ephemeral:
            self.kept.add(step.seq)  # this value is recorded
        self._end(step, StepState.SUCCEEDED, now, value=event.value)
        self._actions.writes.extend(event.also)

    def _outside_ended(self, event: OutsideEnded, now: float) -> None:
        step = self.steps.get(event.seq)
        if step is None or step.phase is not Phase.OUTSIDE or self.finish_asked:
            return
        self._end(step, event.state, event.at, value=event.value, failure=event.failure)
        self._actions.writes.extend(event.also)
