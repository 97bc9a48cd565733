"""What the dispatcher wants to be woken for. Pure: times are given.

May import nothing of ours but dispatch_model.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any


class Why(IntEnum):
    DEADLINE = 0  # of a task: its timeout
    KILL = 1  # of a worker that was told to end
    LOOK = 2  # whether a worker is stuck
    START = 3  # workers may be started again
    IDLE = 4  # whether workers have been idle for long


_Timer = tuple[float, int, Why, Any]  # when, a number that breaks ties, what for, of which task or worker


class Timers:
    def __init__(self) -> None:
        self._heap: list[_Timer] = []
        self._number = 0
        self._announced: float | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: float, why: Why, key: Any = None) -> None:
        self._number += 1
        heapq.heappush(self._heap, (at, self._number, why, key))

    def has(self, why: Why, key: Any) -> bool:
        return any(timer[2] is why and timer[3] == key for timer in self._heap)

    def due(self, now: float) -> Iterator[tuple[float, Why, Any]]:
        """Those whose time has come, removed one by one. What is added meanwhile counts as well."""
        self._announced = None
        while self._heap and self._heap[0][0] <= now:
            at, _, why, key = heapq.heappop(self._heap)
            yield at, why, key

    def announce(self) -> float | None:
        """The next time to be woken, if it is another one than was announced before."""
        if not self._heap or self._heap[0][0] == self._announced:
            return None
        self._announced = self._heap[0][0]
        return self._announced

    def prune(self, most: int, lives: Callable[[Any], bool]) -> None:
        """Deadlines of tasks that ended long before must not pile up: at most every fourth entry is of no use."""
        if len(self._heap) > most:
            self._heap = [timer for timer in self._heap if timer[2] is not Why.DEADLINE or lives(timer[3])]
            heapq.heapify(self._heap)
