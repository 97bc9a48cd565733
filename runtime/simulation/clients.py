"""The clients of a simulated runtime: they take the steps of a unit, each at its time, and clean up when all has ended.

A unit is over when its tasks have ended, its puts are kept and its readers have been answered. Then everything that it
has is freed and released: nothing may be left of it.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.simulation.attempts import Attempt
from dagengine.runtime.simulation.node import Node
from dagengine.runtime.simulation.plans import Plan, Violation, name
from dagengine.runtime.simulation.scenario import Unit
from dagengine.runtime.simulation.store import Copy

CYCLE_SECONDS: Final = 5.0
"""Between two looks for a cycle: more than the core takes to find one."""

AGAIN_SECONDS: Final = 0.5
"""A put that was refused is tried again after this."""

REFUSALS: Final = 100
"""After so many of them it gives up, and cancels what it has submitted."""


class Controller(Protocol):
    """What clients need of the world."""

    rng: Random
    local: Node
    calm: bool

    def later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None: ...

    def feed(self, event: e.Event) -> None: ...

    def resume(self, number: int, attempt: Attempt) -> None: ...

    def value(self, object_id: ObjectId) -> int: ...

    def read(self, object_id: ObjectId) -> bool:
        """The local node's bytes of it are looked at, and must be right. Whether they now must stay in its arena."""

    def explained(self, tasks: tuple[TaskId, ...]) -> str: ...


class Client:
    """One for each unit."""

    def __init__(self, unit: Unit, world: Controller) -> None:
        self.unit = unit
        self.world = world
        self.over = False
        self.ended: dict[TaskId, str] = {}
        self.submitted: dict[TaskId, Plan] = {}
        self.made: set[ObjectId] = set()
        self.freed: set[ObjectId] = set()
        self.cancelled: set[TaskId] = set()
        self.cycles: list[set[TaskId]] = []  # as the core has told of them
        self.released = False
        self.refused = False
        self._bundles = 0
        self._closed = False
        self._refusals = 0
        self._steps = len(unit.steps)
        self._to_put = {object_id for object_id, _, _ in unit.puts}
        self._reading: dict[int, tuple[ObjectId, bool]] = {}
        self._next_reader = unit.number * 1_000
        self._held_back: list[list[Plan]] | None = None  # until the group is there
        self._blocked: dict[TaskId, tuple[int, Attempt]] = {}
        self._old_blocked: set[TaskId] = set()
        self._readers: dict[ObjectId, int] = {}
        for plan in unit.plans:
            for object_id in plan.request.inputs:
                self._readers[object_id] = self._readers.get(object_id, 0) + 1
        handlers = {
            "submit": self.submit,
            "put": self._put,
            "want": self._want,
            "cancel": self._cancel,
            "reserve": self._reserve,
            "release": self._release,
        }
        for at, what, argument in unit.steps:
            world.later(max(0.0, at), self._take, handlers[what], argument)

    def _take(self, handler: Callable[[Any], None], argument: Any) -> None:
        self._steps -= 1
        if not self._closed:
            handler(argument)
        self._look()

    # ---- steps ----------------------------------------------------------------------------------

    def submit(self, plans: list[Plan]) -> None:
        if self._held_back is not None:
            self._held_back.append(plans)
            return
        if self.refused or self._closed or not plans:
            return
        for plan in plans:
            self.submitted[plan.id] = plan
        self.world.feed(e.Submitted([plan.request for plan in plans]))
        done = []
        for plan in plans:
            for object_id in plan.request.inputs:
                self._readers[object_id] -= 1
                if not self._readers[object_id] and object_id in self.unit.early and object_id not in self._to_put:
                    done.append(object_id)
        self._free(done)

    def _put(self, step: tuple[ObjectId, int, bool]) -> None:
        object_id, size, inline = step
        if self._closed:
            return
        if inline:
            self._to_put.discard(object_id)
            self.made.add(object_id)
            self.world.feed(e.Stored(object_id, self.world.local.number, size, inline=True))
            return
        self.world.local.ask_room(size, lambda request, answer: self._put_answered(step, request, answer))

    def _put_answered(self, step: tuple[ObjectId, int, bool], request: int, answer: str) -> None:
        _, size, _ = step
        node = self.world.local
        if self._closed and answer == "granted":
            node.return_room(request)
            return
        if answer == "refused" or (answer == "disk" and not node.store.fits_disk(size)):
            if not self._gives_up():
                self.world.later(AGAIN_SECONDS, self._put, step)
            return
        self.world.later(0.001, self._put_written, step, request, answer == "disk")

    def _put_written(self, step: tuple[ObjectId, int, bool], request: int, overflow: bool) -> None:
        object_id, size, _ = step
        if not self.world.local.keep(request, object_id, Copy(size, self.world.value(object_id)), overflow):
            if not self._gives_up():
                self.world.later(AGAIN_SECONDS, self._put, step)
            return
        self._to_put.discard(object_id)
        self.made.add(object_id)
        self.world.feed(e.Stored(object_id, self.world.local.number, size, request=request, overflow=overflow))
        if object_id in self.unit.durable:
            self.world.later(self.world.rng.uniform(0, 2), self._persist, object_id)
        if self.over:  # it was given up while it was being written
            self._free([object_id])
        self._look()

    def _gives_up(self) -> bool:
        """Whether the disk has been full for so long that the client wants nothing more of what it had begun."""
        self._refusals += 1
        if self._refusals < REFUSALS:
            return False
        self.close()
        unfinished = [task for task in self.submitted if task not in self.ended]
        self.cancelled.update(unfinished)
        if unfinished:
            self.world.feed(e.Cancelled(unfinished, True))
        return True

    def _persist(self, object_id: ObjectId) -> None:
        if object_id not in self.freed:
            self.world.feed(e.Durable(object_id))

    def _want(self, object_id: ObjectId) -> None:
        if object_id in self.freed or self._closed:
            return
        self._next_reader += 1
        self._reading[self._next_reader] = (object_id, False)
        self.world.feed(e.Wanted(object_id, self.world.local.number, self._next_reader))

    def _cancel(self, step: tuple[TaskId, bool]) -> None:
        task, force = step
        if task in self.submitted and task not in self.ended:
            self.cancelled.add(task)
            self.world.feed(e.Cancelled([task], force))

    def _reserve(self, step: tuple[tuple[e.Need, ...], str]) -> None:
        assert self.unit.group is not None
        self._held_back = []
        self._bundles = len(step[0])
        self.world.feed(e.GroupAsked(self.unit.group, *step))

    def _release(self, force: bool) -> None:
        assert self.unit.actor is not None
        self.released = True
        self.world.feed(e.ActorReleased(self.unit.actor, force))

    # ---- answers --------------------------------------------------------------------------------

    def answered(self, action: a.GroupReserved | a.GroupRefused) -> None:
        if isinstance(action, a.GroupReserved) and len(action.places) != self._bundles:
            raise Violation(f"group {name(action.group)} of {self._bundles} bundles is reserved as {action.places}")
        held, self._held_back = self._held_back, None
        if held is None:
            return  # a node with one of its bundles was lost, and that has a place again
        self.refused = isinstance(action, a.GroupRefused)
        for plans in held:
            self.submit(plans)
        self._look()

    def told(self, ended: a.Ended, failed: bool) -> None:
        self.ended[ended.request.id] = ended.outcome
        plan = self.submitted[ended.request.id]
        if ended.outcome == a.Outcome.DONE and not failed:
            for object_id in plan.outputs():
                self.made.add(object_id)
                if plan.handed is not None:
                    self._want(object_id)
                if object_id in self.unit.durable:
                    self.world.later(self.world.rng.uniform(0, 2), self._persist, object_id)
        self._resume_parents()
        self._look()

    def ready(self, ready: a.Ready) -> None:
        if ready.reader not in self._reading:
            raise Violation(f"reader {ready.reader} of {name(ready.object)} is answered and does not wait")
        if self._reading[ready.reader][1]:
            raise Violation(f"reader {ready.reader} of {name(ready.object)} is answered twice")
        self._reading[ready.reader] = (ready.object, True)
        if ready.ok:
            viewed = self.world.read(ready.object)
            self.world.later(self.world.rng.uniform(0, 0.5), self._read, ready.reader, viewed)
        else:
            self._read(ready.reader)

    def waits_for(self, reader: int) -> bool:
        return reader in self._reading

    def _read(self, reader: int, viewed: bool = False) -> None:
        if reader not in self._reading:
            return  # given up
        object_id, _ = self._reading.pop(reader)
        if viewed:
            self.world.local.store.unview(object_id)
        self.world.feed(e.Unwanted(object_id, self.world.local.number, reader))
        self._look()

    # ---- tasks that wait inside themselves ----------------------------------------------------------

    def blocked(self, number: int, attempt: Attempt) -> None:
        plan = attempt.plan
        self._blocked[plan.id] = (number, attempt)
        new = [child for child in plan.children if child.id not in self.submitted]
        self.submit(new)
        self._resume_parents()

    def _resume_parents(self) -> None:
        for task, (number, attempt) in list(self._blocked.items()):
            plan = attempt.plan
            waits = plan.blocks_on is not None and not self._came(plan.blocks_on)
            children = [child for child in plan.children if child.id in self.submitted or not self._closed]
            if not waits and all(child.id in self.ended for child in children):
                del self._blocked[task]
                self.world.resume(number, attempt)

    def _came(self, object_id: ObjectId) -> bool:
        return any(object_id in plan.outputs() and task in self.ended for task, plan in self.submitted.items())

    # ---- the end --------------------------------------------------------------------------------

    def _look(self) -> None:
        """Is the unit over? Then all that it has is given back."""
        if self.over or self._steps or self._to_put or self._held_back is not None:
            return
        if self.unit.cycle and len(self.ended) < len(self.submitted):
            return
        if len(self.ended) < len(self.submitted):
            return
        producers = {object_id for plan in self.submitted.values() for object_id in plan.outputs()}
        for reader, (object_id, answered) in list(self._reading.items()):
            if not answered and object_id not in producers and object_id not in self.made:
                self._read(reader)  # its task never came to be: nobody will make it
                return
        if self._reading:
            return
        self.over = True
        objects = [object_id for object_id, _, _ in self.unit.puts]
        objects += [object_id for plan in self.unit.plans for object_id in plan.outputs()]
        # A stream's own id stands for the items that it has not made.
        objects += [plan.request.output for plan in self.unit.plans if plan.yields and plan.request.output is not None]
        self._free([object_id for object_id in objects if object_id not in self.freed])
        if self.unit.actor is not None and not self.released:
            self.world.feed(e.ActorReleased(self.unit.actor))
        if self.unit.group is not None and not self.refused:
            self.world.feed(e.GroupReleased(self.unit.group))

    def close(self) -> None:
        """Nothing more is submitted, and what was promised and is not there yet is not waited for."""
        self._closed = True
        self._to_put.clear()
        self.refused = self.refused or self._held_back is not None
        self._held_back = None
        for reader, (_, answered) in list(self._reading.items()):
            if not answered:
                self._read(reader)
        self._resume_parents()
        self._look()

    def _free(self, objects: list[ObjectId]) -> None:
        if objects:
            self.freed.update(objects)
            self.world.feed(e.Freed(objects))

    def break_cycle(self) -> None:
        """By now the tasks of a cycle wait for one another, unless something else has ended them."""
        if self._closed or any(task in self.ended for task in self.unit.cycle):
            return
        if self.unit.cycle[0] not in self._old_blocked:
            self._old_blocked = set(self._blocked)
            self.world.later(CYCLE_SECONDS, self.break_cycle)  # it has not come so far, or not for long
            return
        text = self.world.explained(self.unit.cycle)
        if "cycle" not in text or set(self.unit.cycle) not in self.cycles:
            raise Violation(
                f"tasks {[name(task) for task in self.unit.cycle]} wait for one another, and it says: {text}"
            )
        self._cancel((self.unit.cycle[0], True))
