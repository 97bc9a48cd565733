"""Which places of a spill space can't be written to, and why: kept for whoever asks, and said once for each.

A full disk is no trouble of this kind: it is expected, and its figures are told with what fails for it.

May import nothing of ours.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

_log: Final = logging.getLogger("dagengine.runtime")


class SpillTrouble:
    """`failing`: of each place that could not be written to when it was last tried, the reason, in one line. Thread-safe."""

    def __init__(self) -> None:
        self.failing: dict[str, str] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def failed(self, where: str, reason: str, instead: str) -> None:
        """`reason`: what is wrong and what to do; `instead`: the places that are left, "" if there are none."""
        with self._lock:
            self.failing = {**self.failing, where: reason}
            if where in self._said:
                return
            self._said.add(where)
        meanwhile = f"go to {instead}" if instead else "have nowhere to go"
        _log.warning("%s. Until then values that find no room in memory %s", reason, meanwhile)

    def worked(self, where: str) -> None:
        if where in self.failing:
            with self._lock:
                self.failing = {place: reason for place, reason in self.failing.items() if place != where}

    @property
    def text(self) -> str:
        """All reasons; "" if there are none."""
        return "; ".join(self.failing.values())
