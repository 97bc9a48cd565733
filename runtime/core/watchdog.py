"""Why each unfinished task has not ended, as text; and tasks that wait for each other.

Looks only when asked, and once a second while any task waits inside itself. May import nothing of ours but the model,
runtime.protocol and the core's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagengine.runtime.core.actions import Cycle
from dagengine.runtime.core.events import TaskKind
from dagengine.runtime.core.limits import WATCH_SECONDS
from dagengine.runtime.core.model import Obj, Task
from dagengine.runtime.core.placement import score
from dagengine.runtime.core.states import STATE_NAMES, State
from dagengine.runtime.protocol import ObjectId, TaskId

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Watchdog:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._watching = False
        self._told: set[tuple[TaskId, ...]] = set()

    # ---- reasons ------------------------------------------------------------------------------

    def waits(self) -> dict[TaskId, str]:
        cycles = {task: cycle for cycle in self.cycles() for task in cycle}
        found = {}
        for task_id, task in self._core.tasks.items():
            cycle = cycles.get(task_id)
            if cycle is not None:
                others = " -> ".join(str(other) for other in cycle)
                found[task_id] = f"a cycle of tasks that wait for each other: {others}"
            else:
                found[task_id] = self.reason(task)
        return found

    def reason(self, task: Task) -> str:
        extra, node = task.extra, task.node
        where = node.capacity.name if node is not None else ""
        if task.state == State.WAITING:
            missing = [obj for obj in task.inputs if not obj.exists]
            if not missing:
                return f"the calls before it on actor {task.request.actor}"
            return f"{self._input(missing[0])}{f', and {len(missing) - 1} others' if len(missing) > 1 else ''}"
        if task.state == State.QUEUED:
            return self._queued(task)
        if task.state == State.MAILED:
            actor = task.actor
            if actor is not None and not actor.alive:
                return f"actor {actor.id} to be made"
            return f"the calls before it on actor {task.request.actor}, or room for its inputs"
        if task.state == State.ADMITTED and extra is not None:
            if extra.room:
                return f"room for {extra.room:,} bytes in the arena of {where}"
            return f"{extra.pending} of its inputs to be brought to {where}"
        if task.state == State.BLOCKED and extra is not None:
            named = ", ".join(str(object_id) for object_id in extra.awaits[:3])
            return f"waits inside itself for {named or 'something'}"
        if task.state == State.PAUSED:
            return "the time before its next attempt, after one was lost"
        return f"runs, or is next, on {where}"

    def _input(self, obj: Obj) -> str:
        maker = obj.producer
        if maker is None:
            return f"object {obj.id}, which nobody who is known makes"
        return f"object {obj.id}, which task {maker.request.id} makes ({STATE_NAMES[maker.state]})"

    def _queued(self, task: Task) -> str:
        core, klass = self._core, task.klass
        if klass is None:
            return "a node"
        nodes = core.leasing.feasible(klass)
        if klass.group is not None and not nodes:
            return f"group {klass.group} to be reserved"
        if not nodes:
            return "a node that has what it asks for: there is none"
        if any(node.ledger.fits(klass.need, klass.need.memory) is not None for node in nodes) and klass.heavy:
            return "room for its inputs and output in an arena"
        if all(not core.leasing.open(node) for node in nodes):
            return "a node that takes new tasks: all are silent, or short of memory"
        asked = [f"{klass.need.cpus / 10_000:g} cpus"] if klass.need.cpus else []
        asked += [f"{klass.need.memory:,} bytes of memory"] if klass.need.memory else []
        asked += [f"{klass.need.gpus / 10_000:g} gpus"] if klass.need.gpus else []
        asked += [f"{amount / 10_000:g} of {name!r}" for name, amount in klass.need.custom]
        return f"{', '.join(asked) or 'its turn'} to be free"

    def explain(self, task_id: TaskId) -> dict[str, Any]:
        task = self._core.tasks.get(task_id)
        if task is None:
            return {}
        extra = task.extra
        told: dict[str, Any] = {
            "state": STATE_NAMES[task.state],
            "waits_for": self.reason(task),
            "attempt": task.attempt,
            "node": task.node.capacity.name if task.node is not None else None,
            "placement": _terms(task),
        }
        if extra is not None and extra.moved:
            told["brought"] = extra.moved
        if extra is not None and extra.devices:
            told["devices"] = list(extra.devices)
        return told

    # ---- cycles -------------------------------------------------------------------------------

    def blocked(self) -> None:
        """A task waits inside itself from now on."""
        if not self._watching:
            self._watching = True
            self._core.timers.wake(self._core.now + WATCH_SECONDS, self._look)

    def _look(self, _: object) -> None:
        self._watching = False
        told = set()
        for cycle in self.cycles():
            key = tuple(sorted(cycle))
            told.add(key)
            if key not in self._told:
                self._core.actions.append(Cycle(tuple(cycle)))
        self._told = told
        if any(t.state == State.BLOCKED for node in self._core.nodes.values() for t in node.leases.values()):
            self.blocked()

    def cycles(self) -> list[list[TaskId]]:
        """Of tasks that wait for what another of them makes, each once, from its smallest task on."""
        waiting = [t for t in self._core.tasks.values() if t.state in (State.WAITING, State.BLOCKED, State.MAILED)]
        colour: dict[Task, int] = {}
        found = []
        for root in waiting:
            if root in colour:
                continue
            path: list[Task] = [root]
            place = {root: 0}
            colour[root] = 1
            stack = [iter(self._makers(root))]
            while stack:
                task = next(stack[-1], None)
                if task is None:
                    stack.pop()
                    gone = path.pop()
                    del place[gone]
                    colour[gone] = 2
                elif task in place:
                    found.append([member.request.id for member in path[place[task] :]])
                elif task not in colour:
                    colour[task] = 1
                    place[task] = len(path)
                    path.append(task)
                    stack.append(iter(self._makers(task)))
        return found

    def _makers(self, task: Task) -> list[Task]:
        """Unfinished tasks without which this one can't go on."""
        makers: list[Task] = []
        awaited: tuple[ObjectId, ...] = ()
        if task.state == State.BLOCKED and task.extra is not None:
            awaited = task.extra.awaits
            objects = self._core.directory.objects
            for object_id in awaited:
                obj = objects.get(object_id)
                if obj is not None and not obj.exists and obj.producer is not None:
                    makers.append(obj.producer)
                maker = self._core.tasks.get(object_id)
                if maker is not None:
                    makers.append(maker)
        elif task.state == State.WAITING:
            makers = [obj.producer for obj in task.inputs if not obj.exists and obj.producer is not None]
        if task.request.kind == TaskKind.METHOD and task.actor is not None and task.state != State.BLOCKED:
            makers += [
                other for other in task.actor.sent.values() if not other.request.concurrent and other is not task
            ]
            if not task.actor.alive:
                makers.append(task.actor.creation)
        return makers


def _terms(task: Task) -> dict[str, float]:
    """The terms of the score by which the task was placed; where there was no choice to make, as they are now."""
    extra = task.extra
    if extra is not None and extra.score is not None:
        return dict(extra.score)
    return score(task, task.node) if task.node is not None else {}
