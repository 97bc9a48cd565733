"""What people may ask of a running runtime: its node, its counters, and why a task is where it is.

Runs on the runtime's thread. May import nothing of ours but runtime modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagengine.runtime.conversion import resources_of
from dagengine.runtime.core.events import UNIT
from dagengine.runtime.objects import NODE
from dagengine.runtime.protocol import NodeFacts, Resources, TaskId

if TYPE_CHECKING:
    from dagengine.runtime.shell import Shell


def node_facts(shell: Shell) -> list[NodeFacts]:
    node, agent = shell.core.nodes[NODE], shell.agent
    capacity = resources_of(shell.capacity)
    ledger = node.ledger
    free = Resources(
        max(ledger.cpus, 0) / UNIT,
        ledger.memory,
        sum(share for share, _, _ in ledger.devices.values()) / UNIT,
        max((left for _, left, _ in ledger.devices.values()), default=0),
        tuple((name, amount / UNIT) for name, amount in sorted(ledger.custom.items())),
    )
    return [
        NodeFacts(
            shell.capacity.name,
            capacity,
            free,
            agent.arena.limit,
            node.used,
            agent.spill.used,
            agent.worker_count,
        )
    ]


def statistics(shell: Shell) -> dict[str, int | float]:
    """tasks: ended by themselves; failed: of these, with an exception; lost: told as such; retried: attempts that were
    lost and made again; objects: that there are; objects_put; object_bytes: in the arena; warm_bytes: free pages kept
    for the next; spilled_bytes, restored_bytes: moved so far; spill_bytes: on disk now; spill_failing: places
    that could not be written to when that was last tried; live: tasks that have not ended; workers."""
    agent = shell.agent
    return {
        **shell.counts,
        "live": shell.live,
        "objects": len(agent.objects.inline) + len(agent.objects.places),
        "object_bytes": agent.arena.used,
        "warm_bytes": agent.arena.warm,
        "spilled_bytes": agent.mover.spilled,
        "restored_bytes": agent.mover.restored,
        "spill_bytes": agent.spill.used,
        "spill_failing": len(agent.spill.trouble.failing),
        "workers": agent.worker_count,
    }


def waits(shell: Shell) -> dict[TaskId, str]:
    return shell.core.waits()


def explain(shell: Shell, task_id: TaskId) -> dict[str, Any]:
    """As the core has it; "spill_trouble": which places can't be spilled to, if there are such."""
    told, trouble = shell.core.explain(task_id), shell.agent.spill.trouble.text
    return {**told, "spill_trouble": trouble} if told and trouble else told
