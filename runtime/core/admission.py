"""Admission, all or nothing: a task gets what it needs of a node at one time, or nothing at all.

It is leased when all is there: cpus, memory, devices, its inputs in the arena (pinned) and room for what it makes. If
inputs have to be brought, it is *admitted* first: it has its cpus, and room for all of its missing inputs was set aside
at once. At most one admitted task for each node (the bundle) waits for room to be made.

May import nothing of ours but the model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dagengine.runtime.core.actions import Lease
from dagengine.runtime.core.events import UNIT, TaskKind
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.limits import AHEAD_SECONDS, ARGUMENTS_SHARE
from dagengine.runtime.core.model import Bundle, Copy, Node, Obj, Task
from dagengine.runtime.core.states import Place, State

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Offer(NamedTuple):
    """Where of a node a task's cpus come from. `ahead`: none are free; it would wait on a worker behind others."""

    ledger: Ledger
    bundle: Bundle | None
    devices: tuple[int, ...]
    ahead: bool
    memory: int


class Plan(NamedTuple):
    """What admitting a task means for an arena: copies to pin, objects to bring (`room` bytes with the output)."""

    pins: list[Copy]
    missing: list[Obj]
    missing_size: int
    output: int
    at_once: bool


class Admission:
    def __init__(self, core: Core) -> None:
        self._core = core

    def admit(self, task: Task, node: Node, place: Offer) -> bool:
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
        plan = self.plan(task, node)
        if plan is None or (place.ahead and (plan.missing or not plan.at_once)):
            if plan is None and not place.ahead:
                self.give_up_prepared(node)
            return False
        if klass.plain:
            self._pool(task, node, estimate, place.ahead)
        else:
            place.ledger.take(klass.need, place.memory, place.devices)
            extra.ledger = place.ledger
            extra.memory = place.memory
            extra.bundle = place.bundle
            extra.devices = place.devices
        self._core.claims.unclaim(task)
        self.start(task, node, plan)
        return True

    @staticmethod
    def _pool(task: Task, node: Node, estimate: float, ahead: bool) -> None:
        if not ahead:
            node.ledger.cpus -= UNIT
            node.held += 1
        node.pool += 1
        node.backlog += estimate
        task.pooled = True
        task.estimate = estimate

    # ---- before there is a cpu ----------------------------------------------------------------

    def prepare(self, task: Task, node: Node) -> bool:
        """No cpu is free: have its inputs brought meanwhile, if there is room for them that nobody else asks for."""
        if not node.prepares or len(node.prepared) >= node.capacity.slots:
            return False
        plan = self.plan(task, node)
        if plan is None or not plan.missing or not plan.at_once:
            return False
        task.more.prepared = True
        node.prepared[task.request.id] = task
        self._core.claims.unclaim(task)
        self.start(task, node, plan)
        return True

    def begin_prepared(self, node: Node) -> None:
        """Cpus for those whose inputs have come, before anybody else."""
        for task in list(node.prepared.values()):
            if not task.more.pending and node.ledger.cpus >= UNIT:
                self.lease_admitted(task)

    def give_up_prepared(self, node: Node) -> bool:
        """Others can use what they have. Whether there were any that could be taken back."""
        waiting = [task for task in node.prepared.values() if not task.more.pending]
        if waiting:
            node.prepares = False  # until a task ends here: else they would come again at once
        for task in waiting:
            self._core.lives.take_back(task)
        return bool(waiting)

    def plan_call(self, task: Task, node: Node) -> bool:
        """The same for a call on an actor, which lives on the node and has all but its inputs."""
        plan = self.plan(task, node)
        if plan is None:
            self.give_up_prepared(node)
            return False
        self.start(task, node, plan)
        return True

    def start(self, task: Task, node: Node, plan: Plan) -> None:
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
        if extra is not None and extra.prepared:
            if node.ledger.cpus < UNIT:
                return
            known = self._core.estimates.get(task.request.function)
            self._pool(task, node, AHEAD_SECONDS if known is None or known.seconds < 0 else known.seconds, False)
            extra.prepared = False
            del node.prepared[task.request.id]
        task.move(State.LEASED)
        task.attempt += 1
        node.leases[task.request.id] = task
        memory = extra.memory if extra is not None else 0
        devices = extra.devices if extra is not None else ()
        self._core.leasing.runs.setdefault(node, []).append(Lease(task.request, task.attempt, devices, memory))
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

    def _evict_durable(self, pins: list[Copy], short: int) -> bool:
        """Of a task's own inputs that it could map from artifacts: drop their copies, if that is enough."""
        copies = [copy for copy in pins if copy.object.durable and not copy.pins and copy.place == Place.PRESENT]
        if sum(copy.size for copy in copies) < short:
            return False
        for copy in copies:
            self._core.directory.evict(copy)
        return True

    def plan(self, task: Task, node: Node) -> Plan | None:
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
            return Plan(pins, missing, missing_size, output, True)
        if node.bundle is not None:
            return None
        reachable = free + node.spilling + rooms.evictable(node) - own
        if missing_size > reachable and self._evict_durable(pins, missing_size - reachable):
            return self.plan(task, node)
        if missing_size + output > reachable:
            if missing_size > reachable or node.argued:
                self._core.stalls.notice()
                return None
            output = reachable - missing_size
            if missing_size + output <= free:
                return Plan(pins, missing, missing_size, output, True)
        return Plan(pins, missing, missing_size, output, False)


_NOTHING = Plan([], [], 0, 0, True)
