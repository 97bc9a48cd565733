"""Whether another process lives: proved, disproved, or not to be known from here."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from dagengine import identity
from dagengine.identity import is_alive, is_here, proof, this_process
from dagengine.model import ProcessRecord

ME = this_process()


@pytest.fixture
def in_a_container(monkeypatch: pytest.MonkeyPatch) -> ProcessRecord:
    """This process, as one whose pids are those of a container."""
    monkeypatch.setattr(identity, "pid_space", lambda: "4026532000")
    return this_process()


def test_a_process_of_this_machine_is_proved_to_live_or_to_be_dead() -> None:
    """By its pid and its start time: a pid that was given to another process is not its."""
    assert is_here(ME)
    assert proof(ME) is True
    assert proof(replace(ME, start_time=ME.start_time - 1)) is False
    assert proof(replace(ME, pid=2**22 + 1)) is False


def test_nothing_is_proved_of_another_host() -> None:
    """Whether its store has leases or not."""
    for leased in (False, True):
        there = replace(ME, host="another-machine", leased=leased)
        assert (is_here(there), proof(there), is_alive(there)) == (False, None, True)


def test_another_boot_under_this_name_is_a_reboot_only_where_no_lease_can_tell() -> None:
    """It may be another machine of the same name, whose processes live."""
    before = replace(ME, boot_id="another-boot")
    assert proof(before) is False
    assert proof(replace(before, leased=True)) is None


def test_another_container_of_this_name_is_not_judged_by_pids_of_ours(in_a_container: ProcessRecord) -> None:
    """Neither when the same pid lives here nor when it does not; what was recorded without a namespace is the machine's."""
    assert in_a_container.boot_id.endswith("/4026532000")
    assert proof(in_a_container) is True
    for space in ("/4026532001", ""):
        for pid in (os.getpid(), 2**22 + 1):
            there = replace(in_a_container, boot_id=identity.boot_id() + space, pid=pid, leased=True)
            assert (is_here(there), proof(there), is_alive(there)) == (False, None, True)


def test_without_a_lease_another_container_lives_while_it_listens(
    in_a_container: ProcessRecord, tmp_path: Path
) -> None:
    """At its socket beside the store, which both see. A former one of a container that was started anew does not."""
    there = replace(in_a_container, boot_id=f"{identity.boot_id()}/4026532001")
    identity.sockets_in(tmp_path / "gone")
    identity.sockets_in(tmp_path)
    assert proof(there) is False
    with socket.socket(socket.AF_UNIX) as listener:
        with identity.short_path(tmp_path, f"{there.id}.sock") as path:
            listener.bind(path)
        listener.listen()
        assert proof(there) is True
    assert proof(there) is False
