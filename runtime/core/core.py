"""The tables of the scheduler core, its parts, and the order in which what was touched is served.

May import nothing of ours but runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from dagengine.runtime.core import events as e
from dagengine.runtime.core.actions import Action
from dagengine.runtime.core.actors import Actors
from dagengine.runtime.core.admission import Admission
from dagengine.runtime.core.claims import Claims
from dagengine.runtime.core.groups import Groups
from dagengine.runtime.core.leasing import Leasing
from dagengine.runtime.core.limits import KLASSES, STALL_SECONDS
from dagengine.runtime.core.lineage import Lineage
from dagengine.runtime.core.lives import Lives
from dagengine.runtime.core.model import Actor, Estimate, Klass, Node, Task
from dagengine.runtime.core.objects import Directory
from dagengine.runtime.core.recovery import Recovery
from dagengine.runtime.core.rooms import Rooms
from dagengine.runtime.core.stalls import Stalls
from dagengine.runtime.core.timers import Timers
from dagengine.runtime.core.watchdog import Watchdog
from dagengine.runtime.protocol import TaskId


class Core:
    """What every part can reach. Events note which nodes, classes and actors they touched; `serve` does the rest."""

    def __init__(self, stall_seconds: float = STALL_SECONDS) -> None:
        self.now = 0.0
        self.closing = False
        self.tasks: dict[TaskId, Task] = {}
        self.nodes: dict[e.NodeId, Node] = {}
        self.estimates: dict[int, Estimate] = {}
        self.learned: dict[int, int] = {}
        self.active: dict[int, Klass] = {}
        self.topology = 0
        self.actions: list[Action] = []
        self.timers = Timers()
        self._klass_number = 0
        self._many_klasses = KLASSES
        self._klasses: dict[tuple[e.Need, bool, bool, bool], Klass] = {}
        self._disturbed: dict[e.NodeId, Node] = {}
        self._fresh: dict[int, Klass] = {}
        self._actors_due: dict[int, Actor] = {}
        self.lineage = Lineage(self)
        self.directory = Directory(self)
        self.rooms = Rooms(self)
        self.claims = Claims(self)
        self.admission = Admission(self)
        self.leasing = Leasing(self)
        self.actors = Actors(self)
        self.groups = Groups(self)
        self.recovery = Recovery(self)
        self.lives = Lives(self)
        self.watchdog = Watchdog(self)
        self.stalls = Stalls(self, stall_seconds)

    def disturbed(self, node: Node) -> None:
        """Something on the node is free that was not before, or is asked for."""
        if not node.dead:
            self._disturbed[node.id] = node

    def fresh(self, klass: Klass) -> None:
        """The class has new tasks."""
        self._fresh[klass.number] = klass
        self.active[klass.number] = klass

    def push_later(self, actor: Actor) -> None:
        self._actors_due[id(actor)] = actor

    def klass(self, need: e.Need, plain: bool, light: bool, heavy: bool) -> Klass:
        key = (need, plain, light, heavy)
        klass = self._klasses.get(key)
        if klass is None:
            if len(self._klasses) >= self._many_klasses:
                # Of groups that are gone, of sizes that were learned: what has no tasks is made anew when it has.
                self._klasses = {k: known for k, known in self._klasses.items() if known.light or len(known.queue)}
                self._many_klasses = max(KLASSES, 2 * len(self._klasses))
            self._klass_number += 1
            klass = self._klasses[key] = Klass(self._klass_number, need, plain, light, heavy)
        return klass

    def largest_memory(self) -> int:
        return max((node.capacity.memory for node in self.nodes.values()), default=0)

    def serve(self) -> None:
        """Until nothing moves any more."""
        disturbed, fresh, due, lives = self._disturbed, self._fresh, self._actors_due, self.lives
        while True:
            if lives.fail():
                continue
            if due:
                actor = due.pop(next(iter(due)))
                self.actors.push(actor)
            elif disturbed:
                node = disturbed.pop(next(iter(disturbed)))
                if node.dead:
                    continue
                if node.asking or node.readers or node.bundle is not None or node.used:
                    self.rooms.settle(node)
                if self.groups.waiting:
                    self.groups.serve()
                self.leasing.feed(node)
            elif fresh:
                self._place_fresh()
            else:
                break
        self.rooms.throttle()

    def _place_fresh(self) -> None:
        fresh = list(self._fresh.values())
        self._fresh.clear()
        if len(self.nodes) == 1:
            if any(not klass.stuck or klass.heavy for klass in fresh) or self.claims.claims:
                node = next(iter(self.nodes.values()))
                self.leasing.feed(node)
                for klass in fresh:
                    klass.stuck = klass.queue.head() is not None
            return
        for klass in self.leasing.in_order(fresh):
            self.leasing.spread(klass)
