"""Attempts in the run core: going out when a step is ready, and what follows from how each ends.

May import model, options, errors and the store's vocabulary of writes.
"""

from __future__ import annotations

from dagengine.core.actions import Notice
from dagengine.core.events import (
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptLost,
    AttemptRefused,
    AttemptStarted,
    AttemptSucceeded,
    DelayOver,
)
from dagengine.core.ledger import Ledger, cancelled
from dagengine.core.states import Phase, Stop
from dagengine.core.step import Step
from dagengine.model import AttemptRecord, Failure, NewStep, StepKind, StepState
from dagengine.options import Options
from dagengine.storage.interface import ExpandStep, RecordAttempt

WORKER_LOSSES = 3
"""Further attempts after workers that died, apart from the task's own `retries` (design.md, section 5)."""

LOSS_DELAY = 0.2
"""Seconds before a step whose worker died is tried again; doubled each time. Long enough for memory to be given back."""

Ended = AttemptSucceeded | AttemptExpanded | AttemptFailed | AttemptLost


class Attempts(Ledger):
    """A ledger whose steps are tried."""

    def _submit(self) -> None:
        if self.stop:
            return
        while self._ready and self.in_flight + self.unrecorded < self.window:
            step = self.steps[self._ready.popleft()]
            if step.phase is Phase.READY and self._may_go(step):
                step.attempt += 1
                self._go(step, Phase.SUBMITTED)
                self._actions.submit.append((step.seq, step.attempt))

    def _may_go(self, step: Step) -> bool:
        """Whether what a ready step reads is still there."""
        return True

    def _done_reading(self, step: Step) -> None:
        """A map is about to be expanded: from now on it is its items that it waits for."""

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
        if step is not None:
            self._close_attempt(step, event, "succeeded")
            self._end(step, StepState.SUCCEEDED, event.at, value=event.value)

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
        self._close_attempt(step, event, outcome, event.failure)
        options = self.options[step.definition]
        step.failures += 1
        if self.stop == Stop.CANCEL:
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
        elif event.failure.retriable and step.failures <= options.retries:
            self._retry(step, options.delay(step.failures, event.chance), "step.retried", event.failure)
        else:
            self._end(step, StepState.FAILED, event.at, failure=event.failure)

    def _attempt_lost(self, event: AttemptLost, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        self._close_attempt(step, event, "lost", event.failure)
        step.losses += 1
        if self.stop == Stop.CANCEL:
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
        elif step.losses <= WORKER_LOSSES:
            delay = Options(retry_delay=LOSS_DELAY).delay(step.losses, event.chance)
            self._retry(step, delay, "worker.lost", event.failure)
        else:
            self._end(step, StepState.FAILED, event.at, failure=event.failure)

    def _attempt_refused(self, event: AttemptRefused, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is not None:
            self._end(step, StepState.FAILED, event.at, failure=event.failure)

    def _attempt_dropped(self, event: AttemptDropped, now: float) -> None:
        step = self._current(event.seq, event.number)
        if step is None:
            return
        started = self._started.pop(step.seq, None)
        self._to_write.pop(step.seq, None)
        if event.started and started is not None:
            ended = started._replace(finished_at=event.at, outcome="cancelled")
            self._actions.writes.append(RecordAttempt(ended))
        elif not event.started:
            step.attempt -= 1  # it never was one
        if self.stop == Stop.CANCEL:
            self._end(step, StepState.CANCELLED, event.at, failure=cancelled(step))
        else:
            self._go(step, Phase.READY)
            self._ready.append(step.seq)

    def _retry(self, step: Step, delay: float, kind: str, failure: Failure) -> None:
        self._go(step, Phase.RETRYING)
        self._actions.timers.append((delay, step.seq, step.attempt))
        self._actions.notices.append(Notice(kind, step.seq, step.key, failure, delay))

    def _delay_over(self, event: DelayOver, now: float) -> None:
        step = self.steps.get(event.seq)
        if step is not None and step.phase is Phase.RETRYING and step.attempt == event.number:
            self._go(step, Phase.READY)
            self._ready.append(step.seq)
