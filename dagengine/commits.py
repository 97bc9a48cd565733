"""How long the commits of a run took, noted once with its end: what `profile` tells of the time between steps.

May import model and the store's vocabulary of writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dagengine.model import EventRecord
from dagengine.storage.writes import AddEvent, FinishRun, Write


class Commits:
    """Of one run, in the hands of one owner. `took` may be called from any thread."""

    def __init__(self) -> None:
        self._seconds: list[float] = [0.0, 0.0]  # in all, the longest
        self._count = 0

    def took(self, seconds: float) -> None:
        self._count += 1
        self._seconds = [self._seconds[0] + seconds, max(self._seconds[1], seconds)]

    def note(self, writes: Sequence[Write]) -> list[Write]:
        """What to write beside a batch that ends the run."""
        if not self._count or not any(isinstance(write, FinishRun) for write in writes):
            return []
        data = {"count": self._count, "seconds": self._seconds[0], "longest": self._seconds[1]}
        return [AddEvent(EventRecord(time.time(), "run.commits", None, data))]
