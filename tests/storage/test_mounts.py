"""A folder of artifacts on a disk that is not mounted: nothing is written below the mount point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dagengine.errors import StoreUnavailable
from dagengine.storage import open_artifacts
from dagengine.storage.mounts import NOTE, mount_point

DIGEST = "ab" * 32

MOUNTED_AND_NOT = """
import subprocess, sys
from pathlib import Path
from dagengine.errors import StoreUnavailable
from dagengine.storage import open_artifacts

home, disk = Path(sys.argv[1]), Path(sys.argv[2])
cache = str(home / "cache")
subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
artifacts = open_artifacts(str(disk / "artifacts"), cache=cache)
artifacts.put("ab" * 32, 3, b"abc")
subprocess.run(["umount", disk], check=True)
try:
    open_artifacts(str(disk / "artifacts"), cache=cache)
except StoreUnavailable as error:
    print(error)
print(list(disk.iterdir()))
"""


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """Of a home folder of this machine."""
    home = tmp_path / "home"
    home.mkdir()
    return str(home / "cache")


def note(cache: str, **mounts: Path) -> Path:
    """What was noted of folders beside the home, as if it had been."""
    file = Path(cache).with_name(NOTE)
    file.write_text(json.dumps({str(file.parent.parent / name): str(mount) for name, mount in mounts.items()}))
    return file


def test_an_empty_mount_point_is_refused_and_left_empty(tmp_path: Path, cache: str) -> None:
    """One line, with what to mount; the same for a folder below it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    file = note(cache, **{"disk": disk, "disk/artifacts": disk})
    for folder in (disk, disk / "artifacts"):
        with pytest.raises(StoreUnavailable) as caught:
            open_artifacts(str(folder), cache=cache)
        assert str(caught.value) == (
            f"the artifacts in {folder} were on a filesystem mounted at {disk}, where nothing is mounted now: mount it."
            f" If the folder is to be used without it, remove {file}"
        )
    assert list(disk.iterdir()) == []
    file.unlink()
    open_artifacts(str(disk / "artifacts"), cache=cache).put(DIGEST, 3, b"abc")


def test_a_folder_that_has_values_was_moved_and_is_noted_anew(tmp_path: Path, cache: str) -> None:
    """Somebody copied the disk to where it was mounted: there is nothing to miss."""
    disk = tmp_path / "disk"
    open_artifacts(str(disk)).put(DIGEST, 3, b"abc")
    file = note(cache, disk=disk)
    assert open_artifacts(str(disk), cache=cache).exists(DIGEST)
    assert json.loads(file.read_text()) == {}


def test_a_folder_on_the_filesystem_of_its_home_is_not_noted(tmp_path: Path, cache: str) -> None:
    """Whoever removes it is not asked to mount anything."""
    open_artifacts(str(tmp_path / "artifacts"), cache=cache).put(DIGEST, 3, b"abc")
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}'])
def test_a_note_that_cannot_be_understood_is_none(tmp_path: Path, cache: str, text: str) -> None:
    """It is a help, and must not be in the way."""
    Path(cache).with_name(NOTE).write_text(text)
    assert not open_artifacts(str(tmp_path / "artifacts"), cache=cache).exists(DIGEST)


def test_without_a_home_nothing_is_noted_and_nothing_refused(tmp_path: Path) -> None:
    """Who only reads may be the first here."""
    cache = str(tmp_path / "none" / "cache")
    assert not open_artifacts(str(tmp_path / "artifacts"), cache=cache).exists(DIGEST)
    assert not (tmp_path / "none").exists()


def test_the_mount_point_is_that_of_the_filesystem() -> None:
    """Of what is not there yet, too."""
    assert mount_point(Path("/proc/nothing/there")) == Path("/proc")


def test_a_disk_that_is_not_mounted_any_more(tmp_path: Path) -> None:
    """With a real one, in a namespace of its own."""
    home, disk = tmp_path / "home", tmp_path / "disk"
    home.mkdir()
    disk.mkdir()
    inside = ["unshare", "--user", "--mount", "--map-root-user"]
    try:
        subprocess.run([*inside, "mount", "-t", "tmpfs", "none", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    script = [sys.executable, "-c", MOUNTED_AND_NOT, str(home), str(disk)]
    said = subprocess.run([*inside, *script], check=True, capture_output=True, text=True).stdout.splitlines()
    assert said[0].startswith(
        f"the artifacts in {disk}/artifacts were on a filesystem mounted at {disk}, where nothing"
    )
    assert said[1:] == ["[]"]
