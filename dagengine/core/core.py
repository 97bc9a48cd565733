"""The run core's machine: one run's steps, and what follows from each event.

What is true after each event is in `invariants`. Three rules carry the promises of the design:

- *Output commit.* A step is READY only when its own record and the ends of its inputs are durable: `missing` counts the
  inputs whose end is not, and is lowered by `Recorded` alone.
- *One end.* A step's end is written once, and never again in this run's ownership; late or doubled news of an attempt
  that is not the current one is ignored.
- *Nothing is lost in between.* A run finishes in the same batch as its last step.

May import model, options, errors and the store's vocabulary of writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dagengine.core.actions import Actions
from dagengine.core.cached import Cached
from dagengine.core.compensation import Ending
from dagengine.core.events import (
    ActorBuilt,
    ActorGone,
    ActorNotBuilt,
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptGrown,
    AttemptLost,
    AttemptRefused,
    AttemptStarted,
    AttemptSucceeded,
    BodyMismatched,
    BodyRaised,
    BodyReturned,
    CacheHit,
    CacheMissed,
    CancelRequested,
    DelayOver,
    Event,
    FailuresHandled,
    FlushAttempts,
    InputsLost,
    InstanceLetGo,
    InterruptRequested,
    LetGo,
    OutsideEnded,
    PatienceOver,
    Recorded,
    RefsDropped,
    SharedDropped,
    StepKnown,
    StepMarked,
    StepsCalled,
    TimeIsUp,
    UndoFound,
    ValueKept,
    ValueLost,
    ValueWanted,
)
from dagengine.core.ledger import cancelled
from dagengine.core.marks import Marks
from dagengine.core.states import ENDS, BodyPhase, Phase, Stop
from dagengine.core.step import Batch
from dagengine.errors import InternalError
from dagengine.model import AttemptRecord, Failure, Frontier, Input, RunState, StepState
from dagengine.storage.writes import CloseBody, DropSteps, FinishRun, HandleFailures, RecordAttempt


class RunCore(Cached, Marks):
    """The whole machine: load what is recorded, then apply events."""

    # ---- in and out -------------------------------------------------------------------------

    def load(
        self,
        frontier: Frontier,
        body_closed: bool,
        now: float,
        result_inputs: Iterable[Input] = (),
        *,
        vanished: Mapping[int, AttemptRecord] = MappingProxyType({}),
        compensating: Ending | None = None,
        cancelled: bool = False,
    ) -> Actions:
        """Take over what is left of a recorded run.

        result_inputs: what its body returned, if it has
        vanished: the last attempts of cautious steps, where it is not known how they ended
        compensating: it is being compensated; how it ends after that
        cancelled: it was asked to stop; of its steps some may have been cancelled, and the others are now
        """
        self.body = BodyPhase.RETURNED if body_closed else BodyPhase.OPEN
        self.ended_before = frontier.ended_inputs
        self._define(frontier.definitions)
        for pending in frontier.steps:
            step = self._add(pending)
            step.attempt = pending.attempts
            step.items = pending.items
            step.phase = Phase.WAITING if pending.items is None else Phase.EXPANDED
        unfinished = list(self.steps.values())
        self._load_growth(frontier.steps)
        for pending in frontier.ephemeral:
            step = self._add(pending)
            step.attempt = pending.attempts
            step.items = pending.items
            self._load_ephemeral(step)
        self._failed_before = {seq: key for seq, (key, _) in frontier.failed.items()}
        self.unhandled.update((seq, failure) for seq, (_, failure) in frontier.failed.items())
        result_inputs = tuple(result_inputs)
        self._returned(result_inputs)
        self._keep_results(result_inputs)
        for step in unfinished:
            self._link(step, now)
        self._load_vanished(vanished, now)
        if compensating is not None:
            self._begin_compensation(compensating, now)
        if cancelled:  # at once: where nothing is unfinished, the run would end as if nobody had asked
            self._cancel_requested(CancelRequested(), now)
        for step in unfinished:
            self._consider(step, now)
        return self._conclude(now)

    def apply(self, events: Iterable[Event], now: float) -> Actions:
        """Apply events in their order, and return what follows. `now`: wall-clock time, for the record."""
        for event in events:
            _HANDLERS[type(event)](self, event, now)
        return self._conclude(now)

    def _conclude(self, now: float) -> Actions:
        self._end_whole(now)
        self._settle(now)
        if self.world and self.body is not BodyPhase.OPEN and not self.stop:
            self._drop_unneeded(now)
        if self.keeping and not self.stop:
            self._keep()
        self._submit(now)
        self._watch_idle()
        self._maybe_finish(now)
        actions = self._actions
        if self._batch or actions.writes:
            actions.writes[:0] = self._take_attempts()
            self._batches.append(self._batch)
            self._batch = Batch()
        actions.flush = bool(self._to_write)
        self._actions = Actions()
        return actions

    def _take_attempts(self) -> list[RecordAttempt]:
        writes = [RecordAttempt(attempt) for attempt in self._to_write.values()]
        self._to_write.clear()
        return writes

    def _steps_called(self, event: StepsCalled, now: float) -> None:
        if self.body is not BodyPhase.OPEN or self.stop:
            return  # called while the run was being stopped: not recorded, called again on resume
        definitions = self._define_new(event.definitions)
        self._record(definitions, event.steps, now)

    def _recorded(self, event: Recorded, now: float) -> None:
        batch = self._batches.popleft()
        for seq in batch.new:
            step = self.steps[seq]
            if step.phase is Phase.NEW:
                self._go(step, Phase.WAITING)
                self._consider(step, now)
        for seq in batch.ended:
            step = self.steps[seq]
            state = step.end
            if state is None:
                raise InternalError(f"{step.key} ended without a state")
            self._go(step, ENDS[state])
            if step.place is not None and step.kind.is_call:
                step.place.instance.leave(step)
                self._give_turns(step.place.instance, now)
            self._actions.ended.append((seq, state, step.definition))
            if state is StepState.SUCCEEDED:
                for dependent_seq in step.readers():
                    dependent = self.steps[dependent_seq]
                    if dependent.items is None:  # what waits for its items was told when they ended
                        dependent.missing -= 1
                        self._consider(dependent, now)
            self._forget(step)
        self._remade_recorded(batch.remade, now)
        self._kept_recorded(batch.kept)
        self._announced(batch.announced, now)
        if batch.finished is not None:
            self._actions.finished = batch.finished

    # ---- the body ---------------------------------------------------------------------------

    def _close_body(self, phase: BodyPhase) -> None:
        self.body = phase
        self._unsettled.update(self.instances)  # no more calls will come

    def _failures_handled(self, event: FailuresHandled, now: float) -> None:
        if self.stop:
            return
        for seq in event.seqs:
            self.unhandled.pop(seq, None)
        self._actions.writes.append(HandleFailures(tuple(event.seqs)))

    def _shared_dropped(self, event: SharedDropped, now: float) -> None:
        if not self.stop:
            self._actions.writes.append(DropSteps(event.seqs, event.chained))

    def _body_returned(self, event: BodyReturned, now: float) -> None:
        if self.body is BodyPhase.OPEN and not self.stop:
            self._close_body(BodyPhase.RETURNED)
            self._returned(event.inputs)
            self._actions.writes.append(CloseBody(event.call, event.inputs))
            self._keep_results(event.inputs)
            self._body_is_closed()

    def _body_raised(self, event: BodyRaised, now: float) -> None:
        if self.body is BodyPhase.OPEN and not self.stop:
            self._close_body(BodyPhase.RAISED)
            self.failure = event.failure
            if event.seqs:  # handled before, perhaps, by a body that then raised it again
                self._actions.writes.append(HandleFailures(event.seqs, handled=False))

    def _body_mismatched(self, event: BodyMismatched, now: float) -> None:
        if self.body is BodyPhase.OPEN:
            self._close_body(BodyPhase.RAISED)
            self.failure = event.failure
            self._stop(Stop.MISMATCH)

    # ---- the end ----------------------------------------------------------------------------

    def _interrupt_requested(self, event: InterruptRequested, now: float) -> None:
        self._stop(Stop.PAUSE if event.pause else Stop.INTERRUPT, force=event.force)

    def _cancel_requested(self, event: CancelRequested, now: float) -> None:
        if self.compensating is not None:
            return  # it is what the run does already; told again until the run has ended
        if self.finish_asked:
            self.late_stop = Stop.CANCEL
            return
        self._stop(Stop.CANCEL, force=True)
        for step in list(self.steps.values()):
            if step.end is None and step.phase not in (Phase.SUBMITTED, Phase.RUNNING):
                self._end(step, StepState.CANCELLED, now, failure=cancelled(step))

    def _time_is_up(self, event: TimeIsUp, now: float) -> None:
        if self.finish_asked:
            return
        message = f"the run was still working {event.seconds:g} s after its start, which is its timeout"
        self.failure = self.failure or Failure("timeout", "dagengine.errors.RunTimeout", message)
        self._stop(Stop.TIMEOUT, force=True)

    def _stop(self, why: Stop, force: bool = False) -> None:
        if self.finish_asked:
            self.late_stop = max(self.late_stop, why)
            return
        self.stop = max(self.stop, why)
        if self.body is BodyPhase.OPEN:
            self._close_body(BodyPhase.STOPPED)
        self._actions.stop_body = True
        out = [
            (step.seq, step.attempt) for step in self.steps.values() if step.phase in (Phase.SUBMITTED, Phase.RUNNING)
        ]
        (self._actions.force_drop if force else self._actions.drop).extend(out)
        self._release_all(force)

    def _maybe_finish(self, now: float) -> None:
        if self.finish_asked or self.in_flight or self.body is BodyPhase.OPEN:
            return
        if self.stop == Stop.NO and (self.unfinished or self.keeping):
            return
        state, failure = self._verdict()
        if self._undo_first(state, now):
            return
        self.finish_asked = True
        self._batch.finished = state
        self._actions.writes.append(FinishRun(state, now, failure))

    def _verdict(self) -> tuple[RunState, Failure | None]:
        if self.stop == Stop.CANCEL:
            return RunState.CANCELLED, None
        if self.stop == Stop.MISMATCH:
            return RunState.MISMATCH, self.failure
        if self.stop == Stop.TIMEOUT:
            return RunState.FAILED, self.failure
        if self.stop in (Stop.INTERRUPT, Stop.PAUSE):
            return RunState.PAUSED if self.stop == Stop.PAUSE else RunState.INTERRUPTED, None
        if self.compensating is not None:
            return self._compensated(self.compensating)
        if self.failure is not None:
            return RunState.FAILED, self.failure
        if self.unhandled:
            seq, failure = next(iter(self.unhandled.items()))
            keys = [self._key_of_failed(other) for other in list(self.unhandled)[:10]]
            facts = {**failure.facts, "step": self._key_of_failed(seq), "failed": keys, "count": len(self.unhandled)}
            return RunState.FAILED, replace(failure, facts=facts)
        return RunState.SUCCEEDED, None

    def _flush_attempts(self, event: FlushAttempts, now: float) -> None:
        self._actions.writes.extend(self._take_attempts())


_HANDLERS: dict[type, Callable[[RunCore, Any, float], None]] = {
    StepsCalled: RunCore._steps_called,
    StepKnown: RunCore._step_known,
    OutsideEnded: RunCore._outside_ended,
    LetGo: RunCore._fall_asleep,
    Recorded: RunCore._recorded,
    AttemptStarted: RunCore._attempt_started,
    AttemptSucceeded: RunCore._attempt_succeeded,
    AttemptExpanded: RunCore._attempt_expanded,
    AttemptGrown: RunCore._attempt_grown,
    AttemptFailed: RunCore._attempt_failed,
    AttemptLost: RunCore._attempt_lost,
    AttemptDropped: RunCore._attempt_dropped,
    AttemptRefused: RunCore._attempt_refused,
    InputsLost: RunCore._inputs_lost,
    ValueLost: RunCore._value_lost,
    ValueWanted: RunCore._value_wanted,
    RefsDropped: RunCore._refs_dropped,
    ValueKept: RunCore._value_kept,
    ActorBuilt: RunCore._actor_built,
    ActorNotBuilt: RunCore._actor_not_built,
    ActorGone: RunCore._actor_gone,
    InstanceLetGo: RunCore._instance_let_go,
    PatienceOver: RunCore._patience_over,
    DelayOver: RunCore._delay_over,
    FailuresHandled: RunCore._failures_handled,
    SharedDropped: RunCore._shared_dropped,
    BodyReturned: RunCore._body_returned,
    BodyRaised: RunCore._body_raised,
    BodyMismatched: RunCore._body_mismatched,
    InterruptRequested: RunCore._interrupt_requested,
    StepMarked: RunCore._step_marked,
    CancelRequested: RunCore._cancel_requested,
    TimeIsUp: RunCore._time_is_up,
    UndoFound: RunCore._undo_found,
    FlushAttempts: RunCore._flush_attempts,
    CacheHit: RunCore._cache_hit,
    CacheMissed: RunCore._cache_missed,
}
