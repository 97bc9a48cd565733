"""Bytes in shared memory that no name leads to: they are gone with the last process that holds a descriptor.

A memfd on Linux, elsewhere an unlinked file in the temporary folder. The pages are asked for before they are written,
and written through `pwrite`: when there is no room, that is an OSError in the process that wanted it, never a SIGBUS.
Only readers map the bytes.

May import nothing of ours but values and runtime.memory.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dagengine.runtime.memory import available_memory
from dagengine.values import Encoded

_CHUNK: Final = 1 << 20
"""Bytes. What is hashed is still in the cache when it is written."""

_LARGE: Final = 64 << 20
"""Bytes. Below it, asking how much memory there is costs more than it can save."""


class SharedFile:
    """A large encoded value, as `protocol.SharedObject`. Owns its descriptor."""

    __slots__ = ("_descriptor", "digest", "size")

    def __init__(self, descriptor: int, size: int, digest: str) -> None:
        self._descriptor = descriptor
        self.size = size
        self.digest = digest

    def fileno(self) -> int:
        if self._descriptor < 0:
            raise ValueError("the shared object is closed")
        return self._descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        # Whoever drops an event unread must not keep its memory.
        self.close()


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


def share(segments: Sequence[bytes | memoryview], sha: hashlib._Hash | None = None) -> int:
    """A descriptor of shared memory that holds the segments; they are added to `sha` on the way."""
    descriptor = anonymous_file(sum(len(segment) for segment in segments))
    try:
        at = 0
        for segment in segments:
            view = memoryview(segment)
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                if sha is not None:
                    sha.update(chunk)
                while chunk:
                    written = os.pwrite(descriptor, chunk, at)
                    at += written
                    chunk = chunk[written:]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def share_value(encoded: Encoded) -> SharedFile:
    """The encoded value in shared memory, with its digest. Raises OSError if there is no room."""
    sha = hashlib.sha256()
    descriptor = share(encoded.segments, sha)
    return SharedFile(descriptor, encoded.size, sha.hexdigest())


@contextmanager
def mapped(descriptor: int, size: int) -> Iterator[memoryview]:
    """The first `size` bytes, read-only. Nothing may keep a view on them."""
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapping, memoryview(mapping) as view:
        yield view
