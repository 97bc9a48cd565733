"""How much memory worker processes have of their own, and how close the node is to having none left.

Readings only: what follows from them (no new leases, ending an attempt) the scheduler core decides.

May import nothing of ours but runtime.memory. Linux only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PAUSE: Final = 0.80
"""Of the limit: from here on nothing new should start."""

END: Final = 0.95
"""Of the limit: from here on the kernel may be the next to choose who dies, so we do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """used: bytes of the node's limit that are in use. processes: bytes that each process has of its own (PSS without
    shared memory), of those that still live."""

    used: int
    limit: int
    processes: dict[int, int]

    @property
    def high(self) -> bool:
        return self.used >= self.limit * PAUSE

    @property
    def critical(self) -> bool:
        return self.used >= self.limit * END


class Watch:
    """`limit`: bytes that the tasks' processes may have together; None: what the machine and its control groups have,
    and then everybody's memory counts."""

    def __init__(self, limit: int | None = None) -> None:
        raise NotImplementedError

    def read(self, pids: Sequence[int]) -> Reading:
        """Look at the processes that run tasks now. Some microseconds each, while there is memory enough."""
        raise NotImplementedError

    def pause(self) -> float:
        """Seconds after which to read again, as long as a task runs; while none does, don't read at all."""
        raise NotImplementedError
