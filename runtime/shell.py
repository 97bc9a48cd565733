"""The loop around the scheduler core: what happens becomes events, actions are carried out, the caller's sink is told.

What the core wants of a node goes to the node agent (node.py); what it says to whoever submitted becomes the protocol's
events (endings.py) and answers to those who read or reserve (requests.py).

Whoever has the `turn` may touch any of this: the runtime's own thread, but while it sleeps. A few tasks may then be taken
in by the thread that submits them, which spares waking another one (`submit`). Whatever is told, is told on the runtime's.

May import nothing of ours but errors, model and runtime modules.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dagengine.model import Failure
from dagengine.runtime.core import actions as core
from dagengine.runtime.core.events import Cancelled, Capacity, Closing, Event, NodeJoined, Submitted, Tick
from dagengine.runtime.core.machine import Scheduler
from dagengine.runtime.crew import WorkerProcess
from dagengine.runtime.deaths import signal_name
from dagengine.runtime.dispatch_model import Task
from dagengine.runtime.endings import Endings
from dagengine.runtime.events import Sink
from dagengine.runtime.messages import Ask
from dagengine.runtime.node import NodeAgent
from dagengine.runtime.objects import NODE
from dagengine.runtime.owner import VERB
from dagengine.runtime.protocol import (
    Broken,
    ObjectId,
    RuntimeEvent,
    Started,
    TaskId,
    TaskSpec,
    Yielded,
)
from dagengine.runtime.requests import Requests

STARTED_DELAY = 0.01
"""Seconds. Attempts that end sooner are not told as started: nobody could have looked, and for the smallest tasks the
news would cost as much as the task."""

Errand = Callable[["Shell"], None]
"""Something for the runtime's thread to do."""


class Asked(Protocol):
    """What serves tasks that use the runtime themselves (runtime/serving.py)."""

    def ask(self, worker: int, message: Ask) -> None: ...

    def awaited(self, message: Ask) -> tuple[ObjectId, ...]: ...

    def gone(self, worker: int) -> None: ...


class Shell:
    """`inbox`: takes what other threads have handed over; readable when there is something.

    turn: who has it may touch what is here. It is the runtime's thread's from before it begins; only tried by others
    """

    def __init__(
        self,
        core: Scheduler,
        capacity: Capacity,
        sink: Sink,
        *,
        make_agent: Callable[[Shell, selectors.BaseSelector], NodeAgent],
        wake: int,
        inbox: Callable[[], list[Event | Errand]],
        serving: Asked | None,
    ) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self.core = core
        self.capacity = capacity
        self.live = 0
        self.told: list[RuntimeEvent] = []
        self.counts = dict.fromkeys(("tasks", "failed", "lost", "retried", "objects_put"), 0)
        self.agent: NodeAgent
        self.requests: Requests
        self.endings: Endings
        self._sink = sink
        self._make_agent = make_agent
        self._wake = wake
        self._inbox = inbox
        self._serving = serving
        self._selector = selectors.DefaultSelector()
        self._timer: float | None = None
        self._events: deque[Event] = deque()
        # Attempts that began, and may end before anybody has to know.
        self._fresh: dict[TaskId, tuple[Started, WorkerProcess]] = {}
        self._fresh_until: float | None = None
        self._asleep_until: float | None = None
        self._trouble: BaseException | None = None
        """What went wrong on the thread of whoever submitted."""
        self.broken: Failure | None = None  # why it ended by itself
        self._forker_gone = False
        self._closing = False
        self._agent_closing = False
        self._over = False
        self._carry_out: dict[type, Callable[[Any], None]] = {}

    def run(self) -> None:
        """Until closed or broken. Leaves nothing behind."""
        try:
            self.agent = self._make_agent(self, self._selector)
            self.requests = Requests(self, self.agent)
            self.endings = Endings(self, self.agent)
            self._carry_out = {
                **self.agent.actions,
                **self.endings.actions,
                **self.requests.actions,
                core.SetTimer: self._set_timer,
                core.Cycle: lambda action: None,  # `waits` names it
                core.Throttle: lambda action: None,  # who puts waits for its Grant
            }
            self._selector.register(self._wake, selectors.EVENT_READ, None)
            self.happen(NodeJoined(NODE, self.capacity))
            self.agent.start()
            while not (self._over or self._forker_gone or self.broken):
                self._turn()
        except OSError as error:
            # No room for output, no descriptors left: nothing of ours, and the operator is told by the event.
            self.broken = _stopped(f"the runtime can't go on: {_reason(error)}")
        except Exception as error:
            self.broken = Failure("internal", type(error).__qualname__, f"the runtime failed: {error}")
            raise
        finally:
            self._end()

    def _turn(self) -> None:
        self._asleep_until = due = self._due()
        self.turn.release()
        try:
            ready = self._selector.select(None if due is None else max(0.0, due - time.monotonic()))
        finally:
            self.turn.acquire()
        if self._trouble is not None:
            raise self._trouble
        for key, mask in ready:
            if key.data is not None:
                key.data(mask)
            else:
                self._take_in()
        if due is not None:
            self._look_at_clock()
        if self._closing and not self.live and not self._agent_closing:
            self._agent_closing = True
            self.agent.close(False)
        self._tell()

    def _due(self) -> float | None:
        """When there will be something to do, if nothing happens."""
        times = (self._timer, self.agent.timer, self.agent.watch_at, self._fresh_until)
        return min((at for at in times if at is not None), default=None)

    def submit(self, event: Submitted) -> bool:
        """Take the tasks in on the thread that submits them, which has the turn. Whether the runtime's thread has to look."""
        try:
            self._submitted(event)
        except BaseException as error:
            self._trouble = error  # the runtime's end, which is its own thread's to tell
            return True
        due = self._due()
        sooner = due is not None and (self._asleep_until is None or due < self._asleep_until)
        return sooner or bool(self.told)

    def _take_in(self) -> None:
        for given in self._inbox():
            if isinstance(given, Submitted):
                self._submitted(given)
            elif isinstance(given, Closing):
                self._close(given)
            elif callable(given):
                given(self)
            else:
                self.happen(given)

    def _submitted(self, event: Submitted) -> None:
        self.live += len(event.requests)
        refused = self.endings.refuse(event.requests)
        self.happen(event)
        if refused:
            self.happen(Cancelled(refused))

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        if self._timer is not None and now >= self._timer:
            self._timer = None
            self.happen(Tick())
        self.agent.tick(now)
        if self._fresh_until is not None and now >= self._fresh_until:
            self._fresh_until = None
            for started, worker in self._fresh.values():
                started.pid = worker.pid  # known by now: the forker may have told it after the worker's first word
                self.told.append(started)
            self._fresh.clear()

    def _close(self, event: Closing) -> None:
        self._closing = True
        self.happen(event)
        if event.force:
            self._agent_closing = True
            self.agent.close(True)

    def _tell(self) -> None:
        if self.told:
            told, self.told = self.told, []
            self._sink(told)

    def _end(self) -> None:
        try:
            if hasattr(self, "agent"):
                status = self.agent.end()
                if self._forker_gone:
                    self.broken = _stopped(_forker_died(status))
        finally:
            self._selector.close()
            if hasattr(self, "requests"):
                self.requests.end(self.broken or _stopped("the runtime was closed"))
            if self.broken is not None:
                self.told.append(Broken(self.broken))
            self._tell()

    # ---- the core -----------------------------------------------------------------------------

    def happen(self, event: Event) -> None:
        """Apply the event and carry out what follows. What that makes happen comes after it, in order."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        carry_out = self._carry_out
        while self._events:
            for action in self.core.apply(self._events[0], time.monotonic()):
                carry_out[type(action)](action)
            self._events.popleft()

    def _set_timer(self, action: core.SetTimer) -> None:
        self._timer = action.at

    def ended(self, task_id: TaskId) -> bool:
        """The attempt's end is about to be told. Whether it was begun, and nobody has been told."""
        self.live -= 1
        return self._fresh.pop(task_id, None) is not None

    def again(self, task_id: TaskId) -> None:
        """The attempt was lost, and another one follows."""
        self._fresh.pop(task_id, None)

    # ---- the agent ----------------------------------------------------------------------------

    def begun(self, task: Task, worker: WorkerProcess) -> None:
        known = self.core.tasks.get(task.id)
        if known is not None and known.extra is not None and known.extra.rebuild:
            return  # it has ended for whoever submitted it, and runs again to have a lost object back
        if not self._fresh:
            self._fresh_until = time.monotonic() + STARTED_DELAY
        self._fresh[task.id] = Started(task.id, task.worker, worker.pid, time.time()), worker

    def yielded(self, spec: TaskSpec, index: int, object_id: ObjectId, size: int) -> None:
        self.told.append(Yielded(spec.id, index, object_id, size))

    def asked(self, worker: int, ask: Ask) -> Sequence[ObjectId]:
        if ask.verb == VERB and self._serving is None:
            self.told.append(self.requests.handed_on(worker, ask))
            return ()
        if self._serving is None:
            self.requests.refuse(worker, ask)
            return ()
        self._serving.ask(worker, ask)
        return self._serving.awaited(ask) if ask.blocks else ()

    def worker_gone(self, worker: int) -> None:
        if self._serving is not None:
            self._serving.gone(worker)

    def give_up(self, trouble: str) -> None:
        reason = trouble or "they die before they are up"
        self.broken = _stopped(f"no worker can be started: {reason}")

    def all_gone(self) -> None:
        self._over = True

    def forker_gone(self) -> None:
        self._forker_gone = True


def _stopped(message: str) -> Failure:
    return Failure("internal", "dagengine.errors.RuntimeStopped", message)


def _reason(error: OSError) -> str:
    return str(error) if error.filename is not None else error.strerror or str(error)


def _forker_died(status: int) -> str:
    how = f"killed by {signal_name(-status)}" if status < 0 else f"exited with status {status}"
    return f"the parent of the workers died ({how}), and the workers with it. Resume to go on."
