"""A thread for what must not be done where it is noticed: finalisers' notes, timers, waits that may take long.

A finaliser runs between any two instructions of any thread, perhaps one that holds the very lock that freeing needs. So
`note` only appends and rings: both are atomic and re-entrant. Notes that come together are carried out together.

Imports nothing of ours.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final

GATHERED: Final = 0.001
"""Seconds that notes are gathered for. A program that drops many refs at once would otherwise wake this thread for
each, and memory does not wait for a millisecond."""

GATHERED_LIGHT: Final = 0.01
"""Seconds, where no memory waits: a program that calls one small task after the other would be held up by this thread."""

Key = tuple[Any, ...]


def _LEAVE() -> None:  # noqa: N802 - a mark in the queue, which is compared and never called
    """The thread's end."""


class Housekeeper:
    """`give_up` gets what was noted. The thread starts with the first errand."""

    def __init__(self, give_up: Callable[[list[Key]], None]) -> None:
        self._give_up = give_up
        self._notes: deque[Key] = deque()
        self._noted = False
        self._noted_light = False
        self._bell: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._muted = False
        self._thread = threading.Thread(target=self._run, name="dagengine-housekeeper", daemon=True)
        self._thread.start()

    def note(self, key: Key, light: bool = False) -> None:
        """From finalisers, too. `light`: it takes no room that anybody may wait for."""
        if self._muted:
            return
        self._notes.append(key)
        if light:
            if not self._noted_light:
                self._noted_light = True
                self.at(time.monotonic() + GATHERED_LIGHT, self._pass_on)
        elif not self._noted:
            self._noted = True
            self._bell.put(None)

    def run(self, errand: Callable[[], None]) -> None:
        """Do it soon, on this thread. It must not raise."""
        self._bell.put(errand)

    def at(self, when: float, errand: Callable[[], None]) -> None:
        """Do it at that time (of time.monotonic)."""
        self._bell.put(lambda: heapq.heappush(self._timers, (when, next(self._order), errand)))

    def mute(self) -> None:
        self._muted = True

    def close(self) -> None:
        """No more notes. What has begun is waited for, unless this is called from there."""
        self._muted = True
        self._bell.put(_LEAVE)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            errand = self._next()
            if errand is _LEAVE:
                return
            if errand is not None:
                errand()
            if self._noted:
                time.sleep(GATHERED)
                self._noted = False
                self._pass_on()

    def _pass_on(self) -> None:
        self._noted_light = False
        keys = []
        while self._notes:
            keys.append(self._notes.popleft())
        if keys:
            self._give_up(keys)

    def _next(self) -> Callable[[], None] | None:
        try:
            if not self._timers:
                return self._bell.get()
            return self._bell.get(timeout=max(0.0, self._timers[0][0] - time.monotonic()))
        except Empty:
            return heapq.heappop(self._timers)[2]
