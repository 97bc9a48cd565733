"""How much memory worker processes have of their own, and how close the node is to having none left.

Readings only: what follows from them (no new leases, ending an attempt) the scheduler core decides.

What counts as a process's own is what nobody else could use: its anonymous memory, with a part of what it shares with
the process it was forked from (PSS), and its children's. Pages of the arena and of mapped files are not. Reading that
takes the kernel a walk over all pages, so it is done only when the cheap figure, which is never lower, says that it
could matter.

May import nothing of ours but runtime.memory. Linux only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from dagengine.runtime.memory import InUse, memory_in_use

PAUSE: Final = 0.80
"""Of the limit: from here on nothing new should start."""

END: Final = 0.95
"""Of the limit: from here on the kernel may be the next to choose who dies, so we do."""

_GROWTH: Final = 4 << 30
"""Bytes a second by which a few processes can grow: new pages come at about 2 GB/s to each."""

_SHORTEST: Final = 0.05
_LONGEST: Final = 1.0
"""Seconds between readings: as long as memory could not run out before, within these bounds."""

_SHARE: Final = 0.1
"""Of the time, what may go into looking: to walk over the pages of 4 GB takes 50 ms."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Reading:
    """used: bytes of the node's limit that are in use. processes: bytes that each process that still lives has of its
    own; `exact` unless the node has so much left that it does not matter."""

    used: int
    limit: int
    processes: dict[int, int]
    exact: bool = True

    @property
    def high(self) -> bool:
        return self.used >= self.limit * PAUSE

    @property
    def critical(self) -> bool:
        return self.used >= self.limit * END


class Watch:
    """`limit`: bytes that the tasks' processes may have together; None: what the machine and its control groups have,
    and then everybody's memory counts, the arena's, too."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._last: Reading | None = None
        self._cost = 0.0

    def read(self, pids: Sequence[int]) -> Reading:
        """Look at the processes that run tasks now. Some microseconds each, while there is memory enough."""
        began = perf_counter()
        families = {pid: _family(pid) for pid in pids}
        # Figures only err upwards, so below the threshold they will do.
        reading = self._reading(_own(families, _anonymous), exact=False)
        # Of the machine the sum is known anyway, and who has most matters at the end only.
        if reading.critical or (reading.high and self._limit is not None):
            reading = self._reading(_own(families, _proportional), exact=True)
        self._last = reading
        self._cost = perf_counter() - began
        return reading

    def pause(self) -> float:
        """Seconds after which to read again, as long as a task runs; while none does, don't read at all."""
        if self._last is None:
            return _SHORTEST
        left = self._last.limit * END - self._last.used
        return min(_LONGEST, max(_SHORTEST, left / _GROWTH, self._cost / _SHARE))

    def _reading(self, processes: dict[int, int], exact: bool) -> Reading:
        if self._limit is None:
            used, limit = max(memory_in_use(), key=_share)
        else:
            used, limit = sum(processes.values()), self._limit
        return Reading(used, limit, processes, exact)


def _share(found: InUse) -> float:
    return found.used / found.limit if found.limit else 1.0


def _own(families: dict[int, list[int]], measure: Callable[[int], int | None]) -> dict[int, int]:
    """What each family has, of those of which somebody lives."""
    found = {pid: [own for one in family if (own := measure(one)) is not None] for pid, family in families.items()}
    return {pid: sum(owns) for pid, owns in found.items() if owns}


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for one in found:
        # A process that has just ended has no list; and some kernels keep none.
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def _anonymous(pid: int) -> int | None:
    """Bytes in memory that are neither a file's nor shared memory; what it shares with its parent counts in full."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return None
    return (int(resident) - int(shared)) * _PAGE


def _proportional(pid: int) -> int | None:
    """The same, of what it shares with others its part only; with what of it is swapped out."""
    found = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith((b"Pss_Anon:", b"SwapPss:")):
                    found += int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return _anonymous(pid)
    return found
