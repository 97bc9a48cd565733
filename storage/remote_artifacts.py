"""Large values at any URL that fsspec knows: object stores, file servers, another process's memory in tests.

Bytes are uploaded under a temporary name and then moved, so that a name with a digest is always whole. Object stores
have that by themselves (an object is there whole or not at all, and a move would copy it), so there it is one upload.
Tasks map values from files, so what is read is fetched into a folder first, which is a local artifact store itself.

May import nothing of ours but errors, remote_files and the local artifacts.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dagengine.errors import ArtifactDamaged, InternalError, StoreError, StoreUnavailable
from dagengine.remote_files import described, open_files, without_secrets
from dagengine.storage.artifacts import (
    CHUNK,
    LocalArtifacts,
    check_given,
    check_size,
    chunks_of,
    make_private_folders,
    writer_is_dead,
    writer_mark,
)
from dagengine.storage.interface import StoredArtifact

FRESH_SECONDS = 12 * 3600.0
"""What was put longer ago is put again when it is named again. What is collected was put at least twice as long ago, so
that there is half a day between the two, whatever the clocks say."""

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2"})


class FsspecArtifacts:
    """An `ArtifactStore` at `url`; `cache` is a local folder, which is made if it is not there."""

    def __init__(self, url: str, cache: str) -> None:
        self.url = without_secrets(url)
        self._given = url
        with self._translated():
            self._files, self._root = open_files(url)
            self._moves = not _OBJECT_STORES.intersection(_protocols(self._files))
        make_private_folders(Path(cache).parent)  # who only reads may be the first here: without a home folder
        self._cache = LocalArtifacts(cache)
        self._names = itertools.count()

    def put(self, digest: str, size: int, source: bytes | int, offset: int = 0) -> None:
        place = self._place(digest)
        with self._translated():
            if self._is_there(place, size):
                return
            if not self._moves:
                try:
                    self._upload(place, size, source, offset)
                except Exception:
                    # Azure refuses who commits second of two that upload at once: then the other one's bytes are there.
                    if not self._is_there(place, size):
                        raise
                return
            temporary = f"{self._root}/tmp/{writer_mark()}-{next(self._names)}"
            self._files.makedirs(f"{self._root}/tmp", exist_ok=True)
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            try:
                self._upload(temporary, size, source, offset)
                self._files.mv(temporary, place)
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(temporary)
                raise

    def forget_copy(self, digest: str) -> None:
        self._cache.drop(digest)

    def local_path(self, digest: str, size: int) -> str:
        if not self._cache.exists(digest):
            self._fetch(digest, size)
        return self._cache.local_path(digest, size)

    def _fetch(self, digest: str, size: int) -> None:
        """Into the cache, if it is what it should be: what is damaged there may be mended there."""
        known = hashlib.sha256()
        with tempfile.TemporaryFile(dir=self._cache.url) as copy, self._translated():
            found = self._size_of(self._place(digest))
            if found is None:
                self._check_bucket()
            check_size(digest, size, found, self.url)
            with self._files.open(self._place(digest), "rb") as source:
                while chunk := source.read(CHUNK):
                    known.update(chunk)
                    copy.write(chunk)
            copy.flush()
            check_size(digest, size, copy.tell(), self.url)
            if known.hexdigest() != digest:
                raise ArtifactDamaged(
                    f"the value {digest[:12]} in {self.url} is damaged: its bytes are not what was recorded. Bring the"
                    " file back",
                    digest=digest,
                    store=self.url,
                )
            self._cache.put(digest, size, copy.fileno())

    def _check_bucket(self) -> None:
        """Where the bucket is gone, no value is missing: all are, and to make one again would not help."""
        bucket = self._root.partition("/")[0]
        if not self._moves and not self._files.exists(bucket):
            raise StoreUnavailable(
                f"the artifacts at {self.url} can't be reached: there is no bucket {bucket}, or no right to see it. Check the"
                " address, or bring the bucket back",
                store=self.url,
            )

    def exists(self, digest: str) -> bool:
        with self._translated():
            return self._size_of(self._place(digest)) is not None

    def _is_there(self, place: str, size: int) -> bool:
        return self._size_of(place) == size and not self._is_old(place)

    def _is_old(self, place: str) -> bool:
        """Put so long ago that it may be collected as garbage while it is about to be named again: put it anew."""
        return time.time() - self._put_at(place) > FRESH_SECONDS

    def _put_at(self, place: str) -> float:
        try:
            return float(self._files.modified(place).timestamp())
        except NotImplementedError:
            return time.time()  # not known: never collected

    def listed(self, shard: str) -> Iterator[StoredArtifact]:
        with self._translated():
            self._files.invalidate_cache()
            try:
                names = self._files.ls(f"{self._root}/{shard}", detail=False)
            except FileNotFoundError:
                return
            for name in names:
                with suppress(FileNotFoundError):
                    size = int(self._files.info(name)["size"])
                    yield StoredArtifact(shard + str(name).rpartition("/")[2], size, self._put_at(name))

    def drop(self, digest: str) -> None:
        self._cache.drop(digest)
        with self._translated(), suppress(FileNotFoundError):
            self._files.rm_file(self._place(digest))

    def discard(self, digest: str, before: float, wanted: Callable[[], bool]) -> int:
        """Others are not kept from putting it again meanwhile; but they put anew what is old (`FRESH_SECONDS`)."""
        place = self._place(digest)
        with self._translated(), suppress(FileNotFoundError):
            if self._put_at(place) < min(before, time.time() - 2 * FRESH_SECONDS) and not wanted():
                size = int(self._files.info(place)["size"])
                self._files.rm_file(place)
                return size
        return 0

    def sweep(self) -> int:
        removed = self._cache.sweep()
        with self._translated():
            self._files.invalidate_cache()
            try:
                names = self._files.ls(f"{self._root}/tmp", detail=False)
            except FileNotFoundError:
                return removed
            for name in names:
                if writer_is_dead(str(name).rpartition("/")[2]):
                    with suppress(FileNotFoundError):  # somebody else sweeps, too
                        self._files.rm_file(name)
                        removed += 1
        return removed

    def close(self) -> None:
        """Nothing is held open: fsspec keeps its own connections."""

    def _place(self, digest: str) -> str:
        return f"{self._root}/{digest[:2]}/{digest[2:]}"

    def _size_of(self, place: str) -> int | None:
        try:
            self._files.invalidate_cache()  # others write there, too
            return int(self._files.info(place)["size"])
        except FileNotFoundError:
            return None

    def _upload(self, place: str, size: int, source: bytes | int, offset: int) -> None:
        # Before anything is sent: what is closed is there, also if it was closed because of an error.
        there = min(size, os.fstat(source).st_size - offset) if isinstance(source, int) else len(source)
        check_given(size, there)
        written = 0
        with self._files.open(place, "wb") as target:
            for chunk in chunks_of(source, size, offset):
                written += target.write(chunk)
        check_given(size, written)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever a filesystem of fsspec's raises leaves as ours: each has errors of its own."""
        try:
            yield
        except (StoreError, InternalError):
            raise
        except Exception as error:
            raise StoreUnavailable(
                f"the artifacts at {self.url} can't be reached: {described(error, self._given)}", store=self.url
            ) from error


def _protocols(files: Any) -> set[str]:
    found = files.protocol
    return {found} if isinstance(found, str) else set(found)
