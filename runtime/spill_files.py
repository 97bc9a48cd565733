"""Spilled objects in the files of one local folder.

A file is written in one of two ways, and read in the way it was written:

- *Through the page cache*, while most of the machine's memory is idle: what comes back soon, or is forgotten soon, has
  then never waited for the disk. The kernel takes that memory back when somebody needs it.
- *Past it*, from the arena's pages to the disk, when memory is not idle, or the cache turned out to be slow: copying
  what is spilled because memory is short would take more of that, and half of the disk's speed. Memory that starts at
  a page goes as it is; what does not, and the last part of each object, goes through a buffer of our own. So objects
  start at pages in the files, too. Small reads always go through the cache: neighbours are often wanted next.

Checksums (CRC-32: 4 GB/s, where it is not the disk that is waited for) are made by the thread that asks, while another
one moves the bytes.

May import nothing of ours but errors, identity, runtime.{memory,protocol,worker_arena}.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dagengine.identity import is_mark_dead, process_mark
from dagengine.runtime.memory import memory_in_use
from dagengine.runtime.worker_arena import address_of, libc, write_all

PREFIX: Final = "dagengine-spill-"

BLOCK: Final = 4096
"""Bytes: where objects start, and what transfers past the cache are a multiple of."""

CHUNK: Final = 8 << 20
"""Bytes that are moved by one call: with less the disk waits for us, more is not faster."""

SMALL: Final = 1 << 20
"""Bytes. Below it, the page cache is of more use than it costs."""

_COPIED: Final = 64 << 10
"""Bytes. A view below it is copied to the buffer: a call with many small parts costs more than that."""

_SEGMENTS: Final = 1024
"""Parts for one call: Linux's IOV_MAX."""

_SENT_AT_ONCE: Final = 1 << 30

IDLE: Final = 0.5
"""Of the memory, what has to be idle for the cache to be used."""

SLOW: Final = 1e9
"""Bytes a second. A cache below that is being throttled by its disk, or gets new memory page by page from a host."""

TRIED_AGAIN: Final = 8
"""Files after which a cache that was slow gets another chance."""

RESERVE_MOST: Final = 1 << 30
RESERVE_SHARE: Final = 0.05
"""Of the disk, what spilling leaves free: the user's store may lie there, and has to be able to say that it is full."""

_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_numbers = itertools.count()  # of all folders of this process


class DiskFull(Exception):
    """There is no room; nothing is left of what was to be written."""


class LocalFolder:
    """Files in a private folder in `base`, both made when the first is written. Thread-safe.

    `movers`: threads that move bytes while the caller computes.
    """

    def __init__(self, base: str, movers: Executor) -> None:
        self.where = str(Path(base).absolute())
        self._base = Path(self.where)
        self._folder = self._base / f"{PREFIX}{process_mark()}-{next(_numbers)}"
        self._movers = movers
        self._names = itertools.count()
        self._direct = _DIRECT
        self._past_cache: set[str] = set()  # files that were written so
        self._avoided = 0  # files that are still to be written past a cache that was slow

    # ---- files --------------------------------------------------------------------------------

    def new_path(self) -> str:
        """Of a file that somebody else may make."""
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
            self._folder.chmod(0o700)  # whatever the umask
        return str(self._folder / str(next(self._names)))

    def has_room(self, size: int) -> bool:
        """Whether the disk has so much, and something left for others."""
        place = self._folder
        while not place.exists() and place != place.parent:
            place = place.parent
        disk = os.statvfs(place)
        reserve = min(RESERVE_MOST, int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE))
        return disk.f_bavail * disk.f_frsize >= size + reserve

    def span(self, size: int) -> int:
        """What an object takes in a file."""
        return -(-size // BLOCK) * BLOCK

    def remove(self, path: str) -> None:
        self._past_cache.discard(path)
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - a path from here, as text

    def sweep(self) -> int:
        """Remove the folders of dead processes. How many."""
        removed = 0
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in self._base.iterdir():
                if entry.name.startswith(PREFIX) and is_mark_dead(entry.name.removeprefix(PREFIX)):
                    shutil.rmtree(entry, ignore_errors=True)  # Others may sweep as well.
                    removed += not entry.exists()
        return removed

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- bytes --------------------------------------------------------------------------------

    def write(self, views: Sequence[memoryview]) -> tuple[str, list[int]]:
        """A new file of these, each from the next block on. Its path, and the checksums.

        Raises DiskFull, OSError.
        """
        total = sum(self.span(len(view)) for view in views)
        if not self.has_room(total):
            raise DiskFull(self.where)
        path = self.new_path()
        moved = self._movers.submit(self._write, path, views, total)
        try:
            checksums = [zlib.crc32(view) for view in views]
        finally:
            error = moved.exception()  # The views must not be given back before.
        if error is not None:
            self.remove(path)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise DiskFull(self.where) from error
            raise error
        return path, checksums

    def read(self, path: str, offset: int, target: memoryview) -> int:
        """Fill `target`. The checksum of the bytes. Raises OSError, EOFError."""
        size = len(target)
        with self._opened(path, size) as (descriptor, direct):
            if size <= CHUNK:
                _fill(descriptor, offset, target, direct)
                return zlib.crc32(target)
            checksum = 0
            parts = [target[at : at + CHUNK] for at in range(0, size, CHUNK)]
            moved = self._movers.submit(_fill, descriptor, offset, parts[0], direct)
            try:
                for number, part in enumerate(parts):
                    moved.result()
                    if number + 1 < len(parts):
                        at = offset + (number + 1) * CHUNK
                        moved = self._movers.submit(_fill, descriptor, at, parts[number + 1], direct)
                    checksum = zlib.crc32(part, checksum)
            finally:
                moved.exception()  # The file, and the target, must not be given back before.
            return checksum

    def copy(self, path: str, ranges: Sequence[tuple[int, int]]) -> str:
        """A new file of these parts of another one, each from the next block on. Raises DiskFull, OSError, EOFError."""
        if not self.has_room(sum(self.span(size) for _, size in ranges)):
            raise DiskFull(self.where)
        made = self.new_path()
        try:
            source = os.open(path, os.O_RDONLY | _OPEN)
            with _closing(source), _closing(_create(made)) as target:
                at = 0
                for offset, size in ranges:
                    _copy(source, offset, target, at, size)
                    at += self.span(size)
        except BaseException as error:
            self.remove(made)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise DiskFull(self.where) from error
            raise
        return made

    def _write(self, path: str, views: Sequence[memoryview], total: int) -> None:
        if total >= SMALL and self._direct and not self._cache_is_good():
            try:
                with _closing(_create(path, self._direct)) as descriptor:
                    _reserve(descriptor, total)
                    _write_views(descriptor, views)
                self._past_cache.add(path)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            self._direct = 0  # This filesystem has no way past the cache.
            self.remove(path)
        began = time.perf_counter()
        with _closing(_create(path)) as descriptor:
            _reserve(descriptor, total)
            _write_views(descriptor, views)
        if total >= CHUNK and total < SLOW * (time.perf_counter() - began):
            self._avoided = TRIED_AGAIN

    def _cache_is_good(self) -> bool:
        if self._avoided:
            self._avoided -= 1
            return False
        return all(found.used < found.limit * IDLE for found in memory_in_use())

    @contextmanager
    def _opened(self, path: str, size: int) -> Iterator[tuple[int, bool]]:
        if size >= SMALL and path in self._past_cache:
            with _closing(os.open(path, os.O_RDONLY | _DIRECT | _OPEN)) as descriptor:
                yield descriptor, True
        else:
            with _closing(os.open(path, os.O_RDONLY | _OPEN)) as descriptor:
                yield descriptor, False


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _create(path: str, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags | _OPEN, 0o600)


def _reserve(descriptor: int, size: int) -> None:
    """So that a full disk is met before anything was written. Not by posix_fallocate, which may write zeros instead."""
    if libc().fallocate(descriptor, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in _FULL:
            raise OSError(number, os.strerror(number))


# ---- aligned transfers ------------------------------------------------------------------------


def _write_views(descriptor: int, views: Sequence[memoryview]) -> None:
    writer = _Writer(descriptor)
    for view in views:
        writer.add(view)
    writer.flush()


def _is_aligned(view: memoryview) -> bool:
    """Whether the memory starts at a block."""
    return address_of(view) % BLOCK == 0


class _Writer:
    """Writes views from the next block on each, in whole blocks and by as few calls as may be."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0
        self._batch: list[memoryview] = []
        self._length = 0  # bytes of the batch
        self._buffer = _aligned_buffer(CHUNK)
        self._used = 0  # of the buffer: up to here it holds what is not written yet
        self._batched = 0  # of the buffer: up to here it is part of the batch

    def add(self, view: memoryview) -> None:
        whole = len(view) // BLOCK * BLOCK if len(view) >= _COPIED and _is_aligned(view) else 0
        for start in range(0, whole, CHUNK):
            self._batch_buffer()
            self._append(view[start : min(start + CHUNK, whole)])
        at = whole
        while at < len(view):
            part = view[at : at + CHUNK - self._used]
            end = self._used + len(part)
            self._buffer[self._used : end] = part
            self._used = -(-end // BLOCK) * BLOCK
            self._buffer[end : self._used] = bytes(self._used - end)
            at += len(part)
            if self._used == CHUNK:
                self.flush()

    def flush(self) -> None:
        self._batch_buffer()
        self._at = write_all(self._descriptor, self._batch, self._at)
        self._batch, self._length = [], 0
        self._used = self._batched = 0

    def _batch_buffer(self) -> None:
        if self._batched < self._used:
            part = self._buffer[self._batched : self._used]
            self._batched = self._used
            self._append(part)

    def _append(self, part: memoryview) -> None:
        self._batch.append(part)
        self._length += len(part)
        if self._length >= CHUNK or len(self._batch) == _SEGMENTS:
            self.flush()


def _fill(descriptor: int, offset: int, target: memoryview, direct: bool) -> None:
    """Read `target` full, from `offset`. Raises EOFError if the file ends before."""
    if not direct:
        _read_all(descriptor, offset, target)
        return
    at = 0
    if _is_aligned(target):
        at = len(target) // BLOCK * BLOCK
        _read_all(descriptor, offset, target[:at])
    if at == len(target):
        return
    buffer = _aligned_buffer(min(CHUNK, -(-(len(target) - at) // BLOCK) * BLOCK))
    while at < len(target):
        # The last block of a file that a worker has written may be shorter than a block.
        found = min(os.preadv(descriptor, [buffer], offset + at), len(target) - at)
        if found == 0 or (found % BLOCK and at + found < len(target)):
            raise EOFError
        target[at : at + found] = buffer[:found]
        at += found


def _read_all(descriptor: int, offset: int, target: memoryview) -> None:
    at = 0
    while at < len(target):
        found = os.preadv(descriptor, [target[at:]], offset + at)
        if found == 0:
            raise EOFError
        at += found


def _copy(source: int, offset: int, target: int, at: int, size: int) -> None:
    """Between two files, in the kernel where it can."""
    while size:
        try:
            moved = os.copy_file_range(source, target, min(size, _SENT_AT_ONCE), offset, at)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP):
                raise
            moved = os.pwrite(target, os.pread(source, min(size, CHUNK), offset), at)
        if moved == 0:
            raise EOFError
        offset, at, size = offset + moved, at + moved, size - moved


def _aligned_buffer(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size))
