"""The right to begin a task, as a counter that controller and worker share.

The controller posts one permit for each task before it sends it. The worker takes one before it begins a task, so what
the controller takes out again is the number of tasks that will not begin, and what is left after the worker's death is
the number of those that had not: exact, however the two race, because the kernel does the counting.

Imports nothing of ours. Linux only (eventfd).
"""

from __future__ import annotations

import os


class Permits:
    """`descriptor` may be handed to another process, which wraps it again."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self.descriptor = descriptor

    def post(self, count: int) -> None:
        os.eventfd_write(self.descriptor, count)

    def take(self) -> bool:
        """Take one. False if there is none."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return False
        return True

    def take_up_to(self, most: int) -> int:
        """How many were taken."""
        taken = 0
        while taken < most and self.take():
            taken += 1
        return taken

    def close(self) -> None:
        os.close(self.descriptor)
