"""The dispatcher's part about giving: which of the tasks that wait goes to which worker.

May import nothing of ours but the other dispatch modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.dispatch_actors import advance
from dagengine.runtime.dispatch_model import PREFETCH_SECONDS, PREFETCH_TASKS, Send, Task, Worker

if TYPE_CHECKING:
    from dagengine.runtime.dispatch import Dispatcher


def give(dispatcher: Dispatcher, now: float) -> None:
    queue, special, staff = dispatcher.queue, dispatcher.special, dispatcher.staff
    while (task := special.head()) is not None and (worker := staff.find(task, dispatcher.retire, now)) is not None:
        special.pop()
        if task.creates:
            staff.give_to_actor(worker, task)
        dispatcher.load(worker, task)
        dispatcher.place(worker)
    while staff.idle and staff.has_cpu and (task := queue.head()) is not None:
        _, worker = staff.idle.popitem()  # the one that was busy last: its caches are warm
        dispatcher.load(worker, queue.pop())
        dispatcher.place(worker)
    if staff.hungry and len(queue):
        _send_ahead(dispatcher)
    while dispatcher.sends:
        worker_id, tasks = dispatcher.sends.popitem()
        # Before what has begun is told: so that the worker begins, too.
        dispatcher.actions.append(Send(worker_id, tasks))
        worker = staff.workers[worker_id]
        if worker.actor is not None:
            advance(dispatcher, worker, now)
        elif worker.tasks[0] is tasks[0]:
            dispatcher.begin(tasks[0], now)


def _send_ahead(dispatcher: Dispatcher) -> None:
    refused, hungry = 0, dispatcher.staff.hungry
    while refused < len(hungry) and (task := dispatcher.queue.head()) is not None:
        worker = next(iter(hungry.values()))
        # No worker gets more than its part of what is left: the others are about to ask as well.
        room = max(1, len(dispatcher.queue) // len(dispatcher.staff.workers))
        given = 0
        while given < room and task is not None and _fits_behind(dispatcher, worker, task):
            dispatcher.load(worker, dispatcher.queue.pop())
            given += 1
            task = dispatcher.queue.head()
        refused = 0 if given else refused + 1
        dispatcher.place(worker)


def _fits_behind(dispatcher: Dispatcher, worker: Worker, task: Task) -> bool:
    estimate = dispatcher.estimates.get(task.function)
    return estimate is not None and worker.backlog + estimate <= PREFETCH_SECONDS and len(worker.tasks) < PREFETCH_TASKS


def waiting(dispatcher: Dispatcher) -> int:
    """Tasks that could begin at once, if there were workers for them."""
    return len(dispatcher.special) + (min(len(dispatcher.queue), dispatcher.staff.free_cpus) if dispatcher.queue else 0)
