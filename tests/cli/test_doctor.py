"""What doctor finds, and what it says to do."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from dagengine.cli import checks
from dagengine.config import load
from dagengine.storage.interface import Store
from tests.cli.book import DEAD, Book
from tests.cli.conftest import Cli

Usage = namedtuple("Usage", "total used free")


def levels(found: Any) -> dict[str, str]:
    return {finding["what"]: finding["level"] for finding in found["findings"]}


def said(found: Any, what: str) -> str:
    return next(f"{f['text']} {f['advice']}" for f in found["findings"] if f["what"] == what)


def test_a_machine_without_a_store_is_sound(cli: Cli, home: Path) -> None:
    """Nothing was run so far: nothing is wrong, and nothing is made."""
    done = cli("doctor")
    assert done.status == 0
    assert "✗" not in done.out
    assert "not there yet" in done.out
    assert "from DAGENGINE_HOME" in done.out
    assert not home.exists()


def test_a_sound_store_is_counted(cli: Cli, store: Store) -> None:
    """Schema, runs, steps, size; as JSON, too."""
    Book(store)
    found = cli("doctor", "--json").json
    assert found["sound"] is True
    assert "1 run, 0 steps" in said(found, "store")
    assert found["settings"]["store"]["origin"] == "default"
    assert set(levels(found)) >= {"python", "libraries", "system", "memory", "open files", "home", "disk", "store"}


def test_crashed_runs_are_pointed_at(cli: Cli, store: Store) -> None:
    """A warning, and how to go on."""
    Book(store, "aaaa", owner=DEAD)
    Book(store, "bbbb")
    found = cli("doctor", "--json").json
    assert levels(found)["crashed"] == "warn"
    assert "1 run whose process died: aaaa To go on: dagengine resume aaaa" in said(found, "crashed")
    assert found["sound"] is True


def test_what_dead_processes_left_is_removed(
    cli: Cli, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets; of the artifacts, temporary files."""
    (home / "control").mkdir()
    monkeypatch.chdir(home / "control")  # a socket's whole path may be longer than it may be
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("dead.sock")
    found = cli("doctor", "--json").json
    assert "removed 1 socket of dead processes" in said(found, "sockets")
    assert list((home / "control").iterdir()) == []


def test_a_home_that_is_open_to_others_is_a_warning(cli: Cli, store: Store, home: Path) -> None:
    """With the command that closes it."""
    home.chmod(0o755)
    found = cli("doctor", "--json").json
    assert levels(found)["home"] == "warn"
    assert f"chmod 700 {home}" in said(found, "home")


def test_a_home_that_is_a_file_has_to_be_fixed(cli: Cli, home: Path) -> None:
    """Exit status 1."""
    home.write_text("")
    done = cli("doctor")
    assert done.status == 1
    assert "is not a folder" in done.out
    assert "to fix" in done.err


def test_a_store_that_can_not_be_opened_has_to_be_fixed(cli: Cli, home: Path) -> None:
    """What any other verb would say is said here, too."""
    home.mkdir(mode=0o700)
    (home / "store.db").write_text("not a database, but long enough to be looked at" * 100)
    found = cli("doctor", "--json")
    assert found.status == 1
    assert levels(found.json)["store"] == "fail"


@pytest.mark.parametrize(("free", "level"), [(1 << 40, "ok"), (500 << 20, "warn"), (10 << 20, "fail")])
def test_a_full_disk_is_foreseen(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    """Before a run stops on it."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1 << 41, 0, free))
    assert levels(cli("doctor", "--json").json)["disk"] == level


def test_a_network_filesystem_is_no_place_for_a_store(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's write-ahead log needs memory that processes share."""
    monkeypatch.setattr(checks, "filesystem_of", lambda folder: "nfs4")
    found = cli("doctor", "--json")
    assert found.status == 1
    assert "the store's folder is on nfs4" in said(found.json, "filesystem")


def test_the_filesystem_of_a_folder_is_known(tmp_path: Path) -> None:
    """The nearest mount above it counts."""
    assert checks.filesystem_of(Path("/proc/self")) == "proc"
    assert checks.filesystem_of(tmp_path) not in (None, "proc")


def test_few_open_files_are_a_warning(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that raises it."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    found = cli("doctor", "--json").json
    assert levels(found)["open files"] == "warn"
    assert "ulimit -n" in said(found, "open files")


def test_a_missing_library_has_to_be_fixed(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named."""
    monkeypatch.setattr(checks, "LIBRARIES", ("click", "no-such-library"))
    found = cli("doctor", "--json")
    assert found.status == 1
    assert "missing: no-such-library" in said(found.json, "libraries")


def test_more_workers_than_help_are_a_warning(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They only wait for each other."""
    monkeypatch.setenv("DAGENGINE_WORKERS", "4000")
    assert levels(cli("doctor", "--json").json)["workers"] == "warn"


def test_a_check_that_fails_itself_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are still made."""

    def broken(folder: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    found = {finding.what: finding for finding in checks.all_findings(load())}
    assert found["disk"].level == "warn"
    assert "Permission denied" in found["disk"].text
    assert "python" in found


def test_the_memory_limit_is_the_least_of_those_that_hold() -> None:
    """Never more than the machine has."""
    limit, _ = checks.memory_limit()
    assert limit is not None
    assert 0 < limit <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_places_to_spill_to_are_tried(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can't be written would only be met in the middle of a run."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAGENGINE_SPILL", f"{tmp_path},{tmp_path / 'file'}")
    found = cli("doctor", "--json")
    levels = [(each["level"], each["text"]) for each in found.json["findings"] if each["what"] == "spill"]
    assert levels[0] == ("ok", str(tmp_path))
    assert levels[1][0] == "fail"
    assert "can't be written to" in levels[1][1]
    assert found.status == 1
