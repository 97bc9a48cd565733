"""The dispatcher's part about actors: calls go, in their order, to the worker that the actor lives in.

All calls that the scheduler core has leased are sent at once (up to PREFETCH_TASKS): nobody else could run them. The
worker takes permits in the order of sending, so what has begun is a prefix of what was sent; results of concurrent
calls come in any order. At its death all calls that had begun are lost, and the others are given back.

May import nothing of ours but errors and the other dispatch modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagengine.errors import InternalError
from dagengine.runtime.dispatch_model import (
    PREFETCH_TASKS,
    ActorDown,
    Move,
    Task,
    TaskState,
    Worker,
    WorkerState,
)
from dagengine.runtime.protocol import TaskId

if TYPE_CHECKING:
    from dagengine.runtime.dispatch import Dispatcher


def call(dispatcher: Dispatcher, task: Task, now: float) -> None:
    """A call was leased."""
    assert task.actor is not None
    worker = dispatcher.staff.actors.get(task.actor)
    if worker is None or worker.state is WorkerState.ENDING or dispatcher.closing:
        dispatcher.drop(task)
        return
    worker.mailbox.append(task)
    dispatcher.place(worker)


def deliver(dispatcher: Dispatcher, worker: Worker) -> None:
    """Send what waits, if the worker can have it."""
    while (
        worker.mailbox
        and worker.state is WorkerState.READY
        and not worker.revoking
        and len(worker.tasks) < PREFETCH_TASKS
    ):
        dispatcher.load(worker, worker.mailbox.popleft())


def advance(dispatcher: Dispatcher, worker: Worker, now: float) -> None:
    """Tell what has begun: the first, and concurrent calls beside each other."""
    threads = worker.made.threads if worker.made is not None else 1
    for running, task in enumerate(worker.tasks):
        if running and (running >= threads or not task.concurrent):
            return
        if task.state is TaskState.SENT:
            dispatcher.begin(task, now)
        if not task.concurrent:
            return


def finished(dispatcher: Dispatcher, worker: Worker, results: Sequence[tuple[TaskId, float]], now: float) -> None:
    for task_id, _ in results:
        task = next((task for task in worker.tasks if task.id == task_id), None)
        if task is None:
            raise InternalError(f"worker {worker.id} finished {task_id}, which it does not run")
        worker.tasks.remove(task)
        if task.state is TaskState.SENT:
            task.move(Move.BEGIN)  # it was quicker than its place in the line said
        dispatcher.end(worker, task, Move.FINISH, True)
        if task.creates:
            worker.made = task
        advance(dispatcher, worker, now)
    if worker.state is WorkerState.ENDING and not worker.tasks and not dispatcher.will_kill(worker.id):
        dispatcher.make_sure(worker, now)
    dispatcher.place(worker)


def give_back(dispatcher: Dispatcher, worker: Worker, task: Task) -> None:
    """A call was taken back: newest first, so that the mailbox keeps their order."""
    if task.cancelled or dispatcher.closing or worker.id not in dispatcher.staff.workers:
        dispatcher.drop(task)
    else:
        task.worker = worker.id
        worker.mailbox.appendleft(task)


def unmade(dispatcher: Dispatcher, worker: Worker) -> None:
    """The task that makes the actor was taken back: the worker is nobody's."""
    while worker.mailbox:
        dispatcher.drop(worker.mailbox.popleft())
    dispatcher.staff.take_from_actor(worker)


def forget(dispatcher: Dispatcher, task: Task) -> None:
    """A call that waits in a mailbox is not wanted any more."""
    assert task.actor is not None
    dispatcher.staff.actors[task.actor].mailbox.remove(task)
    dispatcher.drop(task)


def down(dispatcher: Dispatcher, worker: Worker, unstarted: int) -> None:
    """The worker is gone, and the actor with it; unless its making had not begun: that is done elsewhere."""
    begun = max(len(worker.tasks) - unstarted, 0)
    waiting = [worker.tasks.pop() for _ in range(len(worker.tasks) - begun)]
    for task in reversed([*worker.mailbox]):
        worker.mailbox.remove(task)
        dispatcher.drop(task)
    ended_by_us = worker.state is WorkerState.ENDING
    for task in waiting:
        if task.state is TaskState.SENT and task.timed_out:
            task.move(Move.BEGIN)
        dispatcher.take_back(worker, task)
    while worker.tasks:
        task = worker.tasks.popleft()
        if task.state is TaskState.SENT:
            task.move(Move.BEGIN)
        dispatcher.end_dead(worker, task)
    if worker.made is not None:
        dispatcher.actions.append(ActorDown(worker.made, ended_by_us))
