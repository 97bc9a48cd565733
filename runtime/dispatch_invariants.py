"""What is true of the dispatcher after every event. Tests check it; so can a shell that suspects a fault.

1. Each live task is in exactly one place: a queue or its actor's mailbox if QUEUED, else the worker that it names.
2. On a worker that is no actor's the first task is RUNNING and the others SENT; only plain tasks share one.
3. What the busy workers and the actors use of the cpus is counted right.
4. No worker has more than PREFETCH_TASKS tasks; estimated work sent ahead stays within PREFETCH_SECONDS.
5. A worker is in `idle` (or `with_devices`) exactly if it is ready, has nothing, and owes no acknowledgement; `hungry`
   ones have tasks that don't wait.
6. While nothing closes, the oldest plain task waits for a reason: no idle worker that fits it, or no cpu. If workers are
   idle that do not fit, one is being started.
8. On a worker are tasks of one code only.
7. A worker that was told to end and has nothing to do has been killed, or a timer is set that does it: nothing waits for
   its good will. There are `slots` workers for any task, or as many are on their way, unless starting them fails.

May import nothing of ours but the dispatcher modules.
"""

from __future__ import annotations

from dagengine.runtime.dispatch import Dispatcher
from dagengine.runtime.dispatch_model import (
    PREFETCH_SECONDS,
    PREFETCH_TASKS,
    WORKERS_MAX,
    Task,
    TaskState,
    Worker,
    WorkerState,
)


def check(dispatcher: Dispatcher) -> None:
    """Raises AssertionError, naming what is not as it should be."""
    _check_places(dispatcher)
    _check_counts(dispatcher)
    for worker in dispatcher.staff.workers.values():
        _check_worker(dispatcher, worker)
    if not dispatcher.closing:
        _check_progress(dispatcher)


def _check_places(dispatcher: Dispatcher) -> None:
    placed: dict[int, Task] = {}
    for queue in (dispatcher.queue, dispatcher.special):
        queued = list(queue)
        assert len(queued) == len(queue), "the queue counts something else than it holds"
        orders = [task.order for task in queued]
        assert orders == sorted(orders), "the queue is not in the order of leasing"
        for task in queued:
            assert task.state is TaskState.QUEUED
            assert task.plain == (queue is dispatcher.queue)
            placed[id(task)] = task
    for worker in dispatcher.staff.workers.values():
        calls = [*worker.tasks, *worker.mailbox]
        if worker.actor is not None:
            assert [task.order for task in calls] == sorted(task.order for task in calls), "calls are out of order"
        for task in calls:
            assert id(task) not in placed, f"{task.id} is in two places"
            assert (task.state is TaskState.QUEUED) == (task in worker.mailbox)
            assert task.worker == worker.id or task.state is TaskState.QUEUED
            placed[id(task)] = task
    assert {id(task) for task in dispatcher.tasks.values()} == set(placed), (
        "a live task is nowhere, or a dead one is left"
    )


def _check_counts(dispatcher: Dispatcher) -> None:
    staff = dispatcher.staff
    counted = [worker for worker in staff.workers.values() if worker.counted]
    assert staff.used == sum(worker.counted - 1 for worker in counted)
    assert staff.busy == sum(worker.actor is None for worker in counted)
    for worker in staff.workers.values():
        if worker.actor is None:
            uses = worker.tasks and not worker.blocked
            assert worker.counted == (worker.tasks[0].cpus + 1 if uses else 0)
    assert {id(worker) for worker in staff.actors.values()} == {
        id(worker) for worker in staff.workers.values() if worker.actor is not None
    }


def _check_worker(dispatcher: Dispatcher, worker: Worker) -> None:
    tasks, staff = list(worker.tasks), dispatcher.staff
    assert len(tasks) <= PREFETCH_TASKS
    assert worker.revoking >= 0
    if tasks and worker.actor is None:
        assert tasks[0].state is TaskState.RUNNING
        assert all(task.state is TaskState.SENT for task in tasks[1:])
        assert worker.state is not WorkerState.STARTING, "a worker got work before it was up"
    assert all(task.code == worker.code for task in tasks)
    if not tasks:
        assert (worker.backlog, worker.blocked) == (0.0, 0)
    if len(tasks) > 1 and worker.actor is None:
        assert all(task.plain for task in tasks), "a task that needs more than a worker shares one"
        # The first may have been of an unknown function, for which the whole bound is assumed.
        assert sum(task.estimate for task in tasks[1:]) <= PREFETCH_SECONDS + 1e-9
    ready = worker.state is WorkerState.READY and not worker.revoking
    resting = ready and not tasks and worker.actor is None
    assert (worker.id in staff.idle) == (resting and not worker.devices)
    assert (worker.id in staff.with_devices) == (resting and bool(worker.devices))
    if worker.id in staff.hungry:
        assert ready
        assert tasks
        assert not worker.blocked
    if worker.state is WorkerState.ENDING and not tasks:
        assert dispatcher.will_kill(worker.id), f"worker {worker.id} was told to end, and nothing makes sure of it"


def _check_progress(dispatcher: Dispatcher) -> None:
    staff = dispatcher.staff
    head = dispatcher.queue.head()
    if head is not None and staff.idle and staff.has_cpu:
        _check_lacking(dispatcher, head)
    head = dispatcher.special.head()
    if head is not None and staff.idle:
        _check_lacking(dispatcher, head)
    if not staff.held:
        pool = sum(worker.pooled and worker.state is not WorkerState.ENDING for worker in staff.workers.values())
        assert pool >= staff.slots, "there are too few workers"


def _check_lacking(dispatcher: Dispatcher, head: Task) -> None:
    staff = dispatcher.staff
    assert not any(worker.fits(head) for worker in staff.idle.values()), f"{head.id} waits beside an idle worker"
    starting = any(worker.state is WorkerState.STARTING for worker in staff.workers.values())
    assert starting or staff.held or len(staff.workers) >= WORKERS_MAX, f"nothing is started for {head.id}"
