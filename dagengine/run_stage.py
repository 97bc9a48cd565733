"""The body's side of a run that is worked on: its body, what that posts for the engine's thread, and what it is answered.

Between the two threads are one deque (`post…`, which `take` empties) and the waiters' queues. May import everything of the
workflow layer but the engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dagengine.adopting import orphans
from dagengine.body import Body
from dagengine.continuing import begin_successor, continued_as
from dagengine.core.core import RunCore
from dagengine.core.events import Event, SharedDropped, StepKnown, StepsCalled
from dagengine.ends import Waiting
from dagengine.holding import Holding
from dagengine.model import (
    Definition,
    EventRecord,
    Failure,
    Frontier,
    Input,
    NewStep,
    PayloadInput,
    RecordedCall,
    StepState,
)
from dagengine.progress import Tally
from dagengine.replaying import Replay
from dagengine.serving.logical import with_logical_time
from dagengine.shared_steps import SharedSteps, fork_facts
from dagengine.storage.writes import AddEvent
from dagengine.supply import Supply
from dagengine.values import Encoded, decode
from dagengine.workflows import Workflow

if TYPE_CHECKING:
    from dagengine.driver import Driver

POSTED_MAX = 8_192
"""Calls that the body may be ahead of the engine; at the bound the body waits. Keeps a body of a million calls from
filling memory with what could not be recorded yet."""

ORPHANS_SHOWN = 20
"""Keys in the event that tells of recorded calls for which the body did not ask."""


class RunStage:
    """A `ReplayStage`. Its methods are called on the body's thread, but for what says otherwise."""

    def __init__(self, driver: Driver, core: RunCore, supply: Supply, holding: Holding, tally: Tally) -> None:
        self._driver = driver
        self._core = core
        self._supply = supply
        self._holding = holding
        self._tally = tally
        self._store = driver.engine.store
        self._record = driver.record
        self._number = driver.claim.run_number
        self.workflow_name = driver.workflow_name
        self.run_id = driver.run_id
        self.definitions = driver.definitions
        self.reader = driver.reader
        self.now = driver.engine.clock.now
        self.body: Body | None = None  # None: it has returned, or is not called any more
        self.continued = continued_as(driver.record) is not None
        self.replayed_below = 0
        self.shared: SharedSteps | None = None
        self.ephemeral: set[int] = set()
        self._ended_before: dict[int, StepState] = {}
        self._next_seq = 0
        self._seq_lock = threading.Lock()
        self._posted: deque[tuple[Definition | None, NewStep] | Event | tuple[list[int], Waiting]] = deque()
        self._notified = False
        self._room = threading.Condition()

    # ---- begin (the caller's thread, before the engine knows the run) -------------------------

    def take_over(self, frontier: Frontier) -> None:
        """Go on after the recorded steps."""
        self._next_seq = self.replayed_below = frontier.next_seq

    def call(self, workflow: Workflow[..., Any], frontier: Frontier | None) -> None:
        """Have the body called, once it is started. `frontier`: of a run that was taken over."""
        replay = None
        if frontier is not None and frontier.next_seq:
            if fork_facts(self._record) is not None:
                self.shared = SharedSteps(self._store, self._record, frontier, self.post)
            replay = Replay(self, self._store.recorded_calls(self._number))
        self.body = Body(self, workflow, replay)

    # ---- calls --------------------------------------------------------------------------------

    def take_seqs(self, count: int = 1) -> int:
        """Set aside `count` seqs, and return the first. From any thread: expansions take them for their items."""
        with self._seq_lock:
            first = self._next_seq
            self._next_seq += count
        return first

    def keep(self, encoded: Encoded) -> None:
        self._driver.engine.artifacts.put(encoded.digest(), encoded.size, encoded.to_bytes())

    def post_step(self, definition: Definition | None, step: NewStep) -> None:
        self._wait_for_room()
        if definition is not None:
            self.definitions.recording(definition)
        self._posted.append((definition, step))
        self._notify()

    def post_known(self, event: StepKnown) -> None:
        self._wait_for_room()
        if event.definition is not None:
            self.definitions.recording(event.definition)
        self.post(event)

    def _wait_for_room(self) -> None:
        if len(self._posted) >= POSTED_MAX:
            with self._room:
                self._room.wait_for(lambda: len(self._posted) < POSTED_MAX or self.body is None or self.body.stopped)

    def post(self, event: Event) -> None:
        """From any thread."""
        self._posted.append(event)
        self._notify()

    def _notify(self) -> None:
        if not self._notified:
            self._notified = True
            self._driver.engine.wake(self._driver)

    def ended_before(self, recorded: RecordedCall) -> None:
        self._ended_before[recorded.seq] = recorded.state

    def leave(self, left: list[RecordedCall]) -> None:
        if self.shared is not None:
            self.shared.leave(left)
        keys = orphans(self._store, self._number, left)
        if keys:
            data = {"keys": keys[:ORPHANS_SHOWN], "count": len(keys)}
            self._driver.record_beside([AddEvent(EventRecord(self.now(), "run.orphans", None, data))])

    def begin_successor(self, call: bytes, inputs: tuple[PayloadInput, ...]) -> None:
        begin_successor(self._store, self._record, call, inputs, self.now())
        self.continued = True

    # ---- values -------------------------------------------------------------------------------

    def watch(self, seqs: list[int], waiter: Waiting) -> None:
        before = [seq for seq in seqs if seq in self._ended_before]
        if before:
            order = self._store.finish_order(self._number, before) if len(before) > 1 else {}
            for seq in sorted(before, key=lambda seq: order.get(seq, 0)):
                waiter.tell(seq, self._ended_before[seq])
        rest = [seq for seq in seqs if seq not in self._ended_before]
        if rest:
            self.watch_core(rest, waiter)

    def watch_core(self, seqs: list[int], waiter: Waiting) -> None:
        """As `watch`, of steps as they stand now, whatever they were when the run was taken over. From any thread."""
        self._posted.append((seqs, waiter))
        self._notify()

    def read_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert self.body is not None
        given = self.reader.call(self._record.call, self._record.inputs)
        return with_logical_time(self._record, self.body.workflow, given)

    def read_call(self, call: bytes, inputs: Sequence[Input]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.reader.call(call, inputs)

    def read_steps(self, seqs: list[int]) -> dict[int, Any]:
        found, rest = {}, []
        for seq in seqs:
            data = self._supply.at_hand(seq)
            if data is not None:
                found[seq] = decode(data)
            elif seq in self.ephemeral:
                found[seq] = self._holding.read(seq, self.post, self._end_of)
            else:
                rest.append(seq)
        return {**found, **self.reader.steps(rest)} if rest else found

    def _end_of(self, seq: int) -> StepState:
        """Wait until the ephemeral step has ended, and if it is made again, until that has."""
        assert self.body is not None
        return self.body.end_of(lambda waiter: self.watch_core([seq], waiter))

    def failure_of(self, seq: int) -> tuple[StepState, Failure]:
        unmade = self._holding.failure_of(seq)
        if unmade is not None:
            return StepState.FAILED, unmade
        return self._store.failures(self._number, [seq])[seq]

    def key_of(self, seq: int) -> str:
        """From any thread."""
        step = self._core.steps.get(seq)
        if step is not None:
            return step.key
        found = self._store.steps(self._number, seqs=[seq])
        return found[0].key if found else f"step {seq}"

    # ---- the engine's thread ------------------------------------------------------------------

    def take(self, events: list[Event]) -> list[tuple[list[int], Waiting]]:
        """Add to `events` what was posted since; returns who asked to be told of the ends of which steps."""
        self._notified = False
        watched = []
        called: StepsCalled | None = None
        posted = self._posted
        while posted:
            item = posted.popleft()
            if not isinstance(item, tuple):
                called = None
                events.append(item)
                if isinstance(item, SharedDropped):
                    self._tally.dropped(item.tasks)
                if type(item) is StepKnown:
                    self._tally.of(self.definitions[item.step.definition].name).total += 1
            elif isinstance(item[1], NewStep):
                if called is None:
                    called = StepsCalled([], [])
                    events.append(called)
                if item[0] is not None:
                    called.definitions.append(item[0])
                called.steps.append(item[1])
                self._tally.of(self.definitions[item[1].definition].name).total += 1
            else:
                watched.append(item)
        with self._room:
            self._room.notify_all()
        return watched

    def is_idle(self, is_open: bool) -> bool:
        """Whether nothing is posted, and the body waits for this and nothing else; or has ended, if it is not open."""
        return not self._posted and (self.body is None or not is_open or self.body.blocking.now)

    def drop_posted(self) -> None:
        """The run was let go of: nothing that its body still posts is heard, and who waits for a step is told so."""
        while self._posted:
            item = self._posted.popleft()
            if isinstance(item, tuple) and not isinstance(item[1], NewStep):
                item[1].stop()

    def stop(self) -> None:
        """Let go of the body, if there is one."""
        if self.body is not None:
            self.body.stop()
        with self._room:
            self._room.notify_all()
