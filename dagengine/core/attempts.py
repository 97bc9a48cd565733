"""Attempts in the run core: going out when a step is ready, and what follows from how each ends.

May import model, options, errors and the store's vocabulary of writes.
"""

from __future__ import annotations

from dagengine.core.cautious import KNOWN, UNKNOWN, Cautious
from dagengine.core.chain import Life, Place
from dagengine.core.events import (
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptGrown,
    AttemptLost,
    AttemptRefused,
    AttemptStarted,
    AttemptSucceeded,
    DelayOver,
)
from dagengine.core.ledger import cancelled
from dagengine.core.states import Phase, Stop
from dagengine.core.step import Step
from dagengine.model import AttemptRecord, Failure, NewStep, StepKind, StepState, Value
from dagengine.storage.writes import ExpandStep, RecordAttempt, StateChange

HARMLESS = ("error", "unpicklable", "artifact")
"""Kinds of failures after which the process goes on: a read-only call that ends so leaves its object as it is."""

Ended = AttemptSucceeded | AttemptExpanded | AttemptGrown | AttemptFailed | AttemptLost


class Attempts(Cautious):
    """A ledger whose steps are tried."""

    def _submit(self, now: float) -> None:
        if self.stop:
            return
        while self._ready and self.in_flight + self.unrecorded < self.window:
            step = self.steps[self._ready.popleft()]
            if step.phase is not Phase.READY or not self._may_go(step):
                continue
            if step.place is None or self._has_place(step, step.place, now):
                step.attempt += 1
                self._go(step, Phase.SUBMITTED)
                if self._careful(step):
                    self._announce(step, now)
                else:
                    self._actions.submit.append((step.seq, step.attempt))

    def _may_go(self, step: Step) -> bool:
        """Whether what a ready step reads is still there."""
        return True

    def _done_reading(self, step: Step) -> None:
        """A map is about to be expanded: from now on it is its items that it waits for."""

    def _has_place(self, step: Step, place: Place, now: float) -> bool:
        """Whether the step can go out to its object's actor now; if not, it is parked."""
        if step.kind is StepKind.CREATE:
            self._begin_life(place.instance)
        elif place.instance.life is not Life.UP:
            self._park(step, place.instance, now)
            return False
        place.incarnation = place.instance.incarnation
        return True

    def _attempt_started(self, event: AttemptStarted, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None or step.phase is not Phase.SUBMITTED:
            return
        self._go(step, Phase.RUNNING)
        record = AttemptRecord(event.seq, event.number, event.worker, event.pid, self.host, event.at)
        self._started[event.seq] = record
        self._to_write[event.seq] = record

    def _current(self, seq: int, number: int) -> Step | None:
        """The step, if attempt `number` is its current one and is out."""
        step = self.steps.get(seq)
        if step is None or step.attempt != number or step.phase not in (Phase.SUBMITTED, Phase.RUNNING):
            return None
        return step

    def _close_attempt(self, step: Step, event: Ended, outcome: str, failure: Failure | None = None) -> None:
        """Write the attempt's end. One that ended at once was never told as started: its process is not known."""
        started = self._started.pop(step.seq, None)
        self._to_write.pop(step.seq, None)
        pid = started.pid if started is not None else None
        self._actions.writes.append(
            RecordAttempt(
                AttemptRecord(
                    step.seq, step.attempt, event.worker, pid, self.host, event.started_at, event.at, outcome, failure
                )
            )
        )

    def _attempt_succeeded(self, event: AttemptSucceeded, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        self._close_attempt(step, event, "succeeded")
        changed = None
        if step.place is not None:
            changed = self._place_succeeded(step, step.place, event.state)
        self._end(step, StepState.SUCCEEDED, event.at, value=event.value, changed=changed)

    def _place_succeeded(self, step: Step, place: Place, state: Value | None) -> StateChange | None:
        """The object is there, or was called."""
        instance = place.instance
        if step.kind is StepKind.CREATE:
            instance.life = Life.UP
            return None
        instance.served, instance.wasted = True, 0
        if step.kind is StepKind.METHOD:
            instance.unsaved = 0 if state is not None else instance.unsaved + 1
            return StateChange(instance.seq, state)
        return None

    def _attempt_expanded(self, event: AttemptExpanded, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        self._close_attempt(step, event, "succeeded")
        if self.stop == Stop.CANCEL:
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
            return
        self._done_reading(step)
        name = step.key.rpartition("/")[2].partition(".map[")[0]
        first = event.first
        inputs = step.inputs[1:]
        items = [
            NewStep(first + index, f"{step.key}/{name}[{index}]", StepKind.TASK, step.definition, call, inputs)
            for index, call in enumerate(event.calls)
        ]
        step.items = (first, len(items))
        self._go(step, Phase.EXPANDED)
        if items:
            self._record((), items, now)
        self._actions.writes.append(ExpandStep(step.seq, first, len(items)))
        self._link(step, now)
        self._consider(step, now)

    def _attempt_failed(self, event: AttemptFailed, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        outcome = "timeout" if event.failure.kind == "timeout" else "failed"
        if self._careful(step) and event.failure.kind not in KNOWN:
            self._close_attempt(step, event, UNKNOWN, event.failure)
            self._end_unknown(step, event.at, event.failure.message)
            return
        self._close_attempt(step, event, outcome, event.failure)
        if step.place is not None:
            self._place_left(step, step.place, spoiled=not step.readonly or event.failure.kind not in HARMLESS)
        if self.stop == Stop.CANCEL:
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
        else:
            self._failed_again(step, event.failure, event.at, event.chance)

    def _place_left(self, step: Step, place: Place, spoiled: bool) -> None:
        """An attempt at the object's creation, or a call, did not succeed. `spoiled`: the actor can't be used again."""
        if step.kind is StepKind.CREATE:
            place.instance.life = Life.NONE
            return
        place.instance.served = True
        if spoiled:
            self._spoil(place)

    def _attempt_lost(self, event: AttemptLost, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        if self._careful(step):
            self._close_attempt(step, event, UNKNOWN, event.failure)
            self._end_unknown(step, event.at, event.failure.message)
            return
        self._close_attempt(step, event, "lost", event.failure)
        if step.place is not None:
            self._place_left(step, step.place, spoiled=True)
        if self.stop == Stop.CANCEL:
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
        else:
            self._lost_again(step, event.failure, event.at, event.chance)

    def _attempt_refused(self, event: AttemptRefused, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        if step.place is not None:
            self._place_left(step, step.place, spoiled=False)
        if self._careful(step):
            self._withdraw(step, now, event.failure)
        self._end(step, StepState.FAILED, event.at, failure=event.failure)

    def _attempt_dropped(self, event: AttemptDropped, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        started = self._started.pop(step.seq, None)
        self._to_write.pop(step.seq, None)
        if event.started and self._careful(step):
            began = started or AttemptRecord(step.seq, step.attempt, None, None, self.host, event.at)
            self._actions.writes.append(RecordAttempt(began._replace(finished_at=event.at, outcome=UNKNOWN)))
            self._end_unknown(step, event.at, "it was ended while it ran")
            return
        if event.started and started is not None:
            ended = started._replace(finished_at=event.at, outcome="cancelled")
            self._actions.writes.append(RecordAttempt(ended))
        elif not event.started:
            self._withdraw(step, now)
        if step.place is not None:
            self._place_left(step, step.place, spoiled=event.started and not step.readonly)
        if self.stop == Stop.CANCEL:
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
        else:
            self._go(step, Phase.READY)
            self._ready.append(step.seq)

    def _not_begun(self, step: Step, now: float) -> None:
        self._attempt_dropped(AttemptDropped(step.seq, step.attempt, False, now), now)

    def _delay_over(self, event: DelayOver, now: float) -> None:
        step = self.steps.get(event.seq)
        if step is not None and step.phase is Phase.RETRYING and step.attempt == event.number:
            self._go(step, Phase.READY)
            self._ready.append(step.seq)
