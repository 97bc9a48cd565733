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
    staff.lacking = False
    while (task := special.head()) is not None and (worker := staff.find(task, dispatcher.retire, now)) is not None:
        special.pop(task)
        if task.creates:
            staff.give_to_actor(worker, task)
        dispatcher.load(worker, task)
        dispatcher.place(worker)
    while staff.idle and staff.has_cpu and (task := queue.head()) is not None:
        worker = staff.take_idle(task)
        if worker is None:
            if not _give_others(dispatcher):
                break
            continue
        dispatcher.load(worker, queue.pop(task))
        dispatcher.place(worker)
    if staff.lacking:
        staff.make_room(dispatcher.retire, now)
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


def _give_others(dispatcher: Dispatcher) -> bool:
    """The oldest task fits none of the idle workers, so one is started for it. Meanwhile they take what fits them."""
    for task in dispatcher.queue.heads():
        worker = dispatcher.staff.take_idle(task)
        if worker is not None:
            dispatcher.load(worker, dispatcher.queue.pop(task))
            dispatcher.place(worker)
            return True
    return False


def _send_ahead(dispatcher: Dispatcher) -> None:
    refused, hungry = 0, dispatcher.staff.hungry
    while refused < len(hungry) and (task := dispatcher.queue.head()) is not None:
        worker = next(iter(hungry.values()))
        # No worker gets more than its part of what is left: the others are about to ask as well.
        room = max(1, len(dispatcher.queue) // len(dispatcher.staff.workers))
        given = 0
        while given < room and task is not None and _fits_behind(dispatcher, worker, task):
            dispatcher.load(worker, dispatcher.queue.pop(task))
            given += 1
            task = dispatcher.queue.head()
        refused = 0 if given else refused + 1
        dispatcher.place(worker)


def _fits_behind(dispatcher: Dispatcher, worker: Worker, task: Task) -> bool:
    if not worker.fits(task):
        return False
    estimate = dispatcher.estimates.get(task.function)
    return estimate is not None and worker.backlog + estimate <= PREFETCH_SECONDS and len(worker.tasks) < PREFETCH_TASKS


def waiting(dispatcher: Dispatcher) -> int:
    """Tasks that could begin at once, if there were workers for them."""
    return len(dispatcher.special) + (min(len(dispatcher.queue), dispatcher.staff.free_cpus) if dispatcher.queue else 0)
