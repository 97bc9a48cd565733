"""Where objects go for which the arena has no room: files in local folders, or at any URL that fsspec knows.

May import nothing of ours but errors, identity, runtime.{protocol,…}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dagengine.errors import ObjectStoreFull
from dagengine.runtime.protocol import ObjectId


class SpillFull(ObjectStoreFull):
    """The spill space has no room: its disk is full, or its limit is reached. Nothing was kept of what was to be written."""


class SpillSpace:
    """`urls`: local folders, used in turn, or fsspec URLs; they are made if need be, when something is written first.
    `limit`: bytes in all, None: as much as there is. Thread-safe: all methods but `close` at the same time."""

    def __init__(self, urls: Sequence[str], limit: int | None = None) -> None:
        raise NotImplementedError

    def sweep(self) -> int:
        """Remove what processes of this machine that are dead have left. How many folders. For a thread: it may wait
        for a network."""
        raise NotImplementedError

    def write(self, items: Sequence[tuple[ObjectId, memoryview]]) -> None:
        """Keep these, in one file. All or nothing. The views are read by the kernel, not copied by Python.

        Raises SpillFull; OSError if the place can't be written at all.
        """
        raise NotImplementedError

    def read_into(self, object_id: ObjectId, target: memoryview) -> None:
        """Fill `target`, of exactly the object's size. Raises ObjectLost, which names the file, if the bytes are not
        there or are not what was written."""
        raise NotImplementedError

    def overflow_path(self) -> str:
        """A new name in a local, private folder, which a worker may create and write an encoded value to. Then `adopt`
        it; or, if the worker died, `discard` it."""
        raise NotImplementedError

    def adopt(self, object_id: ObjectId, path: str, size: int, checksum: int) -> None:
        """The worker has written all of the file. `checksum`: zlib.crc32 of its bytes."""
        raise NotImplementedError

    def discard(self, path: str) -> None:
        """Nobody will adopt the file."""
        raise NotImplementedError

    def forget(self, objects: Iterable[ObjectId]) -> None:
        """Nobody will read these again; unknown ones are ignored. A file goes with the last of its objects. Quick, for
        the runtime's thread."""
        raise NotImplementedError

    def compact(self) -> int:
        """Rewrite files of which less than half is still wanted, if that is worth it. Bytes freed. For a spill thread,
        after `forget` or when it has nothing to do."""
        raise NotImplementedError

    def sizes(self) -> dict[ObjectId, int]:
        """Each object's bytes."""
        raise NotImplementedError

    @property
    def used(self) -> int:
        """Bytes of all files, those of forgotten objects that share a file with others included."""
        raise NotImplementedError

    def close(self) -> None:
        """Remove everything. Twice is harmless."""
        raise NotImplementedError
