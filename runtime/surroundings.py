"""What a task finds around it in its process, and what it leaves: environment variables, and how much memory it took.

**GPUs.** CUDA_VISIBLE_DEVICES is set before a task's code runs, to nothing for tasks without a GPU. Libraries read it
when they first touch a device, so a process that has touched one can only be used for the same devices again; who gives
tasks to workers sees to that. Forked workers are fine, too: the forker never loads CUDA, so there is no context to
inherit.

**Threads.** There is a worker for each cpu, so libraries are told to use one thread. A task that asks for more cpus has
the variables set to as many; that only reaches libraries that the worker loads from then on, not NumPy, say, if the
forker has loaded it already (forker.PRELOAD), nor what an earlier task has.

May import nothing of ours but runtime modules. Linux only.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from typing import Final

from dagengine.runtime.devices import visible
from dagengine.runtime.messages import Run

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""One each, unless the user says otherwise."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Surroundings:
    """`threads`: those of THREADS that the user does not set."""

    def __init__(self, threads: Sequence[str]) -> None:
        self._inherited = dict(os.environ)
        self._threads = threads
        self._devices: list[int] = []
        self._cpus = 1
        os.environ.update(visible((), self._inherited))

    def prepare(self, run: Run) -> None:
        """For this attempt."""
        if run.devices is not None and run.devices != self._devices:
            self._devices = run.devices
            os.environ.update(visible(run.devices, self._inherited))
        if run.cpus != self._cpus:
            self._cpus = run.cpus
            os.environ.update(dict.fromkeys(self._threads, str(run.cpus)))


class PeakMemory:
    """The most memory that this process had of its own, since it was last asked.

    The kernel keeps the peak of everything; what is shared (the arena's pages, libraries) is taken off as it is at the
    time of asking, so that an arena view that is gone by then counts. Good enough to learn from.
    """

    def __init__(self) -> None:
        self.take()

    def take(self) -> int:
        """Bytes; 0 where the kernel does not say."""
        # Opened each time: a task may have closed whatever was open, and opened files of its own in its place.
        try:
            with open("/proc/self/statm", "rb", buffering=0) as sizes:
                shared = int(sizes.read(256).split()[2]) * _PAGE
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            with open("/proc/self/clear_refs", "wb", buffering=0) as reset:
                reset.write(b"5")
        except OSError:
            return 0
        return max(peak - shared, 0)
