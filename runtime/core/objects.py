"""The directory of objects: which exist, where their bytes are, who needs them; and each arena's account.

An object *exists* if it is inline, durable, or a node has its bytes. Tasks wait for those that do not. It goes when it
was freed, nobody that was submitted before needs it, and no move of its bytes is under way: a copy that is being
written, restored or fetched is dropped when that is done.

The account of an arena changes only here and in rooms.py: used + reserved <= limit after every event.

May import nothing of ours but the model, runtime.protocol and the core's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagengine.runtime.core.actions import Drop
from dagengine.runtime.core.events import Made, TaskKind
from dagengine.runtime.core.model import Copy, Node, Obj, Task
from dagengine.runtime.core.states import Place, State
from dagengine.runtime.protocol import ObjectId

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core

NEVER: Final = 1 << 62


class Directory:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.objects: dict[ObjectId, Obj] = {}
        self.items: dict[ObjectId, dict[ObjectId, Obj]] = {}
        self._age = 0

    # ---- being known --------------------------------------------------------------------------

    def get(self, object_id: ObjectId) -> Obj:
        """The object, as one that does not exist yet if it is not known."""
        obj = self.objects.get(object_id)
        if obj is None:
            obj = self.objects[object_id] = Obj(object_id)
            if len(object_id) > 1:
                # It may be an item of a stream, which ends (or has ended) without it.
                self.items.setdefault(object_id[:-1], {})[object_id] = obj
                stream = self.objects.get(object_id[:-1])
                if stream is not None and stream.streamed and stream.producer is None:
                    self._core.lives.will_never_be(obj)
        return obj

    def produced(self, object_id: ObjectId, task: Task) -> Obj:
        """The output of a task that was submitted."""
        obj = self.objects.get(object_id)
        if obj is None:
            obj = self.objects[object_id] = Obj(object_id)
        obj.dead = False
        obj.producer = task
        return obj

    def read_by(self, obj: Obj, task: Task) -> None:
        obj.readers.append(task)
        obj.users += 1

    def done_with(self, obj: Obj) -> None:
        """A task that read it has ended."""
        obj.users -= 1
        if not obj.users:
            obj.readers.clear()
            obj.first = 0
            if obj.freed:
                self.let_go(obj)
            else:
                self._if_nothing(obj)
        elif len(obj.readers) > 2 * obj.users + 16:
            obj.readers = [task for task in obj.readers if task.state != State.ENDED]
            obj.first = 0

    def _if_nothing(self, obj: Obj) -> None:
        """Forget what was only asked for, and never came to be."""
        if not (
            obj.users or obj.wanted or obj.dead or obj.made or obj.producer or obj.lineage or obj.exists or obj.freed
        ):
            if not self._core.lives.fails(obj):
                self._core.lineage.bury(obj)

    def no_reader(self, obj: Obj) -> None:
        """Somebody does not want to read it any more."""
        if obj.freed:
            self.let_go(obj)
        else:
            self._if_nothing(obj)

    def next_use(self, obj: Obj) -> int:
        """The order of the first task that is going to read it; NEVER, if none is known."""
        if obj.wanted and not all(reader.ready for reader in obj.wanted.values()):
            return -1
        readers, first = obj.readers, obj.first
        while first < len(readers) and readers[first].state in (State.LEASED, State.BLOCKED, State.ENDED):
            first += 1
        obj.first = first
        return readers[first].order if first < len(readers) else NEVER

    # ---- coming to exist ----------------------------------------------------------------------

    def made(self, made: Made, node: Node) -> Obj:
        """An attempt on the node (or whoever submits) has made it: its bytes are there."""
        obj = self.objects.get(made.object)
        if obj is None:
            obj = self.objects[made.object] = Obj(made.object)
        room = node.rooms.pop(made.request, None) if made.request >= 0 else None
        if room is not None:
            if room.task is not None:
                room.task.more.rooms.discard(room.number)
            self._core.rooms.close(node, room)
        existed = obj.exists
        obj.size = made.size
        obj.made = obj.born = True
        obj.dead = False
        if made.request < 0 and not made.overflow:
            obj.inline = True
            obj.home = node.id
        else:
            copy = obj.copies.get(node.id)
            if copy is None:
                copy = self._copy(obj, node)
                if made.overflow:
                    copy.spilled = True
                    node.spilled += made.size
                else:
                    copy.place = Place.PRESENT
                    node.used += made.size
                    node.loose += made.size
            # else: the node keeps what it had, and has given the new room back.
            self._core.disturbed(node)
        if not existed:
            self.arisen(obj)
        if obj.freed:
            self.let_go(obj)
        return obj

    def _copy(self, obj: Obj, node: Node) -> Copy:
        self._age += 1
        copy = Copy(obj, node, self._age)
        obj.copies[node.id] = copy
        node.copies[obj.id] = copy
        return copy

    def found(self, obj: Obj, node: Node) -> None:
        """A node that joined has it in its arena."""
        existed = obj.exists
        copy = self._copy(obj, node)
        copy.place = Place.PRESENT
        node.used += obj.size
        node.loose += obj.size
        obj.made = obj.born = True
        obj.dead = False
        if not existed:
            self.arisen(obj)

    def arisen(self, obj: Obj) -> None:
        """It exists from now on: whoever waited for it may go on."""
        if obj.wanted:
            for reader in list(obj.wanted.values()):
                self._core.rooms.wanted(reader)
        for task in obj.readers:
            if task.state == State.WAITING:
                task.missing -= 1
                if not task.missing:
                    self._core.lives.unblock(task)

    # ---- pins ---------------------------------------------------------------------------------

    def pin(self, copy: Copy) -> None:
        """Keep it in the arena, where it is, or is about to be."""
        if not copy.pins and copy.place != Place.AWAY:
            node, size = copy.node, copy.size
            node.pinned += size
            if copy.place == Place.PRESENT:
                node.loose -= size
        copy.pins += 1

    def unpin(self, copy: Copy) -> None:
        copy.pins -= 1
        if copy.pins:
            return
        node, size = copy.node, copy.size
        if copy.place != Place.AWAY:
            node.pinned -= size
        if copy.place == Place.PRESENT:
            node.loose += size
        elif copy.place == Place.DAMAGED and not node.dead:
            self._clear(copy)
        if not node.dead:
            self._core.disturbed(node)
        if copy.object.freed:
            self.let_go(copy.object)

    # ---- coming and going of copies -------------------------------------------------------------

    def expect(self, obj: Obj, node: Node) -> Copy:
        """Room for a copy that is to come was set aside in the node's arena."""
        copy = obj.copies.get(node.id) or self._copy(obj, node)
        copy.size = obj.size
        copy.place = Place.INCOMING
        node.reserved += copy.size
        if copy.pins:
            node.pinned += copy.size
        return copy

    def came(self, copy: Copy, ok: bool) -> None:
        """What was expected has come, or won't."""
        node = copy.node
        node.reserved -= copy.size
        if copy.source is not None:
            source, copy.source = copy.source, None
            self.unpin(source)
        if ok:
            self._core.stalls.moved = self._core.now
            copy.place = Place.PRESENT
            self._age += 1
            copy.age = self._age
            node.used += copy.size
            if not copy.pins:
                node.loose += copy.size
        else:
            copy.place = Place.AWAY
            if copy.pins:
                node.pinned -= copy.size
            if not copy.spilled:
                self.erase(copy)
        self._core.disturbed(node)

    def written(self, copy: Copy, ok: bool) -> None:
        """The end of a spill."""
        node, obj = copy.node, copy.object
        node.spilling -= copy.size
        if ok:
            self._core.stalls.moved = self._core.now
            copy.place = Place.AWAY
            copy.spilled = True
            node.used -= copy.size
            node.spilled += copy.size
        else:
            copy.place = Place.PRESENT
            node.loose += copy.size
        waiting, copy.waiting = copy.waiting, None
        self._core.disturbed(node)
        for waiter in waiting or ():
            self._core.rooms.again(waiter)
        self.movable(obj)
        if obj.freed:
            self.let_go(obj)

    def _clear(self, copy: Copy) -> None:
        """Nobody reads the damaged bytes any more."""
        if not copy.spilled:
            self.remove(copy)
            return
        copy.place = Place.PRESENT
        copy.node.loose += copy.size
        self.evict(copy)
        self.movable(copy.object)

    def movable(self, obj: Obj) -> None:
        """It can be fetched from now on: wake those who read it on other nodes."""
        for task in obj.readers if len(self._core.nodes) > 1 else ():
            if task.state == State.QUEUED and task.klass is not None:
                self._core.fresh(task.klass)
            elif task.state == State.MAILED and task.actor is not None:
                self._core.push_later(task.actor)
            elif task.state == State.ADMITTED and task.node is not None:
                self._core.disturbed(task.node)
        for reader in list((obj.wanted or {}).values()):
            if not reader.ready and not reader.room and reader.copy is None:
                self._core.rooms.wanted(reader)

    def evict(self, copy: Copy) -> None:
        """Give back the room of a copy that nobody reads, and that exists elsewhere."""
        node, obj = copy.node, copy.object
        if obj.durable:
            self.remove(copy)
            return
        self._core.stalls.moved = self._core.now
        self.drop(node, obj.id, False)
        node.used -= copy.size
        node.loose -= copy.size
        copy.place = Place.AWAY
        if not copy.spilled:
            self.erase(copy)

    def remove(self, copy: Copy) -> None:
        """Have the node forget all that it has of the object. Nothing of it is pinned or moving."""
        node, obj = copy.node, copy.object
        self._core.stalls.moved = self._core.now
        damaged = copy.place == Place.DAMAGED
        bad = damaged and not copy.spilled
        if damaged or copy.place == Place.PRESENT:
            node.used -= copy.size
            node.loose -= 0 if damaged else copy.size
        self.drop(node, obj.id, copy.spilled)
        if copy.spilled:
            node.spilled -= copy.size
            node.spill_full = False
        copy.place = Place.AWAY
        copy.spilled = False
        self.erase(copy)
        self._core.disturbed(node)
        waiting, copy.waiting = copy.waiting, None
        for waiter in waiting or ():
            self._core.rooms.again(waiter)
        if bad:
            obj.bad -= 1
            self._core.recovery.lost_copy(obj)

    def erase(self, copy: Copy) -> None:
        copy.object.copies.pop(copy.node.id, None)
        copy.node.copies.pop(copy.object.id, None)

    def drop(self, node: Node, object_id: ObjectId, spilled: bool) -> None:
        if node.dead:
            return
        actions = self._core.actions
        last = actions[-1] if actions else None
        if isinstance(last, Drop) and last.node == node.id and last.spilled == spilled:
            last.objects.append(object_id)
        else:
            actions.append(Drop(node.id, node.epoch, [object_id], spilled))

    # ---- the end --------------------------------------------------------------------------------

    def freed(self, object_id: ObjectId) -> None:
        obj = self.objects.get(object_id)
        if obj is None and self._to_come(object_id):
            obj = self.get(object_id)
        if obj is not None and not obj.freed:
            obj.freed = True
            self.let_go(obj)

    def discard(self, made: Made, node: Node) -> None:
        """An attempt has made it that nobody wants any more: the node forgets it."""
        room = node.rooms.pop(made.request, None) if made.request >= 0 else None
        if room is not None:
            if room.task is not None:
                room.task.more.rooms.discard(room.number)
            self._core.rooms.close(node, room)
        if made.object not in node.copies:
            self.drop(node, made.object, made.overflow)

    def _to_come(self, object_id: ObjectId) -> bool:
        """Whether it may be an item that a stream makes yet."""
        stream = self.objects.get(object_id[:-1])
        return stream is not None and stream.producer is not None and stream.producer.request.kind == TaskKind.STREAM

    def let_go(self, obj: Obj) -> None:
        """It was freed: drop what nobody needs of it, as soon as it lies still."""
        if obj.users or obj.wanted or obj.producer is not None:
            return
        if not obj.born and not obj.dead and self._to_come(obj.id):
            return
        for copy in list(obj.copies.values()):
            if not copy.pins and copy.place in (Place.PRESENT, Place.AWAY):
                self.remove(copy)
        if obj.copies or self.objects.get(obj.id) is not obj:
            return
        if obj.inline:
            home = self._core.nodes.get(obj.home)
            if home is not None:
                self.drop(home, obj.id, False)
            obj.inline = False
        obj.durable = False
        if obj.heirs and obj.lineage is not None:
            self._core.lineage.haunt(obj)
            return
        self._core.lineage.bury(obj)
