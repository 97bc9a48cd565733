"""Trees of processes from outside: to start one, kill it whole, and read what it uses. Linux's /proc; no engine here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """`pid` and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def kill_tree(pid: int) -> None:
    """`kill -9` for all of them, the root first, so that nothing is put in a dead child's place."""
    for process in tree(pid):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def cpu_seconds(pids: list[int]) -> float:
    """What they have used of the processors so far."""
    return sum(int(fields[11]) + int(fields[12]) for pid in pids if (fields := _stat(pid))) / TICKS


def written_bytes(pids: list[int]) -> int:
    """What they have sent towards a disk so far."""
    return sum(_number(f"/proc/{pid}/io", "write_bytes:") for pid in pids)


def memory_bytes(pids: list[int]) -> int:
    """Their memory together; a page that several share counts once (PSS)."""
    return sum(_number(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids) * 1024


def busy(seconds: float = 0.5) -> float:
    """The share of the machine that was not idle over the next `seconds`."""
    total, idle = _machine_ticks()
    time.sleep(seconds)
    total_after, idle_after = _machine_ticks()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on, or nothing if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _number(path: str, name: str) -> int:
    try:
        text = Path(path).read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))


def _machine_ticks() -> tuple[int, int]:
    with open("/proc/stat") as file:
        ticks = [int(field) for field in file.readline().split()[1:]]
    return sum(ticks), ticks[3] + ticks[4]
