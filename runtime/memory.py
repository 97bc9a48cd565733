"""How much memory there is, and how often the kernel has killed for lack of it. Reads /proc and /sys, Linux only.

A process may be limited by its control group, of version 1 or 2, or by one above it; where nothing can be read,
nothing is known, and that is no error. Imports nothing of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

SHARE: Final = 0.8
"""Of the memory that there is, what tasks may ask for in all. The rest is for interpreters, pages in use, everybody else."""


def available_memory() -> int:
    """Bytes: the least of what the machine has available and the limits of the control groups."""
    found = [_machine_memory(), *(limit for group in _groups() if (limit := _limit(group)) is not None)]
    return min(found)


def memory_capacity() -> int:
    return int(available_memory() * SHARE)


def oom_kills() -> int | None:
    """How many processes of this control group, or one above it, the kernel has killed so far; None: unknown."""
    counts = [count for group in _groups() if (count := _kills(group)) is not None]
    return max(counts, default=None)


def _machine_memory() -> int:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        import os

        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups() -> list[Path]:
    """The memory control groups of this process, from its own up to the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups: list[Path] = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "memory":
            root = Path("/sys/fs/cgroup/memory")
        elif not controllers:
            root = Path("/sys/fs/cgroup")
        else:
            continue
        group = root / name.lstrip("/")
        while True:
            groups.append(group)
            if group == root or root not in group.parents:
                break
            group = group.parent
    return groups


def _limit(group: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            # "max" is version 2's word for no limit; version 1 has an enormous number.
            return int((group / name).read_text())
        except (OSError, ValueError):
            continue
    return None


def _kills(group: Path) -> int | None:
    for name in ("memory.events", "memory.oom_control"):
        try:
            for line in (group / name).read_text().splitlines():
                key, _, count = line.partition(" ")
                if key == "oom_kill":
                    return int(count)
        except (OSError, ValueError):
            continue
    return None
