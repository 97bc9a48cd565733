"""The worker's side of the arena: write where the controller said, read without a copy.

One mapping of the whole arena for each process, read-only; so a page that was read once costs nothing the next time, and
a write through a view is refused by Python, and by the kernel for whoever gets around Python. Writes go through
`pwrite`, to which a lack of memory is an OSError.

A view that is read has an owner of its own, which every slice, array and buffer made from it keeps alive. When the last
one is gone, `released` is called: then the controller may put something else there.

May import nothing of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence


class WorkerArena:
    """`descriptor` and `size` are the Arena's; the descriptor stays the caller's. Thread-safe."""

    def __init__(self, descriptor: int, size: int) -> None:
        raise NotImplementedError

    def write(self, offset: int, segments: Sequence[bytes | memoryview], sha: hashlib._Hash | None = None) -> None:
        """Write the segments one after the other from `offset`; they are added to `sha` on the way.

        Raises OSError if there is no memory; what was written by then does not matter to anybody.
        """
        raise NotImplementedError

    def read(self, offset: int, size: int, released: Callable[[], None]) -> memoryview:
        """The bytes, read-only and not copied.

        `released` is called once, when the last view derived from it is gone: on whatever thread that happens, perhaps
        inside of a garbage collection. It must do no more than put something into a deque or SimpleQueue.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Twice is harmless. Views that are left stay readable."""
        raise NotImplementedError
