"""Claims: what keeps a node for a task that has waited for long, so that younger ones do not overtake it for ever.

A claim counts only on what running tasks will give back. What actors, groups, and tasks that wait inside themselves
hold may never come back without what is younger; nobody is kept waiting for that.

May import nothing of ours but the model and the core's other modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.core.events import UNIT, TaskKind
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.limits import AGE_SECONDS
from dagengine.runtime.core.model import Copy, Klass, Node, Task
from dagengine.runtime.core.queues import key_of
from dagengine.runtime.core.states import State

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Claims:
    """claims: each task that claims, and its node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.claims: dict[Task, Node] = {}

    def age(self, klass: Klass, head: Task, node: Node) -> None:
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

    def may_pass(self, task: Task, klass: Klass, node: Node) -> bool:
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
