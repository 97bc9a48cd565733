"""Spilled objects at any URL that fsspec knows: object stores, file servers, another process's memory in tests.

May import nothing of ours but errors, identity, remote_files and runtime.spill_files.
"""

from __future__ import annotations

import errno
import itertools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dagengine.identity import is_mark_dead, process_mark
from dagengine.remote_files import described, open_files, without_secrets
from dagengine.runtime.spill_files import CHUNK, PREFIX, DiskFull

_numbers = itertools.count()  # of all folders of this process


class RemoteFolder:
    """Files in a folder below `url` that is named after this process. Thread-safe, as fsspec is."""

    def __init__(self, url: str) -> None:
        self.where = without_secrets(url)
        self._given = url
        with self._translated():
            self._files, self._root = open_files(url)
        self._folder = f"{self._root}/{PREFIX}{process_mark()}-{next(_numbers)}"
        self._names = itertools.count()

    def has_room(self, size: int) -> bool:
        """Nobody can know."""
        return True

    def span(self, size: int) -> int:
        return size

    def write(self, views: Sequence[memoryview]) -> tuple[str, list[int]]:
        with self._new_file() as (path, file):
            checksums = []
            for view in views:
                for at in range(0, len(view), CHUNK):
                    file.write(view[at : at + CHUNK])
                checksums.append(zlib.crc32(view))
        return path, checksums

    def read(self, path: str, offset: int, target: memoryview) -> int:
        checksum = 0
        with self._translated():
            for at in range(0, len(target), CHUNK):
                part = target[at : at + CHUNK]
                data = self._files.cat_file(path, start=offset + at, end=offset + at + len(part))
                if len(data) != len(part):
                    raise EOFError
                part[:] = data
                checksum = zlib.crc32(data, checksum)
        return checksum

    def copy(self, path: str, ranges: Sequence[tuple[int, int]]) -> str:
        with self._new_file() as (made, file):
            for offset, size in ranges:
                for at in range(offset, offset + size, CHUNK):
                    file.write(self._files.cat_file(path, start=at, end=min(at + CHUNK, offset + size)))
        return made

    def remove(self, path: str) -> None:
        with self._translated(), suppress(FileNotFoundError):
            self._files.rm_file(path)

    def sweep(self) -> int:
        removed = 0
        with self._translated():
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return 0
            for path in found:
                name = str(path).rstrip("/").rpartition("/")[2]
                if name.startswith(PREFIX) and is_mark_dead(name.removeprefix(PREFIX)):
                    with suppress(FileNotFoundError):  # Others may sweep as well.
                        self._files.rm(path, recursive=True)
                        removed += 1
        return removed

    def close(self) -> None:
        with self._translated(), suppress(FileNotFoundError):
            self._files.invalidate_cache()
            self._files.rm(self._folder, recursive=True)

    @contextmanager
    def _new_file(self) -> Iterator[tuple[str, Any]]:
        path = f"{self._folder}/{next(self._names)}"
        with self._translated():
            self._files.makedirs(self._folder, exist_ok=True)
            try:
                with self._files.open(path, "wb") as file:
                    yield path, file
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(path)
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever a filesystem of fsspec's raises leaves as an OSError: each has errors of its own."""
        try:
            yield
        except EOFError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(self.where) from error
            reason = described(error, self._given)
            raise OSError(errno.EIO, f"the spill space {self.where} can't be reached: {reason}") from error
