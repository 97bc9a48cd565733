"""Bytes in shared memory of their own, for what is not an object of the arena: messages that are too large for a socket,
and what there is no room for in the arena when somebody has to have it at once.

No name leads to them: they are gone with the last process that holds a descriptor. A memfd on Linux, elsewhere an
unlinked file in the temporary folder. The pages are asked for before they are written, and written through `pwritev`:
when there is no room, that is an OSError in the process that wanted it, never a SIGBUS.

May import nothing of ours but runtime.{memory,worker_arena}.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dagengine.runtime.memory import available_memory
from dagengine.runtime.worker_arena import batches, write_all

_MOST: Final = 1 << 30
"""Bytes for one call: Linux moves at most 2 GiB."""

_LARGE: Final = 64 << 20
"""Bytes. Below it, asking how much memory there is costs more than it can save."""


def anonymous_file(size: int) -> int:
    """A descriptor of a new, nameless file with room for `size` bytes. Raises OSError if there is none."""
    if size > _LARGE and size > (there := available_memory()):
        # A memfd has no limit of its own: the kernel would rather kill processes than refuse the pages.
        raise OSError(errno.ENOSPC, f"{size:,} bytes of shared memory are needed, and {there:,} are available")
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dagengine", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def share(segments: Sequence[bytes | memoryview]) -> int:
    """A descriptor of shared memory that holds the segments."""
    descriptor = anonymous_file(sum(len(segment) for segment in segments))
    try:
        at = 0
        for batch in batches(segments, _MOST):
            at = write_all(descriptor, batch, at)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def mapped(descriptor: int, size: int) -> Iterator[memoryview]:
    """The first `size` bytes, read-only. Nothing may keep a view on them."""
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapping, memoryview(mapping) as view:
        yield view


class LentFile:
    """A value that is handed over in a file of its own, which no name leads to, as `protocol.SharedObject`. Owns its
    descriptor."""

    offset = 0

    def __init__(self, descriptor: int, size: int, digest: str) -> None:
        self.size = size
        self.digest = digest
        self._descriptor = descriptor
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str, size: int, digest: str) -> LentFile:
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), size, digest)

    def fileno(self) -> int:
        if self._descriptor < 0:
            raise ValueError("the shared object is closed")
        return self._descriptor

    def view(self) -> memoryview:
        return memoryview(mmap.mmap(self.fileno(), self.size, prot=mmap.PROT_READ))

    def close(self) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()
