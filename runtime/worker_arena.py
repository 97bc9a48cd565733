"""The worker's side of the arena: write where the controller said, read without a copy.

One mapping of the whole arena for each process, read-only; so a page that was read once costs nothing the next time, and
a write through a view is refused by Python, and by the kernel for whoever gets around Python. Writes go through
`pwritev`: to that a lack of memory is an OSError, where a write to a mapping would be a SIGBUS, and for pages that this
process has not touched before it is the faster one (docs/performance.md).

A view that is read has an owner of its own, which every slice, array and buffer made from it keeps alive. When the last
one is gone, `released` is called: then the controller may put something else there.

Imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final

_CHUNK: Final = 1 << 20
"""Bytes. What is hashed is still in the cache when it is written."""

_MOST: Final = 1 << 30
"""Bytes for one call: Linux moves at most 2 GiB."""

_SEGMENTS: Final = 1024
"""Segments for one call: Linux's IOV_MAX."""

_DONTDUMP: Final = getattr(mmap, "MADV_DONTDUMP", 16)


class WorkerArena:
    """`descriptor` and `size` are the Arena's; the descriptor stays the caller's. Thread-safe."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._mapping: _Mapping | None = None

    def write(self, offset: int, segments: Sequence[bytes | memoryview], sha: hashlib._Hash | None = None) -> None:
        """Write the segments one after the other from `offset`; they are added to `sha` on the way.

        Raises OSError if there is no memory; what was written by then does not matter to anybody.
        """
        for batch in batches(segments, _MOST if sha is None else _CHUNK):
            if sha is not None:
                for part in batch:
                    sha.update(part)
            offset = write_all(self._descriptor, batch, offset)

    def read(self, offset: int, size: int, released: Callable[[], None]) -> memoryview:
        """The bytes, read-only and not copied.

        `released` is called once, when the last view derived from it is gone: on whatever thread that happens, perhaps
        inside of a garbage collection. It must do no more than put something into a deque or SimpleQueue. It is not
        called if this raises: ValueError after `close`, or for what is not in the arena.
        """
        mapping = self._mapping
        if self._descriptor < 0:
            raise ValueError("the arena is closed")
        if mapping is None:
            # Two threads at once make two mappings, of which one goes with the views that were made on it.
            mapping = self._mapping = _Mapping(self._descriptor, self._size)
        if offset < 0 or size < 0 or offset + size > mapping.size:
            raise ValueError(f"{size} bytes at {offset} do not lie in the arena")
        owner = _owner_type(size.bit_length()).from_address(mapping.address + offset)
        owner.mapping = mapping
        owner.released = released
        # A PickleBuffer's raw view is of plain bytes, whatever ctypes says of its own.
        return pickle.PickleBuffer(owner).raw()[:size].toreadonly()

    def close(self) -> None:
        """Twice is harmless. Views that are left stay readable."""
        self._descriptor = -1
        self._mapping = None


class _Mapping:
    """The arena, mapped read-only, as long as anybody has this."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        system = libc()
        address = system.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address in (None, _FAILED):
            number = ctypes.get_errno()
            raise OSError(number, f"{size:,} bytes of address space for the arena can't be had: {os.strerror(number)}")
        self.address: int = address
        self._unmap = system.munmap  # at the end of the interpreter, when modules are empty, too
        system.madvise(address, size, _DONTDUMP)  # A core file is for the process's own memory.

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._unmap(self.address, self.size)


_FAILED: Final = ctypes.c_void_p(-1).value


@functools.cache
def libc() -> Any:
    """The C library; calls of it run without the interpreter's lock."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
        ctypes.c_int64,
    ]
    library.memcpy.restype = None
    library.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    library.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


class _Buffer(ctypes.Structure):
    """The interpreter's Py_buffer."""

    _fields_: ClassVar = [
        ("address", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("length", ctypes.c_ssize_t),
        ("item", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("dimensions", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def address_of(view: memoryview) -> int:
    """Where the view's first byte is, also of memory that can't be written to. Good as long as the view is."""
    found = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(found), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))
    return found.address or 0


@functools.cache
def _owner_type(bits: int) -> Any:
    """A type whose instances lend the memory at an address. One for each power of two: a type costs 50 µs to make, and
    ctypes never forgets one. The owner of a view is larger than the view, then; nobody sees more than the view."""

    class Owner(ctypes.c_ubyte * (1 << bits)):  # type: ignore[misc]
        mapping: _Mapping
        released: Callable[[], None]

        def __del__(self) -> None:
            self.released()

    return Owner


def batches(segments: Sequence[bytes | memoryview], most: int) -> Iterator[list[memoryview]]:
    """The segments as lists of views of at most `most` bytes together."""
    batch: list[memoryview] = []
    room = most
    for segment in segments:
        view = memoryview(segment)
        at = 0
        while at < len(view):
            part = view[at : at + room]
            at += len(part)
            room -= len(part)
            batch.append(part)
            if not room or len(batch) == _SEGMENTS:
                yield batch
                batch, room = [], most
    if batch:
        yield batch


def write_all(descriptor: int, batch: list[memoryview], offset: int) -> int:
    """Where the next one goes."""
    while batch:
        written = os.pwritev(descriptor, batch, offset)
        offset += written
        while batch and written >= len(batch[0]):
            written -= len(batch.pop(0))
        if written:
            batch[0] = batch[0][written:]
    return offset
