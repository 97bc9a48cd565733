"""What is to happen at a time: told by Tick, asked for by SetTimer. May import nothing of ours but the core's words."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from dagengine.runtime.core.actions import SetTimer


class Timers:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self._announced: float | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def wake(self, at: float, call: Callable[[Any], None], argument: object = None) -> None:
        self._number += 1
        heapq.heappush(self._heap, (at, self._number, call, argument))

    def tick(self, now: float) -> None:
        self._announced = None
        while self._heap and self._heap[0][0] <= now:
            _, _, call, argument = heapq.heappop(self._heap)
            call(argument)

    def announce(self) -> SetTimer | None:
        """The timer to set, if it is another than before."""
        if not self._heap or self._heap[0][0] == self._announced:
            return None
        self._announced = self._heap[0][0]
        return SetTimer(self._announced)
