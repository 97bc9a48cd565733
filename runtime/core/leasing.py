"""Leases: which waiting task gets what a node has free.

Classes are asked in the order of their first tasks. One that does not fit lets younger ones pass, until its first task
is old; then that claims the node, and nothing younger takes what it needs. Plain tasks are leased ahead of need.

May import nothing of ours but the model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from dagengine.runtime.core.actions import Lease, Revoke
from dagengine.runtime.core.admission import Offer
from dagengine.runtime.core.events import UNIT, NodeId
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.limits import AHEAD_SECONDS, AHEAD_TASKS, REVOKE_SECONDS
from dagengine.runtime.core.model import Klass, Node, Task
from dagengine.runtime.core.placement import local_bytes, ranked
from dagengine.runtime.core.queues import Key, key_of
from dagengine.runtime.core.states import State

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core

_WINDOW = 8
"""Tasks of one class that are looked at for one that fits in the arena, or whose inputs are on the node already."""


class Leasing:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.runs: dict[Node, list[Lease]] = {}
        self.idle: dict[NodeId, Node] = {}

    # ---- a node that has something free -------------------------------------------------------

    def feed(self, node: Node) -> None:
        """Give the node what it can take."""
        core = self._core
        if not self.open(node):
            return
        core.actors.push_on(node)
        while node.held < node.pool and node.ledger.cpus >= UNIT:
            # Those that were leased ahead come before all that waits.
            node.held += 1
            node.ledger.cpus -= UNIT
        core.admission.begin_prepared(node)
        heap: list[tuple[Key, int, Klass]] = []
        for klass in list(core.active.values()):
            head = klass.queue.head()
            if head is None:
                del core.active[klass.number]
                klass.stuck = False
            elif self.feasible(klass) and node.id in klass.able:
                heap.append((key_of(head), klass.number, klass))
        if not heap:
            if len(core.nodes) > 1 and node.ledger.cpus >= UNIT:
                self.idle[node.id] = node
                self._take_over(node)
            return
        heapq.heapify(heap)
        ahead = True
        while heap:
            _, _, klass = heapq.heappop(heap)
            bound = heap[0][0] if heap else None
            if klass.light:
                fits = self._lease_light(klass, node, bound, ahead and node.claim is None, sharers=len(core.nodes))
            else:
                fits = self._lease_from(klass, node, bound, ahead and node.claim is None)
            head = klass.queue.head()
            if head is None:
                continue
            if fits:
                heapq.heappush(heap, (key_of(head), klass.number, klass))
            else:
                ahead = False
                self._core.claims.age(klass, head, node)

    def open(self, node: Node) -> bool:
        return not (node.dead or node.suspect or self._core.closing or node.pressed > self._core.now)

    def feasible(self, klass: Klass) -> list[Node]:
        """Nodes that could run it if they were empty."""
        core = self._core
        if klass.version != core.topology:
            klass.version = core.topology
            if klass.group is not None:
                klass.feasible = core.groups.nodes_of(klass.need)
            else:
                klass.feasible = [node for node in core.nodes.values() if self._could(klass, node)]
            klass.able = {node.id for node in klass.feasible}
        return klass.feasible

    @staticmethod
    def _could(klass: Klass, node: Node) -> bool:
        need = klass.need
        if need.node is not None and not need.soft and need.node != node.capacity.name:
            return False
        return Ledger.of(node.capacity).fits(need, need.memory) is not None

    # ---- light tasks --------------------------------------------------------------------------

    def _lease_light(
        self, klass: Klass, node: Node, bound: Key | None, ahead: bool, *, sharers: int, most: int = -1
    ) -> bool:
        """Lease light tasks as long as they fit and none older waits. Whether one more would fit."""
        core, queue, ledger = self._core, klass.queue, node.ledger
        estimates, leases = core.estimates, node.leases
        slots = node.capacity.slots
        limit, horizon = slots * AHEAD_TASKS, slots * AHEAD_SECONDS
        share = max(1, len(queue) // sharers) if sharers > 1 else limit
        ahead = ahead and not self._others_idle(node)
        claimed = core.groups.claimant is not None
        run = self.runs.get(node)
        while most and (task := queue.head()) is not None:
            if bound is not None and key_of(task) > bound:
                return True
            if (node.claim is not None or claimed) and not self._core.claims.may_pass(task, klass, node):
                return False
            request = task.request
            known = estimates.get(request.function)
            estimate = AHEAD_SECONDS if known is None or known.seconds < 0 else known.seconds
            if ledger.cpus >= UNIT:
                ledger.cpus -= UNIT
                node.held += 1
            elif not ahead or not node.held or not share or node.pool >= limit or node.backlog + estimate > horizon:
                return False
            else:
                share -= 1
            queue.pop()
            most -= 1
            task.state = State.LEASED
            task.node = node
            task.pooled = True
            task.estimate = estimate
            task.attempt += 1
            node.pool += 1
            node.backlog += estimate
            leases[request.id] = task
            if run is None:
                run = self.runs[node] = []
            run.append(Lease(request, task.attempt))
        return True

    def _others_idle(self, node: Node) -> bool:
        """Whether another node would begin at once what this one would only queue."""
        idle = self.idle
        while idle:
            other = next(iter(idle.values()))
            if other.ledger.cpus >= UNIT and self.open(other) and other.claim is None:
                return other is not node or len(idle) > 1
            del idle[other.id]
        return False

    # ---- other tasks --------------------------------------------------------------------------

    def _lease_from(self, klass: Klass, node: Node, bound: Key | None, ahead: bool) -> bool:
        """The same for other classes."""
        queue, many = klass.queue, klass.heavy and len(self._core.nodes) > 1
        while (first := queue.head()) is not None:
            if bound is not None and key_of(first) > bound:
                return True
            if not self._core.claims.may_pass(first, klass, node):
                return False
            place = self._place(klass, node, ahead)
            if place is None:
                if klass.heavy and klass.plain and (node.spilled or many):
                    self._prepare(klass, node)
                return False
            window: list[Task] = []
            leased = False
            if many:
                while len(window) < _WINDOW and (task := queue.head()) is not None:
                    if task.request.priority != first.request.priority:
                        break
                    window.append(queue.pop())
                window.sort(key=lambda task: (-local_bytes(task, node), key_of(task)))
                for task in window:
                    if self._core.admission.admit(task, node, place):
                        leased = True
                        break
            else:
                while len(window) < _WINDOW and (task := queue.head()) is not None:
                    window.append(queue.pop())
                    if self._core.admission.admit(task, node, place):
                        leased = True
                        break
                    if not klass.heavy or not self._core.claims.may_pass(task, klass, node):
                        break
                    self._core.claims.age(klass, task, node)
            for task in window:
                if task.state == State.QUEUED:
                    queue.add(task)
            if not leased:
                return False
        return True

    def _prepare(self, klass: Klass, node: Node) -> None:
        """Those that come next, so that they need not wait for the disk once they have a cpu."""
        queue = klass.queue
        while (task := queue.head()) is not None:
            queue.pop()
            if not self._core.admission.prepare(task, node):
                queue.add(task)
                return

    def _place(self, klass: Klass, node: Node, ahead: bool) -> Offer | None:
        """What of the node a task of the class would get now."""
        need = klass.need
        if klass.group is not None:
            for bundle in self._core.groups.bundles_on(need, node):
                devices = bundle.ledger.fits(need, need.memory)
                if devices is not None:
                    return Offer(bundle.ledger, bundle, devices, False, need.memory)
            return None
        devices = node.ledger.fits(need, need.memory)
        if devices is not None:
            return Offer(node.ledger, None, devices, False, need.memory)
        if need.memory > klass.asked and not any(task.state == State.LEASED for task in node.leases.values()):
            # Those that have the memory wait inside themselves, perhaps for this one: then what was learned is waived.
            devices = node.ledger.fits(need, klass.asked)
            if devices is not None:
                return Offer(node.ledger, None, devices, False, klass.asked)
        slots = node.capacity.slots
        if (
            klass.plain
            and ahead
            and node.held
            and node.pool < slots * AHEAD_TASKS
            and node.backlog < slots * AHEAD_SECONDS
        ):
            return Offer(node.ledger, None, (), True, 0)
        return None

    # ---- a class with new tasks ---------------------------------------------------------------

    @staticmethod
    def in_order(classes: list[Klass]) -> list[Klass]:
        """By their first tasks."""
        heads = [(key_of(head), klass.number, klass) for klass in classes if (head := klass.queue.head()) is not None]
        return [klass for _, _, klass in sorted(heads)]

    def spread(self, klass: Klass) -> None:
        """Several nodes: give its tasks to those that have most free."""
        if klass.stuck and not klass.heavy and not self._core.claims.claims:
            return
        feasible = self.feasible(klass)
        if klass.light:
            self._spread_light(klass, feasible)
        else:
            self._spread_each(klass, feasible)
        klass.stuck = klass.queue.head() is not None

    def _spread_light(self, klass: Klass, feasible: list[Node]) -> None:
        queue, count = klass.queue, len(feasible)
        found: list[Node] = []
        wanted = max(_WINDOW, len(queue))
        for step in range(count):
            node = feasible[(klass.ring + step) % count]
            if node.ledger.cpus >= UNIT and self.open(node):
                found.append(node)
                if len(found) >= wanted:
                    klass.ring = (klass.ring + step) % count
                    break
        found.sort(key=lambda node: (-node.ledger.cpus * node.capacity.slots // node.capacity.cpus, node.pool))
        while found and len(queue):
            # One each, as long as they have cpus for it.
            found = [
                node for node in found if len(queue) and self._lease_light(klass, node, None, False, sharers=1, most=1)
            ]
        if len(queue) and len(self._core.active) == 1:
            for node in feasible:
                if self.open(node) and not self._lease_light(klass, node, None, node.claim is None, sharers=count):
                    continue
                if not len(queue):
                    break

    def _spread_each(self, klass: Klass, feasible: list[Node]) -> None:
        queue = klass.queue
        refused: list[Task] = []
        while len(refused) < _WINDOW and (task := queue.head()) is not None:
            queue.pop()
            if not self._put_somewhere(task, klass, feasible):
                refused.append(task)
                if not klass.heavy:
                    break
        for task in refused:
            queue.add(task)

    def _put_somewhere(self, task: Task, klass: Klass, feasible: list[Node]) -> bool:
        for node, score in ranked(task, klass, feasible):
            if not self.open(node) or not self._core.claims.may_pass(task, klass, node):
                continue
            place = self._place(klass, node, False)
            if place is not None and self._core.admission.admit(task, node, place):
                task.more.score = score
                return True
        return False

    # ---- work for an idle node ----------------------------------------------------------------

    def revoke(self, node: Node, tasks: list[Task]) -> None:
        asked = [task for task in tasks if not task.more.revoked]
        if not asked:
            return
        for task in asked:
            task.more.revoked = True
        node.revoked += len(asked)
        attempts = [(task.request.id, task.attempt) for task in asked]
        self._core.actions.append(Revoke(node.id, node.epoch, attempts))

    def _take_over(self, idle: Node) -> None:
        """Nothing waits, and the node could do more: take back what another one has not begun."""
        loaded = [node for node in self._core.nodes.values() if node.pool > node.held and not node.revoked]
        if not loaded:
            return
        most = max(loaded, key=lambda node: node.backlog)
        if most.backlog < REVOKE_SECONDS:
            return
        waiting = most.pool - most.held
        newest: list[Task] = []
        for task in reversed(most.leases.values()):
            if task.light and task.state == State.LEASED:
                newest.append(task)
                if 2 * len(newest) >= waiting:
                    break
        self.revoke(most, newest)
