"""Hearing of the end of other processes of this machine at once, from the kernel: a `pidfd` for each of some.

May import nothing of ours but control, identity and model.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterable

from dagengine.control import process_ends
from dagengine.identity import is_here
from dagengine.model import ProcessRecord

MOST = 256
"""Processes watched at a time. The others are looked at when everybody is."""


class Watch:
    """Registers with the selector, as data `self`. On one thread."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._watched: dict[str, int] = {}  # by the process's id

    def keep(self, processes: Iterable[ProcessRecord]) -> None:
        """Watch these, and no others."""
        wanted = {process.id: process for process in processes if is_here(process)}
        for gone in self._watched.keys() - wanted.keys():
            self._drop(gone)
        for id_, process in wanted.items():
            if id_ not in self._watched and len(self._watched) < MOST:
                descriptor = process_ends(process.pid, process.start_time)
                if descriptor is not None:
                    self._watched[id_] = descriptor
                    self._selector.register(descriptor, selectors.EVENT_READ, self)

    def ended(self, descriptor: int) -> None:
        """The descriptor can be read: its process has ended."""
        for id_, watched in list(self._watched.items()):
            if watched == descriptor:
                self._drop(id_)

    def close(self) -> None:
        for id_ in list(self._watched):
            self._drop(id_)

    def _drop(self, id_: str) -> None:
        descriptor = self._watched.pop(id_)
        self._selector.unregister(descriptor)
        os.close(descriptor)
