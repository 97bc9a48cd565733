"""The controller's side of the arena: one piece of shared memory for all objects of a node, with a hard limit.

A memfd on Linux, which no name leads to: it is gone with the last process that holds its descriptor. Where that is
missing, or memory is smaller than the limit, a nameless file in a private folder.

Who does what: the controller decides which range is whose (`allocate`, `release`), workers are given the descriptor once
(forker.py) and write and read by themselves (worker_arena.py). `allocate` decides and does no I/O but giving pages back.

Never a SIGBUS: who writes through `pwrite` (workers) meets a lack of memory as OSError; `view` commits the pages
before it gives them to be written.

May import nothing of ours but runtime.{allocator,memory,worker_arena}.
"""

from __future__ import annotations

from collections.abc import Callable


class Arena:
    """`kind`: "memfd" or "file". `descriptor` is what workers are given, with `size` (its length, of which never more
    than `limit` bytes have pages). Thread-safe."""

    kind: str
    descriptor: int
    size: int
    limit: int

    def __init__(self, limit: int, folder: str | None = None) -> None:
        """`folder`: for a file, where there can be no memfd; the temporary folder if None. Raises OSError if neither
        can be had."""
        raise NotImplementedError

    @property
    def used(self) -> int:
        """Bytes of live ranges, in whole pages."""
        raise NotImplementedError

    @property
    def warm(self) -> int:
        """Bytes of free pages that are kept for reuse. used + warm <= limit, always."""
        raise NotImplementedError

    def allocate(self, size: int) -> int | None:
        """The offset of a new range, a multiple of a page; None if it does not fit. Quick: for the runtime's thread."""
        raise NotImplementedError

    def release(self, offset: int) -> None:
        """Give the range back that `allocate` returned. Nobody may read or write it any more."""
        raise NotImplementedError

    def view(self, offset: int, size: int) -> memoryview:
        """Writable, for what the controller restores or puts itself. Commits the pages first, which may take 0.4 s for
        a GB that is not warm: on a thread of the spill space or the caller's. Raises OSError if there is no memory."""
        raise NotImplementedError

    def read(self, offset: int, size: int, released: Callable[[], None]) -> memoryview:
        """As `WorkerArena.read`, for values that are decoded in the controller's process."""
        raise NotImplementedError

    def close(self) -> None:
        """Twice is harmless. Views that are left stay readable; their memory goes with the last of them."""
        raise NotImplementedError
