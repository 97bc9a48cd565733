"""Admission and leases: which waiting task gets what a node has free.

A task is leased when all it needs is there at one time: cpus, memory, devices, its inputs in the arena (pinned) and
room for what it makes. If inputs have to be brought, it is *admitted* first: it has its cpus, and room for all of its
missing inputs was set aside at once, or not at all. At most one admitted task for each node waits for its room.

Classes are asked in the order of their first tasks. One that does not fit lets younger ones pass, until its first task
is old; then that claims the node, and nothing younger takes what it needs. Plain tasks are leased ahead of need.

May import nothing of ours but the model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from dagengine.runtime.core.actions import Lease, Revoke
from dagengine.runtime.core.events import UNIT, NodeId, TaskKind
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.limits import AGE_SECONDS, AHEAD_SECONDS, AHEAD_TASKS, ARGUMENTS_SHARE, REVOKE_SECONDS
from dagengine.runtime.core.model import Bundle, Copy, Klass, Node, Obj, Task
from dagengine.runtime.core.placement import local_bytes, ranked
from dagengine.runtime.core.queues import Key, key_of
from dagengine.runtime.core.states import Place, State

if TYPE_CHECKING:
    from dagengine.runtime.core.machine import Scheduler

_WINDOW = 8
"""Tasks of one class that are looked at for one that fits in the arena, or whose inputs are on the node already."""


class _Plan(NamedTuple):
    """What admitting a task means for an arena: copies to pin, objects to bring (`room` bytes with the output)."""

    pins: list[Copy]
    missing: list[Obj]
    missing_size: int
    output: int
    at_once: bool


class Leasing:
    def __init__(self, core: Scheduler) -> None:
        self._core = core
        self.runs: dict[Node, list[Lease]] = {}
        self.claims: dict[Task, Node] = {}
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
                self._age(klass, head, node)

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

    def _age(self, klass: Klass, head: Task, node: Node) -> None:
        """Its first task could not be placed here. If that waits for long, it claims the node."""
        if (
            node.claim is None
            and not node.blocked  # what they wait for may be younger
            and head not in self.claims
            and klass.group is None
            and head.since + AGE_SECONDS <= self._core.now
            and not (klass.plain and node.pool and node.ledger.cpus < UNIT)  # its turn comes with the next cpu
            and self._in_reach(head, klass, node)
        ):
            node.claim = head
            self.claims[head] = node

    def _may_pass(self, task: Task, klass: Klass, node: Node) -> bool:
        """Whether the node's claim lets the task by."""
        if self._core.groups.claimant is not None and not self._core.groups.lets_pass(task, klass, node):
            return False
        claim = node.claim
        if claim is None or claim is task or klass.group is not None:
            return True
        if claim.state != State.QUEUED or claim.klass is None or not self._in_reach(claim, claim.klass, node):
            self.unclaim(claim)
            return True
        if key_of(task) < key_of(claim):
            return True
        if klass.heavy or node.ledger.fits(claim.klass.need, claim.klass.need.memory) is None:
            return False
        rest = node.ledger.copy()
        devices = rest.fits(klass.need, klass.need.memory)
        if devices is None:
            return False
        rest.take(klass.need, klass.need.memory, devices)
        return rest.fits(claim.klass.need, claim.klass.need.memory) is not None

    def unclaim(self, task: Task) -> None:
        node = self.claims.pop(task, None)
        if node is not None:
            node.claim = None
            self._core.disturbed(node)

    def reach(self, node: Node) -> tuple[Ledger, dict[Copy, int]]:
        """What will be free when those that run have ended; and how often they have pinned what they read. What actors,
        groups, and tasks that wait for others hold may never come back without what is younger: it does not count."""
        ledger = node.ledger.copy()
        reading: dict[Copy, int] = {}
        for task in node.leases.values():
            extra = task.extra
            if extra is None or task.state != State.LEASED or task.request.kind == TaskKind.STREAM:
                continue
            for copy in extra.pins.values():
                reading[copy] = reading.get(copy, 0) + 1
            if extra.ledger is node.ledger and task.klass is not None and not task.request.kind:
                ledger.give(task.klass.need, extra.memory, extra.devices)
        ledger.cpus += node.held * UNIT
        return ledger, reading

    def _in_reach(self, task: Task, klass: Klass, node: Node) -> bool:
        """Whether the task will fit when those that run have ended: nobody is kept waiting for more than that."""
        ledger, reading = self.reach(node)
        if ledger.fits(klass.need, klass.need.memory) is None:
            return False
        if not klass.heavy:
            return True
        kept = node.pinned - sum(copy.size for copy, pins in reading.items() if copy.pins <= pins)
        return sum(obj.size for obj in task.inputs if not obj.inline) + kept <= node.limit

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
            if (node.claim is not None or claimed) and not self._may_pass(task, klass, node):
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
            if not self._may_pass(first, klass, node):
                return False
            place = self._place(klass, node, ahead)
            if place is None:
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
                    if self.admit(task, node, place):
                        leased = True
                        break
            else:
                while len(window) < _WINDOW and (task := queue.head()) is not None:
                    window.append(queue.pop())
                    if self.admit(task, node, place):
                        leased = True
                        break
                    if not klass.heavy or not self._may_pass(task, klass, node):
                        break
                    self._age(klass, task, node)
            for task in window:
                if task.state == State.QUEUED:
                    queue.add(task)
            if not leased:
                return False
        return True

    def _place(self, klass: Klass, node: Node, ahead: bool) -> _Place | None:
        """What of the node a task of the class would get now."""
        need = klass.need
        if klass.group is not None:
            for bundle in self._core.groups.bundles_on(need, node):
                devices = bundle.ledger.fits(need, need.memory)
                if devices is not None:
                    return _Place(bundle.ledger, bundle, devices, False, need.memory)
            return None
        devices = node.ledger.fits(need, need.memory)
        if devices is not None:
            return _Place(node.ledger, None, devices, False, need.memory)
        if need.memory > klass.asked and not any(task.state == State.LEASED for task in node.leases.values()):
            # Those that have the memory wait inside themselves, perhaps for this one: then what was learned is waived.
            devices = node.ledger.fits(need, klass.asked)
            if devices is not None:
                return _Place(node.ledger, None, devices, False, klass.asked)
        slots = node.capacity.slots
        if (
            klass.plain
            and ahead
            and node.held
            and node.pool < slots * AHEAD_TASKS
            and node.backlog < slots * AHEAD_SECONDS
        ):
            return _Place(node.ledger, None, (), True, 0)
        return None

    def admit(self, task: Task, node: Node, place: _Place) -> bool:
        """Lease it to the node, or set all aside that it needs there; or do nothing."""
        klass, extra = task.klass, task.more
        if klass is None:
            return False
        estimate = 0.0
        if klass.plain:
            known = self._core.estimates.get(task.request.function)
            estimate = AHEAD_SECONDS if known is None or known.seconds < 0 else known.seconds
            slots = node.capacity.slots
            if place.ahead and node.backlog + estimate > slots * AHEAD_SECONDS:
                return False
        plan = self._plan(task, node)
        if plan is None or (place.ahead and (plan.missing or not plan.at_once)):
            return False
        if klass.plain:
            if not place.ahead:
                node.ledger.cpus -= UNIT
                node.held += 1
            node.pool += 1
            node.backlog += estimate
            task.pooled = True
            task.estimate = estimate
        else:
            place.ledger.take(klass.need, place.memory, place.devices)
            extra.ledger = place.ledger
            extra.memory = place.memory
            extra.bundle = place.bundle
            extra.devices = place.devices
        self.unclaim(task)
        self.start(task, node, plan)
        return True

    def plan_call(self, task: Task, node: Node) -> bool:
        """The same for a call on an actor, which lives on the node and has all but its inputs."""
        plan = self._plan(task, node)
        if plan is None:
            return False
        self.start(task, node, plan)
        return True

    def start(self, task: Task, node: Node, plan: _Plan) -> None:
        extra = task.more
        task.node = node
        for copy in plan.pins:
            self._core.directory.pin(copy)
            extra.pins[copy.object.id] = copy
            if copy.place == Place.INCOMING:
                self._core.rooms.wait(copy, task)
                extra.pending += 1
        if extra.pins:
            node.argued += 1
        extra.room = plan.missing_size + plan.output
        if not plan.at_once:
            task.move(State.ADMITTED)
            node.bundle = task
            self._core.disturbed(node)
            return
        self._bring(task, node, plan.missing, plan.output)

    def _bring(self, task: Task, node: Node, missing: list[Obj], output: int) -> None:
        """There is room for all of it: set it aside."""
        extra = task.more
        extra.room = 0
        extra.reserved = output
        node.reserved += output
        if missing and not extra.pins:
            node.argued += 1
        for obj in missing:
            extra.pins[obj.id] = self._core.rooms.bring(obj, node, task)
            extra.pending += 1
            extra.moved += obj.size
        if extra.pending:
            if task.state != State.ADMITTED:
                task.move(State.ADMITTED)
        else:
            self.lease_admitted(task)

    def lease_admitted(self, task: Task) -> None:
        """All it needs is there."""
        node, extra = task.node, task.extra
        if node is None:
            return
        task.move(State.LEASED)
        task.attempt += 1
        node.leases[task.request.id] = task
        memory = extra.memory if extra is not None else 0
        devices = extra.devices if extra is not None else ()
        self.runs.setdefault(node, []).append(Lease(task.request, task.attempt, devices, memory))
        if task.actor is not None and task.request.kind == TaskKind.METHOD:
            self._core.actors.went(task)

    def bring(self, task: Task, short: bool = False) -> bool:
        """Of the admitted task that waits for room: go on if there is enough; with `short` also without room for what
        it makes, which then goes to the spill space if it has to."""
        node, extra, directory = task.node, task.more, self._core.directory
        if node is None:
            return False
        missing: list[Obj] = []
        size = 0
        for obj in task.inputs:
            if obj.inline or obj.id in extra.pins:
                continue
            copy = obj.copies.get(node.id)
            place = copy.place if copy is not None else Place.AWAY
            if copy is not None and place in (Place.PRESENT, Place.INCOMING):
                if not extra.pins:
                    node.argued += 1
                directory.pin(copy)
                extra.pins[obj.id] = copy
                if place == Place.INCOMING:
                    self._core.rooms.wait(copy, task)
                    extra.pending += 1
            elif place in (Place.SPILLING, Place.DAMAGED):
                return False
            elif not obj.durable:
                if (copy is None or not copy.spilled) and self._core.rooms.source_of(obj, node) is None:
                    return False
                missing.append(obj)
                size += obj.size
        output = extra.expected
        if size + output > node.free:
            output = node.free - size
            if not short or output < 0:
                extra.room = size + extra.expected
                return False
        node.bundle = None
        self._bring(task, node, missing, output)
        return True

    def _plan(self, task: Task, node: Node) -> _Plan | None:
        """How the task would be served by the node's arena; None: not now."""
        output = task.more.expected
        if not task.inputs and not output:
            return _NOTHING
        pins: list[Copy] = []
        missing: list[Obj] = []
        missing_size = newly = own = 0
        for obj in task.inputs:
            if obj.inline:
                continue
            copy = obj.copies.get(node.id)
            place = copy.place if copy is not None else Place.AWAY
            if copy is not None and place in (Place.PRESENT, Place.INCOMING):
                pins.append(copy)
                if not copy.pins:
                    newly += obj.size
                    own += obj.size if place == Place.PRESENT else 0
            elif place in (Place.SPILLING, Place.DAMAGED):
                return None
            elif not obj.durable:
                if (copy is None or not copy.spilled) and self._core.rooms.source_of(obj, node) is None:
                    return None
                missing.append(obj)
                missing_size += obj.size
        newly += missing_size
        if newly and node.argued and node.pinned + newly > ARGUMENTS_SHARE * node.limit:
            return None
        output = min(output, node.limit)
        rooms = self._core.rooms
        free = node.free - rooms.demand(node)
        if missing_size + output <= free or not missing_size + output:
            return _Plan(pins, missing, missing_size, output, True)
        if node.bundle is not None:
            return None
        reachable = free + node.spilling + rooms.evictable(node) - own
        if missing_size + output > reachable:
            if missing_size > reachable or node.argued:
                return None
            output = reachable - missing_size
            if missing_size + output <= free:
                return _Plan(pins, missing, missing_size, output, True)
        return _Plan(pins, missing, missing_size, output, False)

    # ---- a class with new tasks ---------------------------------------------------------------

    @staticmethod
    def in_order(classes: list[Klass]) -> list[Klass]:
        """By their first tasks."""
        heads = [(key_of(head), klass.number, klass) for klass in classes if (head := klass.queue.head()) is not None]
        return [klass for _, _, klass in sorted(heads)]

    def spread(self, klass: Klass) -> None:
        """Several nodes: give its tasks to those that have most free."""
        if klass.stuck and not klass.heavy and not self.claims:
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
            if not self.open(node) or not self._may_pass(task, klass, node):
                continue
            place = self._place(klass, node, False)
            if place is not None and self.admit(task, node, place):
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


class _Place(NamedTuple):
    """Where of a node a task's cpus come from. `ahead`: none are free; it would wait on a worker behind others."""

    ledger: Ledger
    bundle: Bundle | None
    devices: tuple[int, ...]
    ahead: bool
    memory: int


_NOTHING = _Plan([], [], 0, 0, True)
