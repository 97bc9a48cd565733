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

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dagengine.core.actions import Actions, Notice
from dagengine.core.events import (
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptLost,
    AttemptRefused,
    AttemptStarted,
    AttemptSucceeded,
    BodyMismatched,
    BodyRaised,
    BodyReturned,
    CancelRequested,
    DelayOver,
    Event,
    FailuresHandled,
    FlushAttempts,
    InterruptRequested,
    Recorded,
    StepsCalled,
)
from dagengine.core.states import ENDS, TRANSITIONS, BodyPhase, Phase, Stop
from dagengine.errors import InternalError
from dagengine.model import (
    AttemptRecord,
    Definition,
    Failure,
    Frontier,
    NewStep,
    PendingStep,
    RunState,
    StepInput,
    StepKind,
    StepState,
    Value,
)
from dagengine.options import Options
from dagengine.storage.interface import (
    CloseBody,
    ExpandStep,
    FinishRun,
    FinishStep,
    HandleFailures,
    RecordAttempt,
    RecordSteps,
)

WORKER_LOSSES = 3
"""Further attempts after workers that died, apart from the task's own `retries` (design.md, section 5)."""

LOSS_DELAY = 0.2
"""Seconds before a step whose worker died is tried again; doubled each time. Long enough for memory to be given back."""


Ended = AttemptSucceeded | AttemptExpanded | AttemptFailed | AttemptLost


class Step:
    """An unfinished step, or one that ended without success. Of one that succeeded, nothing is kept: a seq that is known
    to be recorded, is not among the steps and not in `ended_before`, has succeeded.
    """

    __slots__ = (
        "attempt",
        "call",
        "definition",
        "dependents",
        "end",
        "failures",
        "inputs",
        "items",
        "key",
        "losses",
        "map",
        "missing",
        "order",
        "phase",
        "root",
        "seq",
    )

    def __init__(self, recorded: NewStep | PendingStep) -> None:
        seq = recorded.seq
        self.seq = seq
        self.key = recorded.key
        self.definition = recorded.definition
        self.call: bytes | None = recorded.call
        self.inputs = recorded.inputs
        self.map = recorded.kind is StepKind.MAP
        self.phase = Phase.NEW
        self.missing = 0  # inputs (or items) whose end is not durable yet
        self.dependents: int | list[int] | None = None  # a list costs 88 bytes, and most steps have one reader
        self.attempt = 0  # number of the latest attempt
        self.failures = 0  # of the task's own, since the run was started or resumed
        self.losses = 0
        self.items: tuple[int, int] | None = None
        self.end: StepState | None = None  # asked for, or recorded
        self.order = -1  # place in the run's order of completion
        self.root = seq  # of a skipped step: the step whose failure was the first cause

    def add_dependent(self, seq: int) -> None:
        known = self.dependents
        if known is None:
            self.dependents = seq
        elif isinstance(known, int):
            self.dependents = [known, seq]
        else:
            known.append(seq)

    def readers(self) -> Sequence[int]:
        """The seqs of the steps that wait for this one."""
        known = self.dependents
        return () if known is None else (known,) if isinstance(known, int) else known


class _Batch:
    """What a batch of writes makes true once it is durable."""

    __slots__ = ("ended", "finished", "new")

    def __init__(self) -> None:
        self.new: list[int] = []
        self.ended: list[int] = []
        self.finished: RunState | None = None

    def __bool__(self) -> bool:
        return bool(self.new or self.ended or self.finished)


class RunCore:
    """The state of one run in the hands of its owner.

    window: attempts that the runtime may have, and ends that may wait to be recorded, at a time. The other steps stay
        here, where they cost less; and a crash can't cost more than these attempts.
    host: where attempts run, for the record
    token: of the claim. Places in the order of completion are numbered from token × 2^32, so that those of a later
        owner are greater without anybody having to count in the store
    """

    def __init__(self, window: int = 512, host: str = "", token: int = 0) -> None:
        self.window = window
        self.host = host
        self.steps: dict[int, Step] = {}
        self.options: dict[int, Options] = {}
        self.ended_before: dict[int, StepState] = {}
        self.body = BodyPhase.OPEN
        self.stop = Stop.NO
        self.failure: Failure | None = None  # of the body
        self.finish_asked = False
        self.next_order = token << 32
        self.unfinished = 0  # steps whose end was not asked for
        self.in_flight = 0  # SUBMITTED or RUNNING
        self.unrecorded = 0  # ENDING
        self.unhandled: dict[int, Failure] = {}  # failed steps that nobody has handled, in the order of their ends
        self._ready: deque[int] = deque()
        self._batches: deque[_Batch] = deque()
        self._batch = _Batch()
        self._started: dict[int, AttemptRecord] = {}  # of the attempts that run
        self._to_write: dict[int, AttemptRecord] = {}  # started, not yet handed to the store
        self._actions = Actions()

    # ---- in and out -------------------------------------------------------------------------

    def load(self, frontier: Frontier, body_closed: bool, now: float) -> Actions:
        """Take over what is left of a recorded run."""
        self.body = BodyPhase.RETURNED if body_closed else BodyPhase.OPEN
        self.ended_before = frontier.ended_inputs
        self._define(frontier.definitions)
        for pending in frontier.steps:
            step = self._add(pending)
            step.attempt = pending.attempts
            step.items = pending.items
            step.phase = Phase.WAITING if pending.items is None else Phase.EXPANDED
        for step in list(self.steps.values()):
            self._link(step, now)
        for step in list(self.steps.values()):
            self._consider(step, now)
        return self._conclude(now)

    def apply(self, events: Iterable[Event], now: float) -> Actions:
        """Apply events in their order, and return what follows. `now`: wall-clock time, for the record."""
        for event in events:
            _HANDLERS[type(event)](self, event, now)
        return self._conclude(now)

    def _conclude(self, now: float) -> Actions:
        self._submit()
        self._maybe_finish(now)
        actions = self._actions
        if self._batch or actions.writes:
            actions.writes[:0] = self._take_attempts()
            self._batches.append(self._batch)
            self._batch = _Batch()
        actions.flush = bool(self._to_write)
        self._actions = Actions()
        return actions

    def _take_attempts(self) -> list[RecordAttempt]:
        writes = [RecordAttempt(attempt) for attempt in self._to_write.values()]
        self._to_write.clear()
        return writes

    # ---- steps come -------------------------------------------------------------------------

    def _define(self, definitions: Iterable[Definition]) -> None:
        for definition in definitions:
            self.options[definition.number] = Options.from_json(definition.options)

    def _steps_called(self, event: StepsCalled, now: float) -> None:
        if self.body is not BodyPhase.OPEN or self.stop:
            return  # called while the run was being stopped: not recorded, called again on resume
        self._define(event.definitions)
        self._record(event.definitions, event.steps, now)

    def _record(self, definitions: Iterable[Definition], steps: list[NewStep], now: float) -> None:
        self._actions.writes.append(RecordSteps(tuple(definitions), tuple(steps), now))
        for new in steps:
            step = self._add(new)
            self._batch.new.append(new.seq)
            self._link(step, now)

    def _add(self, recorded: NewStep | PendingStep) -> Step:
        if recorded.seq in self.steps:
            raise InternalError(f"step {recorded.seq} ({recorded.key}) was called twice")
        step = self.steps[recorded.seq] = Step(recorded)
        self.unfinished += 1
        return step

    def _link(self, step: Step, now: float) -> None:
        """Make the step wait for what it reads; or end it, if that will never be there."""
        if step.items is not None:
            first, count = step.items
            read: Iterable[int] = range(first, first + count)
        elif step.inputs:
            read = {item.seq for item in step.inputs if isinstance(item, StepInput)}
        else:
            return
        for seq in read:
            other = self.steps.get(seq)
            if other is None:
                state = self.ended_before.get(seq, StepState.SUCCEEDED)
                if state is not StepState.SUCCEEDED:
                    self._skip(step, seq, f"step {seq}", now)
                    return
            elif other.phase is Phase.SUCCEEDED:
                continue
            elif other.end is not None and other.end is not StepState.SUCCEEDED:
                self._skip(step, other.seq, other.key, now)
                return
            else:
                step.missing += 1
                other.add_dependent(step.seq)

    def _consider(self, step: Step, now: float) -> None:
        """The last input, or the last item of a map, may have come: go on."""
        if step.missing:
            return
        if step.phase is Phase.WAITING:
            self._go(step, Phase.READY)
            self._ready.append(step.seq)
        elif step.phase is Phase.EXPANDED:
            self._end(step, StepState.SUCCEEDED, now, value=Value("", 0, items=step.items))

    # ---- attempts ---------------------------------------------------------------------------

    def _submit(self) -> None:
        if self.stop:
            return
        while self._ready and self.in_flight + self.unrecorded < self.window:
            step = self.steps[self._ready.popleft()]
            if step.phase is Phase.READY:
                step.attempt += 1
                self._go(step, Phase.SUBMITTED)
                self._actions.submit.append((step.seq, step.attempt))

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
            self._end(step, StepState.CANCELLED, event.at, failure=_cancelled(step))
            return
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
            self._end(step, StepState.CANCELLED, event.at, failure=_cancelled(step))
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
            self._end(step, StepState.CANCELLED, event.at, failure=_cancelled(step))
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
            self._end(step, StepState.CANCELLED, event.at, failure=_cancelled(step))
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

    # ---- steps end --------------------------------------------------------------------------

    def _end(
        self, step: Step, state: StepState, at: float, value: Value | None = None, failure: Failure | None = None
    ) -> None:
        self._go(step, Phase.ENDING)
        step.end = state
        step.order = self.next_order
        self.next_order += 1
        self.unfinished -= 1
        self._batch.ended.append(step.seq)
        self._actions.writes.append(
            FinishStep(step.seq, state, step.order, step.attempt, at, value=value, failure=failure)
        )
        if state is StepState.FAILED and failure is not None:
            self.unhandled[step.seq] = failure
            self._actions.notices.append(Notice("step.failed", step.seq, step.key, failure))
        if state is not StepState.SUCCEEDED:
            self._skip_dependents(step, at)

    def _skip_dependents(self, step: Step, at: float) -> None:
        """Iterative, by way of the list itself: a chain of 100,000 steps must not be a stack of as many frames."""
        queue = deque([step])
        while queue:
            cause = queue.popleft()
            for seq in cause.readers():
                dependent = self.steps[seq]
                if dependent.end is None:
                    self._skip_one(dependent, cause.seq, cause.key, at)
                    queue.append(dependent)

    def _skip(self, step: Step, seq: int, key: str, at: float) -> None:
        self._skip_one(step, seq, key, at)
        self._skip_dependents(step, at)

    def _skip_one(self, step: Step, seq: int, key: str, at: float) -> None:
        state = StepState.CANCELLED if self.stop == Stop.CANCEL else StepState.SKIPPED
        cause = self.steps.get(seq)
        step.root = cause.root if cause is not None else seq
        failure = Failure(
            "skipped",
            "dagengine.errors.StepSkipped",
            f"{step.key} did not run, because {key} did not succeed",
            facts={"cause": key, "root_seq": step.root},
        )
        self._go(step, Phase.ENDING)
        step.end = state
        step.order = self.next_order
        self.next_order += 1
        self.unfinished -= 1
        self._batch.ended.append(step.seq)
        self._actions.writes.append(FinishStep(step.seq, state, step.order, step.attempt, at, failure=failure))

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
            self._actions.ended.append((seq, state, step.definition))
            if state is StepState.SUCCEEDED:
                for dependent_seq in step.readers():
                    dependent = self.steps[dependent_seq]
                    dependent.missing -= 1
                    self._consider(dependent, now)
            step.dependents = None
            step.call = None
            step.inputs = ()
            if state is StepState.SUCCEEDED:
                del self.steps[seq]
        if batch.finished is not None:
            self._actions.finished = batch.finished

    # ---- the body ---------------------------------------------------------------------------

    def _failures_handled(self, event: FailuresHandled, now: float) -> None:
        if self.stop:
            return
        for seq in event.seqs:
            self.unhandled.pop(seq, None)
        self._actions.writes.append(HandleFailures(tuple(event.seqs)))

    def _body_returned(self, event: BodyReturned, now: float) -> None:
        if self.body is BodyPhase.OPEN and not self.stop:
            self.body = BodyPhase.RETURNED
            self._actions.writes.append(CloseBody(event.call, event.inputs))

    def _body_raised(self, event: BodyRaised, now: float) -> None:
        if self.body is BodyPhase.OPEN and not self.stop:
            self.body = BodyPhase.RAISED
            self.failure = event.failure
            if event.seqs:  # handled before, perhaps, by a body that then raised it again
                self._actions.writes.append(HandleFailures(event.seqs, handled=False))

    def _body_mismatched(self, event: BodyMismatched, now: float) -> None:
        if self.body is BodyPhase.OPEN:
            self.body = BodyPhase.RAISED
            self.failure = event.failure
            self._stop(Stop.MISMATCH)

    # ---- the end ----------------------------------------------------------------------------

    def _interrupt_requested(self, event: InterruptRequested, now: float) -> None:
        self._stop(Stop.INTERRUPT, force=event.force)

    def _cancel_requested(self, event: CancelRequested, now: float) -> None:
        self._stop(Stop.CANCEL, force=True)
        for step in list(self.steps.values()):
            if step.end is None and step.phase not in (Phase.SUBMITTED, Phase.RUNNING):
                self._end(step, StepState.CANCELLED, now, failure=_cancelled(step))

    def _stop(self, why: Stop, force: bool = False) -> None:
        if self.finish_asked:
            return
        self.stop = max(self.stop, why)
        if self.body is BodyPhase.OPEN:
            self.body = BodyPhase.STOPPED
        self._actions.stop_body = True
        out = [
            (step.seq, step.attempt) for step in self.steps.values() if step.phase in (Phase.SUBMITTED, Phase.RUNNING)
        ]
        (self._actions.force_drop if force else self._actions.drop).extend(out)

    def _maybe_finish(self, now: float) -> None:
        if self.finish_asked or self.in_flight or self.body is BodyPhase.OPEN:
            return
        if self.stop == Stop.NO and self.unfinished:
            return
        state, failure = self._verdict()
        self.finish_asked = True
        self._batch.finished = state
        self._actions.writes.append(FinishRun(state, now, failure))

    def _verdict(self) -> tuple[RunState, Failure | None]:
        if self.stop == Stop.CANCEL:
            return RunState.CANCELLED, None
        if self.stop == Stop.MISMATCH:
            return RunState.MISMATCH, self.failure
        if self.stop == Stop.INTERRUPT:
            return RunState.INTERRUPTED, None
        if self.body is BodyPhase.RAISED:
            return RunState.FAILED, self.failure
        if self.unhandled:
            seq, failure = next(iter(self.unhandled.items()))
            keys = [self.steps[other].key for other in list(self.unhandled)[:10]]
            facts = {**failure.facts, "step": self.steps[seq].key, "failed": keys, "count": len(self.unhandled)}
            return RunState.FAILED, Failure(
                failure.kind, failure.type, failure.message, failure.traceback, failure.pickled, facts=facts
            )
        return RunState.SUCCEEDED, None

    def _flush_attempts(self, event: FlushAttempts, now: float) -> None:
        self._actions.writes.extend(self._take_attempts())

    def _go(self, step: Step, phase: Phase) -> None:
        if phase not in TRANSITIONS[step.phase]:
            raise InternalError(f"{step.key} can't go from {step.phase.name} to {phase.name}")
        was = step.phase in (Phase.SUBMITTED, Phase.RUNNING)
        self.in_flight += (phase in (Phase.SUBMITTED, Phase.RUNNING)) - was
        self.unrecorded += (phase is Phase.ENDING) - (step.phase is Phase.ENDING)
        step.phase = phase


def _cancelled(step: Step) -> Failure:
    return Failure("cancelled", "dagengine.errors.StepCancelled", f"the run was cancelled before {step.key} ended")


_HANDLERS: dict[type, Callable[[RunCore, Any, float], None]] = {
    StepsCalled: RunCore._steps_called,
    Recorded: RunCore._recorded,
    AttemptStarted: RunCore._attempt_started,
    AttemptSucceeded: RunCore._attempt_succeeded,
    AttemptExpanded: RunCore._attempt_expanded,
    AttemptFailed: RunCore._attempt_failed,
    AttemptLost: RunCore._attempt_lost,
    AttemptDropped: RunCore._attempt_dropped,
    AttemptRefused: RunCore._attempt_refused,
    DelayOver: RunCore._delay_over,
    FailuresHandled: RunCore._failures_handled,
    BodyReturned: RunCore._body_returned,
    BodyRaised: RunCore._body_raised,
    BodyMismatched: RunCore._body_mismatched,
    InterruptRequested: RunCore._interrupt_requested,
    CancelRequested: RunCore._cancel_requested,
    FlushAttempts: RunCore._flush_attempts,
}
