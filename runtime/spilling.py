"""Where objects go for which the arena has no room: files in local folders, or at any URL that fsspec knows.

    write ─▶ one file for all that is written at once; what is where is known here only, and goes with this process
    forget ─▶ a file goes with the last of its objects; sparse ones, of which less than half is wanted, are rewritten
              when there is more that nobody wants than that somebody does, or when room is needed

Invariants: an object is in at most one file that is read. A checksum is held against the bytes before anybody is told
that they are there. `used` never exceeds the limit, but for files that workers have written already, and while a file
is rewritten. Nothing is synced: no promise is kept by these files, and with the process they lose their meaning.

The folders are private and named after this process, so that `sweep` can tell whose owner is dead. What takes long
(deleting, rewriting) is done by a thread of this module's, so that `forget` is quick.

May import nothing of ours but errors and runtime.{protocol,spill_files,spill_remote,spill_trouble}.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import unquote

from dagengine.errors import ObjectLost, ObjectStoreFull
from dagengine.runtime.protocol import ObjectId
from dagengine.runtime.spill_files import DiskFull, LocalFolder
from dagengine.runtime.spill_remote import RemoteFolder
from dagengine.runtime.spill_trouble import SpillTrouble

SLACK: Final = 1 << 30
"""Bytes of forgotten objects that are never worth rewriting files for, as long as nobody needs their room: most files
of which little is wanted will soon be wanted by nobody, and cost nothing then."""

_MOVERS: Final = 3
"""Two for the runtime's spill threads, one for a put."""


class SpillFull(ObjectStoreFull):
    """The spill space has no room: its disk is full, or its limit is reached. Nothing was kept of what was to be
    written."""


class Place(Protocol):
    """One folder. `where`: for people. Errors: DiskFull, OSError, and EOFError where a file is too short."""

    where: str

    def has_room(self, size: int) -> bool: ...

    def span(self, size: int) -> int:
        """Bytes from the start of an object of that size to the start of the next."""

    def write(self, views: Sequence[memoryview]) -> tuple[str, list[int]]:
        """A new file of these. Its path, and their checksums."""

    def read(self, path: str, offset: int, target: memoryview) -> int:
        """Fill `target`; the checksum of the bytes."""

    def copy(self, path: str, ranges: Sequence[tuple[int, int]]) -> str:
        """A new file of these (offset, size) of another; its path."""

    def remove(self, path: str) -> None: ...

    def sweep(self) -> int: ...

    def close(self) -> None: ...


class _File:
    """size: bytes on the disk; wanted: of those, the bytes of objects that are not forgotten."""

    __slots__ = ("objects", "path", "place", "queued", "size", "wanted")

    def __init__(self, place: Place, path: str, size: int) -> None:
        self.place = place
        self.path = path
        self.size = size
        self.wanted = 0
        self.objects: set[ObjectId] = set()
        self.queued = False


class _Entry(NamedTuple):
    file: _File
    offset: int
    size: int
    checksum: int


class SpillSpace:
    """`urls`: local folders, used in turn, or fsspec URLs; they are made if need be, when something is written first.
    `limit`: bytes in all, None: as much as there is. Thread-safe: all methods but `close` at the same time.

    trouble: places that can't be written to; each is warned of once, and tried again with the next write
    """

    def __init__(self, urls: Sequence[str], limit: int | None = None) -> None:
        if not urls:
            raise ValueError("a spill space needs a folder or URL")
        self.limit = limit
        self.trouble = SpillTrouble()
        self._movers = ThreadPoolExecutor(_MOVERS, "dagengine-spill")
        self._local: list[LocalFolder] = []
        self._places: list[Place] = []
        for url in urls:
            place = _place(url, self._movers)
            self._places.append(place)
            if isinstance(place, LocalFolder):
                self._local.append(place)
        self._all = list(self._places)
        if not self._local:
            # A worker writes to local files only.
            self._local.append(LocalFolder(tempfile.gettempdir(), self._movers))
            self._all += self._local
        self._turns = itertools.count()
        self._entries: dict[ObjectId, _Entry] = {}
        self._overflow: dict[str, LocalFolder] = {}
        self._used = 0
        self._wanted = 0
        self._sparse: set[_File] = set()
        self._changed = threading.Condition()
        self._todo: deque[_File] = deque()
        self._busy = False
        self._closed = False
        self._janitor: threading.Thread | None = None

    def sweep(self) -> int:
        """Remove what processes of this machine that are dead have left. How many folders. For a thread: it may wait
        for a network. Raises OSError."""
        return sum(place.sweep() for place in self._all)

    @property
    def used(self) -> int:
        """Bytes of all files, those of forgotten objects that share a file with others included."""
        return self._used

    def sizes(self) -> dict[ObjectId, int]:
        """Each object's bytes."""
        with self._changed:
            return {number: entry.size for number, entry in self._entries.items()}

    def has_room(self, size: int) -> bool:
        """Whether so much more would be taken, as far as anybody can know."""
        if self.limit is not None and self._used + size > self.limit:
            return False
        return any(place.has_room(size) for place in self._places)

    # ---- writing ------------------------------------------------------------------------------

    def write(self, items: Sequence[tuple[ObjectId, memoryview]]) -> None:
        """Keep these, in one file. All or nothing. Views of `Arena.view` go to a disk without a copy.

        Raises SpillFull; OSError if the place can't be written at all.
        """
        if not items:
            return
        if not self._try_places(items):
            # What was forgotten may be on its way out, or share files with what was not.
            with self._changed:
                self._rewrite_sparse()
            self.settle()
            if not self._try_places(items):
                raise self._full([len(view) for _, view in items])

    def _try_places(self, items: Sequence[tuple[ObjectId, memoryview]]) -> bool:
        """Whether there was room in one of them."""
        views = [view for _, view in items]
        first = next(self._turns)
        trouble: OSError | None = None
        for number in range(len(self._places)):
            place = self._places[(first + number) % len(self._places)]
            total = sum(place.span(len(view)) for view in views)
            if not self._reserve(total):
                continue
            try:
                path, checksums = place.write(views)
            except BaseException as error:
                with self._changed:
                    self._used -= total
                if isinstance(error, OSError):
                    trouble = error
                    self._note(place, error)
                elif not isinstance(error, DiskFull):
                    raise
                continue
            self.trouble.worked(place.where)
            self._enter(_File(place, path, total), [(number, len(view)) for number, view in items], checksums)
            return True
        if trouble is not None:
            raise trouble
        return False

    def _note(self, place: Place, error: OSError) -> None:
        failing = {place.where, *self.trouble.failing}
        left = (other.where for other in self._all if other.where not in failing)
        self.trouble.failed(place.where, _reason(place, error), ", ".join(left))

    def _reserve(self, size: int) -> bool:
        with self._changed:
            if self.limit is not None and self._used + size > self.limit:
                return False
            self._used += size
            return True

    def _enter(self, file: _File, objects: Sequence[tuple[ObjectId, int]], checksums: Sequence[int]) -> None:
        with self._changed:
            self._drop([number for number, _ in objects])  # Written again: the newer one counts.
            at = 0
            for (number, size), checksum in zip(objects, checksums, strict=True):
                self._entries[number] = _Entry(file, at, size, checksum)
                file.objects.add(number)
                at += file.place.span(size)
            file.wanted = file.size
            self._wanted += file.size

    @property
    def where(self) -> str:
        return ", ".join(place.where for place in self._places)

    def _full(self, sizes: Sequence[int]) -> SpillFull:
        where = self.where
        total = min(sum(map(place.span, sizes)) for place in self._places)
        if self.limit is not None and self._used + total > self.limit:
            return SpillFull(
                f"no room to spill {total:,} bytes: {self._used:,} of {self.limit:,} are in use ({where})."
                " Raise the limit, or free objects"
            )
        return SpillFull(f"no room to spill {total:,} bytes: the disk is full ({where}). Make room there")

    # ---- files that workers write -------------------------------------------------------------

    def overflow_path(self) -> str:
        """A new name in a local, private folder, which a worker may create and write an encoded value to. Then `adopt`
        it; or, if the worker failed or died, `discard` it. Raises OSError, if none of them can be written to."""
        first = next(self._turns)
        for number in range(len(self._local)):
            place = self._local[(first + number) % len(self._local)]
            try:
                path = place.new_path()
            except OSError as error:
                self._note(place, error)
                continue
            with self._changed:
                self._overflow[path] = place
            return path
        raise OSError(errno.EIO, self.trouble.text)

    def adopt(self, object_id: ObjectId, path: str, size: int, checksum: int) -> None:
        """The worker has written all of the file. `checksum`: zlib.crc32 of its bytes."""
        with self._changed:
            place = self._overflow.pop(path)
            taken = place.span(size)
            self._used += taken
        self._enter(_File(place, path, taken), [(object_id, size)], [checksum])

    def discard(self, path: str) -> None:
        """Nobody will adopt the file."""
        with self._changed:
            place = self._overflow.pop(path, None)
            if place is not None:
                self._hand_over(_File(place, path, 0))

    # ---- reading ------------------------------------------------------------------------------

    def read_into(self, object_id: ObjectId, target: memoryview) -> None:
        """Fill `target`, of exactly the object's size. Raises ObjectLost, which names the file, if the bytes are not
        there or are not what was written."""
        while True:
            with self._changed:
                entry = self._entries.get(object_id)
            if entry is None:
                raise ObjectLost(f"object {object_id} is not in the spill space", objects=[list(object_id)])
            if len(target) != entry.size:
                raise ValueError(f"object {object_id} has {entry.size:,} bytes, not {len(target):,}")
            try:
                checksum = entry.file.place.read(entry.file.path, entry.offset, target)
            except (OSError, EOFError) as error:
                if self._entries.get(object_id) is not entry:
                    continue  # Its file was rewritten meanwhile.
                reason = getattr(error, "strerror", None) or "it is too short"
                raise self._lost(object_id, entry, f"can't be read: {reason}") from error
            if checksum != entry.checksum:
                raise self._lost(object_id, entry, "has other bytes than were written")
            return

    def _lost(self, object_id: ObjectId, entry: _Entry, what: str) -> ObjectLost:
        return ObjectLost(
            f"{entry.size:,} bytes of object {object_id} are lost: the spill file {entry.file.path} {what}. Check the disk",
            objects=[list(object_id)],
        )

    # ---- forgetting ---------------------------------------------------------------------------

    def forget(self, objects: Iterable[ObjectId]) -> None:
        """Nobody will read these again; unknown ones are ignored. A file goes with the last of its objects. Quick, for
        the runtime's thread."""
        with self._changed:
            self._drop(objects)

    def settle(self) -> None:
        """Wait until files that nobody wants are gone, and those that are being rewritten are."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._todo or self._busy))

    def close(self) -> None:
        """Remove everything. Twice is harmless."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        if self._janitor is not None:
            self._janitor.join()
        self._movers.shutdown()
        for place in self._all:
            place.close()

    def _drop(self, objects: Iterable[ObjectId]) -> None:
        for number in objects:
            entry = self._entries.pop(number, None)
            if entry is None:
                continue
            file, size = entry.file, entry.file.place.span(entry.size)
            file.objects.discard(number)
            file.wanted -= size
            self._wanted -= size
            if file.queued:
                continue
            if not file.objects:
                self._hand_over(file)
            elif 2 * file.wanted < file.size:
                self._sparse.add(file)
        if self._used - self._wanted > max(SLACK, self._wanted):
            self._rewrite_sparse()

    def _rewrite_sparse(self) -> None:
        for file in list(self._sparse):
            self._hand_over(file)

    def _hand_over(self, file: _File) -> None:
        """To the janitor."""
        file.queued = True
        self._sparse.discard(file)
        self._todo.append(file)
        if self._janitor is None:
            self._janitor = threading.Thread(target=self._tidy, name="dagengine-spill-tidy", daemon=True)
            self._janitor.start()
        self._changed.notify_all()

    def _tidy(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._todo or self._closed)
                if self._closed:
                    return
                file = self._todo.popleft()
                self._busy = True
                kept = sorted((self._entries[number].offset, number) for number in file.objects)
                entries = [(number, self._entries[number]) for _, number in kept]
            try:
                self._rewrite(file, entries)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _rewrite(self, file: _File, entries: list[tuple[ObjectId, _Entry]]) -> None:
        """Move these objects to a file of their own, if there are any, and remove the old one."""
        place = file.place
        if entries:
            size = sum(place.span(entry.size) for _, entry in entries)
            try:
                path = place.copy(file.path, [(entry.offset, entry.size) for _, entry in entries])
            except (DiskFull, OSError, EOFError):
                # Then it stays as it is; whoever reads it will see what is wrong.
                with self._changed:
                    file.queued = False
                    if not file.objects:
                        self._hand_over(file)
                return
            fresh = _File(place, path, size)
            with self._changed:
                self._used += size
                fresh.wanted = size
                at = 0
                for number, entry in entries:
                    if self._entries.get(number) is entry:
                        self._entries[number] = _Entry(fresh, at, entry.size, entry.checksum)
                        fresh.objects.add(number)
                    else:
                        fresh.wanted -= place.span(entry.size)
                    at += place.span(entry.size)
                if not fresh.objects:
                    self._hand_over(fresh)
                elif 2 * fresh.wanted < fresh.size:
                    self._sparse.add(fresh)
        with contextlib.suppress(OSError):  # Then it goes with the folder.
            place.remove(file.path)
        with self._changed:
            self._used -= file.size


def probe(url: str) -> str:
    """Whether the place can be written to; in a few words, what it is. A byte is written there and removed again, but in
    a folder that is not there yet, which is not made. Raises OSError, whose `strerror` says what is wrong."""
    path = _local_path(url)
    if path is not None and not Path(path).exists():
        there = next(folder for folder in Path(path).absolute().parents if folder.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return f"{path} is not there yet; it is made when something is spilled"
        raise OSError(errno.EACCES, f"the spill space {path} can't be made in {there}. Check its mode, or name another")
    with ThreadPoolExecutor(1, "dagengine-spill") as movers:
        place = _place(url, movers)
        try:
            place.write([memoryview(b"?")])
        except DiskFull as error:
            raise OSError(errno.ENOSPC, f"the spill space {place.where} is full. Make room there") from error
        except OSError as error:
            raise OSError(errno.EIO, _reason(place, error)) from error
        finally:
            with contextlib.suppress(OSError):
                place.close()
    return place.where


def _place(url: str, movers: ThreadPoolExecutor) -> LocalFolder | RemoteFolder:
    path = _local_path(url)
    return RemoteFolder(url) if path is None else LocalFolder(path, movers)


def _reason(place: Place, error: OSError) -> str:
    """In one line, what is wrong and what to do."""
    reason = error.strerror or str(error)
    if isinstance(place, RemoteFolder):
        return reason  # as `remote_files.described` has it
    return f"the spill space {place.where} can't be written to: {reason}. Check its mode and owner, or name another"


def _local_path(url: str) -> str | None:
    """The folder that the URL names, if it is one of this machine."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    return unquote(rest) if scheme in ("file", "local") else None
