"""Tasks for whose inputs there will be no room: what can't be written to the spill space does not leave the arena.

First that is back-pressure: they wait, as all do that need room. So do a put and a reader, as long as there are tasks or
actors here that read something. But when nothing has come or gone in an arena for the
grace time, and nothing runs whose end could change that, waiting is for ever. Then the last of them ends, with figures;
a little later, if that has not helped, two more, then four: those before them get what becomes free. Readers are told to
read from the spill space, or refused, and puts are refused.

May import nothing of ours but the model and the core's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.core.actions import Outcome
from dagengine.runtime.core.events import TaskKind
from dagengine.runtime.core.limits import STALL_BUSY, STALL_NEXT_SECONDS
from dagengine.runtime.core.model import Node, Task
from dagengine.runtime.core.queues import key_of
from dagengine.runtime.core.spilling import has_other, loose
from dagengine.runtime.core.states import Place, State

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Stalls:
    """moved: when bytes last came to an arena or left it; ended: how many were ended since. `seconds`: the grace time."""

    def __init__(self, core: Core, seconds: float) -> None:
        self._core = core
        self._seconds = seconds
        self._since = 0.0
        self._armed = False
        self.moved = 0.0
        self.ended = 0

    def notice(self) -> None:
        """A task could not get room, and none can be made just now."""
        if not self._armed:
            self._since = self._core.now
            self.ended = 0
            self._arm(self._core.now + self._seconds)

    def _arm(self, at: float) -> None:
        self._armed = True
        self._core.timers.wake(at, self._look)

    def _look(self, _: object) -> None:
        self._armed = False
        core = self._core
        if core.closing:
            return
        stuck = [task for task in core.tasks.values() if self._is_stuck(task)]
        waiting = [node for node in core.nodes.values() if (node.asking or node.readers) and not node.spilling]
        if not stuck and not waiting:
            # One that can't have room at all may still be about to be refused by a disk that is tried again.
            if any(node.spill_tries and (node.spilling or node.bundle) for node in core.nodes.values()):
                self._arm(core.now + STALL_NEXT_SECONDS)
            return
        if self.moved > self._since:
            self._since = self.moved
            self.ended = 0
        grace = self._seconds * (STALL_BUSY if self._busy() else 1)
        if self.ended:
            grace = 0.0
        if core.now < self._since + grace:
            self._arm(min(self._since + grace, core.now + self._seconds))
            return
        for node in waiting:
            core.rooms.let_nobody_wait(node, for_ever=True)
        stuck.sort(key=key_of)
        for task in reversed(stuck[-max(1, self.ended) :]):
            self.ended += 1
            self._end(task)
        self._arm(core.now + STALL_NEXT_SECONDS)

    def _busy(self) -> bool:
        """Whether anything runs that may end by itself: what it reads, or what waits for it, may then go."""
        return any(
            task.state == State.LEASED and task.request.kind != TaskKind.STREAM
            for node in self._core.nodes.values()
            for task in node.leases.values()
        )

    def _is_stuck(self, task: Task) -> bool:
        """Whether no node that could run it can have its inputs."""
        if task.state == State.MAILED:
            actor = task.actor
            host = actor.creation.node if actor is not None and actor.alive else None
            return host is not None and self._refuses(task, host)
        klass = task.klass
        if task.state != State.QUEUED or klass is None or not klass.heavy:
            return False
        nodes = self._core.leasing.feasible(klass)
        return bool(nodes) and all(self._refuses(task, node) for node in nodes)

    def _refuses(self, task: Task, node: Node) -> bool:
        if not node.spill_tries or node.spilling or not self._core.leasing.open(node):
            return False
        return self._missing(task, node) > node.free + self._could_leave(task, node)

    @staticmethod
    def _missing(task: Task, node: Node) -> int:
        """Bytes that would have to be brought there."""
        missing = 0
        for obj in task.inputs:
            if not obj.inline and not obj.durable:
                copy = obj.copies.get(node.id)
                if copy is None or copy.place not in (Place.PRESENT, Place.INCOMING):
                    missing += obj.size
        return missing

    @staticmethod
    def _could_leave(task: Task, node: Node) -> int:
        """Bytes of what exists elsewhere, and is none of its inputs."""
        own = {obj.id for obj in task.inputs if not obj.durable}
        return sum(copy.size for copy in loose(node) if has_other(copy) and copy.object.id not in own)

    def _end(self, task: Task) -> None:
        core = self._core
        if task.state == State.MAILED and task.actor is not None:
            node = task.actor.creation.node
        else:
            node = max(core.leasing.feasible(task.klass), key=lambda node: node.limit) if task.klass else None
        if node is not None:
            task.more.facts = {
                "needed": self._missing(task, node),
                "free": node.free,
                "arena": node.limit,
                "unwritten": node.loose,
                "in use": node.pinned,
                "spilled": node.spilled,
                "seconds": round(self._core.now - self._since),
            }
        core.lives.end(task, Outcome.STALLED, task.attempt > 0)
