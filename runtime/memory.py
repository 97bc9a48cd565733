"""How much memory there is and how much is in use, and how often the kernel has killed for lack of it. Reads /proc and
/sys, Linux only.

A process may be limited by its control group, of version 1 or 2, or by one above it; where nothing can be read,
nothing is known, and that is no error. Imports nothing of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

SHARE: Final = 0.9
"""Of the memory that is available, what tasks may ask for in all and objects may take, together. The rest is for
interpreters, pages in use, everybody else."""

LEAST_SHARE: Final = 0.4
"""Of the memory that is available, what tasks may ask for in all, however large the limit for objects is."""


_NO_LIMIT: Final = 1 << 60
"""Version 1's word for no limit is a number of about 2^63."""

OBJECT_SHARE: Final = 0.3
"""Of the memory that is available, what objects may take if nobody says otherwise."""


class InUse(NamedTuple):
    """Bytes in use (what can be evicted at once does not count), and of how many."""

    used: int
    limit: int


def available_memory() -> int:
    """Bytes: the least of what the machine has available and the limits of the control groups."""
    return min([_machine_memory().available, *(limit for _, limit in _limited_groups())])


def shared_memory_room() -> int:
    """Bytes that nameless shared memory can hold at the very most. It has no limit of its own (that of /dev/shm is for
    files with names): the machine's memory and its control groups' limits are what there is."""
    return min([_machine_memory().total, *(limit for _, limit in _limited_groups())])


def object_memory_default() -> int:
    """The limit of a node's arena if nobody says otherwise, in bytes."""
    return int(available_memory() * OBJECT_SHARE)


def memory_in_use() -> list[InUse]:
    """Of the machine, and of each control group with a limit, from its own up to the root."""
    machine = _machine_memory()
    found = [InUse(machine.total - machine.available, machine.total)]
    for group, limit in _limited_groups():
        used = _used(group)
        if used is not None:
            found.append(InUse(used, limit))
    return found


def memory_capacity(objects: int = 0) -> int:
    """Bytes that tasks may ask for in all if nobody says otherwise, beside `objects` bytes for objects."""
    available = available_memory()
    return max(int(available * SHARE) - objects, int(available * LEAST_SHARE))


def oom_kills() -> int | None:
    """How many processes of this control group, or one above it, the kernel has killed so far; None: unknown."""
    counts = [count for group in _groups() if (count := _kills(group)) is not None]
    return max(counts, default=None)


class _Machine(NamedTuple):
    total: int
    available: int


def _machine_memory() -> _Machine:
    try:
        fields = _fields(Path("/proc/meminfo"), ":")
        return _Machine(fields["MemTotal"] * 1024, fields["MemAvailable"] * 1024)
    except (OSError, KeyError):
        import os

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return _Machine(total, total)


def _fields(path: Path, separator: str | None = None) -> dict[str, int]:
    """Lines of a name and a number, perhaps with a unit behind it."""
    found = {}
    for line in path.read_text().splitlines():
        name, *rest = line.split(separator, 1)
        try:
            found[name] = int(rest[0].split()[0])
        except (IndexError, ValueError):
            continue
    return found


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


def _limited_groups() -> list[tuple[Path, int]]:
    return [(group, limit) for group in _groups() if (limit := _limit(group)) is not None]


def _limit(group: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            limit = int((group / name).read_text())
        except (OSError, ValueError):
            continue  # "max" is version 2's word for no limit.
        return limit if limit < _NO_LIMIT else None
    return None


def _used(group: Path) -> int | None:
    """Without the files that the kernel has cached: under pressure it drops those before it kills. (Kubernetes leaves
    out the inactive ones only; here that would end tasks because others read much.)"""
    for used, prefix in (("memory.current", ""), ("memory.usage_in_bytes", "total_")):
        try:
            found, stat = int((group / used).read_text()), _fields(group / "memory.stat")
        except (OSError, ValueError):
            continue
        return found - stat.get(f"{prefix}inactive_file", 0) - stat.get(f"{prefix}active_file", 0)
    return None


def _kills(group: Path) -> int | None:
    for name in ("memory.events", "memory.oom_control"):
        try:
            return _fields(group / name)["oom_kill"]
        except (OSError, KeyError):
            continue
    return None
