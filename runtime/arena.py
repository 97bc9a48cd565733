"""The controller's side of the arena: one piece of shared memory for all objects of a node, with a hard limit.

A memfd on Linux, which no name leads to: it is gone with the last process that holds its descriptor. Where that is
missing, or memory is smaller than the limit, a nameless file in a folder.

Who does what: the controller decides which range is whose (`allocate`, `release`), workers are given the descriptor once
and write and read by themselves (worker_arena.py). `allocate` and `release` are for the runtime's thread: they decide,
and at most give pages back to the kernel.

Invariants:
- Pages of the file never exceed the limit: what `allocate` takes counts from then on, whoever gets its pages.
- Free pages are kept (warm), because new ones cost several times as much as copying into them; a thread gets some
  before they are needed, more when they were not enough, and sleeps when there are enough.
- Never a SIGBUS: who writes through `pwrite` (workers) meets a lack of memory as OSError; `view` gets the pages before
  it gives them to be written.

May import nothing of ours but runtime.{allocator,memory,worker_arena}.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import resource
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from dagengine.runtime.allocator import Allocator
from dagengine.runtime.memory import shared_memory_room
from dagengine.runtime.worker_arena import WorkerArena, address_of, libc

ROOM: Final = 16
"""Address space for each byte of the limit. Objects differ in size by less than 2^20, and placing them well needs about
log2 of that at the very worst; pages are only where something lies."""

FIRST: Final = 64 << 20
"""Bytes that are made warm at the start, and the least that is kept ahead."""

AHEAD: Final = 1 << 30
"""Bytes that are kept ahead at the most: what a single thread fills in 0.1 s."""

_BEFORE_FIRST: Final = 1.0
"""Seconds, unless an object comes before. Workers that start need the processors more, and many programs have ended
by then."""

_STEP: Final = 8 << 20
"""Bytes whose pages are got by one call, which keeps others from changing this process's mappings; and `allocate` may
have to wait for one step: 2 ms, 20 where the machine is itself a guest whose host has to find the pages."""

_GRANULE: Final = 1 << 20
"""Bytes. Of each so many it is known whether this process has them mapped already."""

_HUGE: Final = 256 << 30
_LIMITS: Final = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)

_COPIED: Final = 1 << 20
"""Bytes copied at a time. What is hashed is still in the cache when it is copied."""

_FREED: Final = 64 << 10
"""Bytes. A copy of so many takes longer than giving the interpreter's lock away and getting it back."""

_PUNCH: Final = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE, Linux 5.14
_DONTDUMP: Final = 16  # MADV_DONTDUMP


class Arena:
    """`kind`: "memfd" or "file". `descriptor` is what workers are given, with `size` (its length, of which never more
    than `limit` bytes have pages). Thread-safe."""

    def __init__(self, limit: int, folder: str | None = None) -> None:
        """`folder`: for a file, where there can be no memfd; the temporary folder if None. Raises OSError if neither
        can be had."""
        page = mmap.PAGESIZE
        self.limit = max(page, limit // page * page)
        self.kind, self.descriptor, self.size = _open(self.limit, folder)
        try:
            self._mapping = mmap.mmap(self.descriptor, self.size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        libc().madvise(self._address, self.size, _DONTDUMP)
        self._views = WorkerArena(self.descriptor, self.size)
        self._ranges = Allocator(self.size, self.limit, page)
        self._mapped = bytearray(-(-self.size // _GRANULE))
        self._populates = sys.platform == "linux"
        self._ahead = min(FIRST, self.limit)
        self._exhausted = False  # there are no more pages, whatever the limit says
        self._closed = False
        self._users: Counter[int] = Counter()  # threads that may be using the descriptor
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._warm_up, name="dagengine-arena", daemon=True)
        self._thread.start()

    @property
    def used(self) -> int:
        """Bytes of live ranges, in whole pages."""
        return self._ranges.live

    @property
    def warm(self) -> int:
        """Bytes of free pages that are kept for reuse. used + warm <= limit, always."""
        with self._changed:
            return self._ranges.warm + self._ranges.rising

    def allocate(self, size: int) -> int | None:
        """The offset of a new range, a multiple of a page; None if it does not fit."""
        with self._changed:
            if self._closed:
                return None
            before = self._ranges.warm
            taken = self._ranges.allocate(size)
            while taken is None and self._ranges.rising:
                self._changed.wait()
                taken = self._ranges.allocate(size)
            if taken is None:
                return None
            for offset, length in taken.punched:
                self._punch(offset, length)
            if before < taken.size:
                self._ahead = min(2 * self._ahead, AHEAD, self.limit)
            if self._ranges.warm < self._ahead:
                self._changed.notify_all()
            return taken.offset

    def release(self, offset: int) -> None:
        """Give the range back that `allocate` returned. Nobody may read or write it any more. Not from a finaliser,
        which may run in the middle of `allocate`."""
        with self._changed:
            self._ranges.release(offset)

    def cool(self) -> int:
        """Give the kernel all pages that are kept for reuse, because others need memory now, and keep none ahead from
        here on. How many bytes. On a thread: 0.2 s for a GB; others are let in between."""
        given = 0
        while True:
            with self._changed:
                self._ahead = 0
                self._changed.wait_for(lambda: not self._ranges.rising)
                cooled = self._ranges.cool(_STEP)
                for offset, length in cooled:
                    self._punch(offset, length)
                    given += length
            if not cooled:
                return given

    def view(self, offset: int, size: int) -> memoryview:
        """Writable, for what the controller restores or puts itself. Gets the pages first, which may take 0.4 s for
        a GB that is not warm: on a thread of the spill space or the caller's. Raises OSError if there is no memory,
        ValueError after `close`."""
        with self._changed:
            if self._closed:
                raise ValueError("the arena is closed")
            view = memoryview(self._mapping)[offset : offset + size]
            self._enter()
        try:
            self._populate(offset, size)
        finally:
            with self._changed:
                self._leave()
        return view

    def write(self, offset: int, segments: Sequence[bytes | memoryview], sha: hashlib._Hash | None = None) -> None:
        """As `WorkerArena.write`, for what is put in the controller's process: twice as fast where pages are warm,
        because they are mapped here already; other threads go on meanwhile. Raises OSError, ValueError."""
        target = self.view(offset, sum(len(segment) for segment in segments))
        at = 0
        for segment in segments:
            source = memoryview(segment)
            for start in range(0, len(source), _COPIED):
                part = source[start : start + _COPIED]
                if sha is not None:
                    sha.update(part)
                if len(part) < _FREED:
                    target[at : at + len(part)] = part
                else:
                    libc().memcpy(self._address + offset + at, address_of(part), len(part))
                at += len(part)

    def read(self, offset: int, size: int, released: Callable[[], None]) -> memoryview:
        """As `WorkerArena.read`, for values that are decoded in the controller's process."""
        return self._views.read(offset, size, released)

    def close(self) -> None:
        """Twice is harmless. Views that are left stay readable; their memory goes with the last of them.

        Waits for threads that get pages, unless it is called inside of one, from a finaliser: then that one cleans up.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._views.close()
            inside = threading.get_ident() in self._users
            if not inside:
                self._changed.wait_for(lambda: not self._users)
                self._clean_up()
        if not inside:
            self._thread.join()

    # ---- whose the descriptor is --------------------------------------------------------------

    def _enter(self) -> None:
        """Its number may be another file's as soon as it is closed, so that has to wait from here on."""
        self._users[threading.get_ident()] += 1

    def _leave(self) -> None:
        self._users -= Counter((threading.get_ident(),))
        if self._closed and not self._users:
            self._clean_up()
        self._changed.notify_all()

    def _clean_up(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor < 0:
            return
        os.close(descriptor)
        mapping = self._mapping
        del self._mapping
        with contextlib.suppress(BufferError):  # Else it goes with the last view.
            mapping.close()

    # ---- pages ------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ranges.live, _BEFORE_FIRST)
            while not self._closed:
                some = None
                if self._ranges.warm < self._ahead and not self._exhausted:
                    some = self._ranges.raise_some(min(_STEP, self._ahead - self._ranges.warm))
                if some is None:
                    self._changed.wait()
                else:
                    self._warm(*some)

    def _warm(self, offset: int, size: int) -> None:
        """Get pages for the rising range; others are let in meanwhile."""
        self._enter()
        self._changed.release()
        try:
            self._populate(offset, size)
            ok = True
        except OSError:
            ok = False
        finally:
            self._changed.acquire()
        if not ok:
            self._punch(offset, size)
            self._exhausted = True
        self._ranges.raised(offset, ok)
        self._leave()

    def _populate(self, offset: int, size: int) -> None:
        """Get pages for the range, and map them here, as far as that is not known to be done."""
        end = offset + size
        at = offset
        while at < end:
            granule = at // _GRANULE
            if self._mapped[granule]:
                at = (granule + 1) * _GRANULE
                continue
            known = self._mapped.find(1, granule, -(-end // _GRANULE))
            stop = min(at + _STEP, end if known < 0 else known * _GRANULE)
            self._get_pages(at, stop - at)
            whole = range(-(-at // _GRANULE), stop // _GRANULE)
            self._mapped[whole.start : max(whole.start, whole.stop)] = b"\1" * len(whole)
            at = stop

    def _get_pages(self, offset: int, size: int) -> None:
        os.posix_fallocate(self.descriptor, offset, size)
        if self._populates:
            if libc().madvise(self._address + offset, size, _POPULATE_WRITE) == 0:
                return
            number = ctypes.get_errno()
            if number != errno.EINVAL:
                raise OSError(number, f"{size:,} bytes of shared memory can't be had: {os.strerror(number)}")
            self._populates = False  # An older kernel: the pages are there, and each is mapped when it is first used.

    def _punch(self, offset: int, size: int) -> None:
        first, last = offset // _GRANULE, (offset + size - 1) // _GRANULE
        self._mapped[first : last + 1] = bytes(last + 1 - first)
        # Where it fails, nothing depends on it but the limit: these pages count for nobody until they are used again.
        punch(self.descriptor, offset, size)


def _open(limit: int, folder: str | None) -> tuple[str, int, int]:
    """(kind, descriptor, size)."""
    if hasattr(os, "memfd_create") and limit <= shared_memory_room():
        try:
            return "memfd", *_sized(os.memfd_create("dagengine", os.MFD_CLOEXEC), limit)
        except OSError:
            pass  # Forbidden in some sandboxes; a file will do.
    with tempfile.TemporaryFile(dir=folder) as file:
        return "file", *_sized(os.dup(file.fileno()), limit)


def _sized(descriptor: int, limit: int) -> tuple[int, int]:
    """Give the file its length: ROOM times the limit, less where that could be refused (`ulimit -v` or `-f`, and files
    of many TB), or where pages can't be given back: then all of it may come to have some."""
    try:
        limited = [resource.getrlimit(which)[0] != resource.RLIM_INFINITY for which in _LIMITS]
        roomy = not any(limited) and limit <= _HUGE and punch(descriptor, 0, mmap.PAGESIZE)
        size = limit * (ROOM if roomy else 2)
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, size


def punch(descriptor: int, offset: int, size: int) -> bool:
    """Give pages of the file back to the system. Whether that was possible."""
    while libc().fallocate(descriptor, _PUNCH, offset, size) != 0:
        if ctypes.get_errno() != errno.EINTR:
            return False
    return True
