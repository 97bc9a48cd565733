"""Says to the store that this process lives, where others can't see it: every third of the lease, on a thread of its own.

The answer names the runs that the process still owns, and which of them somebody asked to stop. A run that is not among
them has been taken over, while this process was stopped or cut off: its owner hears of it here, before it has anything
to write. Between two heartbeats it listens for what the store says at once, if the store can; that is only a hint.

A store whose owners are known to be alive without (`Store.lease` is None) gets no thread.
May import nothing of ours but errors, model and the store's interface.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from dagengine.errors import DagengineError
from dagengine.model import ProcessRecord
from dagengine.storage.interface import Store

_log = logging.getLogger("dagengine")


class Heartbeat:
    """`owned` says which runs the process works on, as far as it knows. `told` is given these, and what `Store.renew` says.

    Both are called on the thread of the heartbeat.

    Life: `start` once, `stop` waits; stopping twice, or before starting, is harmless.
    """

    def __init__(
        self,
        store: Store,
        process: ProcessRecord,
        owned: Callable[[], set[int]],
        told: Callable[[set[int], dict[int, bool]], None],
    ) -> None:
        self._store = store
        self._process = process
        self._owned = owned
        self._told = told
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._store.lease is not None:
            self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._store.wake(self._process)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        assert self._store.lease is not None
        while not self._stopped.is_set():
            owned = self._owned()  # before the store is asked: a run that begins meanwhile is not missed
            try:
                self._told(owned, self._store.renew(self._process))
            except DagengineError as error:
                # A lease that can't be moved on ends; what that means, the next write will be told.
                _log.warning("the lease of this process could not be renewed: %s", error)
            if not self._stopped.is_set():
                self._store.listen(self._process, self._store.lease / 3)
