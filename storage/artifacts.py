"""Large values as files of a local folder, under their SHA-256: `ab/cdef…`.

    tmp/<who>-<n>    written and synced under a name that says whose it is
    ab/cdef…         renamed to its place, whole; then the folder is synced, and only then is it there

Invariants:
- A file under its digest is complete: a crash leaves temporary files only, and `sweep` removes those whose writer is
  dead. The name proves it: host, boot, pid and start time of the writer.
- Room is allocated before it is written, so that a full disk is an error here, and not a signal to whoever maps it.
- What is collected as garbage was not put again meanwhile: both lock the folder, and what is put again is dated anew.
- Files are private (0600, in folders of 0700), whatever the umask.

May import nothing of ours but errors, identity and the interface.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from dagengine import identity
from dagengine.errors import ArtifactDamaged, ArtifactMissing, InternalError, StoreError, StoreFull, StoreUnavailable
from dagengine.storage.interface import StoredArtifact

CHUNK = 1 << 20
"""Bytes copied at a time, where the kernel can't copy by itself."""

_SENT_AT_ONCE = 1 << 30  # Linux moves at most 2 GiB by one call


class LocalArtifacts:
    """An `ArtifactStore` in a folder, which is made if it is not there.

    `on_step`, for tests of crashes, is called with ("before" or "after", "write", "fsync", "rename" or "sync folder").
    """

    def __init__(self, folder: str, on_step: Callable[[str, str], None] | None = None) -> None:
        self.url = folder
        self._root = Path(folder)
        self._temporary = self._root / "tmp"
        self._on_step = on_step
        self._names = itertools.count()
        with _translated(self._root):
            if not self._root.parent.is_dir():
                raise _unavailable(self._root, f"there is no folder {self._root.parent}")
            for made in (self._root, self._temporary):
                make_private_folder(made)

    def put(self, digest: str, size: int, source: bytes | int, offset: int = 0) -> None:
        place = self._place(digest)
        with _translated(place):
            if self._put_again(place, size):
                return
            make_private_folder(place.parent)
            temporary = self._temporary / f"{writer_mark()}-{next(self._names)}"
            try:
                self._write(temporary, size, source, offset)
                with self._step("rename"), _kept_from_removal(place.parent):
                    temporary.replace(place)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
            self._sync_folders(place)

    def _put_again(self, place: Path, size: int) -> bool:
        """Whether it is there. Whoever collects what nobody needs sees that it was put now."""
        if _size_of(place) != size:
            return False
        with _kept_from_removal(place.parent):
            try:
                os.utime(place)
            except FileNotFoundError:
                return False
        self._sync_folders(place)  # whoever wrote it may not have synced the folder yet, and may be dead by now
        return True

    def forget_copy(self, digest: str) -> None:
        """There are none."""

    def local_path(self, digest: str, size: int) -> str:
        place = self._place(digest)
        with _translated(place):
            found = _size_of(place)
        check_size(digest, size, found, str(self._root))
        return str(place)

    def exists(self, digest: str) -> bool:
        with _translated(self._root):
            return _size_of(self._place(digest)) is not None

    def sweep(self) -> int:
        removed = 0
        with _translated(self._temporary):
            for file in self._temporary.iterdir():
                if writer_is_dead(file.name):
                    with suppress(FileNotFoundError):  # somebody else sweeps, too
                        file.unlink()
                        removed += 1
        return removed

    def listed(self, shard: str) -> Iterator[StoredArtifact]:
        with _translated(self._root):
            try:
                entries = list(os.scandir(self._root / shard))
            except FileNotFoundError:
                return
        for entry in entries:
            with suppress(FileNotFoundError):
                facts = entry.stat(follow_symlinks=False)
                yield StoredArtifact(shard + entry.name, facts.st_size, facts.st_mtime)

    def drop(self, digest: str) -> None:
        place = self._place(digest)
        with _translated(place), suppress(FileNotFoundError), _locked(place.parent, fcntl.LOCK_EX):
            place.unlink()

    def discard(self, digest: str, before: float, wanted: Callable[[], bool]) -> int:
        place = self._place(digest)
        with _translated(place), suppress(FileNotFoundError), _locked(place.parent, fcntl.LOCK_EX):
            facts = place.stat()
            if facts.st_mtime < before and not wanted():
                place.unlink()
                return facts.st_size
        return 0

    def close(self) -> None:
        """Nothing is held open."""

    # ---- writing ------------------------------------------------------------------------

    def _place(self, digest: str) -> Path:
        return self._root / digest[:2] / digest[2:]

    def _write(self, path: Path, size: int, source: bytes | int, offset: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # a umask may take away even the owner's rights
            with self._step("write"):
                _allocate(descriptor, size)
                if isinstance(source, int):
                    written = _copy(source, descriptor, size, offset)
                else:
                    written = _write_all(descriptor, source)
            check_given(size, written)
            with self._step("fsync"):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _sync_folders(self, place: Path) -> None:
        with self._step("sync folder"):
            sync_folder(place.parent)
            sync_folder(self._root)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        if self._on_step is None:
            yield
            return
        self._on_step("before", name)
        yield
        self._on_step("after", name)


# ---- files ----------------------------------------------------------------------------------


def make_private_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(0o700)  # whatever the umask


def make_private_folders(folder: Path) -> None:
    """The folder, with what is missing above it: one by one, for of parents that `mkdir` makes by itself the mode is the
    umask's. Raises StoreUnavailable."""
    with _translated(folder):
        for missing in reversed([folder, *folder.parents]):
            if not missing.exists():
                make_private_folder(missing)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)  # goes with the process
        yield
    finally:
        os.close(descriptor)


def _kept_from_removal(folder: Path) -> AbstractContextManager[None]:
    """Nobody removes an artifact from the folder until the end of the block; others may put theirs there."""
    return _locked(folder, fcntl.LOCK_SH)


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the room. Where the filesystem can't, writing itself meets the full disk."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def _copy(source: int, target: int, size: int, offset: int) -> int:
    """Copy `size` bytes of the file `source` from `offset`: in the kernel, where it can."""
    copied = 0
    while copied < size:
        try:
            moved = os.sendfile(target, source, offset + copied, min(size - copied, _SENT_AT_ONCE))
        except OSError as error:
            if copied or error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP):
                raise
            return sum(_write_all(target, chunk) for chunk in chunks_of(source, size, offset))
        if moved == 0:
            break
        copied += moved
    return copied


def chunks_of(source: bytes | int, size: int, offset: int = 0) -> Iterator[bytes]:
    """What is to be stored, piece by piece; of a descriptor at most `size` bytes, from `offset`."""
    at = 0
    while at < size:
        last = min(at + CHUNK, size)
        chunk = os.pread(source, last - at, offset + at) if isinstance(source, int) else source[at:last]
        if not chunk:
            return
        yield chunk
        at += len(chunk)


def _write_all(descriptor: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)


# ---- whose a temporary file is --------------------------------------------------------------


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def writer_mark() -> str:
    """This process, as the beginning of a name: host-boot-pid-start."""
    pid = os.getpid()
    return f"{_short(platform.node())}-{_short(identity.boot_id())}-{pid}-{identity.start_time(pid) or 0:.0f}"


def writer_is_dead(name: str) -> bool:
    """Whether the process that began `name` is proved to be gone. One of another host never is."""
    try:
        host, boot, pid, start, _ = name.split("-")
        started = float(start)
        alive = identity.start_time(int(pid)) == started
    except ValueError:
        return False
    if host != _short(platform.node()):
        return False
    return boot != _short(identity.boot_id()) or not alive


# ---- errors ---------------------------------------------------------------------------------


def check_given(size: int, given: int) -> None:
    """Raise InternalError if the caller did not give the bytes that it had announced."""
    if given != size:
        raise InternalError(f"an artifact of {size:,} bytes was given {given:,}")


def check_size(digest: str, size: int, found: int | None, where: str) -> None:
    """Raise ArtifactMissing if nothing was found, ArtifactDamaged if it does not have the recorded size."""
    if found is None:
        raise ArtifactMissing(
            f"the value {digest[:12]} is missing among the artifacts in {where}: bring the file back",
            digest=digest,
            store=where,
        )
    if found != size:
        raise ArtifactDamaged(
            f"the value {digest[:12]} in {where} is damaged: it has {found:,} bytes, not {size:,}. Bring the file back",
            digest=digest,
            store=where,
        )


def _unavailable(path: Path, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"the artifact folder can't be used: {reason} ({path}). Name another one", store=str(path))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Errors of the system leave as ours."""
    try:
        yield
    except OSError as error:
        raise _translate(error, path) from error


def _translate(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            found = os.statvfs(path.parent)
            free = f"{found.f_bavail * found.f_frsize:,} bytes are free"
        except OSError:
            free = "nobody knows how much is free"
        return StoreFull(f"the disk is full: {path} can't be written, {free}. Make room, then resume", store=str(path))
    return _unavailable(path, (error.strerror or str(error)).lower())
