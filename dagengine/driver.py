"""One run's shell: turns the world into events for the run core, and the core's actions into the world.

Everything here is for the *engine's thread*, which calls `turn` with what has happened, but for what says otherwise; nothing
else touches the core. The body's side is its `stage` (`run_stage`).

May import everything of the workflow layer but the engine, which it knows by the few methods that it calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dagengine import compensating
from dagengine.afterwards import after_end, parent_of, word_of_end
from dagengine.attempts import Attempts, RuntimeNews, shared_parts
from dagengine.below import Below
from dagengine.commits import Commits
from dagengine.core.actions import Actions, Notice
from dagengine.core.compensation import Ending
from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptDropped,
    DelayOver,
    Event,
    FlushAttempts,
    InterruptRequested,
    PatienceOver,
    Recorded,
    TimeIsUp,
)
from dagengine.core.states import STATE_OF, BodyPhase, Phase
from dagengine.definitions import Definitions
from dagengine.ends import Waiting
from dagengine.errors import InternalError, RuntimeStopped, StoreError
from dagengine.growing import ended_last_values
from dagengine.holding import Holding
from dagengine.life import Life
from dagengine.liveness import Liveness
from dagengine.model import (
    Claim,
    EventRecord,
    Frontier,
    RunRecord,
    RunState,
    StepState,
)
from dagengine.outside import Outside
from dagengine.progress import NOTICE_LENGTH, Progress, Tally
from dagengine.questions import Questions
from dagengine.reading import Reader
from dagengine.run_stage import RunStage
from dagengine.runtime.protocol import (
    Succeeded,
)
from dagengine.storage.blocks import Tallies
from dagengine.storage.writes import AddEvent, SideWrite, Write
from dagengine.supply import Supply
from dagengine.taking_over import compensation_of, vanished_attempts

if TYPE_CHECKING:
    from dagengine.engine import Engine

PATIENCE_SECONDS = 1.0
"""How long attempts wait beside a stateful object that has nothing to do, before it gives its place to them."""

FEW = 8
"""Writes after whose commit the store's thread may go on with the run by itself, if nobody else is at it."""

FLUSH_SECONDS = 0.1
"""How long a started attempt waits for a commit to share, before it gets one of its own."""


class Driver:
    """A run in the hands of its owner, from claim to release."""

    def __init__(
        self,
        engine: Engine,
        index: int,
        claim: Claim,
        record: RunRecord,
        life: Life,
    ) -> None:
        self.engine = engine
        self.index = index  # in TaskIds
        self.claim = claim
        self.record = record
        self.run_id = record.id
        self.workflow_name = record.workflow
        self.definitions = Definitions()
        self.reader = Reader(engine.store, engine.artifacts, claim.run_number)
        self.life = life
        self.life.driver, self.life.state = self, RunState.RUNNING
        self.ended = threading.Event()
        self.state = RunState.RUNNING
        self.reopened = False  # somebody has asked it to go on
        self.adopt = False  # what its body calls differently is to replace what is recorded
        self.parent: RunRecord | None = None  # whose child it is
        self.error: BaseException | None = None  # why this process let go of the run before its end
        self._load_workflow = life.load
        self._commits = Commits()
        self._tallies = Tallies()
        self._core = RunCore(engine.window, engine.host, claim.token)
        self._abandoned = False
        self._waiters: dict[int, list[Waiting]] = {}
        self._supply = Supply(engine.store, engine.artifacts, claim.run_number, engine.keeping.must_verify)
        self._holding = Holding(engine, index, self._core, self._supply)
        self._tally = Tally(self.life.notices)
        self.stage = RunStage(self, self._core, self._supply, self._holding, self._tally)
        self.liveness = Liveness(self, self._core)
        self._attempts = Attempts(
            engine,
            index,
            record,
            core=self._core,
            definitions=self.definitions,
            holding=self._holding,
            supply=self._supply,
            tally=self._tally,
            liveness=self.liveness,
            take_seqs=self.stage.take_seqs,
        )
        self.questions = Questions(self, self._core)
        self.outside = Outside(self, self._core)
        self.below = Below(self)
        self._compensating: Ending | None = None
        self._flush_due = False

    # ---- begin (the caller's thread, before the engine knows the run) -------------------------

    def load(self, frontier: Frontier | None, counts: dict[tuple[str, StepState], int]) -> None:
        """Take over a recorded run (or, with no frontier, begin a new one) and call its body if it has not returned."""
        self.parent = parent_of(self.engine.store, self.record)
        if frontier is not None:
            self.stage.take_over(frontier)
            for definition in frontier.definitions:
                self.definitions.learn(definition)
                self._tally.of(definition.name)  # shown in the order in which they were called
            for (task, state), count in counts.items():
                self._tally.take_over(task, state, count)
            self.questions.take_over()
            self._compensating = compensation_of(self.engine.store, self.claim.run_number, frontier)
            self._frontier: Frontier | None = frontier
        else:
            self._frontier = None
        if not self.record.body_closed and self._compensating is None and not self.was_cancelled:
            self.stage.call(self._load_workflow(), frontier)

    def begin(self) -> None:
        """First turn, on the engine's thread."""
        timeout = self.record.facts.get("timeout")
        if timeout is not None:
            self.engine.after(float(timeout), self, TimeIsUp(float(timeout)))
        if self._frontier is not None:
            self._core.last_values = ended_last_values(self._frontier, self.engine.store, self.claim.run_number)
            vanished = vanished_attempts(self.engine.store, self.claim.run_number, self._frontier)
            self._act(
                self._core.load(
                    self._frontier,
                    self.record.body_closed,
                    self.engine.clock.now(),
                    self.record.result_inputs,
                    vanished=vanished,
                    compensating=self._compensating,
                    cancelled=self.was_cancelled,
                )
            )
            self._frontier = None
            if self._compensating is not None:
                self.below.taken_over()
            self._note("run.resumed", None, {"code": self.record.code} if "changed_code" in self.record.facts else {})
            self.record_beside([AWAKE])
        else:
            self._note("run.started", None, {})
        if self.stage.body is not None:
            self.stage.body.start()

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody had asked the run to stop before this process took it up, and nobody to go on since."""
        return not self.reopened and self.record.cancel_requested_at is not None

    # ---- for whoever watches ------------------------------------------------------------------

    def progress(self) -> Progress:
        started = self.record.started_at or self.record.created_at
        return Progress(
            self.run_id, self.workflow_name, self.state, self._tally.view(), started, tuple(self._tally.notices)
        )

    # ---- the engine's thread --------------------------------------------------------------------

    def turn(self, events: list[Event]) -> None:
        """Apply what the body posted and what has happened, and carry out what follows."""
        if self._abandoned or self.ended.is_set():
            if self._core.asleep and any(type(event) is InterruptRequested for event in events):
                self.engine.sleeping.let_go_of(self.run_id)  # it was asked for when the run had just fallen asleep
            self.stage.drop_posted()
            return
        watched = self.stage.take(events)
        if events:
            if self._flush_due and any(type(event) is FlushAttempts for event in events):
                self._flush_due = False
            self._act(self._core.apply(events, self.engine.clock.now()))
        for seqs, waiter in watched:
            self._watch(seqs, waiter)
        if events or watched:
            self.outside.turned()

    def _watch(self, seqs: list[int], waiter: Waiting) -> None:
        steps = self._core.steps
        over = []
        for seq in seqs:
            step = steps.get(seq)
            if step is None or step.phase >= Phase.SUCCEEDED:
                over.append(seq)
            else:
                self._waiters.setdefault(seq, []).append(waiter)
        if len(over) > 1:
            order = self.engine.store.finish_order(self.claim.run_number, over)
            over.sort(key=order.__getitem__)
        for seq in over:
            step = steps.get(seq)
            waiter.tell(seq, StepState.SUCCEEDED if step is None else STATE_OF[step.phase])

    def _act(self, actions: Actions) -> None:
        if actions.stop_body:  # before the run's end, which may be among the writes
            self.below.stop(self._core.steps.values(), self._core.stop)
        if actions.notices:
            actions.writes.extend(self._tell(notice) for notice in actions.notices)
        if actions.writes:
            actions.writes.extend(word_of_end(self, actions.writes))
            self.questions.settle(actions.writes)
            self.liveness.settle(actions.writes)
            self._write(actions.writes)
        if actions.stop_body:
            self.stage.stop()
        if actions.release:
            self._attempts.release(actions.release)
        if actions.rebuild:
            self._send(self._attempts.rebuild, actions.rebuild)
        if actions.submit:
            self._send(self._attempts.submit, actions.submit)
            self.engine.neighbours.submitted(self, self._core)
        if actions.drop:
            self.engine.runtime.cancel([(self.index, *attempt) for attempt in actions.drop])
        if actions.force_drop:
            self.engine.runtime.cancel([(self.index, *attempt) for attempt in actions.force_drop], force=True)
        if actions.lookup:
            self.engine.caching.look(self, actions.lookup)
        for delay, seq, number in actions.timers:
            self.engine.after(delay, self, DelayOver(seq, number))
        if actions.flush and not self._flush_due:
            self._flush_due = True
            self.engine.after(FLUSH_SECONDS, self, FlushAttempts())
        if actions.patience:
            self.engine.after(PATIENCE_SECONDS, self, PatienceOver())
        if actions.free:
            self._holding.free(actions.free)
        if actions.keep:
            self._holding.keep(actions.keep, self)
        for seq in actions.remade:
            self._tell_waiters(seq, StepState.SUCCEEDED)
        for seq, why in actions.unmade:
            self._holding.unmade(seq, why)
            self._tell_waiters(seq, StepState.FAILED)
        for seq, state, definition in actions.ended:
            self._tally.ended(seq, self.definitions[definition].name, state)
            self._tell_waiters(seq, state)
            self.outside.ended(seq)
        if actions.ended:
            self.engine.caching.ended(self, (seq for seq, _, _ in actions.ended))
        if actions.outside:
            self.outside.arrange(actions.outside)
        if actions.compensate is not None:
            compensating.look(self, self._core, actions.compensate)
        if actions.finished is not None:
            self._finish(actions.finished)

    def _tell_waiters(self, seq: int, state: StepState) -> None:
        for waiter in self._waiters.pop(seq, ()):
            waiter.tell(seq, state)

    def _send(self, send: Callable[[list[tuple[int, int]]], list[Event]], what: list[tuple[int, int]]) -> None:
        try:
            refused = send(what)
        except RuntimeStopped as error:
            self.runtime_broke(error)
            return
        if refused:
            self.engine.tell(self, refused)

    def convert(self, event: RuntimeNews) -> Event | None:
        """The core's event for the runtime's; None if it comes later, when its bytes are durable."""
        converted = self._attempts.convert(event)
        if converted is None and isinstance(event, Succeeded) and shared_parts(event):
            self.engine.keeping.keep_result(self, event)
        return converted

    def kept(self, event: Succeeded) -> Event:
        return self._attempts.kept(event)

    def _write(self, writes: list[Write]) -> None:
        if self._abandoned or self.below.holds(writes, self._write):
            return
        began = time.monotonic()
        writes.extend((*self._commits.note(writes), *self._tallies.note(writes)))
        tell = self.engine.tell_here if len(writes) <= FEW else self.engine.tell

        def done(error: StoreError | InternalError | None) -> None:
            self._commits.took(time.monotonic() - began)
            tell(self, Recorded() if error is None else error)

        self.engine.store.write(self.claim, writes, done)

    def _finish(self, state: RunState) -> None:
        self._holding.free_all()
        self.state = state
        self.ended.set()
        waiters, self._waiters = self._waiters, {}
        for waiter in {waiter for of_step in waiters.values() for waiter in of_step}:
            waiter.stop()
        self.engine.forget(self)
        if state is RunState.WAITING:
            self.engine.sleeping.fell_asleep(self, self._core.late_stop)
        else:
            after_end(self)

    def abandon(self, error: BaseException) -> None:
        """Let go of the run where it is: nothing more is written. It can be resumed from what is recorded."""
        if self._abandoned or self.ended.is_set():
            return
        self._abandoned = True
        self.error = error
        self.stage.stop()
        out = [(self.index, step.seq, step.attempt) for step in self._core.steps.values() if step.phase in _OUT]
        self.engine.runtime.cancel(out, force=True)
        self.questions.end()
        self._attempts.release([(seq, incarnation, True) for seq, incarnation in self._core.actors()])
        self._holding.free_all()
        self.ended.set()
        self.engine.forget(self)
        self.life.end(self.state, error)

    def runtime_broke(self, error: RuntimeStopped) -> None:
        """The workers are gone: what they had is dropped, the run is released as it is, and can be resumed."""
        self.error = error
        dropped: list[Event] = [
            AttemptDropped(step.seq, step.attempt, True, time.time())
            for step in self._core.steps.values()
            if step.phase in _OUT
        ]
        self.engine.tell(self, [InterruptRequested(), *dropped])

    @property
    def is_idle(self) -> bool:
        """Whether the body has returned, or waits for this and nothing else. On the engine's thread."""
        return self.stage.is_idle(self._core.body is BodyPhase.OPEN)

    def when_blocked(self, then: Callable[[], None]) -> None:
        """Have the engine's thread do it when the body waits. On the engine's thread."""
        if self.stage.body is not None and self._core.body is BodyPhase.OPEN:
            self.stage.body.blocking.when(partial(self.engine.do, then))

    def join_body(self, timeout: float) -> bool:
        return self.stage.body is None or self.stage.body.join(timeout)

    def dismantle(self) -> None:
        """The run waits without a process, and the body's thread has ended: nothing asks this driver again.

        Its parts know each other, and Python's collector of such circles comes too seldom for thousands of runs.
        """
        parts = [self._attempts, self._holding, self.stage.body]
        parts += [part for part in vars(self).values() if getattr(part, "_driver", None) is self]
        for part in parts:
            if part is not None:
                vars(part).clear()

    # ---- notices ----------------------------------------------------------------------------------

    def _tell(self, notice: Notice) -> Write:
        if notice.delay is not None:
            self._tally.retried(notice.seq, self._attempts.task_of(notice.seq))
        failure = notice.failure
        text = replace(failure, type=failure.type.rpartition(".")[2]).line() if failure else ""
        if notice.kind == "step.retried":
            line = f"{notice.key} failed and is tried again in {notice.delay:.1f} s: {text}"
        elif notice.kind == "worker.lost":
            line = f"{notice.key} lost its worker and is tried again: {text}"
        else:
            line = f"{notice.key} failed: {text}"
        self._tally.notice(line)
        data = {"text": text[:NOTICE_LENGTH], "delay": notice.delay}
        return AddEvent(EventRecord(time.time(), notice.kind, notice.seq, data))

    def _note(self, kind: str, seq: int | None, data: dict[str, Any]) -> None:
        data = {**data, "pid": self.engine.process.pid, "host": self.engine.host}
        self.record_beside([AddEvent(EventRecord(time.time(), kind, seq, data))])

    def probe(self) -> None:
        """Ask the store whether the run is still ours: it answers a write, also one of nothing. From any thread."""
        self.record_beside([])

    def record_beside(self, writes: list[Write]) -> None:
        """Writes that the core does not wait for."""

        def done(error: StoreError | InternalError | None) -> None:
            if error is not None:
                self.engine.tell(self, error)

        self.engine.store.write(self.claim, writes, done)


AWAKE = SideWrite("sleepers:AWAKE", ({},))
"""A process has the run again: it is not to be woken."""

_OUT = (Phase.SUBMITTED, Phase.RUNNING)
