"""The one thread that writes: it takes whatever waits and has it committed together (group commit).

    write ─▶ queue ─▶ take all that waits ─▶ commit them at once ─▶ tell each caller, in order
    call  ─▶   │       (one transaction)
               └ a call (create_run, claim, cancel) has its place in the same order, and a transaction of its own

Invariants, which hold for each store that writes through this:
- What is told is told on this thread, in the order of the queue, after the commit.
- After a refused batch nothing more is written under the same claim, since what follows may build on it. So what is
  recorded of a run is always a prefix of what was handed over. A new claim starts afresh.

May import nothing of ours but errors, model and writes.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from dagengine.errors import InternalError, StoreError, StoreUnavailable
from dagengine.model import Claim
from dagengine.storage.writes import RecordSteps, Write

Refusal = StoreError | InternalError
Refusals = dict[tuple[int, int], Refusal]
"""(run number, token) -> why nothing more is written under this claim."""

GROUP_MAX = 5_000
"""Rows in one commit, about. Larger groups gain nothing, and would keep whoever waits for the first of them waiting."""

T = TypeVar("T")

_log = logging.getLogger("dagengine.storage")


@dataclass(slots=True)
class Batch:
    claim: Claim
    writes: Sequence[Write]
    done: Callable[[Refusal | None], None]

    @property
    def key(self) -> tuple[int, int]:
        return self.claim.run_number, self.claim.token


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    ended: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class GroupWriter:
    """`commit` gets the batches of a group and the refusals so far, which it adds to; it answers for each batch.

    The thread is a daemon: a program that forgets to close its store still ends, and what it handed over is written.
    """

    def __init__(self, commit: Callable[[list[Batch], Refusals], list[Refusal | None]], url: str) -> None:
        self._commit = commit
        self._url = url
        self._queue: SimpleQueue[Batch | _Call | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._refusals: Refusals = {}
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="dagengine-store", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, claim: Claim, writes: Sequence[Write], done: Callable[[Refusal | None], None]) -> None:
        """Queue a batch. Raises StoreUnavailable after `close`, and in a process forked from the opening one."""
        self._put(Batch(claim, writes, done))

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the thread, after what was queued before, and wait for what it returns or raises."""
        if threading.current_thread() is self._thread:  # from a callback: it has this place in the order
            return function()
        call = _Call(function)
        self._put(call)
        call.ended.wait()
        if call.error is not None:
            raise call.error
        return cast(T, call.result)

    def forget(self, run_number: int) -> None:
        """The run has been claimed anew. Called on the thread."""
        for key in [key for key in self._refusals if key[0] == run_number]:
            del self._refusals[key]

    def close(self) -> None:
        """Wait until all that was queued is done, and end the thread. Twice is harmless."""
        if os.getpid() != self._pid:  # a forked child has neither the thread nor a right to the store
            return
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.close)

    def check_open(self) -> None:
        """Raise StoreUnavailable where the store can't be used any more, or not from this process."""
        if os.getpid() != self._pid:
            raise StoreUnavailable(
                f"the store {self._url} was opened by another process, {self._pid}: open it again after a fork",
                store=self._url,
            )
        if self._closed:
            raise StoreUnavailable(f"the store {self._url} is closed: open it again", store=self._url)

    # ---- the thread ---------------------------------------------------------------------

    def _put(self, item: Batch | _Call) -> None:
        self.check_open()
        with self._closing:  # nothing may come after the mark that ends the queue
            self.check_open()
            self._queue.put(item)

    def _work(self) -> None:
        queue = self._queue
        while True:
            item = queue.get()
            group: list[Batch] = []
            rows = 0
            while type(item) is Batch:
                group.append(item)
                for write in item.writes:
                    rows += len(write.steps) if type(write) is RecordSteps else 1
                if rows >= GROUP_MAX or queue.empty():
                    break
                item = queue.get()
            if group:
                self._write(group)
            if item is None:
                return
            if type(item) is _Call:
                self._answer(item)

    def _write(self, group: list[Batch]) -> None:
        try:
            outcomes = self._commit(group, self._refusals)
        except Exception as error:  # a bug of ours: nobody may wait for ever because of it
            _log.exception("a group of writes failed")
            bug = InternalError(f"the store's writer failed: {type(error).__name__}: {error}")
            outcomes = [bug] * len(group)
            self._refusals.update((batch.key, bug) for batch in group)
        for batch, outcome in zip(group, outcomes, strict=True):
            try:
                batch.done(outcome)
            except Exception:
                _log.exception("a callback of a write failed")

    def _answer(self, call: _Call) -> None:
        try:
            call.result = call.function()
        except BaseException as error:
            call.error = error
        call.ended.set()
