"""A clock for these tests: what is to be waited for until some time is there at once."""

from __future__ import annotations

from dagengine.clocks import Clock
from dagengine.engine import Engine


class Jumping(Clock):
    """Jumps to the next due time as soon as the engine would wait for it; `stands` keeps it where it is."""

    def __init__(self, stands: bool = False) -> None:
        self.stands = stands
        self.ahead = 0.0

    def go(self, engine: Engine) -> None:
        """Stand no more."""
        self.stands = False
        engine.do(lambda: None)  # its thread may wait for what is now due

    def now(self) -> float:
        return super().now() + self.ahead

    def pause(self, due: float | None, delay: float | None) -> float | None:
        if due is not None and not self.stands:
            self.ahead += max(0.0, due - self.now())
        return super().pause(due, delay)
