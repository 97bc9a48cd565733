"""Hearing of the end of other processes of this machine at once, from the kernel: a `pidfd` for each of some.

Those that are known to work on something, and those that have said that they are about to: between two looks of a server
nothing else says that a process is there.

May import nothing of ours but control, identity and model.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterable

from dagengine.control import process_ends
from dagengine.identity import is_here, proof
from dagengine.model import ProcessRecord

MOST = 256
"""Processes watched at a time. The others are looked at when everybody is."""


class Watch:
    """Registers with the selector, as data `self`. On one thread."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._watched: dict[str, int] = {}  # by the process's id
        self._at_work: set[str] = set()
        self._added: dict[str, ProcessRecord] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, process: ProcessRecord) -> None:
        """Watch this one, too, until it ends."""
        if is_here(process) and len(self._watched) < MOST:
            self._added[process.id] = process
            self._begin(process)

    def keep(self, processes: Iterable[ProcessRecord]) -> bool:
        """Watch these, which are at work, and those that were added, and no others. Whether one of these has ended by now."""
        wanted = {process.id: process for process in processes if is_here(process)}
        self._at_work = set(wanted)
        wanted.update(self._added)
        for gone in self._watched.keys() - wanted.keys():
            self._drop(gone)
        for process in wanted.values():
            if len(self._watched) < MOST:
                self._begin(process)
        return any(proof(wanted[id_]) is False for id_ in self._at_work - self._watched.keys())

    def ended(self, descriptor: int) -> tuple[str, bool]:
        """The descriptor can be read: the id of its process, which has ended, and whether it was known to be at work."""
        (id_,) = (id_ for id_, watched in self._watched.items() if watched == descriptor)
        self._drop(id_)
        self._added.pop(id_, None)
        return id_, id_ in self._at_work

    def close(self) -> None:
        for id_ in list(self._watched):
            self._drop(id_)

    def _begin(self, process: ProcessRecord) -> None:
        if process.id not in self._watched:
            descriptor = process_ends(process.pid, process.start_time)
            if descriptor is None:
                self._added.pop(process.id, None)
            else:
                self._watched[process.id] = descriptor
                self._selector.register(descriptor, selectors.EVENT_READ, self)

    def _drop(self, id_: str) -> None:
        descriptor = self._watched.pop(id_)
        self._selector.unregister(descriptor)
        os.close(descriptor)
