"""Trees of processes from outside: to start one, kill it whole, and read what it uses. Linux's /proc; no engine here.

python benchmarks/processes.py PID      the most memory that this tree has together, until the input ends
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")

SAMPLE_SECONDS = 0.1
"""Each time the kernel walks over all pages of each process: 50 ms for a tree that has 1 GB in common."""


def tree(pid: int) -> list[int]:
    """`pid` and all that descend from it, parents first."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
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


class PeakMemory:
    """The most memory that this process and those below it had together, in `bytes` when the block has ended.

    A process of its own looks: a thread would take the interpreter from what is measured."""

    def __enter__(self) -> PeakMemory:
        self.bytes = 0
        command = [sys.executable, "-S", __file__, str(os.getpid())]
        self._looks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._looks.stdout is not None
        self._looks.stdout.readline()  # it has begun
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = int(self._looks.communicate()[0])


def _peak(root: int) -> int:
    """Of this process's parent and those below it, but not of this process."""
    peak = 0
    print("looking", flush=True)
    while True:
        peak = max(peak, memory_bytes([pid for pid in tree(root) if pid != os.getpid()]))
        if select.select([sys.stdin], [], [], SAMPLE_SECONDS)[0]:
            return peak


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


if __name__ == "__main__":
    print(_peak(int(sys.argv[1])))
