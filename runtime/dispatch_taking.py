"""The dispatcher's part about taking back: what was sent to a worker and has not begun may go elsewhere.

When a worker has nothing to do, and another one work that it has not begun; when a task waits inside itself; when a task is
cancelled. The permits say what had not begun, so nothing runs twice.

May import nothing of ours but the other dispatch modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.dispatch_model import REVOKE_SECONDS, STUCK_SECONDS, Revoke, Worker
from dagengine.runtime.dispatch_timers import Why

if TYPE_CHECKING:
    from dagengine.runtime.dispatch import Dispatcher


def balance(dispatcher: Dispatcher, now: float) -> None:
    """If a worker has nothing to do, and another one work that it has not begun: take that back."""
    staff = dispatcher.staff
    if not staff.idle or len(dispatcher.queue) or not staff.busy or not staff.has_cpu:
        return
    best: Worker | None = None
    look_at: float | None = None
    for worker in staff.workers.values():
        if len(worker.tasks) < 2 or not worker.revocable or worker.actor is not None:
            continue
        head = worker.tasks[0]
        stuck_at = head.began + STUCK_SECONDS
        if stuck_at <= now or worker.backlog - head.estimate >= REVOKE_SECONDS:
            if not any(idle.fits(head) for idle in staff.idle.values()):
                staff.lacking = True  # a worker that could have it is started
                continue
            if best is None or worker.backlog > best.backlog:
                best = worker
        elif look_at is None or stuck_at < look_at:
            look_at = stuck_at
    if best is not None:
        revoke(dispatcher, best)
    elif look_at is not None and (dispatcher.look_at is None or look_at < dispatcher.look_at):
        dispatcher.look_at = look_at
        dispatcher.timers.add(look_at, Why.LOOK)


def revoke(dispatcher: Dispatcher, worker: Worker) -> bool:
    """Ask for all that has not begun on the worker. False if nothing can be there."""
    count = len(worker.tasks) - (worker.actor is None)
    if not worker.revocable or count < 1:
        return False
    worker.revocable = False
    worker.revoking += 1
    dispatcher.place(worker)
    dispatcher.actions.append(Revoke(worker.id, count))
    return True
