"""The clock of an engine: what time it is, and how long its thread may wait.

Everything that an engine does at a time goes through one of these, so that a test can have time pass at once. Imports
nothing of ours.
"""

from __future__ import annotations

import time

LONGEST_PAUSE = 60.0
"""Seconds. Wall-clock time can be set, and goes on while a machine sleeps: it is looked at this often while something
is due at a time of day."""


class Clock:
    """The world's time. A clock that jumps derives from this one."""

    def now(self) -> float:
        """Wall-clock time, as it is recorded: seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """What delays are measured with."""
        return time.monotonic()

    def pause(self, due: float | None, delay: float | None) -> float | None:
        """Real seconds for which the engine's thread may wait for a message; None: for as long as there is none.

        due: when, on the wall clock, something is to happen; delay: in how many seconds something else is
        """
        left = [] if delay is None else [max(0.0, delay)]
        if due is not None:
            left.append(min(max(0.0, due - self.now()), LONGEST_PAUSE))
        return min(left, default=None)
