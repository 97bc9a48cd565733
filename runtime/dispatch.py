"""The dispatcher: which leased task goes to which worker of this node. Pure: events in, actions out; no clock, I/O, thread
or chance.

The scheduler core decides what may run on this node; here is decided in which process. Plain tasks (one cpu, nothing
more, no timeout) start in the order of leasing, as many at a time as there are cpus; of functions that are known to be
quick they are sent ahead, so that a worker need not wait for us between two of them. What was sent ahead can be taken
back while its permit is there, and is, when another worker has nothing to do. All other tasks were given what they
need, and get a worker at once.

Invariants are in dispatch_invariants.py, the state machine in dispatch_model.py, how many workers there are in
dispatch_staff.py, actors in dispatch_actors.py. May import nothing of ours but errors, runtime.protocol and the other
dispatch modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagengine.errors import InternalError
from dagengine.runtime import dispatch_actors as actors
from dagengine.runtime.dispatch_giving import give, waiting
from dagengine.runtime.dispatch_model import (
    GRACE_SECONDS,
    PREFETCH_SECONDS,
    PREFETCH_TASKS,
    Action,
    ActorReleased,
    AllGone,
    Begun,
    Blocked,
    Cancelled,
    Closing,
    Ended,
    Event,
    Finished,
    GiveUp,
    Leased,
    Move,
    Retire,
    RevokeAcknowledged,
    Revoked,
    SetTimer,
    Signal,
    Task,
    TaskState,
    Tick,
    Unblocked,
    Worker,
    WorkerDown,
    WorkerState,
    WorkerUp,
)
from dagengine.runtime.dispatch_queue import TaskQueue
from dagengine.runtime.dispatch_staff import Staff
from dagengine.runtime.dispatch_taking import balance, revoke
from dagengine.runtime.dispatch_timers import Timers, Why
from dagengine.runtime.protocol import TaskId


class Dispatcher:
    """`apply` an event, then carry out the actions in their order, each exactly once.

    queue: plain tasks; special: the others, but for calls of actors, which wait in their worker's mailbox
    """

    def __init__(self, slots: int) -> None:
        self.tasks: dict[TaskId, Task] = {}
        self.queue = TaskQueue()
        self.special = TaskQueue()
        self.staff = Staff(slots)
        self.timers = Timers()
        self.estimates: dict[int, float] = {}
        self.closing = False
        self._next_order = 0
        self._over = False
        self.look_at: float | None = None
        self._killed: set[int] = set()
        self.sends: dict[int, list[Task]] = {}
        self.actions: list[Action] = []
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Leased: self._leased,
            Finished: self._finished,
            WorkerUp: self._worker_up,
            WorkerDown: self._worker_down,
            Revoked: self._revoked,
            RevokeAcknowledged: self._revoke_acknowledged,
            Blocked: self._blocked,
            Unblocked: self._unblocked,
            Cancelled: self._cancelled,
            ActorReleased: self._actor_released,
            Tick: self._tick,
            Closing: self._close,
        }

    # ---- the door -----------------------------------------------------------------------------

    def start(self) -> list[Action]:
        """Once, before the first event: asks for the workers."""
        return self.staff.hire(0)

    def apply(self, event: Event, now: float) -> list[Action]:
        actions: list[Action] = []
        self.actions = actions
        self._handlers[type(event)](event, now)
        if not self.closing:
            give(self, now)
            balance(self, now)
            actions += self.staff.hire(waiting(self))
        else:
            self._wind_up(now)
        at = self.timers.announce()
        if at is not None:
            actions.append(SetTimer(at))
        return actions

    # ---- tasks --------------------------------------------------------------------------------

    def _leased(self, event: Leased, now: float) -> None:
        for task in event.tasks:
            if task.id in self.tasks:
                raise InternalError(f"task {task.id} was leased while it is live")
            task.order = self._next_order
            self._next_order += 1
            self.tasks[task.id] = task
            if task.plain:
                self.queue.add(task)
            elif task.calls:
                actors.call(self, task, now)
                continue
            else:
                self.special.add(task)
            if self.closing:
                self._drop_queued(task)

    def _finished(self, event: Finished, now: float) -> None:
        worker = self.staff.workers[event.worker]
        if worker.actor is not None:
            actors.finished(self, worker, event.results, now)
            return
        for task_id, seconds in event.results:
            if not worker.tasks or worker.tasks[0].id != task_id:
                raise InternalError(f"worker {worker.id} finished {task_id}, which it does not run")
            task = worker.tasks.popleft()
            worker.blocked = 0  # an answer that it did not wait for may never come
            self.learn(task.function, seconds)
            self.end(worker, task, Move.FINISH, True)
            if worker.tasks:
                self.begin(worker.tasks[0], now)
        worker.idle_since = now
        self.place(worker)

    def learn(self, function: int, seconds: float) -> None:
        known = self.estimates.get(function)
        self.estimates[function] = seconds if known is None else known + 0.2 * (seconds - known)

    def begin(self, task: Task, now: float) -> None:
        task.move(Move.BEGIN)
        task.began = now
        if task.timeout is not None:
            self.timers.add(now + task.timeout, Why.DEADLINE, task.id)
            self.timers.prune(4 * len(self.tasks) + 4 * len(self.staff.workers) + 64, self.tasks.__contains__)
        self.actions.append(Begun(task))

    def end(self, worker: Worker, task: Task, move: Move, started: bool) -> None:
        """The task is no longer among the worker's, and never will be."""
        task.move(move)
        del self.tasks[task.id]
        self._unload(worker, task)
        self.actions.append(Ended(task, started))

    def take_back(self, worker: Worker, task: Task) -> None:
        task.move(Move.TAKE_BACK)
        self._unload(worker, task)
        task.worker = -1
        if task.calls:
            actors.give_back(self, worker, task)
            return
        if task.creates and worker.id in self.staff.workers:
            actors.unmade(self, worker)
        self._queue_of(task).give_back(task)
        if task.cancelled or self.closing:
            self._drop_queued(task)

    def _queue_of(self, task: Task) -> TaskQueue:
        return self.queue if task.plain else self.special

    def _drop_queued(self, task: Task) -> None:
        self._queue_of(task).forget()
        self.drop(task)

    def drop(self, task: Task) -> None:
        """A task that no worker has."""
        task.move(Move.DROP)
        del self.tasks[task.id]
        self.actions.append(Ended(task, False))

    def _unload(self, worker: Worker, task: Task) -> None:
        worker.backlog -= task.estimate
        if not worker.tasks:
            worker.backlog = 0.0
            worker.blocked = 0
        self.staff.count(worker)

    def _cancelled(self, event: Cancelled, now: float) -> None:
        touched: dict[int, Worker] = {}
        for task_id in event.ids:
            task = self.tasks.get(task_id)
            if task is None:
                continue
            if task.state is TaskState.QUEUED:
                if task.calls:
                    actors.forget(self, task)
                else:
                    self._drop_queued(task)
            elif task.state is TaskState.SENT or event.force or task.calls:
                # Of an actor's calls also the first may not have taken its permit.
                task.cancelled = True
                task.forced = task.forced or event.force
                touched[task.worker] = self.staff.workers[task.worker]
        for worker in touched.values():
            if not revoke(self, worker):
                self._end_if_forced(worker, now)

    # ---- workers ------------------------------------------------------------------------------

    def _worker_up(self, event: WorkerUp, now: float) -> None:
        worker = self.staff.workers[event.worker]
        self.staff.up(worker)
        worker.idle_since = now
        self.place(worker)

    def _worker_down(self, event: WorkerDown, now: float) -> None:
        worker = self.staff.workers[event.worker]
        started = worker.state is not WorkerState.STARTING
        self.staff.remove(worker)
        self._killed.discard(worker.id)
        if worker.actor is not None:
            actors.down(self, worker, event.unstarted)
        else:
            if len(worker.tasks) > event.unstarted:
                # Results are sent before the next permit is taken: only the first can have been running.
                self.end_dead(worker, worker.tasks.popleft())
            while worker.tasks:
                task = worker.tasks.popleft()
                if task.timed_out:
                    self.end(worker, task, Move.TIME_OUT, True)
                else:
                    self.take_back(worker, task)
        if not started and not self.closing and self.staff.failed(now, self.timers) and not self._over:
            self._over = True
            self.actions.append(GiveUp())

    def end_dead(self, worker: Worker, task: Task) -> None:
        """The task ran when its worker died."""
        move = Move.TIME_OUT if task.timed_out else Move.DROP if task.forced else Move.LOSE
        self.end(worker, task, move, True)

    def end_worker(self, worker: Worker, now: float, grace: float) -> None:
        """SIGTERM now, SIGKILL after the grace time."""
        if worker.state is WorkerState.ENDING:
            return
        self._leave(worker)
        self.actions.append(Signal(worker.id, hard=False))
        self.timers.add(now + grace, Why.KILL, worker.id)

    def kill_worker(self, worker: Worker) -> None:
        self._leave(worker)
        self._killed.add(worker.id)
        self.actions.append(Signal(worker.id, hard=True))

    def retire(self, worker: Worker, now: float) -> None:
        """The worker ends when it has done what it was sent."""
        if worker.state is not WorkerState.ENDING:
            self._leave(worker)
            self.actions.append(Retire(worker.id))
            if not worker.tasks:
                self.make_sure(worker, now)

    def make_sure(self, worker: Worker, now: float) -> None:
        """The worker was told to go, and has nothing to do. It may be stopped, and not read that."""
        self.timers.add(now + GRACE_SECONDS, Why.KILL, worker.id)

    def _leave(self, worker: Worker) -> None:
        self.staff.leaves(worker)
        worker.state = WorkerState.ENDING
        self.place(worker)

    def running(self, worker: int) -> Task | None:
        """The task that began first of those that the worker runs."""
        tasks = self.staff.workers[worker].tasks
        return tasks[0] if tasks and tasks[0].state is TaskState.RUNNING else None

    def will_kill(self, worker: int) -> bool:
        """Whether the worker has been killed, or a timer is set that does it."""
        return worker in self._killed or self.timers.has(Why.KILL, worker)

    def _end_if_forced(self, worker: Worker, now: float) -> None:
        # All that is left on the worker was started, and all but the last of it has finished: results on their way.
        # An actor's calls may run side by side.
        candidates = worker.tasks if worker.actor is not None else list(worker.tasks)[-1:]
        forced = [task for task in candidates if task.forced]
        if forced:
            self.end_worker(worker, now, min(task.grace for task in forced))

    def place(self, worker: Worker) -> None:
        """Where new tasks look for the worker."""
        staff = self.staff
        staff.displace(worker)
        if worker.state is not WorkerState.READY or worker.revoking:
            return
        if worker.actor is not None:
            actors.deliver(self, worker)
        elif not worker.tasks:
            staff.rest(worker, self.timers)
        elif (
            worker.backlog <= PREFETCH_SECONDS / 2  # not at every finished task: one frame for many is cheaper
            and len(worker.tasks) <= PREFETCH_TASKS // 2
            and worker.tasks[0].plain
            and not worker.blocked
        ):
            staff.hungry[worker.id] = worker

    # ---- giving -------------------------------------------------------------------------------

    def load(self, worker: Worker, task: Task) -> None:
        task.move(Move.SEND)
        task.worker = worker.id
        worker.code = task.code
        # Of an unknown function the worst is assumed: nothing is sent behind it.
        task.estimate = self.estimates.get(task.function, PREFETCH_SECONDS)
        worker.backlog += task.estimate
        worker.tasks.append(task)
        worker.revocable = True
        if not worker.counted:
            self.staff.count(worker)
        self.sends.setdefault(worker.id, []).append(task)

    # ---- taking back --------------------------------------------------------------------------

    def _revoked(self, event: Revoked, now: float) -> None:
        worker = self.staff.workers[event.worker]
        for _ in range(event.count):
            self.take_back(worker, worker.tasks.pop())
        if not event.count:
            worker.revoking -= 1
            self.place(worker)
        self._end_if_forced(worker, now)

    def _revoke_acknowledged(self, event: RevokeAcknowledged, now: float) -> None:
        worker = self.staff.workers[event.worker]
        worker.revoking -= 1
        self.place(worker)

    def _blocked(self, event: Blocked, now: float) -> None:
        worker = self.staff.workers[event.worker]
        worker.blocked += 1
        self.staff.count(worker)
        if worker.actor is None:
            self.place(worker)
            revoke(self, worker)

    def _unblocked(self, event: Unblocked, now: float) -> None:
        worker = self.staff.workers.get(event.worker)
        if worker is not None and worker.blocked:
            worker.blocked -= 1
            self.staff.count(worker)
            self.place(worker)

    # ---- actors -------------------------------------------------------------------------------

    def _actor_released(self, event: ActorReleased, now: float) -> None:
        worker = self.staff.actors.get(event.actor)
        if worker is None:
            return
        if event.force:
            for task in worker.tasks:
                task.forced = True
            self.kill_worker(worker)
        else:
            self.retire(worker, now)

    # ---- time ---------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: float) -> None:
        for at, why, key in self.timers.due(now):
            if why is Why.DEADLINE:
                task = self.tasks.get(key)
                if task is not None and task.state is TaskState.RUNNING and task.began + (task.timeout or 0.0) == at:
                    task.timed_out = True
                    self.end_worker(self.staff.workers[task.worker], now, task.grace)
            elif why is Why.KILL:
                if key in self.staff.workers:
                    self._killed.add(key)
                    self.actions.append(Signal(key, hard=True))
            elif why is Why.LOOK:
                self.look_at = None
            elif why is Why.START:
                self.staff.may_start()
            elif not self.closing:
                for worker in self.staff.surplus(now, self.timers):
                    self.retire(worker, now)

    # ---- the end ------------------------------------------------------------------------------

    def _close(self, event: Closing, now: float) -> None:
        self.closing = True
        for task in [*self.queue, *self.special]:
            self._drop_queued(task)
        for worker in list(self.staff.workers.values()):
            while worker.mailbox:
                self.drop(worker.mailbox.popleft())
            if event.force:
                for task in worker.tasks:
                    task.forced = True
            if event.force or worker.state is WorkerState.STARTING:
                self.kill_worker(worker)
            else:
                revoke(self, worker)

    def _wind_up(self, now: float) -> None:
        for worker in self.staff.workers.values():
            if worker.state is WorkerState.READY and not worker.tasks:
                self.retire(worker, now)
        if not self.staff.workers and not self._over:
            self._over = True
            self.actions.append(AllGone())
