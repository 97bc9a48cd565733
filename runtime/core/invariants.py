"""What is true of a Scheduler after each event. Checked by tests after each; too dear for every event of a real one.

I1  Ledgers: what is free and what leases, actors and bundles have is what there is. Nothing but cpus is below 0.
I2  Arenas: used + reserved <= limit; each is the sum of what it stands for; pins only where bytes are, or come.
I3  A task is in exactly the structures that its state names; `missing` counts inputs that do not exist.
I4  A lease is on one live node; what it reads is pinned there, or inline, or durable.
I5  An object that was freed and that nobody needs is gone; one that a live task reads is not.
I6  At most one admitted task for each node waits for room; nobody who waits for room holds room.
I7  Calls of an actor go out in their order.
I8  A group has all of its bundles, or none, but for those whose node was lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.errors import InternalError
from dagengine.runtime.core.events import UNIT, TaskKind
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.model import Node, Obj, Task
from dagengine.runtime.core.states import Place, State

if TYPE_CHECKING:
    from dagengine.runtime.core.machine import Scheduler

_ON_NODE = (State.ADMITTED, State.LEASED, State.BLOCKED)


def check(core: Scheduler) -> None:
    """Raises InternalError, naming what is wrong, if an invariant does not hold."""
    on_node: dict[int, list[Task]] = {}
    for task in core.tasks.values():
        _check_task(core, task)
        if task.node is not None:
            on_node.setdefault(task.node.id, []).append(task)
    creations = [actor.creation for actor in core.actors.actors.values() if actor.alive]
    for task in creations:
        _demand(task.node is not None and not task.node.dead, f"I4: actor of {task.request.id} lives on no node")
        if task.node is not None:
            on_node.setdefault(task.node.id, []).append(task)
    for node in core.nodes.values():
        _check_ledger(core, node, on_node.get(node.id, []))
        _check_arena(core, node, on_node.get(node.id, []))
    for obj in core.directory.objects.values():
        _check_object(core, obj)
    for task, node in core.claims.claims.items():
        _demand(node.claim is task, f"I1: {task.request.id} claims node {node.id}, which does not know")
    for node in core.nodes.values():
        _demand(
            node.claim is None or core.claims.claims.get(node.claim) is node, f"I1: a claim on node {node.id} is none"
        )
    for klass in core._klasses.values():
        queued = sum(task.state == State.QUEUED and task.klass is klass for task in core.tasks.values())
        _demand(
            len(klass.queue) == queued, f"I3: class {klass.number} counts {len(klass.queue)} tasks, and has {queued}"
        )
    for actor in core.actors.actors.values():
        waiting = [task.order for task in actor.mailbox if task.state != State.ENDED]
        _demand(waiting == sorted(waiting), f"I7: actor {actor.id} has its calls out of order")
        # Those that came back wait until the later ones that are out have come back as well.
        fresh = [task.order for task in actor.mailbox if task.state != State.ENDED and not task.attempt]
        if fresh and actor.sent:
            _demand(max(t.order for t in actor.sent.values()) < fresh[0], f"I7: a call overtook on actor {actor.id}")
    for group in core.groups.groups.values():
        placed = sum(bundle.node is not None for bundle in group.bundles)
        if group.reserved:
            _demand(placed == len(group.bundles), f"I8: group {group.id} is reserved with {placed} bundles")
        for bundle in group.bundles:
            _demand(bundle.node is None or not bundle.node.dead, f"I8: group {group.id} has a bundle on a dead node")


def _check_task(core: Scheduler, task: Task) -> None:
    name = f"task {task.request.id}"
    _demand(task.state != State.ENDED, f"I3: {name} has ended and is kept")
    _demand(
        (task.node is not None) == (task.state in _ON_NODE),
        f"I4: {name} is in state {task.state} with node {task.node}",
    )
    missing = sum(not obj.exists for obj in task.inputs)
    if task.state == State.WAITING:
        _demand(task.missing == missing, f"I3: {name} misses {missing} inputs, not {task.missing}")
        _demand(missing > 0, f"I3: {name} waits for nothing")
    elif task.state in (State.QUEUED, State.MAILED, State.ADMITTED):
        _demand(missing == 0, f"I3: {name} is past waiting and misses {missing} inputs")
    for obj in task.inputs:
        _demand(core.directory.objects.get(obj.id) is obj, f"I5: {name} reads {obj.id}, which is forgotten")
    if task.node is None:
        _demand(task.extra is None or not task.extra.pins, f"I2: {name} is nowhere and has pins")
        return
    _demand(core.nodes.get(task.node.id) is task.node, f"I4: {name} is on a dead node")
    if task.state == State.ADMITTED:
        return
    _demand(task.node.leases.get(task.request.id) is task, f"I4: {name} is leased and its node does not know")
    pins = task.extra.pins if task.extra is not None else {}
    for obj in task.inputs:
        copy = pins.get(obj.id)
        there = copy is not None and copy.place in (Place.PRESENT, Place.DAMAGED)
        _demand(there or obj.inline or obj.durable, f"I4: {name} runs, and its input {obj.id} is not there")


def _check_ledger(core: Scheduler, node: Node, tasks: list[Task]) -> None:
    taken = Ledger.of(node.capacity)
    for group in core.groups.groups.values():
        for bundle in group.bundles:
            if bundle.node is node:
                taken.take(bundle.need, bundle.need.memory, bundle.devices)
    pool = 0
    for task in tasks:
        if task.pooled:
            pool += task.state != State.BLOCKED
        elif task.extra is not None and task.extra.ledger is node.ledger and task.klass is not None:
            need = task.klass.need._replace(cpus=0) if task.state == State.BLOCKED else task.klass.need
            taken.take(need, task.extra.memory, task.extra.devices)
    taken.cpus -= node.held * UNIT
    free, name = node.ledger, f"node {node.id}"
    _demand(node.pool == pool, f"I1: {name} counts {node.pool} plain leases, and has {pool}")
    _demand(node.held <= node.pool, f"I1: {name} holds cpus for more plain leases than it has")
    _demand(free.cpus == taken.cpus, f"I1: {name} has {free.cpus} free cpus, not {taken.cpus}")
    _demand(free.memory == taken.memory >= 0, f"I1: {name} has {free.memory} free memory, not {taken.memory}")
    _demand(free.custom == taken.custom, f"I1: {name} has {free.custom} free, not {taken.custom}")
    _demand(free.devices == taken.devices, f"I1: {name} has devices {free.devices} free, not {taken.devices}")
    for share, memory, _ in free.devices.values():
        _demand(0 <= share <= UNIT and memory >= 0, f"I1: {name} has given a device twice")
    _demand(all(amount >= 0 for amount in free.custom.values()), f"I1: {name} has given more than it has")


def _check_arena(core: Scheduler, node: Node, tasks: list[Task]) -> None:
    name = f"node {node.id}"
    used = sum(room.size for room in node.rooms.values() if room.granted)
    reserved = sum(task.extra.reserved for task in tasks if task.extra is not None)
    loose = pinned = spilling = spilled = 0
    for copy in node.copies.values():
        size = copy.size
        _demand(copy.object.copies.get(node.id) is copy, f"I2: {name} has a copy of {copy.object.id} that is not known")
        _demand(copy.pins >= copy.held, f"I2: {name} lost a pin of {copy.object.id}")
        if copy.place in (Place.PRESENT, Place.SPILLING, Place.DAMAGED):
            used += size
        elif copy.place == Place.INCOMING:
            reserved += size
        else:
            _demand(copy.spilled, f"I2: {name} has nothing of {copy.object.id}")
        loose += size if copy.place == Place.PRESENT and not copy.pins else 0
        pinned += size if copy.place != Place.AWAY and copy.pins else 0
        spilling += size if copy.place == Place.SPILLING else 0
        spilled += size if copy.spilled else 0
        _demand(copy.place != Place.SPILLING or not copy.pins, f"I2: {copy.object.id} is read while it leaves {name}")
    _demand(node.used == used, f"I2: {name} has {used} used bytes, not {node.used}")
    _demand(node.reserved == reserved, f"I2: {name} has {reserved} reserved bytes, not {node.reserved}")
    _demand(node.used + node.reserved <= node.limit, f"I2: the arena of {name} is over its limit")
    _demand(node.loose == loose, f"I2: {name} has {loose} bytes that nobody reads, not {node.loose}")
    _demand(node.pinned == pinned, f"I2: {name} has {pinned} pinned bytes, not {node.pinned}")
    _demand(node.spilling == spilling, f"I2: {name} writes {spilling} bytes, not {node.spilling}")
    _demand(node.spilled == spilled, f"I2: {name} has spilled {spilled} bytes, not {node.spilled}")
    blocked = sum(task.state == State.BLOCKED for task in tasks)
    _demand(node.blocked == blocked, f"I1: {name} counts {node.blocked} blocked tasks, and has {blocked}")
    argued = sum(task.extra is not None and bool(task.extra.pins) for task in tasks)
    _demand(node.argued == argued, f"I2: {name} counts {node.argued} tasks with arguments, and has {argued}")
    for task in tasks:
        if task.state == State.ADMITTED and task.extra is not None and task.extra.room:
            _demand(node.bundle is task, f"I6: {task.request.id} waits for room beside another")
            _demand(not task.extra.reserved, f"I6: {task.request.id} waits for room and has room")
    prepared = {task.request.id: task for task in tasks if task.extra is not None and task.extra.prepared}
    _demand(
        node.prepared == prepared, f"I3: {name} counts {len(node.prepared)} prepared tasks, and has {len(prepared)}"
    )
    for task in prepared.values():
        _demand(task.state == State.ADMITTED and not task.pooled, f"I3: {task.request.id} is prepared and has a cpu")
    if node.bundle is not None:
        _demand(
            node.bundle.state == State.ADMITTED and node.bundle.node is node, f"I6: {name} has a bundle that is none"
        )


def _check_object(core: Scheduler, obj: Obj) -> None:
    users = [task for task in obj.readers if task.state != State.ENDED]
    bad = sum(copy.place == Place.DAMAGED and not copy.spilled for copy in obj.copies.values())
    _demand(obj.bad == bad, f"I5: object {obj.id} counts {obj.bad} damaged copies, and has {bad}")
    _demand(obj.users == len(users), f"I5: object {obj.id} counts {obj.users} users, and has {len(users)}")
    to_come = not obj.born and not obj.dead and core.directory._to_come(obj.id)
    if obj.freed and not users and not obj.wanted and obj.producer is None and not to_come:
        moving = any(copy.pins or copy.place in (Place.INCOMING, Place.SPILLING) for copy in obj.copies.values())
        _demand(moving or (not obj.exists and obj.id in core.lineage.ghosts), f"I5: {obj.id} was freed, and is kept")
    if obj.producer is not None:
        _demand(core.tasks.get(obj.producer.request.id) is obj.producer, f"I5: nobody makes {obj.id}")
    for copy in obj.copies.values():
        _demand(core.nodes.get(copy.node.id) is copy.node, f"I2: {obj.id} has a copy on a dead node")
    if obj.producer is not None and obj.producer.request.kind == TaskKind.CALL:
        _demand(obj.producer.output is obj, f"I5: {obj.id} is made by a task that makes another")


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InternalError(otherwise)
