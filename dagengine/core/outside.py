"""Steps without attempts, in the run core: those whose value is known when they are called, and those that the world ends.

A step that waits for its time, an event or a child run is OUTSIDE from when its inputs are durable. The shell is told
(`actions.outside`, again each time that the run is loaded), sees to it, and answers with OutsideEnded: once, late news
and doubled ones change nothing. What makes the end true elsewhere (an event is taken) is written in the end's own batch.

May import model and the store's vocabulary of writes.
"""

from __future__ import annotations

from collections.abc import Iterable

from dagengine.core.ephemeral import Ephemerals
from dagengine.core.events import LetGo, OutsideEnded, StepKnown
from dagengine.core.states import BodyPhase, Phase, Stop
from dagengine.core.step import Step
from dagengine.model import Failure, Input, RunState, StepInput, StepKind, StepState
from dagengine.storage.writes import FinishRun, RecordSteps

_UNNEEDED = "dagengine.errors.StepCancelled"


class Outside(Ephemerals):
    """A run some of whose steps are not run."""

    def __init__(self, window: int = 512, host: str = "", token: int = 0) -> None:
        super().__init__(window, host, token)
        self.asleep = False  # let go of, to wait without a process
        self.late_stop = Stop.NO  # asked for since then
        self._result: set[int] = set()  # steps whose values the body returned

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

    def quiet(self) -> bool:
        """Whether nothing can happen in this run before something does in the world.

        Not while values are held that are not recorded: they would have to be made again. Nor when the body raised: that
        is not on record before the run's end is.
        """
        if self.finish_asked or self.stop or not self.world or self.body not in (BodyPhase.OPEN, BodyPhase.RETURNED):
            return False
        if self._batches or self.in_flight or self.unrecorded or self.held or self.keeping:
            return False
        idle = (Phase.WAITING, Phase.OUTSIDE, Phase.EXPANDED)
        left = [step.phase for step in self.steps.values() if step.end is None]
        return Phase.OUTSIDE in left and all(phase in idle for phase in left)

    def _fall_asleep(self, event: LetGo, now: float) -> None:
        if not self.quiet():
            return
        self.asleep = self.finish_asked = True
        self._batch.finished = RunState.WAITING
        self._actions.writes.append(FinishRun(RunState.WAITING, now))
        self._actions.writes.extend(event.also)
        self._actions.stop_body = True
        self._release_all(force=False)

    def _returned(self, inputs: Iterable[Input]) -> None:
        self._result.update(item.seq for item in inputs if isinstance(item, StepInput))

    def _drop_unneeded(self, now: float) -> None:
        """A run does not outlive its body for a timer or an event of which nobody asks: such steps are cancelled."""
        for seq in sorted(self.world):
            step = self.steps.get(seq)
            if step is None or step.phase is not Phase.OUTSIDE:
                self.world.discard(seq)
            elif step.kind is not StepKind.CHILD and seq not in self._result and not self._is_read(step):
                failure = Failure("cancelled", _UNNEEDED, f"nobody waits for {step.key} any more", retriable=False)
                self._end(step, StepState.CANCELLED, now, failure=failure)

    def _is_read(self, step: Step) -> bool:
        return any(self.steps[reader].end is None for reader in step.readers())

    def _outside_ended(self, event: OutsideEnded, now: float) -> None:
        step = self.steps.get(event.seq)
        if step is None or step.phase is not Phase.OUTSIDE or self.finish_asked:
            return
        self._end(step, event.state, event.at, value=event.value, failure=event.failure)
        self._actions.writes.extend(event.also)
