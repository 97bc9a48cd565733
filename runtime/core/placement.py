"""Which node a task goes to: a score whose terms can be shown, and the reasons why none could ever take it.

Least bytes to bring, then least of the arena in use, then the least load. Hard limits come first, in leasing.py.
May import nothing of ours but the model and the core's words.
"""

from __future__ import annotations

from collections.abc import Iterable

from dagengine.runtime.core.events import UNIT, Capacity, Need
from dagengine.runtime.core.model import Klass, Node, Task
from dagengine.runtime.core.states import Place

_HOLDERS = 8
"""Nodes that hold inputs, of which the score is worked out."""

_OTHERS = 8
"""Other nodes, taken in turn from all that could run it."""


def local_bytes(task: Task, node: Node) -> int:
    """Bytes of its inputs that need not be brought."""
    total = 0
    for obj in task.inputs:
        copy = obj.copies.get(node.id)
        if copy is not None and copy.place in (Place.PRESENT, Place.INCOMING):
            total += obj.size
    return total


def score(task: Task, node: Node) -> dict[str, float]:
    """The terms in their order, smaller is better: `fetch` counts twice what a restore of the node's own costs."""
    fetch = restore = 0
    for obj in task.inputs:
        if obj.inline or obj.durable:
            continue
        copy = obj.copies.get(node.id)
        if copy is None:
            fetch += obj.size
        elif copy.place not in (Place.PRESENT, Place.INCOMING):
            restore += obj.size
    cpus = max(node.capacity.cpus, 1)
    return {
        "elsewhere": 0.0 if task.request.need.node in (None, node.capacity.name) else 1.0,
        "bring": float(2 * fetch + restore),
        "arena": round((node.used + node.reserved) / max(node.limit, 1), 3),
        "load": round((cpus - node.ledger.cpus) / cpus + node.pool / max(node.capacity.slots, 1), 3),
    }


def ranked(task: Task, klass: Klass, feasible: list[Node]) -> list[tuple[Node, dict[str, float]]]:
    """Nodes to try, the best first."""
    candidates: dict[int, Node] = {}
    if task.inputs:
        held: dict[int, int] = {}
        for obj in task.inputs:
            for node_id in obj.copies:
                held[node_id] = held.get(node_id, 0) + obj.size
        for node_id in sorted(held, key=lambda node_id: (-held[node_id], node_id))[:_HOLDERS]:
            node = next(obj.copies[node_id].node for obj in task.inputs if node_id in obj.copies)
            if node_id in klass.able:
                candidates[node_id] = node
    count = len(feasible)
    tried = 0
    for step in range(count):
        node = feasible[(klass.ring + step) % count]
        if node.id in candidates:
            continue
        if klass.need.cpus and node.ledger.cpus < klass.need.cpus and klass.group is None:
            continue
        candidates[node.id] = node
        tried += 1
        if tried >= _OTHERS:
            klass.ring = (klass.ring + step + 1) % count
            break
    scored = [(node, score(task, node)) for node in candidates.values()]
    scored.sort(key=lambda entry: (*entry[1].values(), entry[0].id))
    return scored


def misfit(need: Need, nodes: Iterable[Capacity]) -> str | None:
    """Why none of the nodes could ever run what asks for this, even if it were empty; None if one could."""
    nodes = list(nodes)
    if need.node is not None and not need.soft:
        named = [node for node in nodes if node.name == need.node]
        if not named:
            names = ", ".join(sorted(node.name for node in nodes)) or "none"
            return f"a task asks for node {need.node!r}, and there is none of that name (there are: {names})"
        nodes = named
    if not nodes:
        return "there are no nodes"
    if any(_lacks(need, node) is None for node in nodes):
        return None
    most_cpus = max(node.cpus for node in nodes)
    if need.cpus > most_cpus:
        return _too_much(f"{need.cpus / UNIT:g} cpus", f"{most_cpus / UNIT:g}", len(nodes))
    most_memory = max(node.memory for node in nodes)
    if need.memory > most_memory:
        return _too_much(f"{need.memory:,} bytes of memory", f"{most_memory:,}", len(nodes))
    most_devices = max(len(node.devices) for node in nodes)
    if need.gpus and -(-need.gpus // UNIT) > most_devices:
        return _too_much(f"{need.gpus / UNIT:g} gpus", str(most_devices), len(nodes))
    most_on_one = max((device.memory for node in nodes for device in node.devices), default=0)
    if need.gpu_memory > most_on_one:
        return _too_much(f"{need.gpu_memory:,} bytes of memory on one gpu", f"{most_on_one:,}", len(nodes))
    for name, amount in need.custom:
        there = max(dict(node.custom).get(name, 0) for node in nodes)
        if amount > there:
            return _too_much(f"{amount / UNIT:g} of {name!r}", f"{there / UNIT:g}", len(nodes))
    each = sorted(
        (len(lacks), f"{node.name} lacks {', '.join(lacks)}") for node in nodes if (lacks := _lacks(need, node))
    )
    return f"no one node has all that a task asks for: {each[0][1]}"


def _too_much(asked: str, most: str, nodes: int) -> str:
    has = "there are" if nodes == 1 else "the node with the most has"
    return f"a task asks for {asked}, and {has} {most}: ask for less"


def _lacks(need: Need, node: Capacity) -> list[str] | None:
    """What of it the node would lack if it were empty."""
    lacks = []
    if need.cpus > node.cpus:
        lacks.append("cpus")
    if need.memory > node.memory:
        lacks.append("memory")
    if need.gpus or need.gpu_memory:
        fitting = sum(device.memory >= need.gpu_memory for device in node.devices)
        if fitting < max(1, -(-need.gpus // UNIT)):
            lacks.append("gpus")
    custom = dict(node.custom)
    lacks += [name for name, amount in need.custom if amount > custom.get(name, 0)]
    return lacks or None
