"""What an engine is to do later: after a delay, or at a time of day. Used on the engine's thread only.

A run that is let go of takes what was to be done for it along (`forget`): a timer of next year must not keep it in
memory. May import clocks.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dagengine.clocks import Clock

if TYPE_CHECKING:
    from dagengine.core.events import Event
    from dagengine.driver import Driver

    What = Event | Callable[[], None]


class Timers:
    """Events for drivers, and work to be done for them, each at its time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._delays: list[tuple[float, int]] = []
        self._times: list[tuple[float, int]] = []
        self._what: dict[int, tuple[Driver | None, What]] = {}
        self._of: dict[Driver | None, set[int]] = {}
        self.added = 0
        """How often something was added: who waits for the first of all has to look again."""

    def after(self, delay: float, driver: Driver, what: What) -> None:
        """In `delay` seconds."""
        heapq.heappush(self._delays, (self._clock.monotonic() + delay, self._add(driver, what)))

    def at(self, due: float, driver: Driver | None, what: What) -> None:
        """When the wall clock says `due`. For no driver: it can't be forgotten."""
        heapq.heappush(self._times, (due, self._add(driver, what)))

    def _add(self, driver: Driver | None, what: What) -> int:
        number = next(self._numbers)
        self.added += 1
        self._what[number] = (driver, what)
        if driver is not None:
            self._of.setdefault(driver, set()).add(number)
        return number

    def forget(self, driver: Driver) -> None:
        """Nothing more is to be done for the driver."""
        for number in self._of.pop(driver, ()):
            del self._what[number]

    def pause(self) -> float | None:
        """Real seconds until something may be due; None: nothing will be."""
        for heap in (self._delays, self._times):
            while heap and heap[0][1] not in self._what:
                heapq.heappop(heap)
        delay = self._delays[0][0] - self._clock.monotonic() if self._delays else None
        return self._clock.pause(self._times[0][0] if self._times else None, delay)

    def due(self) -> Iterator[tuple[Driver | None, What]]:
        """What is due now, the earliest first; it is not there any more after that."""
        for heap, now in ((self._delays, self._clock.monotonic()), (self._times, self._clock.now())):
            while heap and heap[0][0] <= now:
                _, number = heapq.heappop(heap)
                found = self._what.pop(number, None)
                if found is not None:
                    self._done(found[0], number)
                    yield found

    def _done(self, driver: Driver | None, number: int) -> None:
        if driver is not None:
            numbers = self._of[driver]
            numbers.discard(number)
            if not numbers:
                del self._of[driver]
