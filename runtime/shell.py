"""The loop around the dispatcher: what happens becomes events, actions are carried out, the caller's sink is told.

All of it runs on the runtime's own thread. May import nothing of ours but errors, model and runtime modules.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from dagengine.model import Failure
from dagengine.runtime.crew import Crew, WorkerProcess
from dagengine.runtime.deaths import lost_failure, signal_name
from dagengine.runtime.dispatch import Dispatcher
from dagengine.runtime.dispatch_model import (
    Action,
    AllGone,
    Begun,
    Ended,
    Event,
    Finished,
    GiveUp,
    Retire,
    Revoke,
    RevokeAcknowledged,
    Revoked,
    Send,
    SetTimer,
    Signal,
    StartWorker,
    Task,
    TaskState,
    Tick,
    WorkerDown,
    WorkerUp,
)
from dagengine.runtime.events import Sink, result_event, run_message
from dagengine.runtime.messages import Define, Done, Result, ToWorker
from dagengine.runtime.output import save_output
from dagengine.runtime.protocol import (
    Broken,
    Dropped,
    Lost,
    RuntimeEvent,
    Started,
    TaskId,
    TaskSpec,
    TimedOut,
)
from dagengine.runtime.shared import SharedFile

STARTED_DELAY = 0.01
"""Seconds. Attempts that end sooner are not told as started: nobody could have looked, and for the smallest tasks the
news would cost as much as the task."""


class Shell:
    """`inbox`: takes what other threads have handed over; readable when there is something.

    definitions: by the function's number; grows while we run
    """

    def __init__(
        self,
        core: Dispatcher,
        sink: Sink,
        *,
        scratch: str | None,
        definitions: dict[int, Define],
        wake: int,
        inbox: Callable[[], list[Event]],
    ) -> None:
        self._core = core
        self._sink = sink
        self._scratch = scratch
        self._definitions = definitions
        self._wake = wake
        self._inbox = inbox
        self._selector = selectors.DefaultSelector()
        self._crew: Crew | None = None
        self._timer: float | None = None
        self._events: deque[Event] = deque()
        self._told: list[RuntimeEvent] = []
        self._fresh: dict[
            TaskId, tuple[Started, WorkerProcess]
        ] = {}  # attempts that began, and may end before anybody has to know
        self._fresh_until = 0.0
        self._results: dict[TaskId, tuple[Result, SharedFile | None]] = {}
        self._dying: WorkerProcess | None = None
        self._broken: Failure | None = None
        self._forker_gone = False
        self._over = False
        self._carry_out: dict[type, Callable[[Crew, Any], None]] = {
            StartWorker: self._start_worker,
            Send: self._send,
            Revoke: self._revoke,
            Signal: self._signal,
            Retire: self._retire,
            SetTimer: self._set_timer,
            Begun: self._begun,
            Ended: self._ended,
            GiveUp: self._give_up,
            AllGone: self._all_gone,
        }

    def run(self) -> None:
        """Until closed or broken. Leaves nothing behind."""
        try:
            self._crew = Crew(self._selector, self._scratch, self)
            self._selector.register(self._wake, selectors.EVENT_READ, None)
            self._perform(self._core.start())
            while not (self._over or self._forker_gone or self._broken):
                self._turn()
        except OSError as error:
            # No room for output, no descriptors left: nothing of ours, and the operator is told by the event.
            self._broken = _stopped(f"the runtime can't go on: {error}")
        except Exception as error:
            self._broken = Failure("internal", type(error).__qualname__, f"the runtime failed: {error}")
            raise
        finally:
            self._end()

    def _turn(self) -> None:
        due = [at for at in (self._timer, self._fresh_until if self._fresh else None) if at is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for key, mask in self._selector.select(timeout):
            if key.data is not None:
                key.data(mask)
            else:
                for event in self._inbox():
                    self._happen(event)
        if self._timer is not None and time.monotonic() >= self._timer:
            self._timer = None
            self._happen(Tick())
        if self._fresh and time.monotonic() >= self._fresh_until:
            for started, worker in self._fresh.values():
                started.pid = worker.pid  # known by now: the forker may have told it after the worker's first word
                self._told.append(started)
            self._fresh.clear()
        self._tell()

    def _tell(self) -> None:
        if self._told:
            told, self._told = self._told, []
            self._sink(told)

    def _end(self) -> None:
        try:
            if self._crew is not None:
                status = self._crew.close()
                if self._forker_gone:
                    self._broken = _stopped(_forker_died(status))
        finally:
            self._selector.close()
            for _, shared in self._results.values():
                if shared is not None:
                    shared.close()
            if self._broken is not None:
                self._told.append(Broken(self._broken))
            self._tell()

    # ---- events in ----------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        """Apply the event and carry out what follows. What that makes happen comes after it, in order."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            self._perform(self._core.apply(self._events[0], time.monotonic()))
            self._events.popleft()

    def worker_up(self, worker: WorkerProcess) -> None:
        self._happen(WorkerUp(worker.number))

    def worker_results(self, worker: WorkerProcess, results: list[Result]) -> None:
        finished = []
        for result in results:
            shared = None
            if isinstance(result, Done) and result.data is None:
                shared = SharedFile(worker.link.descriptors.popleft(), result.size, result.digest)
            self._results[result.id] = result, shared
            finished.append((result.id, max(0.0, result.finished_at - result.started_at)))
        self._happen(Finished(worker.number, finished))

    def worker_acknowledged(self, worker: WorkerProcess) -> None:
        self._happen(RevokeAcknowledged(worker.number))

    def worker_down(self, worker: WorkerProcess) -> None:
        self._dying = worker
        self._happen(WorkerDown(worker.number, worker.unstarted))
        self._dying = None

    def forker_gone(self) -> None:
        self._forker_gone = True

    # ---- actions out --------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        crew = self._crew
        assert crew is not None
        for action in actions:
            self._carry_out[type(action)](crew, action)

    def _start_worker(self, crew: Crew, action: StartWorker) -> None:
        crew.start_worker(action.worker)

    def _send(self, crew: Crew, action: Send) -> None:
        worker = crew.workers[action.worker]
        messages: list[ToWorker] = []
        for task in action.tasks:
            if task.function not in worker.defined:
                worker.defined.add(task.function)
                messages.append(self._definitions[task.function])
            messages.append(run_message(_spec(task)))
        crew.send(worker, messages, len(action.tasks))

    def _revoke(self, crew: Crew, action: Revoke) -> None:
        worker = crew.workers.get(action.worker)
        count = crew.revoke(worker, action.count) if worker is not None else 0
        self._happen(Revoked(action.worker, count))

    def _signal(self, crew: Crew, action: Signal) -> None:
        worker = crew.workers.get(action.worker)
        if worker is not None:
            crew.signal(worker, action.hard)

    def _retire(self, crew: Crew, action: Retire) -> None:
        crew.retire(crew.workers[action.worker])

    def _set_timer(self, crew: Crew, action: SetTimer) -> None:
        self._timer = action.at

    def _give_up(self, crew: Crew, action: GiveUp) -> None:
        reason = crew.trouble or "they die before they are up"
        self._broken = _stopped(f"no worker can be started: {reason}")

    def _all_gone(self, crew: Crew, action: AllGone) -> None:
        self._over = True

    def _begun(self, crew: Crew, action: Begun) -> None:
        task = action.task
        if not self._fresh:
            self._fresh_until = time.monotonic() + STARTED_DELAY
        worker = crew.workers[task.worker]
        self._fresh[task.id] = Started(task.id, task.worker, worker.pid, time.time()), worker

    def _ended(self, crew: Crew, action: Ended) -> None:
        task = action.task
        self._fresh.pop(task.id, None)
        if task.state is TaskState.FINISHED:
            self._told.append(result_event(task.worker, *self._results.pop(task.id)))
            return
        if action.started and self._dying is not None:
            save_output(self._dying.output, _spec(task).log)
        if task.state is TaskState.DROPPED:
            self._told.append(Dropped(task.id, action.started))
            return
        # The core's clock does not stop and does not jump; people read the wall's.
        finished_at = time.time()
        started_at = finished_at - (time.monotonic() - task.began)
        if task.state is TaskState.TIMED_OUT:
            self._told.append(TimedOut(task.id, task.worker, started_at, finished_at))
        else:
            worker = self._dying
            assert worker is not None
            assert worker.status is not None
            failure = lost_failure(worker.status, worker.out_of_memory)
            self._told.append(Lost(task.id, task.worker, started_at, finished_at, failure))


def _spec(task: Task) -> TaskSpec:
    spec = task.spec
    assert isinstance(spec, TaskSpec)
    return spec


def _stopped(message: str) -> Failure:
    return Failure("internal", "dagengine.errors.RuntimeStopped", message)


def _forker_died(status: int) -> str:
    how = f"killed by {signal_name(-status)}" if status < 0 else f"exited with status {status}"
    return f"the parent of the workers died ({how}), and the workers with it. Resume to go on."
