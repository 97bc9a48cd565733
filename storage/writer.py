"""What is written, in one order: one thread takes whatever waits and has it committed together (group commit).

    write ─▶ queue ─▶ take all that waits ─▶ commit them at once ─▶ tell each caller, in order
    call  ─▶   │       (one transaction)
               └ a call (create_run, claim, cancel) has its place in the same order, and a transaction of its own

A store on a server can `begin` a transaction without waiting for its end. Then whoever writes while the thread sleeps sends
the batch off by himself, and the thread is woken while the server is at work, to wait for the answer.

Invariants, which hold for each store that writes through this:
- The thread is `busy` from when something is put until it has found nothing more; only then does somebody else begin.
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
from functools import partial
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

LITTLE = 8
"""Rows that whoever writes may send off by himself. More of them are better left to a thread that has the time."""

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

    @property
    def rows(self) -> int:
        """About how many it writes."""
        return sum([len(write.steps) if type(write) is RecordSteps else 1 for write in self.writes])


Finish = Callable[[], list[Refusal | None]]
"""Waits for the end of a transaction that was sent off; what became of each batch in it."""

Begin = Callable[[Batch, Refusals], Finish | None]
"""Sends a batch off as a transaction of its own, without waiting for anything. None: it is to be committed as all others."""


@dataclass(slots=True)
class _Begun:
    batch: Batch
    finish: Finish


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    ended: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


class GroupWriter:
    """`commit` gets the batches of a group and the refusals so far, which it adds to; it answers for each batch. `begin`:
    what a store can do of it ahead; called by whoever writes, while the thread sleeps.

    The thread is a daemon: a program that forgets to close its store still ends, and what it handed over is written.
    """

    def __init__(
        self, commit: Callable[[list[Batch], Refusals], list[Refusal | None]], url: str, begin: Begin | None = None
    ) -> None:
        self._commit = commit
        self._begin = begin
        self._url = url
        self._queue: SimpleQueue[Batch | _Begun | _Call | None] = SimpleQueue()
        self._busy = False
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

    def while_it_sleeps(self, function: Callable[[], None]) -> None:
        """Run a short `function` on this thread, with nothing being written meanwhile; not at all if something is."""
        with self._closing:
            if not self._busy:
                function()

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
                self._closed = self._busy = True
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
            begun = None if self._busy else self._begun(item)
            self._busy = True
            self._queue.put(begun or item)

    def _begun(self, item: Batch | _Call) -> _Begun | None:
        if self._begin is None or type(item) is not Batch or item.rows > LITTLE:
            return None
        if threading.current_thread() is threading.main_thread():
            return None  # a signal's handler could leave the transaction half sent
        finish = self._begin(item, self._refusals)
        return None if finish is None else _Begun(item, finish)

    def _next(self) -> Batch | _Begun | _Call | None:
        with self._closing:
            if self._queue.empty():
                self._busy = False
        return self._queue.get()

    def _work(self) -> None:
        queue = self._queue
        while True:
            item = self._next()
            group: list[Batch] = []
            rows = 0
            while type(item) is Batch:
                group.append(item)
                rows += item.rows
                if rows >= GROUP_MAX or queue.empty():
                    break
                item = queue.get()
            if group:
                self._write(group, partial(self._commit, group, self._refusals))
            if item is None:
                return
            if type(item) is _Begun:
                self._write([item.batch], item.finish)
            elif type(item) is _Call:
                self._answer(item)

    def _write(self, group: list[Batch], finish: Finish) -> None:
        try:
            outcomes = finish()
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
