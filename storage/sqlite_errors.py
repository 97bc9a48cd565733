"""SQLite's errors in our words, at one place: what is wrong with the store, where, and what to do.

May import nothing of ours but errors.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dagengine.errors import InternalError, StoreError, StoreForeign, StoreFull, StoreUnavailable

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another process's transaction: longer than any of ours, shorter than a person's patience."""

_WAL_WRITE_LOCK = 120  # the byte of the -shm file that a writer locks (SQLite's "WAL-mode file format", section 2.3)


def url_of(path: str) -> str:
    return f"sqlite://{path}"


def free_bytes(path: str) -> int:
    """How much can still be written where `path` lies; 0 if nobody knows."""
    try:
        found = os.statvfs(Path(path).parent)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def translate(error: sqlite3.Error, path: str) -> StoreError | InternalError:
    """What to tell of `error`, met at the database file `path`."""
    url = url_of(path)
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    match primary:
        case sqlite3.SQLITE_FULL:
            free = free_bytes(path)
            return StoreFull(
                f"the disk is full: {path} can't grow, {free:,} bytes are free. Make room, then resume", store=url
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(
                f"the store {path} has been locked for {BUSY_TIMEOUT:.0f} s by {_who_locks(path)}. "
                "Try again when it lets go",
                store=url,
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreUnavailable(
                f"the store {path} can't be written to: make the file and its folder writable, or name another store",
                store=url,
            )
        case sqlite3.SQLITE_CANTOPEN:
            return StoreUnavailable(
                f"the store {path} can't be opened: {_why_not(path)}. Make it so, or name another store", store=url
            )
        case sqlite3.SQLITE_IOERR:
            return StoreUnavailable(
                f"the store {path} can't be read or written: {error}. Check the disk, then resume", store=url
            )
        case sqlite3.SQLITE_CORRUPT:
            return StoreUnavailable(
                f"the store {path} is damaged: {error}. See `dagengine db check`, and restore a copy", store=url
            )
        case sqlite3.SQLITE_NOTADB:
            return StoreForeign(f"{path} is not a database: name another store", store=url)
    return InternalError(f"SQLite refused a statement at {path}: {type(error).__name__}: {error}")


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Errors of SQLite leave as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def _why_not(path: str) -> str:
    """What is in the way of opening the file. Looks without opening: closing a descriptor would drop SQLite's locks."""
    file = Path(path)
    if file.is_dir():
        return "it is a directory"
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    if not os.access(file.parent, os.W_OK | os.X_OK):
        return f"the folder {file.parent} is not writable"
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        return "the file is not readable and writable"
    return "SQLite can't open it"


def _who_locks(path: str) -> str:
    """The process that holds the lock of a writer, where the kernel tells."""
    try:
        inode = str(Path(path + "-shm").stat().st_ino)
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return "another process"
    for lock in locks:  # 1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 120 120
        fields = lock.split()
        if len(fields) == 8 and fields[3] == "WRITE" and fields[5].rpartition(":")[2] == inode:
            first, last = int(fields[6]), fields[7]
            if first <= _WAL_WRITE_LOCK <= (int(last) if last != "EOF" else first):
                return f"process {fields[4]}"
    return "another process"
