"""A task's life: submitted, waiting for its inputs, queued, taken back, tried again, ended; and what its end means to
others: readers of what it did not make end as well, one after the other and never by recursion.

May import nothing of ours but errors, model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagengine.errors import InternalError
from dagengine.model import INLINE_LIMIT
from dagengine.runtime.core.actions import Ended, Kill, Outcome, Retried
from dagengine.runtime.core.events import UNIT, Need, Request, TaskKind
from dagengine.runtime.core.limits import BACKOFF_SECONDS, MEMORY_LOSSES
from dagengine.runtime.core.model import Estimate, Node, Obj, Task
from dagengine.runtime.core.states import State
from dagengine.runtime.protocol import ObjectId, TaskId

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core

_ONE: Final = Need()


class Lives:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.order = 0
        self._failing: dict[Obj, None] = {}
        self._light = core.klass(_ONE, plain=True, light=True, heavy=False)

    # ---- beginning ----------------------------------------------------------------------------

    def submit(self, requests: list[Request]) -> None:
        core = self._core
        tasks, now, light = core.tasks, core.now, self._light
        order = self.order
        queue = light.queue
        for request in requests:
            if request.id in tasks:
                raise InternalError(f"task {request.id} was submitted while it is live")
            task = tasks[request.id] = Task(request, order, now)
            order += 1
            if (
                request.plain
                and not request.inputs
                and request.output is None
                and not request.kind
                and (request.need is _ONE or request.need == _ONE)
                and not core.closing
                and request.function not in core.learned
                and not (request.expected and request.expected > INLINE_LIMIT)
            ):
                task.light = True
                task.klass = light
                task.state = State.QUEUED
                queue.add(task)
            else:
                self.order = order
                self._submit(task)
        self.order = order
        if queue:
            core.fresh(light)

    def _submit(self, task: Task) -> None:
        core, request = self._core, task.request
        directory = core.directory
        if request.output is not None:
            task.output = directory.produced(request.output, task)
        if request.inputs:
            task.inputs = tuple(directory.get(object_id) for object_id in dict.fromkeys(request.inputs))
            for obj in task.inputs:
                directory.read_by(obj, task)
        if request.need.group is not None and not core.groups.joined(task):
            self.end(task, Outcome.DROPPED, False)
            return
        if core.closing:
            self.end(task, Outcome.DROPPED, False)
            return
        if request.kind in (TaskKind.CREATE, TaskKind.METHOD) and not core.actors.submitted(task):
            self.end(task, Outcome.ACTOR, False)
            return
        self.place(task)

    def rebuild(self, request: Request, output: Obj) -> Task:
        """A task that has ended once, to make its output again. Nobody is told of its end."""
        core = self._core
        task = core.tasks[request.id] = Task(request, self.order, core.now)
        self.order += 1
        task.attempt = output.attempts
        task.more.rebuild = True
        task.output = output
        output.producer = task
        task.inputs = tuple(core.directory.get(object_id) for object_id in dict.fromkeys(request.inputs))
        for obj in task.inputs:
            core.directory.read_by(obj, task)
        return task

    def place(self, task: Task) -> None:
        """Have it wait for what it needs next: its inputs, or a node."""
        missing = 0
        for obj in task.inputs:
            if not obj.exists:
                if obj.dead or not self._core.recovery.needed(obj):
                    self.end(task, Outcome.INPUT, False, obj.id)
                    return
                missing += 1
        task.missing = missing
        if missing:
            if task.state != State.WAITING:
                task.move(State.WAITING)
        else:
            self.unblock(task)

    def unblock(self, task: Task) -> None:
        """All its inputs exist."""
        core, request = self._core, task.request
        heavy = False
        size = 0
        if task.inputs:
            size = arena_bytes(task)
            heavy = size > 0 or any(obj.copies for obj in task.inputs)
        expected = request.expected
        if expected is None and request.output is not None:
            known = core.estimates.get(request.function)
            expected = known.output if known is not None else 0
        if expected and expected > INLINE_LIMIT:
            task.more.expected = expected
            heavy = True
        if task.actor is not None and request.kind == TaskKind.METHOD:
            task.move(State.MAILED)
            core.actors.ready(task)
            return
        need = request.need
        if task.extra is not None and task.extra.rebuild:
            need = need._replace(group=None, bundle=-1)  # the group may be gone
        asked = need
        learned = core.learned.get(request.function)
        if learned and learned > need.memory and need.group is None:
            need = need._replace(memory=min(learned, max(core.largest_memory(), need.memory)))
        plain = request.plain and need.cpus == UNIT and need.memory == 0 and need.group is None and not need.gpus
        task.klass = klass = core.klass(need, plain=plain, light=False, heavy=heavy)
        klass.asked = min(klass.asked, asked.memory)
        if size and self._hopeless(task, size, core.leasing.feasible(klass)):
            return
        task.move(State.QUEUED)
        klass.queue.add(task)
        core.fresh(klass)

    def _hopeless(self, task: Task, size: int, nodes: list[Node]) -> bool:
        """Ends the task if none of the arenas that it could use, were it empty, has room for its inputs."""
        largest = max((node.limit for node in nodes), default=-1)
        if not 0 <= largest < size:
            return False
        self.no_room(task, size, largest)
        return True

    def no_room(self, task: Task, size: int, arena: int) -> None:
        task.more.facts = {"inputs": size, "arena": arena}
        self.end(task, Outcome.NO_ROOM, False)

    # ---- learning -----------------------------------------------------------------------------

    def learn(self, function: int, seconds: float) -> Estimate:
        estimates = self._core.estimates
        known = estimates.get(function)
        if known is None:
            known = estimates[function] = Estimate()
        known.seconds = seconds if known.seconds < 0 else known.seconds + 0.2 * (seconds - known.seconds)
        return known

    # ---- giving back --------------------------------------------------------------------------

    def unload(self, task: Task, keep: bool = False) -> None:
        """Give back what it has of its node; with `keep` all but cpus, memory and devices, for its actor."""
        node, extra = task.node, task.extra
        if node is None:
            return
        node.leases.pop(task.request.id, None)
        node.blocked -= task.state == State.BLOCKED
        if extra is not None:
            if extra.rooms:
                self._core.rooms.close_all(task)
            if extra.pins:
                pins, extra.pins = extra.pins, {}
                node.argued -= 1
                for copy in pins.values():
                    if copy.waiting and task in copy.waiting:
                        copy.waiting.remove(task)
                    self._core.directory.unpin(copy)
            extra.pending = 0
            if extra.prepared:
                extra.prepared = False
                del node.prepared[task.request.id]
            node.reserved -= extra.reserved
            extra.reserved = extra.room = 0
            if node.bundle is task:
                node.bundle = None
            if extra.revoked:
                extra.revoked = False
                node.revoked -= 1
        if not keep:
            self._give(task, node)
            task.node = None
        self._core.disturbed(node)

    def _give(self, task: Task, node: Node) -> None:
        if task.pooled:
            task.pooled = False
            if task.state != State.BLOCKED:
                self.leave_pool(task, node)
            return
        extra, klass = task.extra, task.klass
        if extra is not None and extra.ledger is not None and klass is not None:
            need = klass.need._replace(cpus=0) if task.state == State.BLOCKED else klass.need
            extra.ledger.give(need, extra.memory, extra.devices)
            extra.ledger = None
            extra.memory = 0
            extra.bundle = None
            extra.devices = ()

    @staticmethod
    def leave_pool(task: Task, node: Node) -> None:
        node.pool -= 1
        node.backlog = node.backlog - task.estimate if node.pool else 0.0
        if node.held > node.pool:
            node.held -= 1
            node.ledger.cpus += UNIT

    def take_back(self, task: Task) -> None:
        """It was to run, and has not begun: it waits again, or ends if nobody wants it any more."""
        extra = task.extra
        self.unload(task)
        if extra is not None and extra.doomed is not None:
            if extra.doomed != "memory":
                self.end(task, Outcome.ACTOR if extra.doomed == "released" else Outcome.DROPPED, False)
                return
            extra.doomed = None
        if self._core.closing or self._core.groups.is_over(task):
            self.end(task, Outcome.DROPPED, False)
        elif task.actor is not None and task.request.kind == TaskKind.METHOD:
            self._core.actors.returned(task)
        else:
            self._again(task)

    def _again(self, task: Task) -> None:
        """To the queue, or to wait for inputs that were lost meanwhile."""
        if task.light:
            task.move(State.QUEUED)
            if task.klass is not None:
                task.klass.queue.add(task)
                self._core.fresh(task.klass)
        else:
            self.place(task)

    def input_lost(self, task: Task) -> None:
        """An input of a task that does not run exists no more, but may again."""
        if task.state == State.ADMITTED:
            self.take_back(task)
        elif task.state in (State.QUEUED, State.MAILED, State.WAITING):
            if task.state == State.QUEUED and task.klass is not None:
                task.klass.queue.forget(task)
            if task.state != State.WAITING:
                task.move(State.WAITING)
            task.missing = sum(not obj.exists for obj in task.inputs)

    # ---- attempts that were lost --------------------------------------------------------------

    def lose(self, task: Task) -> None:
        """The worker or the node of its attempt is gone."""
        extra, request = task.more, task.request
        node = task.node.id if task.node is not None else -1
        doomed = extra.doomed
        if doomed in ("cancelled", "released", "unwanted") or self._core.closing:
            self.end(task, Outcome.ACTOR if doomed == "released" else Outcome.DROPPED, True)
            return
        if doomed in ("memory", "alone"):
            extra.doomed = None
            tries = extra.memory_losses
            if doomed == "alone" or not self._retriable(task) or tries >= MEMORY_LOSSES:
                self.end(task, Outcome.TOO_LARGE if doomed == "alone" else Outcome.MEMORY, True)
                return
            extra.memory_losses += 1
        else:
            tries = extra.losses
            if not self._retriable(task) or tries >= request.losses or self._core.groups.is_over(task):
                self.end(task, Outcome.LOST, True)
                return
            extra.losses += 1
        delay = BACKOFF_SECONDS * 2.0 ** min(tries, 8)
        delay *= 0.75 + 0.5 * (hash((request.id, task.attempt)) % 1000) / 1000
        self.unload(task)
        task.move(State.PAUSED)
        if not extra.rebuild:
            self._core.actions.append(Retried(request, task.attempt, node, delay))
        self._core.timers.wake(delay + self._core.now, self._resume, (task, task.attempt))

    @staticmethod
    def _retriable(task: Task) -> bool:
        extra = task.extra
        if task.request.kind == TaskKind.METHOD or (extra is not None and extra.yielded):
            return False
        return task.request.losses > 0 or (extra is not None and extra.rebuild)

    def _resume(self, key: tuple[Task, int]) -> None:
        task, attempt = key
        if task.state == State.PAUSED and task.attempt == attempt:
            self._again(task)

    # ---- ending -------------------------------------------------------------------------------

    def end(self, task: Task, outcome: str, started: bool, cause: ObjectId | None = None) -> None:
        """The task is over, for good."""
        core, request = self._core, task.request
        node = -1
        if task.node is not None:
            node = task.node.id
            task.node.prepares = True
        if core.tasks.get(request.id) is task:
            del core.tasks[request.id]
        if task.state == State.QUEUED and task.klass is not None:
            task.klass.queue.forget(task)
        if task.actor is None or not task.actor.alive or task is not task.actor.creation:
            self.unload(task)
        task.move(State.ENDED)
        extra = task.extra
        if request.need.group is not None:
            core.groups.left(task)
        if task.actor is not None:
            core.actors.ended(task, outcome)
        output = task.output
        if output is not None:
            if output.producer is task:
                output.producer = None
                if not output.exists:
                    self._failing[output] = None
            if request.kind == TaskKind.STREAM:
                output.streamed = True
                self._close_stream(output)
        for obj in task.inputs:
            core.directory.done_with(obj)
        if output is not None and output.freed and output.producer is None:
            core.directory.let_go(output)
        if extra is None or not extra.rebuild:
            facts = extra.facts if extra is not None else None
            core.actions.append(Ended(request, task.attempt, outcome, started, node, cause, facts))

    def _close_stream(self, output: Obj) -> None:
        for item in list(self._core.directory.items.get(output.id, {}).values()):
            if not item.exists and not item.made and item.producer is None:
                self._failing[item] = None

    def will_never_be(self, obj: Obj) -> None:
        self._failing[obj] = None

    def fails(self, obj: Obj) -> bool:
        """Whether those who wait for it are about to be told that it will never be."""
        return obj in self._failing

    def fail(self) -> bool:
        """Tell those who wait for objects that won't come. Whether there were any."""
        if not self._failing:
            return False
        while self._failing:
            obj = next(iter(self._failing))
            del self._failing[obj]
            if obj.exists or obj.producer is not None or obj.dead:
                continue
            obj.dead = True
            self._core.recovery.gone(obj)
            for task in list(obj.readers):
                if task.state in (State.WAITING, State.QUEUED, State.MAILED, State.PAUSED):
                    self.end(task, Outcome.INPUT, task.attempt > 0, obj.id)
                elif task.state == State.ADMITTED:
                    self.end(task, Outcome.INPUT, False, obj.id)
            for reader in list((obj.wanted or {}).values()):
                if not reader.ready:
                    self._core.rooms.refuse(reader)
            if obj.freed:
                self._core.directory.let_go(obj)
        return True

    # ---- cancelling ---------------------------------------------------------------------------

    def cancel(self, task_id: TaskId, force: bool, why: str = "cancelled") -> None:
        task = self._core.tasks.get(task_id)
        if task is None or (task.extra is not None and task.extra.rebuild):
            return
        if task.state in (State.LEASED, State.BLOCKED):
            self.kill(task, why, force)
        else:
            self.end(task, Outcome.DROPPED, task.attempt > 0 and task.state == State.PAUSED)

    def kill(self, task: Task, why: str, force: bool) -> None:
        """End an attempt that was leased: by force, or only if it has not begun."""
        node, extra = task.node, task.more
        if node is None:
            return
        if force:
            if extra.doomed not in ("cancelled", "released"):
                extra.doomed = why
                told = "memory" if why in ("memory", "alone") else "cancelled"
                self._core.actions.append(Kill(node.id, node.epoch, task.request.id, task.attempt, told))
        else:
            self._core.leasing.revoke(node, [task])
            extra.doomed = extra.doomed or "unwanted"


def arena_bytes(task: Task) -> int:
    """Of its inputs, what needs room in the arena of the node where it runs."""
    return sum(obj.size for obj in task.inputs if not obj.inline and not obj.durable)
