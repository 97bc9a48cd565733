"""What a runtime could leave behind: processes, descriptors, threads. Read from /proc."""

from __future__ import annotations

import gc
import os
import select
import threading
import time
from dataclasses import dataclass
from pathlib import Path

WAIT = 300.0
"""Seconds. Bounds what would otherwise hang; nothing is measured by it."""


@dataclass(frozen=True)
class Left:
    """What was there when this was made."""

    descriptors: dict[int, str]
    threads: set[threading.Thread]
    children: set[int]

    @classmethod
    def now(cls) -> Left:
        return cls(open_descriptors(), set(threading.enumerate()), children_of(os.getpid()))

    def check(self) -> None:
        """Raises AssertionError if there is more than there was."""
        assert children_of(os.getpid()) <= self.children, "a process is left"
        for thread in set(threading.enumerate()) - self.threads:
            thread.join(WAIT)  # one that was told to end may not have come to it
            assert not thread.is_alive(), f"a thread is left: {thread.name}"
        no_more_descriptors(self.descriptors)


def open_descriptors() -> dict[int, str]:
    """Without those of earlier tests, which go when Python happens to look for its garbage."""
    gc.collect()
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that reads the folder
    return found


def no_more_descriptors(before: dict[int, str]) -> None:
    """Wait until none is open but those: a thread that looks at /proc, say, has one for a moment."""
    deadline = time.monotonic() + WAIT
    while new := {number: name for number, name in open_descriptors().items() if number not in before}:
        assert time.monotonic() < deadline, new


def children_of(pid: int) -> set[int]:
    """Processes, zombies included, whose parent is `pid`."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found.add(int(entry.name))
    return found


def pidfd(pid: int) -> int:
    """A descriptor of a process that lives, for `wait_gone`. The caller owns it."""
    return os.pidfd_open(pid)


def wait_gone(*pidfds: int) -> None:
    """Wait until the processes have ended, and close their descriptors."""
    for descriptor in pidfds:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(WAIT * 1000), "a process is left"
        os.close(descriptor)
