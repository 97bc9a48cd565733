"""When all has ended and everything was freed, nothing may be left: on the nodes, and in what the core remembers of them.

May import nothing of ours but the simulator's other modules and the core.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagengine.runtime.core import invariants
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.machine import Scheduler
from dagengine.runtime.simulation.node import Node
from dagengine.runtime.simulation.plans import Violation, name


def check(nodes: Sequence[Node], core: Scheduler) -> None:
    """Raises Violation, saying what is left and where."""
    for node in nodes:
        store, crew = node.store, node.crew
        for what, left in (("objects", store.arena), ("rooms", store.rooms), ("spilled objects", store.spilled)):
            if left:
                raise Violation(f"{node.capacity.name} is left with {what}: {[*left][:5]}")
        if crew.attempts or crew.actors:
            raise Violation(f"{node.capacity.name} is left with {[*crew.attempts]} and actors {[*crew.actors]}")
    invariants.check(core)
    for known in core.nodes.values():
        if (known.used, known.reserved, known.spilled) != (0, 0, 0):
            raise Violation(
                f"{known.capacity.name} is empty, and the core counts {known.used:,} bytes used, "
                f"{known.reserved:,} reserved, {known.spilled:,} spilled"
            )
        whole, free = Ledger.of(known.capacity), known.ledger
        if any(getattr(free, part) != getattr(whole, part) for part in ("cpus", "memory", "custom", "devices")):
            raise Violation(f"{known.capacity.name} does nothing, and not all of it is free")
    if remembered := [*core.tasks, *core.directory.objects]:
        raise Violation(f"nothing is left, and the core remembers {[name(id_) for id_ in remembered[:5]]}")
    if waits := core.waits():
        raise Violation(f"nothing is left to do, and the core waits: {waits}")
