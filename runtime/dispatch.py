"""The dispatcher: which task goes to which worker. Pure: events in, actions out; no clock, I/O, thread or chance.

Tasks start in the order of submission: the oldest waits until what it asks for is free, and nobody overtakes it, so
that a task that wants every cpu is not starved by those that want one. What has been taken back goes first.

A worker gets one task when it is idle. Plain tasks (one cpu, no memory, no timeout) of functions that are known to be
quick are sent ahead, so that the worker need not wait for us between two of them. What was sent ahead can be taken
back while its permit is there, and is, when another worker has nothing to do.

Invariants are in dispatch_invariants.py, the state machine in dispatch_model.py. May import nothing of ours but
errors, runtime.protocol and the other dispatch modules.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from dagengine.errors import InternalError
from dagengine.runtime.dispatch_model import (
    GRACE_SECONDS,
    PREFETCH_SECONDS,
    PREFETCH_TASKS,
    REVOKE_SECONDS,
    START_DELAY,
    START_TRIES,
    STUCK_SECONDS,
    UNIT,
    Action,
    AllGone,
    Begun,
    Cancelled,
    Closing,
    Ended,
    Event,
    Finished,
    GiveUp,
    Move,
    Retire,
    Revoke,
    RevokeAcknowledged,
    Revoked,
    Send,
    SetTimer,
    Signal,
    StartWorker,
    Submitted,
    Task,
    TaskState,
    Tick,
    Worker,
    WorkerDown,
    WorkerState,
    WorkerUp,
)
from dagengine.runtime.dispatch_queue import TaskQueue
from dagengine.runtime.protocol import Resources, TaskId

_DEADLINE, _KILL, _LOOK, _START = range(4)
_Timer = tuple[float, int, int, Any]  # when, a number that breaks ties, what for, of which task or worker


def misfit(asked: Resources, capacity: Resources) -> str | None:
    """Why a task that asks for this could never run, or None. Depends on nothing that changes."""
    if asked.cpus > capacity.cpus:
        return (
            f"a task asks for {asked.cpus:g} cpus, and there are {capacity.cpus:g}: ask for less or give more workers"
        )
    if asked.memory > capacity.memory:
        return f"a task asks for {asked.memory:,} bytes of memory, and there are {capacity.memory:,}: ask for less"
    return None


class Dispatcher:
    """`apply` an event, then carry out the actions in their order, each exactly once."""

    def __init__(self, workers: int, memory: int) -> None:
        self.cpus = self.free_cpus = workers * UNIT
        self.memory = self.free_memory = memory
        self.tasks: dict[TaskId, Task] = {}
        self.queue = TaskQueue()
        self.workers: dict[int, Worker] = {}
        self.idle: dict[int, Worker] = {}
        self.hungry: dict[int, Worker] = {}
        self.estimates: dict[int, float] = {}
        self.closing = False
        self._size = workers
        self._busy = 0
        self._next_worker = 0
        self._next_order = 0
        self._failed_starts = 0
        self._over = False
        self._timers: list[_Timer] = []
        self._timer_number = 0
        self._announced: float | None = None
        self._look_at: float | None = None
        self._killed: set[int] = set()
        self._sends: dict[int, list[Task]] = {}
        self._actions: list[Action] = []
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Submitted: self._submitted,
            Finished: self._finished,
            WorkerUp: self._worker_up,
            WorkerDown: self._worker_down,
            Revoked: self._revoked,
            RevokeAcknowledged: self._revoke_acknowledged,
            Cancelled: self._cancelled,
            Tick: self._tick,
            Closing: self._close,
        }

    # ---- the door -----------------------------------------------------------------------------

    def start(self) -> list[Action]:
        """Once, before the first event: asks for the workers."""
        return [self._new_worker() for _ in range(self._size)]

    def apply(self, event: Event, now: float) -> list[Action]:
        actions: list[Action] = []
        self._actions = actions
        self._handlers[type(event)](event, now)
        if not self.closing:
            self._dispatch(now)
            self._balance(now)
        else:
            self._wind_up(now)
        if self._timers and self._timers[0][0] != self._announced:
            self._announced = self._timers[0][0]
            actions.append(SetTimer(self._announced))
        return actions

    # ---- tasks --------------------------------------------------------------------------------

    def _submitted(self, event: Submitted, now: float) -> None:
        for task in event.tasks:
            if task.id in self.tasks:
                raise InternalError(f"task {task.id} was submitted while it is live")
            task.order = self._next_order
            self._next_order += 1
            self.tasks[task.id] = task
            self.queue.add(task)
            if self.closing:
                self._drop_queued(task)

    def _finished(self, event: Finished, now: float) -> None:
        worker = self.workers[event.worker]
        for task_id, seconds in event.results:
            if not worker.tasks or worker.tasks[0].id != task_id:
                raise InternalError(f"worker {worker.id} finished {task_id}, which it does not run")
            task = worker.tasks.popleft()
            self._learn(task.function, seconds)
            self._end(worker, task, Move.FINISH, True)
            if worker.tasks:
                self._begin(worker, now)
        self._place(worker)

    def _learn(self, function: int, seconds: float) -> None:
        known = self.estimates.get(function)
        self.estimates[function] = seconds if known is None else known + 0.2 * (seconds - known)

    def _begin(self, worker: Worker, now: float) -> None:
        task = worker.tasks[0]
        task.move(Move.BEGIN)
        task.began = now
        if task.timeout is not None:
            self._wake(now + task.timeout, _DEADLINE, task.id)
        self._actions.append(Begun(task))

    def _end(self, worker: Worker, task: Task, move: Move, started: bool) -> None:
        """The task is no longer among the worker's, and never will be."""
        task.move(move)
        del self.tasks[task.id]
        self._unload(worker, task)
        self._actions.append(Ended(task, started))

    def _take_back(self, worker: Worker, task: Task) -> None:
        task.move(Move.TAKE_BACK)
        self._unload(worker, task)
        task.worker = -1
        self.queue.give_back(task)
        if task.cancelled or self.closing:
            self._drop_queued(task)

    def _drop_queued(self, task: Task) -> None:
        task.move(Move.DROP)
        self.queue.forget()
        del self.tasks[task.id]
        self._actions.append(Ended(task, False))

    def _unload(self, worker: Worker, task: Task) -> None:
        worker.backlog -= task.estimate
        if not worker.tasks:
            worker.backlog = 0.0
            self.free_cpus += worker.cpus
            self.free_memory += worker.memory
            worker.cpus = worker.memory = 0
            self._busy -= 1

    def _cancelled(self, event: Cancelled, now: float) -> None:
        touched: dict[int, Worker] = {}
        for task_id in event.ids:
            task = self.tasks.get(task_id)
            if task is None:
                continue
            if task.state is TaskState.QUEUED:
                self._drop_queued(task)
            elif task.state is TaskState.SENT or event.force:
                task.cancelled = True
                task.forced = task.forced or event.force
                touched[task.worker] = self.workers[task.worker]
        for worker in touched.values():
            if not self._revoke(worker):
                self._end_if_forced(worker, now)

    # ---- workers ------------------------------------------------------------------------------

    def _new_worker(self) -> StartWorker:
        worker = Worker(self._next_worker)
        self._next_worker += 1
        self.workers[worker.id] = worker
        return StartWorker(worker.id)

    def _worker_up(self, event: WorkerUp, now: float) -> None:
        worker = self.workers[event.worker]
        self._failed_starts = 0
        if worker.state is WorkerState.STARTING:
            worker.state = WorkerState.READY
            self._place(worker)

    def _worker_down(self, event: WorkerDown, now: float) -> None:
        worker = self.workers.pop(event.worker)
        self.idle.pop(worker.id, None)
        self.hungry.pop(worker.id, None)
        self._killed.discard(worker.id)
        if len(worker.tasks) > event.unstarted:
            # Results are sent before the next permit is taken: only the first can have been running.
            task = worker.tasks.popleft()
            move = Move.TIME_OUT if task.timed_out else Move.DROP if task.forced else Move.LOSE
            self._end(worker, task, move, True)
        while worker.tasks:
            task = worker.tasks.popleft()
            if task.timed_out:
                self._end(worker, task, Move.TIME_OUT, True)
            else:
                self._take_back(worker, task)
        if self.closing:
            return
        if worker.state is not WorkerState.STARTING:
            self._actions.append(self._new_worker())
            return
        self._failed_starts += 1
        if self._failed_starts < START_TRIES or any(w.state is WorkerState.READY for w in self.workers.values()):
            self._wake(now + START_DELAY * 2 ** min(self._failed_starts - 1, 6), _START, None)
        elif not self._over:
            self._over = True
            self._actions.append(GiveUp())

    def _end_worker(self, worker: Worker, now: float) -> None:
        if worker.state is WorkerState.ENDING:
            return
        worker.state = WorkerState.ENDING
        self._place(worker)
        self._actions.append(Signal(worker.id, hard=False))
        self._wake(now + GRACE_SECONDS, _KILL, worker.id)

    def will_kill(self, worker: int) -> bool:
        """Whether the worker has been killed, or a timer is set that does it."""
        return worker in self._killed or any(why == _KILL and key == worker for _, _, why, key in self._timers)

    def _end_if_forced(self, worker: Worker, now: float) -> None:
        # All that is left on the worker was started, and all but the last of it has finished: results on their way.
        if worker.tasks and worker.tasks[-1].forced:
            self._end_worker(worker, now)

    def _place(self, worker: Worker) -> None:
        """Where new tasks look for the worker."""
        self.idle.pop(worker.id, None)
        self.hungry.pop(worker.id, None)
        if worker.state is not WorkerState.READY or worker.revoking:
            return
        if not worker.tasks:
            self.idle[worker.id] = worker
        elif (
            worker.backlog <= PREFETCH_SECONDS / 2  # not at every finished task: one frame for many is cheaper
            and len(worker.tasks) <= PREFETCH_TASKS // 2
            and worker.tasks[0].plain
        ):
            self.hungry[worker.id] = worker

    # ---- giving -------------------------------------------------------------------------------

    def _dispatch(self, now: float) -> None:
        queue, idle = self.queue, self.idle
        while idle and (task := queue.head()) is not None:
            if task.cpus > self.free_cpus or task.memory > self.free_memory:
                break
            _, worker = idle.popitem()  # the one that was busy last: its caches are warm
            self._load(worker, queue.pop(), now)
            self._place(worker)
        if self.hungry and len(queue):
            self._send_ahead(now)
        for worker_id, tasks in self._sends.items():
            # Before what has begun is told: so that the worker begins, too.
            self._actions.append(Send(worker_id, tasks))
            if self.workers[worker_id].tasks[0] is tasks[0]:
                self._begin(self.workers[worker_id], now)
        self._sends.clear()

    def _send_ahead(self, now: float) -> None:
        refused = 0
        while refused < len(self.hungry) and (task := self.queue.head()) is not None and task.plain:
            worker = next(iter(self.hungry.values()))
            # No worker gets more than its part of what is left: the others are about to ask as well.
            room = max(1, len(self.queue) // len(self.workers))
            given = 0
            while given < room and task is not None and self._fits_behind(worker, task):
                self._load(worker, self.queue.pop(), now)
                given += 1
                task = self.queue.head()
            refused = 0 if given else refused + 1
            self._place(worker)

    def _fits_behind(self, worker: Worker, task: Task) -> bool:
        estimate = self.estimates.get(task.function)
        return (
            estimate is not None
            and worker.backlog + estimate <= PREFETCH_SECONDS
            and len(worker.tasks) < PREFETCH_TASKS
            and task.plain
        )

    def _load(self, worker: Worker, task: Task, now: float) -> None:
        if not worker.tasks:
            worker.cpus, worker.memory = task.cpus, task.memory
            self.free_cpus -= task.cpus
            self.free_memory -= task.memory
            self._busy += 1
        task.move(Move.SEND)
        task.worker = worker.id
        # Of an unknown function the worst is assumed: nothing is sent behind it.
        task.estimate = self.estimates.get(task.function, PREFETCH_SECONDS)
        worker.backlog += task.estimate
        worker.tasks.append(task)
        worker.revocable = True
        self._sends.setdefault(worker.id, []).append(task)

    # ---- taking back --------------------------------------------------------------------------

    def _balance(self, now: float) -> None:
        """If a worker has nothing to do, and another one work that it has not begun: take that back."""
        sent_ahead = len(self.tasks) - len(self.queue) - self._busy
        if not sent_ahead or not self.idle or len(self.queue) or self.free_cpus < UNIT:
            return
        best: Worker | None = None
        look_at: float | None = None
        for worker in self.workers.values():
            if len(worker.tasks) < 2 or not worker.revocable:
                continue
            head = worker.tasks[0]
            stuck_at = head.began + STUCK_SECONDS
            if stuck_at <= now or worker.backlog - head.estimate >= REVOKE_SECONDS:
                if best is None or worker.backlog > best.backlog:
                    best = worker
            elif look_at is None or stuck_at < look_at:
                look_at = stuck_at
        if best is not None:
            self._revoke(best)
        elif look_at is not None and (self._look_at is None or look_at < self._look_at):
            self._look_at = look_at
            self._wake(look_at, _LOOK, None)

    def _revoke(self, worker: Worker) -> bool:
        """Ask for all that has not begun on the worker. False if nothing can be there."""
        if not worker.revocable or len(worker.tasks) < 2:
            return False
        worker.revocable = False
        worker.revoking += 1
        self._place(worker)
        self._actions.append(Revoke(worker.id, len(worker.tasks) - 1))
        return True

    def _revoked(self, event: Revoked, now: float) -> None:
        worker = self.workers[event.worker]
        for _ in range(event.count):
            self._take_back(worker, worker.tasks.pop())
        if not event.count:
            worker.revoking -= 1
            self._place(worker)
        self._end_if_forced(worker, now)

    def _revoke_acknowledged(self, event: RevokeAcknowledged, now: float) -> None:
        worker = self.workers[event.worker]
        worker.revoking -= 1
        self._place(worker)

    # ---- time ---------------------------------------------------------------------------------

    def _wake(self, at: float, why: int, key: Any) -> None:
        self._timer_number += 1
        heapq.heappush(self._timers, (at, self._timer_number, why, key))
        if len(self._timers) > 4 * len(self.tasks) + 4 * len(self.workers) + 64:
            # Deadlines of tasks that ended long before. At most every fourth entry is of use.
            self._timers = [timer for timer in self._timers if timer[2] != _DEADLINE or timer[3] in self.tasks]
            heapq.heapify(self._timers)

    def _tick(self, event: Tick, now: float) -> None:
        self._announced = None
        while self._timers and self._timers[0][0] <= now:
            at, _, why, key = heapq.heappop(self._timers)
            if why == _DEADLINE:
                task = self.tasks.get(key)
                if task is not None and task.state is TaskState.RUNNING and task.began + (task.timeout or 0.0) == at:
                    task.timed_out = True
                    self._end_worker(self.workers[task.worker], now)
            elif why == _KILL:
                if key in self.workers:
                    self._killed.add(key)
                    self._actions.append(Signal(key, hard=True))
            elif why == _LOOK:
                self._look_at = None
            elif not self.closing:
                self._actions.append(self._new_worker())

    # ---- the end ------------------------------------------------------------------------------

    def _close(self, event: Closing, now: float) -> None:
        self.closing = True
        for task in list(self.queue):
            self._drop_queued(task)
        for worker in self.workers.values():
            if event.force:
                for task in worker.tasks:
                    task.forced = True
            if event.force or worker.state is WorkerState.STARTING:
                worker.state = WorkerState.ENDING
                self._killed.add(worker.id)
                self._actions.append(Signal(worker.id, hard=True))
            else:
                self._revoke(worker)
            self._place(worker)

    def _wind_up(self, now: float) -> None:
        for worker in self.workers.values():
            if worker.state is WorkerState.READY and not worker.tasks:
                worker.state = WorkerState.ENDING
                self._place(worker)
                self._actions.append(Retire(worker.id))
                self._wake(now + GRACE_SECONDS, _KILL, worker.id)  # it may be stopped, and not read that it may go
        if not self.workers and not self._over:
            self._over = True
            self._actions.append(AllGone())
