"""Waiting for refs: a thread that sleeps until enough have ended, or something to do then.

A waiter is told of each end by `one()`, with the session's lock held.

May import nothing of ours but runtime.handles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dagengine.runtime.handles import Ref


class Waiter:
    """`left` ends are to come; `wait` returns when they have, or if it is `hasty`, one is a failure. Belongs to one thread."""

    __slots__ = ("_lock", "hasty", "left")

    def __init__(self, left: int, hasty: bool = False) -> None:
        self.left = left
        self.hasty = hasty
        self._lock = threading.Lock()
        self._lock.acquire()

    def one(self, failed: bool = False) -> None:
        if self.left > 0:
            self.left = 0 if failed and self.hasty else self.left - 1
            if self.left == 0:
                self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """Whether all have come in time."""
        return self._lock.acquire(timeout=-1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))


class Then:
    """`left` ends are to come; then, or if it is `hasty` after one failure, `action` joins `later`, which is done once the
    lock is free again."""

    __slots__ = ("action", "hasty", "later", "left")

    def __init__(
        self, left: int, action: Callable[[], None], later: list[Callable[[], None]], hasty: bool = False
    ) -> None:
        self.left = left
        self.hasty = hasty
        self.action = action
        self.later = later

    def one(self, failed: bool = False) -> None:
        if self.left > 0:
            self.left = 0 if failed and self.hasty else self.left - 1
            if self.left == 0:
                self.later.append(self.action)


def add_waiter(ref: Ref[Any], waiter: Any) -> None:
    """With the session's lock held."""
    if ref._waiters is None:
        ref._waiters = [waiter]
    else:
        ref._waiters.append(waiter)
