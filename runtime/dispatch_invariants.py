"""What is true of the dispatcher after every event. Tests check it; so can a shell that suspects a fault.

1. Each live task is in exactly one place: the queue if QUEUED, else the worker that it names.
2. On a worker the first task is RUNNING and the others SENT; only plain tasks share a worker.
3. The ledgers are never negative, and what is free and what workers hold adds up to the capacity.
4. No worker has more than PREFETCH_TASKS tasks; estimated work sent ahead stays within PREFETCH_SECONDS.
5. A worker is in `idle` exactly if it is ready, has nothing, and owes no acknowledgement; `hungry` ones have tasks.
6. While nothing closes, the oldest queued task waits for a reason: no idle worker, or too little is free for it.
7. A worker that was told to end has been killed, or a timer is set that does it: nothing waits for its good will.

May import nothing of ours but the dispatcher modules.
"""

from __future__ import annotations

from dagengine.runtime.dispatch import Dispatcher
from dagengine.runtime.dispatch_model import (
    PREFETCH_SECONDS,
    PREFETCH_TASKS,
    Task,
    TaskState,
    Worker,
    WorkerState,
)


def check(dispatcher: Dispatcher) -> None:
    """Raises AssertionError, naming what is not as it should be."""
    _check_places(dispatcher)
    _check_ledgers(dispatcher)
    for worker in dispatcher.workers.values():
        _check_worker(dispatcher, worker)
    if not dispatcher.closing:
        _check_progress(dispatcher)


def _check_places(dispatcher: Dispatcher) -> None:
    queued = list(dispatcher.queue)
    assert len(queued) == len(dispatcher.queue), "the queue counts something else than it holds"
    orders = [task.order for task in queued]
    assert orders == sorted(orders), "the queue is not in the order of submission"
    placed: dict[int, Task] = {}
    for task in queued:
        assert task.state is TaskState.QUEUED
        assert task.worker == -1
        placed[id(task)] = task
    for worker in dispatcher.workers.values():
        for task in worker.tasks:
            assert id(task) not in placed, f"{task.id} is in two places"
            assert task.worker == worker.id
            placed[id(task)] = task
    assert {id(task) for task in dispatcher.tasks.values()} == set(placed), (
        "a live task is nowhere, or a dead one is left"
    )


def _check_ledgers(dispatcher: Dispatcher) -> None:
    assert dispatcher.free_cpus >= 0, "more cpus are held than there are"
    assert dispatcher.free_memory >= 0, "more memory is held than there is"
    held_cpus = sum(worker.cpus for worker in dispatcher.workers.values())
    held_memory = sum(worker.memory for worker in dispatcher.workers.values())
    assert dispatcher.free_cpus + held_cpus == dispatcher.cpus
    assert dispatcher.free_memory + held_memory == dispatcher.memory


def _check_worker(dispatcher: Dispatcher, worker: Worker) -> None:
    tasks = list(worker.tasks)
    assert len(tasks) <= PREFETCH_TASKS
    assert worker.revoking >= 0
    if tasks:
        assert tasks[0].state is TaskState.RUNNING
        assert all(task.state is TaskState.SENT for task in tasks[1:])
        assert (worker.cpus, worker.memory) == (tasks[0].cpus, tasks[0].memory)
        assert worker.state is not WorkerState.STARTING, "a worker got work before it was up"
    else:
        assert (worker.cpus, worker.memory, worker.backlog) == (0, 0, 0.0)
    if len(tasks) > 1:
        assert all(task.plain for task in tasks), "a task that needs more than a worker shares one"
        # The first may have been of an unknown function, for which the whole bound is assumed.
        assert sum(task.estimate for task in tasks[1:]) <= PREFETCH_SECONDS + 1e-9
    ready = worker.state is WorkerState.READY and not worker.revoking
    assert (worker.id in dispatcher.idle) == (ready and not tasks)
    if worker.id in dispatcher.hungry:
        assert ready
        assert tasks
    if worker.state is WorkerState.ENDING:
        assert dispatcher.will_kill(worker.id), f"worker {worker.id} was told to end, and nothing makes sure of it"


def _check_progress(dispatcher: Dispatcher) -> None:
    head = dispatcher.queue.head()
    if head is not None and dispatcher.idle:
        fits = head.cpus <= dispatcher.free_cpus and head.memory <= dispatcher.free_memory
        assert not fits, f"{head.id} waits beside an idle worker, and all that it asks for is free"
