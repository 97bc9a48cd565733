"""Placement groups: bundles of resources set aside together, or not at all.

Where the bundles go is worked out on a copy of the ledgers; only a complete answer is committed. `pack` puts them on as
few nodes as it can, `spread` on as many; their strict forms allow no other. A group that has waited for long claims
nodes, so that small work does not keep it waiting for ever. When a node is lost, its bundles are placed anew, and the
others stay where they are.

May import nothing of ours but the model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.core.actions import GroupRefused, GroupReserved, Outcome
from dagengine.runtime.core.events import Need, NodeId
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.limits import AGE_SECONDS
from dagengine.runtime.core.model import Bundle, Group, Klass, Node, Task
from dagengine.runtime.core.states import State
from dagengine.runtime.protocol import GroupId

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core

Placed = list[tuple[Bundle, Node, tuple[int, ...]]]


def plan(
    bundles: list[Bundle], strategy: str, nodes: list[Node], ledgers: dict[int, Ledger], taken: set[int]
) -> Placed | None:
    """Where each bundle could go; None if not all can. Changes `ledgers`, which are copies. `taken`: nodes that have a
    bundle of the group already. The largest bundles choose first."""
    order = sorted(
        bundles, key=lambda bundle: (-bundle.need.gpus, -bundle.need.cpus, -bundle.need.memory, bundle.index)
    )
    if strategy == "strict_pack":
        for node in nodes:
            if taken and node.id not in taken:
                continue
            ledger = ledgers[node.id].copy()
            placed: Placed = []
            for bundle in order:
                devices = _fits(bundle, node, ledger)
                if devices is None:
                    break
                ledger.take(bundle.need, bundle.need.memory, devices)
                placed.append((bundle, node, devices))
            else:
                return placed
        return None
    placed = []
    used = dict.fromkeys(taken, 1)
    for bundle in order:
        best: tuple[tuple[int, int, int], Node, tuple[int, ...]] | None = None
        for node in nodes:
            if strategy == "strict_spread" and node.id in used:
                continue
            devices = _fits(bundle, node, ledgers[node.id])
            if devices is None:
                continue
            count = used.get(node.id, 0)
            free = ledgers[node.id].cpus
            key = (-count, free, node.id) if strategy == "pack" else (count, -free, node.id)
            if best is None or key < best[0]:
                best = (key, node, devices)
        if best is None:
            return None
        _, node, devices = best
        ledgers[node.id].take(bundle.need, bundle.need.memory, devices)
        used[node.id] = used.get(node.id, 0) + 1
        placed.append((bundle, node, devices))
    return placed


def _fits(bundle: Bundle, node: Node, ledger: Ledger) -> tuple[int, ...] | None:
    need = bundle.need
    if need.node is not None and not need.soft and need.node != node.capacity.name:
        return None
    return ledger.fits(need, need.memory)


class Groups:
    """waiting: groups with bundles that have no place, in the order in which they were asked for.

    claimant: the oldest of them, if it is old; claims: by node, the bundles that it will have there
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.groups: dict[GroupId, Group] = {}
        self.waiting: dict[GroupId, Group] = {}
        self.claimant: Group | None = None
        self.claims: dict[NodeId, list[Need]] = {}

    # ---- reserving ----------------------------------------------------------------------------

    def asked(self, group_id: GroupId, needs: tuple[Need, ...], strategy: str) -> None:
        if group_id in self.groups:
            self._core.actions.append(GroupRefused(group_id, "a group of this id exists: release it first"))
            return
        group = self.groups[group_id] = Group(group_id, needs, strategy, self._core.now)
        group.order = self._core.lives.order
        reason = self._never(group)
        if reason is not None:
            del self.groups[group_id]
            self._core.actions.append(GroupRefused(group_id, reason))
            return
        self.waiting[group_id] = group
        self.serve()

    def _never(self, group: Group) -> str | None:
        """Why it could not be reserved if all nodes were empty."""
        nodes = list(self._core.nodes.values())
        if not group.bundles:
            return "a group needs at least one bundle"
        empty = {node.id: Ledger.of(node.capacity) for node in nodes}
        if plan(group.bundles, group.strategy, nodes, empty, set()) is not None:
            return None
        count = len(group.bundles)
        return (
            f"{count} bundles can't be reserved together ({group.strategy}) on {len(nodes)} "
            f"node{'s' if len(nodes) != 1 else ''}: ask for less, or for another strategy"
        )

    def serve(self) -> None:
        """Reserve what waits and fits now, the oldest first."""
        core = self._core
        for group in list(self.waiting.values()):
            nodes = [node for node in core.nodes.values() if core.leasing.open(node)]
            ledgers = {node.id: node.ledger.copy() for node in nodes}
            homeless = [bundle for bundle in group.bundles if bundle.node is None]
            taken = {bundle.node.id for bundle in group.bundles if bundle.node is not None}
            placed = plan(homeless, group.strategy, nodes, ledgers, taken)
            if placed is not None:
                self._commit(group, placed)
            elif group.since + AGE_SECONDS <= core.now:
                # Older than all that waits behind it: they wait with it.
                self._claim(group, homeless, taken)
                return

    def _commit(self, group: Group, placed: Placed) -> None:
        for bundle, node, devices in placed:
            need = bundle.need
            bundle.ledger = node.ledger.portion(need, need.memory, devices)
            node.ledger.take(need, need.memory, devices)
            bundle.node = node
            bundle.devices = devices
            self._core.disturbed(node)
        del self.waiting[group.id]
        group.reserved = True
        self._core.topology += 1
        places = tuple((b.node.id, b.devices) for b in group.bundles if b.node is not None)
        self._core.actions.append(GroupReserved(group.id, places))

    def _claim(self, group: Group, homeless: list[Bundle], taken: set[int]) -> None:
        """Keep for the group what those that run give back, where that is enough for it."""
        core = self._core
        nodes = [node for node in core.nodes.values() if core.leasing.open(node)]
        reach = {node.id: core.claims.reach(node)[0] for node in nodes}
        placed = plan(homeless, group.strategy, nodes, reach, taken)
        self.claims = {}
        for bundle, node, _ in placed or ():
            self.claims.setdefault(node.id, []).append(bundle.need)
        self.claimant = group if placed else None

    def lets_pass(self, task: Task, klass: Klass, node: Node) -> bool:
        """Whether an old group that waits for what the node has lets the task by."""
        group = self.claimant
        if group is None or klass.group is not None or node.blocked:
            return True
        if group.id not in self.waiting:
            self.claims, self.claimant = {}, None
            return True
        needs = self.claims.get(node.id)
        if not needs or task.order < group.order:
            return True
        rest = node.ledger.copy()
        for need in (*needs, klass.need):
            devices = rest.fits(need, need.memory)
            if devices is None:
                return False
            rest.take(need, need.memory, devices)
        return True

    # ---- use ------------------------------------------------------------------------------------

    def joined(self, task: Task) -> bool:
        """A task of a group was submitted. False: there is no such group (any more)."""
        group = self.groups.get(task.request.need.group or ())
        if group is None or group.released:
            return False
        group.tasks[task.request.id] = task
        return True

    def is_over(self, task: Task) -> bool:
        """Whether the task is in a group that was released: it is not begun again."""
        if task.request.need.group is None or (task.extra is not None and task.extra.rebuild):
            return False
        group = self.groups.get(task.request.need.group)
        return group is None or group.released

    def left(self, task: Task) -> None:
        group = self.groups.get(task.request.need.group or ())
        if group is not None and group.tasks.pop(task.request.id, None) is not None:
            self._end_if_done(group)

    def bundles_on(self, need: Need, node: Node) -> list[Bundle]:
        group = self.groups.get(need.group or ())
        if group is None or not group.reserved:
            return []
        return [b for b in group.bundles if b.node is node and need.bundle in (-1, b.index)]

    def nodes_of(self, need: Need) -> list[Node]:
        group = self.groups.get(need.group or ())
        if group is None:
            return []
        found = {b.node.id: b.node for b in group.bundles if b.node is not None and need.bundle in (-1, b.index)}
        return list(found.values())

    # ---- the end --------------------------------------------------------------------------------

    def released(self, group_id: GroupId) -> None:
        group = self.groups.get(group_id)
        if group is None or group.released:
            return
        group.released = True
        self.waiting.pop(group_id, None)
        for task in list(group.tasks.values()):
            if task.state not in (State.LEASED, State.BLOCKED, State.ENDED):
                self._core.lives.end(task, Outcome.DROPPED, task.state == State.PAUSED)
        self._end_if_done(group)

    def _end_if_done(self, group: Group) -> None:
        if not group.released or group.tasks or self.groups.get(group.id) is not group:
            return
        for bundle in group.bundles:
            if self._lent(bundle):
                return
        for bundle in group.bundles:
            self._give_back(bundle)
        del self.groups[group.id]
        self._core.topology += 1

    def _lent(self, bundle: Bundle) -> bool:
        """Whether an actor still lives on it."""
        return any(
            actor.creation.extra is not None and actor.creation.extra.bundle is bundle
            for actor in self._core.actors.actors.values()
        )

    def _give_back(self, bundle: Bundle) -> None:
        node, bundle.node = bundle.node, None
        if node is not None and not node.dead:
            node.ledger.give(bundle.need, bundle.need.memory, bundle.devices)
            self._core.disturbed(node)

    def actor_gone(self, need: Need) -> None:
        """An actor has given back what it had: it may have been the last of a group that was released."""
        group = self.groups.get(need.group or ())
        if group is not None:
            self._end_if_done(group)

    # ---- nodes ----------------------------------------------------------------------------------

    def node_gone(self, node: Node) -> None:
        for group in self.groups.values():
            homeless = [bundle for bundle in group.bundles if bundle.node is node]
            for bundle in homeless:
                bundle.node = None
                bundle.devices = ()
                bundle.ledger = Ledger()
            group.reserved = group.reserved and not homeless
            if homeless and not group.released:
                group.since = self._core.now
                self.waiting[group.id] = group
        self.serve()
