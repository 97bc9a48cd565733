"""Answers to tasks that take time: waits that may be over before there is something, and reading objects for a worker.

May import nothing of ours but model and runtime modules.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dagengine.model import Failure
from dagengine.runtime.handles import FAILED, PENDING, Ref
from dagengine.runtime.protocol import ObjectId
from dagengine.runtime.waiters import Then, add_waiter

if TYPE_CHECKING:
    from dagengine.runtime.session import Session

Reply = Callable[..., None]


class Patience:
    """One wait of a task: until `ended()` is something, or the time is over (then it is told None).

    on: where it is told of ends: a list of waiters, or refs of which `count` have to end
    """

    def __init__(
        self,
        session: Session,
        timeout: float | None,
        ended: Callable[[], Any],
        tell: Callable[[Any], None],
        *,
        on: list[Any],
        count: int = 0,
        hasty: bool = False,
    ) -> None:
        self._session = session
        self._timeout = timeout
        self._ended = ended
        self._tell = tell
        self._on = on
        self._count = count
        self._hasty = hasty
        self._done = False

    def begin(self) -> None:
        if self._timeout is not None:
            self._session.housekeeper.at(time.monotonic() + self._timeout, self._late)
        self._look()

    def _look(self) -> None:
        with self._session.lock:
            if self._done:
                return
            found = self._ended()
            if found is NotImplemented:
                self._wait_on()
                return
            self._done = True
        self._tell(found)

    def _wait_on(self) -> None:
        if not self._count:
            self._on.append(Then(1, self._look, self._session.later))
            return
        pending = [ref for ref in self._on if ref._state == PENDING]
        then = Then(self._count - (len(self._on) - len(pending)), self._look, self._session.later, self._hasty)
        for ref in pending:
            add_waiter(ref, then)

    def _late(self) -> None:
        with self._session.lock:
            if self._done:
                return
            self._done = True
        self._tell(None)


class Reading:
    """The contents of refs that have ended, for a worker."""

    def __init__(self, runtime: Any, worker: int, refs: list[Ref[Any]], reply: Reply) -> None:
        self._runtime = runtime
        self._worker = worker
        self._refs = refs
        self._reply = reply
        self._found: list[Any] = [None] * len(refs)
        self._holds: list[ObjectId] = []
        self._left = 1
        self._lock = threading.Lock()

    def begin(self) -> None:
        large = []
        for index, ref in enumerate(self._refs):
            if ref._state == PENDING:
                continue  # another one has failed: that is what will be raised
            if ref._state == FAILED:
                assert isinstance(ref._content, Failure)
                self._found[index] = {"failure": asdict(ref._content)}
            elif ref._content is not None:
                self._found[index] = ref._content
            else:
                large.append(index)
        self._left += len(large)
        for index in large:
            self._runtime.read_for(self._worker, self._refs[index].id, self._reader(index))
        self._one()

    def _reader(self, index: int) -> Callable[[Any], None]:
        def told(packed: Any) -> None:
            if isinstance(packed, Failure):
                self._found[index] = {"failure": asdict(packed)}
            else:
                self._found[index] = packed
                if not isinstance(packed, bytes):
                    self._holds.append(self._refs[index].id)
            self._one()

        return told

    def _one(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._reply(self._found, None, self._holds)
