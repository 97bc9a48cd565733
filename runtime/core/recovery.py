"""What is lost is found again: objects from another copy, or made anew by the tasks that made them; attempts of nodes.

An object without bytes is made again when somebody needs it, and not before. Its maker may need objects that are gone
as well: the climb is a list, never a recursion. It ends at what exists, is durable, or was put; what nobody can make
again is *lost*, and its readers end.

Nodes that send heartbeats are watched. A silent one gets nothing new; later it is given up: its epoch is over, what it
says from then on is dropped, and it is told to end its workers.

May import nothing of ours but the model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.core.actions import Fence, Lost, Outcome, Welcome
from dagengine.runtime.core.events import Capacity, NodeId
from dagengine.runtime.core.limits import DEAD_SECONDS, REBUILDS, SUSPECT_SECONDS
from dagengine.runtime.core.model import Node, Obj, Task
from dagengine.runtime.core.states import Place, State
from dagengine.runtime.protocol import ObjectId

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Recovery:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.epochs: dict[NodeId, int] = {}
        self._watching = False

    # ---- objects ------------------------------------------------------------------------------

    def lost_copy(self, obj: Obj) -> None:
        self.lost_copies([obj])

    def lost_copies(self, objects: list[Obj]) -> None:
        """Copies of them are gone. Those that were the last: tell, or have the object made again if it is needed."""
        lost = [obj for obj in objects if not obj.exists]
        readers: dict[Task, None] = {}
        for obj in lost:
            if obj.made:
                obj.made = False
                readers.update(dict.fromkeys(obj.readers))
        for task in readers:
            self._core.lives.input_lost(task)
        for obj in lost:
            if obj.bad or obj.producer is not None or obj.exists:
                continue
            if obj.users or obj.wanted:
                if obj.lineage is None or not self.needed(obj):
                    self._core.lives.will_never_be(obj)
            elif obj.freed:
                self._core.directory.let_go(obj)
            elif not self._makeable(obj):
                self._core.lives.will_never_be(obj)

    @staticmethod
    def _makeable(obj: Obj) -> bool:
        return obj.lineage is not None and obj.rebuilds < REBUILDS

    def needed(self, obj: Obj) -> bool:
        """Somebody waits for an object that does not exist. False: it will never be."""
        core = self._core
        if obj.dead:
            return False
        if obj.exists or obj.producer is not None or obj.lineage is None or obj.bad:
            # Without a lineage it was never made, or somebody submits or puts it yet; what was lost for good is dead.
            return True
        made = []
        stack = [obj]
        while stack:
            gone = stack.pop()
            if gone.exists or gone.producer is not None:
                continue
            request = gone.lineage
            if request is None or not self._makeable(gone) or request.id in core.tasks or not self._known(gone):
                core.lives.will_never_be(gone)
                continue
            gone.rebuilds += 1
            gone.dead = False
            core.lineage.ghosts.pop(gone.id, None)
            made.append(core.lives.rebuild(request, gone))
            stack.extend(parent for parent in gone.parents if not parent.exists)
        for task in reversed(made):
            core.lives.place(task)
        return True

    def _known(self, obj: Obj) -> bool:
        """Whether all that is needed to make it exists, or is remembered."""
        objects = self._core.directory.objects
        return all(parent.exists or objects.get(parent.id) is parent for parent in obj.parents)

    def gone(self, obj: Obj) -> None:
        """It will never exist."""
        if obj.born and not obj.freed:
            self._core.actions.append(Lost(obj.id))
        self._core.lineage.forget(obj)

    def damaged(self, node: Node, object_id: ObjectId) -> None:
        """The bytes that a node has of it are bad."""
        copy = node.copies.get(object_id)
        if copy is None or copy.place in (Place.INCOMING, Place.SPILLING):
            return
        obj, directory = copy.object, self._core.directory
        if copy.place == Place.PRESENT and copy.pins:
            # It lies there as long as somebody reads it, and nothing else by its name can. Then it is made again.
            copy.place = Place.DAMAGED
            obj.bad += not copy.spilled
        elif copy.place == Place.PRESENT and copy.spilled:
            directory.evict(copy)
        elif copy.place != Place.DAMAGED:
            directory.remove(copy)
        self.lost_copy(obj)

    # ---- nodes --------------------------------------------------------------------------------

    def join(self, node_id: NodeId, capacity: Capacity, holds: tuple[tuple[ObjectId, int], ...]) -> None:
        core = self._core
        old = core.nodes.get(node_id)
        if old is not None:
            self.lose_node(old)
        epoch = self.epochs[node_id] = self.epochs.get(node_id, 0) + 1
        node = core.nodes[node_id] = Node(node_id, epoch, capacity)
        core.topology += 1
        core.actions.append(Welcome(node_id, epoch))
        for object_id, size in holds:
            obj = core.directory.objects.get(object_id)
            if obj is None or obj.dead or obj.inline or (obj.made and obj.size != size) or node.free < size:
                core.directory.drop(node, object_id, False)
            else:
                obj.size = size
                core.directory.found(obj, node)
                if obj.freed:
                    core.directory.let_go(obj)
        core.groups.serve()
        core.disturbed(node)

    def heard(self, node: Node) -> None:
        node.heard = self._core.now
        if node.suspect:
            node.suspect = False
            self._core.disturbed(node)
        if not self._watching:
            self._watching = True
            self._core.timers.wake(self._core.now + 1.0, self._look)

    def _look(self, _: object) -> None:
        now = self._core.now
        self._watching = False
        for node in list(self._core.nodes.values()):
            if node.heard is None:
                continue
            if now - node.heard >= DEAD_SECONDS:
                self._core.actions.append(Fence(node.id, node.epoch))
                self.lose_node(node)
                continue
            self._watching = True
            if now - node.heard >= SUSPECT_SECONDS:
                node.suspect = True
        if self._watching:
            self._core.timers.wake(now + 1.0, self._look)

    def lose_node(self, node: Node) -> None:
        """It is gone, or given up: attempts and objects with it."""
        core = self._core
        node.dead = True
        if core.nodes.get(node.id) is node:
            del core.nodes[node.id]
        core.topology += 1
        if node.claim is not None:
            core.claims.unclaim(node.claim)
        core.leasing.runs.pop(node, None)
        core.leasing.idle.pop(node.id, None)
        copies = list(node.copies.values())
        admitted = [task for copy in copies for task in copy.waiting or () if isinstance(task, Task)]
        admitted += node.prepared.values()
        if node.bundle is not None:
            admitted.append(node.bundle)
        for copy in copies:
            copy.object.copies.pop(node.id, None)
            copy.object.bad -= copy.place == Place.DAMAGED and not copy.spilled
            for reader in list((copy.object.wanted or {}).values()):
                if reader.node is node:
                    reader.copy = None
                    core.rooms.refuse(reader)
        for reader in node.readers:
            core.rooms.refuse(reader)
        core.rooms.puts -= sum(room.task is None for room in node.asking)
        core.actors.blocked.pop(node.id, None)
        for actor in [a for a in core.actors.actors.values() if a.creation.node is node and a.alive]:
            for task in list(actor.sent.values()):
                core.lives.end(task, Outcome.LOST, True)
            core.actors.process_gone(actor)
        for task in list(node.leases.values()):
            if task.state in (State.LEASED, State.BLOCKED):
                core.lives.lose(task)
        self.lost_copies([copy.object for copy in copies])
        for task in admitted:
            if task.node is node and task.state == State.ADMITTED:
                core.lives.take_back(task)
        for copy in copies:
            if copy.source is not None:
                source, copy.source = copy.source, None
                core.directory.unpin(source)
            if copy.object.freed:
                core.directory.let_go(copy.object)
        core.groups.node_gone(node)
