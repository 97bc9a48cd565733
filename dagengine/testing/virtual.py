"""A clock on which no time is waited for. May import clocks only."""

from __future__ import annotations

from dagengine.clocks import Clock


class VirtualClock(Clock):
    """Stands at `start` (seconds since the epoch; None: now), and jumps to what is due next as soon as the engine would
    wait for it: a run that sleeps for a day, or waits that long for an event that does not come, takes milliseconds.

    Tasks take the time that they take, which does not count. `jumps` False keeps the clock where it is.
    """

    def __init__(self, start: float | None = None, jumps: bool = True) -> None:
        self.time = super().now() if start is None else start
        self.jumps = jumps

    def now(self) -> float:
        return self.time

    def pause(self, due: float | None, delay: float | None) -> float | None:
        if due is not None and self.jumps:
            self.time = max(self.time, due)
        return super().pause(due, delay)
