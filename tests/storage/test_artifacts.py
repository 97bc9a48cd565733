"""Artifacts in a local folder: their modes, their order of steps, and what a user is told when the disk fails them."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagengine.errors import StoreFull, StoreUnavailable
from dagengine.storage.artifacts import LocalArtifacts, writer_is_dead, writer_mark
from tests.storage.kit import PATIENCE, digest_of

DATA = b"x" * 100_000
DIGEST = digest_of(DATA)


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_artifacts_are_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    """Folders are 0700, files 0600."""
    folder = tmp_path / "artifacts"
    artifacts = LocalArtifacts(str(folder))
    artifacts.put(DIGEST, len(DATA), DATA)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    place = folder / DIGEST[:2] / DIGEST[2:]
    assert modes == {folder: 0o700, folder / "tmp": 0o700, place.parent: 0o700, place: 0o600}


def test_the_steps_of_a_put_are_in_the_order_that_a_crash_allows(tmp_path: Path) -> None:
    """Written, synced, renamed, and the folder synced; what is there already is only made sure of."""
    steps: list[str] = []
    artifacts = LocalArtifacts(str(tmp_path / "artifacts"), lambda when, name: steps.append(f"{when} {name}"))
    artifacts.put(DIGEST, len(DATA), DATA)
    names = ("write", "fsync", "rename", "sync folder")
    assert steps == [f"{when} {name}" for name in names for when in ("before", "after")]
    steps.clear()
    artifacts.put(DIGEST, len(DATA), DATA)
    assert steps == ["before sync folder", "after sync folder"]


_KILLED = """
import os, signal, sys
from dagengine.storage.artifacts import LocalArtifacts
from tests.storage.test_artifacts import DATA, DIGEST

at = tuple(sys.argv[2:])
kill = lambda when, name: (when, name) == at and os.kill(os.getpid(), signal.SIGKILL)
LocalArtifacts(sys.argv[1], kill).put(DIGEST, len(DATA), DATA)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["write", "fsync", "rename", "sync folder"])
def test_a_kill_at_any_step_leaves_nothing_half_made(tmp_path: Path, when: str, name: str) -> None:
    """After a kill the artifact is whole or not there; a sweep leaves nothing else; and it can be put again."""
    folder = tmp_path / "artifacts"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder), when, name], check=False, timeout=PATIENCE)
    assert killed.returncode == -signal.SIGKILL
    artifacts = LocalArtifacts(str(folder))
    renamed = (when, name) == ("after", "rename") or name == "sync folder"
    assert artifacts.exists(DIGEST) is renamed
    assert len(files_in(folder)) == 1
    assert artifacts.sweep() == (0 if renamed else 1)
    assert len(files_in(folder)) == (1 if renamed else 0)
    artifacts.put(DIGEST, len(DATA), DATA)
    assert Path(artifacts.local_path(DIGEST, len(DATA))).read_bytes() == DATA


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Room is allocated first; without it there is one line with the path and the free bytes, and no file is left."""
    artifacts = LocalArtifacts(str(tmp_path / "artifacts"))

    def no_room(descriptor: int, offset: int, size: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", no_room, raising=False)
    with pytest.raises(StoreFull, match=r"bytes are free\. Make room") as caught:
        artifacts.put(DIGEST, len(DATA), DATA)
    assert str(tmp_path) in str(caught.value)
    assert files_in(tmp_path) == []
    assert not artifacts.exists(DIGEST)


def test_a_filesystem_that_can_t_allocate_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allocating ahead is a help, not a condition."""

    def unknown(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    artifacts = LocalArtifacts(str(tmp_path / "artifacts"))
    artifacts.put(DIGEST, len(DATA), DATA)
    assert Path(artifacts.local_path(DIGEST, len(DATA))).read_bytes() == DATA


def test_a_system_that_can_t_copy_by_itself_is_helped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not send from file to file, the bytes are read and written."""

    def only_to_sockets(target: int, source: int, offset: int, count: int) -> int:
        raise OSError(errno.ENOTSOCK, "Socket operation on non-socket")

    monkeypatch.setattr(os, "sendfile", only_to_sockets)
    artifacts = LocalArtifacts(str(tmp_path / "artifacts"))
    (tmp_path / "source").write_bytes(DATA)
    with (tmp_path / "source").open("rb") as file:
        artifacts.put(DIGEST, len(DATA), file.fileno())
    assert Path(artifacts.local_path(DIGEST, len(DATA))).read_bytes() == DATA


def test_a_failing_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is passed on in one line, and nothing is left behind."""
    artifacts = LocalArtifacts(str(tmp_path / "artifacts"))

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreUnavailable, match="input/output error") as caught:
        artifacts.put(DIGEST, len(DATA), DATA)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []


def test_a_folder_that_can_t_be_used_is_named(tmp_path: Path) -> None:
    """A missing parent, and a file in the place of the folder."""
    with pytest.raises(StoreUnavailable, match="there is no folder"):
        LocalArtifacts(str(tmp_path / "no" / "such" / "artifacts"))
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="file exists"):
        LocalArtifacts(str(tmp_path / "file"))


def test_a_writer_is_known_by_its_mark() -> None:
    """This process lives, and so may one of another host; a name that says nothing is nobody's."""
    mine = f"{writer_mark()}-0"
    host, boot, pid, start, number = mine.split("-")
    assert not writer_is_dead(mine)
    assert writer_is_dead(f"{host}-{boot}-{pid}-{int(start) + 1}-{number}")
    assert not writer_is_dead(f"00000000-{boot}-{pid}-{int(start) + 1}-{number}")
    assert not writer_is_dead("README")
    assert not writer_is_dead("a-b-c-d-e")
