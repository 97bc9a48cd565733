"""How many workers there are, and which of them have nothing to do. Pure, as the dispatcher whose part it is.

`slots` workers are kept that any task may run in. More are started when tasks could begin and no worker is free: because
others wait inside themselves, or each needs less than a cpu. They end when they have been idle for long.

A worker that has run tasks of one code is kept for it. When the oldest task is of another and no idle worker fits, one
more is started, and of those that have been idle longest one ends if there are twice as many as are kept: so runs on
several packs of code neither wait for each other nor replace each other's workers at every task.

A worker in which an actor lives is the actor's until its end; one that has seen GPUs is used again for the same ones
only, because a process can't forget a device. Neither counts among the `slots`.

May import nothing of ours but dispatch_model and dispatch_timers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dagengine.runtime.dispatch_model import (
    IDLE_SECONDS,
    START_DELAY,
    START_TRIES,
    UNIT,
    WORKERS_MAX,
    Action,
    StartWorker,
    Task,
    Worker,
    WorkerState,
)
from dagengine.runtime.dispatch_timers import Timers, Why
from dagengine.runtime.protocol import ActorId


class Staff:
    """workers: all that were asked for and are not gone; `idle`, `with_devices`: ready for a task, of which the latter
    have seen GPUs; `hungry`: busy, and more may be sent ahead to them; `actors`: the worker that each lives in

    busy: workers with tasks that use a cpu
    held: none is started for now, because the last ones did not come up
    lacking: a task waits beside idle workers, none of which fits it
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.workers: dict[int, Worker] = {}
        self.idle: dict[int, Worker] = {}
        self.with_devices: dict[int, Worker] = {}
        self.hungry: dict[int, Worker] = {}
        self.actors: dict[ActorId, Worker] = {}
        self.busy = 0
        self.used = 0  # cpus of the busy ones and of actors
        self._pool = 0  # starting or ready, and open to any task
        self._starting = 0
        self._next = 0
        self._failed = 0
        self.held = False
        self.lacking = False
        self._looking = False

    # ---- cpus ---------------------------------------------------------------------------------

    @property
    def has_cpu(self) -> bool:
        """Whether one more plain task may run. One always may: the scheduler gave it to us, and it has to end."""
        return not self.busy or self.used + UNIT <= self.slots * UNIT

    @property
    def free_cpus(self) -> int:
        free = (self.slots * UNIT - self.used) // UNIT
        return max(free, 0 if self.busy else 1)

    def count(self, worker: Worker) -> None:
        """The worker's tasks, or whether they wait, may have changed."""
        if worker.actor is not None:
            return  # it is counted as long as the actor lives
        cpus = worker.tasks[0].cpus if worker.tasks and not worker.blocked else -1
        if cpus + 1 != worker.counted:
            self.busy += (cpus >= 0) - (worker.counted > 0)
            self.used += max(cpus, 0) - max(worker.counted - 1, 0)
            worker.counted = cpus + 1

    def give_to_actor(self, worker: Worker, task: Task) -> None:
        assert task.actor is not None
        self._leave_pool(worker)
        worker.actor = task.actor
        self.actors[task.actor] = worker
        self.used += task.cpus
        worker.counted = task.cpus + 1

    def take_from_actor(self, worker: Worker) -> None:
        """The actor was not begun to be made."""
        assert worker.actor is not None
        del self.actors[worker.actor]
        self.used -= worker.counted - 1
        worker.counted = 0
        worker.actor = None
        if worker.pooled and worker.state is not WorkerState.ENDING:
            self._pool += 1

    # ---- coming and going ---------------------------------------------------------------------

    def hire(self, waiting: int) -> list[Action]:
        """Start as many workers as are needed. `waiting`: tasks that could begin."""
        if self.held:
            return []
        lack = max(waiting - len(self.idle) - self._starting, self.slots - self._pool)
        if self.lacking and not self._starting:
            lack = max(lack, 1)
        return [self._new() for _ in range(min(lack, WORKERS_MAX - len(self.workers)))] if lack > 0 else []

    def _new(self) -> StartWorker:
        worker = Worker(self._next)
        self._next += 1
        self.workers[worker.id] = worker
        self._pool += 1
        self._starting += 1
        return StartWorker(worker.id)

    def up(self, worker: Worker) -> None:
        self._failed = 0
        if worker.state is WorkerState.STARTING:
            worker.state = WorkerState.READY
            self._starting -= 1

    def failed(self, now: float, timers: Timers) -> bool:
        """A worker died before it was up. True: no use trying again."""
        self._failed += 1
        if self._failed >= START_TRIES and not any(w.state is WorkerState.READY for w in self.workers.values()):
            self.held = True
            return True
        if not self.held:
            self.held = True
            timers.add(now + START_DELAY * 2 ** min(self._failed - 1, 6), Why.START)
        return False

    def may_start(self) -> None:
        self.held = False

    def leaves(self, worker: Worker) -> None:
        """The worker is about to be told to end."""
        self._leave_pool(worker)
        if worker.state is WorkerState.STARTING:
            self._starting -= 1

    def remove(self, worker: Worker) -> None:
        """The worker is gone. Its tasks are still to be dealt with."""
        if worker.state is not WorkerState.ENDING:
            self.leaves(worker)
        del self.workers[worker.id]
        self.displace(worker)
        if worker.actor is not None:
            del self.actors[worker.actor]
        if worker.counted:
            self.used -= worker.counted - 1
            self.busy -= worker.actor is None
            worker.counted = 0

    def _leave_pool(self, worker: Worker) -> None:
        if worker.pooled and worker.state is not WorkerState.ENDING:
            self._pool -= 1

    # ---- rest ---------------------------------------------------------------------------------

    def displace(self, worker: Worker) -> None:
        self.idle.pop(worker.id, None)
        self.hungry.pop(worker.id, None)
        if worker.devices:
            self.with_devices.pop(worker.id, None)

    def rest(self, worker: Worker, timers: Timers) -> None:
        """The worker has nothing to do."""
        if worker.devices:
            self.with_devices[worker.id] = worker
        else:
            self.idle[worker.id] = worker
        if not self._looking and (worker.devices or self._pool > self.slots):
            self._looking = True
            timers.add(worker.idle_since + IDLE_SECONDS, Why.IDLE)

    def surplus(self, now: float, timers: Timers) -> Iterator[Worker]:
        """Workers that have been idle for long, and are more than are kept. Each is told to end before the next."""
        self._looking = False
        for worker in [*self.with_devices.values(), *self.idle.values()]:
            if not worker.devices and self._pool <= self.slots:
                break
            if worker.idle_since + IDLE_SECONDS <= now:
                yield worker
            elif not self._looking:
                self._looking = True
                timers.add(worker.idle_since + IDLE_SECONDS, Why.IDLE)

    def take_idle(self, task: Task) -> Worker | None:
        """An idle worker that fits the task: the one that was busy last, for its caches are warm. If none does, `lacking`."""
        if not self.idle:
            return None
        _, worker = self.idle.popitem()
        if worker.fits(task):
            return worker
        self.idle[worker.id] = worker
        fitting = [worker for worker in self.idle.values() if worker.fits(task)]
        if not fitting:
            self.lacking = True
            return None
        # One that has run this code before one that has run nothing.
        found = next((worker for worker in reversed(fitting) if worker.code is not None), fitting[-1])
        del self.idle[found.id]
        return found

    def make_room(self, retire: Callable[[Worker, float], None], now: float) -> None:
        """Before one more worker is started: end the one that has been idle longest, if there are many."""
        if self._pool >= 2 * self.slots and not self._starting and self.idle:
            retire(next(iter(self.idle.values())), now)

    def find(self, task: Task, retire: Callable[[Worker, float], None], now: float) -> Worker | None:
        """A worker for a task that was given all it needs; it is no longer idle."""
        if task.devices:
            for worker in list(self.with_devices.values()):
                if worker.devices == task.devices and worker.fits(task):
                    del self.with_devices[worker.id]
                    return worker
                if set(worker.devices) & set(task.devices):
                    retire(worker, now)  # what it holds of the device's memory is the task's now
        found = self.take_idle(task)
        if found is not None and task.devices:
            self._leave_pool(found)
            found.devices = task.devices
        return found
