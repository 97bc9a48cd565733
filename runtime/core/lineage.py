"""Lineage: by which request an object was made, from which others, as long as its bytes could be lost.

An object that was freed is remembered without its bytes (a *ghost*) as long as a live one was made from it. Forgetting
is a list, never a recursion. May import nothing of ours but the model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.core.limits import GHOSTS
from dagengine.runtime.core.model import Obj, Task
from dagengine.runtime.protocol import ObjectId

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Lineage:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.ghosts: dict[ObjectId, Obj] = {}

    def remember(self, obj: Obj, task: Task) -> None:
        """How the object was made."""
        if obj.lineage is None and not obj.durable:
            obj.lineage = task.request
            obj.parents = task.inputs
            for parent in task.inputs:
                parent.heirs += 1
        obj.attempts = task.attempt

    def haunt(self, obj: Obj) -> None:
        """Its bytes are gone; what was made from it may need them again."""
        self.ghosts[obj.id] = obj
        if len(self.ghosts) > GHOSTS:
            oldest = next(iter(self.ghosts.values()))
            del self.ghosts[oldest.id]
            self.bury(oldest)

    def forget(self, obj: Obj) -> None:
        """It will not be made again: those of its ancestors go that were remembered for it alone."""
        stack = self._leave(obj)
        while stack:
            self.bury(stack.pop())

    def bury(self, obj: Obj) -> None:
        """Forget the object itself, too."""
        directory = self._core.directory
        stack = [obj]
        while stack:
            gone = stack.pop()
            if directory.objects.get(gone.id) is gone:
                del directory.objects[gone.id]
                siblings = directory.items.get(gone.id[:-1])
                if siblings is not None and siblings.pop(gone.id, None) is not None and not siblings:
                    del directory.items[gone.id[:-1]]
            stack += self._leave(gone)

    def _leave(self, obj: Obj) -> list[Obj]:
        """Of its parents, those that nobody needs any more."""
        obj.lineage = None
        parents, obj.parents = obj.parents, ()
        free = []
        for parent in parents:
            parent.heirs -= 1
            if not parent.heirs and self.ghosts.pop(parent.id, None) is not None:
                free.append(parent)
        return free
