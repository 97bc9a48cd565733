"""How much memory there is, of machines and control groups as the kernel describes them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from dagengine.runtime import memory
from dagengine.runtime.memory import (
    InUse,
    available_memory,
    memory_capacity,
    memory_in_use,
    object_memory_default,
    shared_memory_room,
)

MiB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root for /proc and /sys, with a machine of 100 MiB of which 60 are available."""

    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.lstrip("/"))
    write(tmp_path / "proc/meminfo", "MemTotal: 102400 kB\nMemFree: 1 kB\nMemAvailable: 61440 kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    return tmp_path


def write(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}".rstrip() + "\n")


def test_a_machine_without_limits_has_what_is_available(machine: Path) -> None:
    """Nothing but /proc/meminfo counts; objects get three tenths of it, tasks what is left of nine tenths."""
    assert available_memory() == 60 * MiB
    assert memory_capacity() == 54 * MiB
    assert memory_capacity(18 * MiB) == 36 * MiB
    assert memory_capacity(1 << 40) == 24 * MiB
    assert object_memory_default() == 18 * MiB
    assert shared_memory_room() == 100 * MiB
    assert memory_in_use() == [InUse(40 * MiB, 100 * MiB)]


def test_a_limit_of_a_version_2_group_counts_and_so_does_one_above_it(machine: Path) -> None:
    """Kubernetes sets the limit on a group above the container's own. Cached files can be evicted: not in use."""
    groups = machine / "sys/fs/cgroup"
    write(machine / "proc/self/cgroup", "0::/pod/container\n")
    write(groups / "pod/container/memory.max", "max")
    write(groups / "pod/memory.max", 50 * MiB)
    write(groups / "pod/memory.current", 45 * MiB)
    write(groups / "pod/memory.stat", f"anon 1\ninactive_file {3 * MiB}\nactive_file {2 * MiB}\nfile 3")
    assert available_memory() == 50 * MiB
    assert object_memory_default() == 15 * MiB
    assert shared_memory_room() == 50 * MiB
    assert memory_in_use()[1:] == [InUse(40 * MiB, 50 * MiB)]


def test_a_limit_of_a_version_1_group_counts_and_its_word_for_none_does_not(machine: Path) -> None:
    """Inside of a container the group's own path is not there; its root is."""
    group = machine / "sys/fs/cgroup/memory"
    write(machine / "proc/self/cgroup", "9:name=systemd:/\n4:memory:/docker/abc\n0::/\n")
    write(group / "memory.limit_in_bytes", 40 * MiB)
    write(group / "memory.usage_in_bytes", 30 * MiB)
    write(group / "memory.stat", f"cache 1\ninactive_file 7\ntotal_inactive_file {10 * MiB}")
    assert available_memory() == 40 * MiB
    assert memory_in_use()[1:] == [InUse(20 * MiB, 40 * MiB)]
    write(group / "memory.limit_in_bytes", 9223372036854771712)
    assert available_memory() == 60 * MiB
    assert len(memory_in_use()) == 1


def test_the_kernels_kills_are_counted_in_both_versions(machine: Path) -> None:
    """The greatest count of all groups above us is the one that also counts ours."""
    write(machine / "proc/self/cgroup", "4:memory:/a\n0::/b\n")
    write(machine / "sys/fs/cgroup/memory/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3")
    write(machine / "sys/fs/cgroup/b/memory.events", "low 0\noom 1\noom_kill 2")
    assert memory.oom_kills() == 3


def test_where_nothing_can_be_read_the_machines_pages_are_counted(machine: Path) -> None:
    """Not Linux, or a /proc that is not there: no error, and no idea of what is in use."""
    for name in ("proc/meminfo", "proc/self/cgroup"):
        (machine / name).unlink()
    total = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    assert available_memory() == shared_memory_room() == total
    assert memory_in_use() == [InUse(0, total)]
    assert memory.oom_kills() is None


def test_this_machines_memory_is_read() -> None:
    """Whatever it is, it is something, and not more than there is."""
    total = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    assert 0 < available_memory() <= shared_memory_room() <= total
    assert all(0 < found.used < found.limit for found in memory_in_use())
