"""Which objects leave an arena when room is needed. Pure choice: nothing is changed here.

First what costs nothing: copies of which there is another one (an artifact, the spill space, another node). Then what
is read last in the known graph; of what nobody is known to read, the oldest. May import nothing of ours but the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dagengine.runtime.core.limits import SPILL_BYTES, SPILL_OBJECTS
from dagengine.runtime.core.model import Copy, Node, Obj
from dagengine.runtime.core.states import Place


def has_other(copy: Copy) -> bool:
    """Whether the copy can be dropped from the arena and the object still be read."""
    if copy.spilled or copy.object.durable:
        return True
    return any(other is not copy and other.place == Place.PRESENT for other in copy.object.copies.values())


def loose(node: Node) -> list[Copy]:
    return [copy for copy in node.copies.values() if copy.place == Place.PRESENT and not copy.pins]


def spare(node: Node) -> list[Copy]:
    """Copies that can be dropped without a write, the least useful first."""
    return sorted((copy for copy in loose(node) if has_other(copy)), key=lambda copy: copy.age)


def victims(node: Node, amount: int, next_use: Callable[[Obj], int]) -> list[Copy]:
    """Copies to write to the spill space so that `amount` bytes become free (or all there are)."""
    order = sorted(loose(node), key=lambda copy: (-next_use(copy.object), copy.age))
    chosen: list[Copy] = []
    for copy in order:
        if amount <= 0:
            break
        chosen.append(copy)
        amount -= copy.size
    return chosen


def batches(copies: list[Copy]) -> Iterator[list[Copy]]:
    """As they go into one file each."""
    batch: list[Copy] = []
    size = 0
    for copy in copies:
        if batch and (size + copy.size > SPILL_BYTES or len(batch) >= SPILL_OBJECTS):
            yield batch
            batch, size = [], 0
        batch.append(copy)
        size += copy.size
    if batch:
        yield batch
