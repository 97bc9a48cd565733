"""Whoever is told what became of a task that has more than one ref: of its streams, and of several results.

All methods but the constructors are called with the session's lock held, and must be quick.

May import nothing of ours but model and runtime modules.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dagengine.model import Failure
from dagengine.runtime.calling import EncodedCall
from dagengine.runtime.handles import DONE, FAILED, Ref
from dagengine.runtime.protocol import Dropped, Failed, Lost, RuntimeEvent, Succeeded, TimedOut, Yielded
from dagengine.runtime.raising import cancelled, timed_out

if TYPE_CHECKING:
    from dagengine.runtime.session import Session


def outcome(event: RuntimeEvent, name: str, over: Failure | None) -> Failure:
    """Why there is no result. `over`: why the session ended, if it did."""
    if isinstance(event, (Failed, Lost)):
        return event.failure
    if isinstance(event, TimedOut):
        return timed_out(name)
    assert isinstance(event, Dropped)
    return over or cancelled(name)


class Owner:
    """Told of one task. `inside`: handles that were pickled into what the task is about to hand over."""

    name: str

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inside: list[Any] = []

    def succeeded(self, event: Succeeded) -> None:
        raise NotImplementedError

    def failed(self, failure: Failure) -> None:
        raise NotImplementedError

    def yielded(self, event: Yielded) -> None:
        raise NotImplementedError

    def ended_badly(self, event: RuntimeEvent) -> None:
        self.failed(outcome(event, self.name, self.session.over))


class SplitOwner(Owner):
    """Several results: each ref is settled when its object is there. Until then it is kept, so that it can be freed."""

    def __init__(self, session: Session, name: str, refs: list[Ref[Any]]) -> None:
        super().__init__(session)
        self.name = name
        self._refs: list[Ref[Any] | None] = list(refs)

    def yielded(self, event: Yielded) -> None:
        ref, self._refs[event.index] = self._refs[event.index], None
        if ref is not None:
            ref._contains, self.inside = self.inside or None, []
            self.session.settle(ref, DONE, None)

    def succeeded(self, event: Succeeded) -> None:
        self.failed(Failure("internal", "InternalError", f"{self.name} ended before all of its results were there"))

    def failed(self, failure: Failure) -> None:
        refs, self._refs = self._refs, [None] * len(self._refs)
        for ref in refs:
            if ref is not None:
                self.session.settle(ref, FAILED, failure)


class StreamOwner(Owner):
    """A generator's items that nobody has taken yet, and its end."""

    def __init__(self, session: Session, number: int, name: str, call: EncodedCall) -> None:
        super().__init__(session)
        self.name = name
        self.number = number
        self.failure: Failure | None = None
        self.ended = False
        self.waiters: list[Any] = []
        self._holds: EncodedCall | None = call
        self._items: deque[Ref[Any]] = deque()
        self._wanted = True

    def take(self) -> Ref[Any] | None:
        return self._items.popleft() if self._items else None

    def yielded(self, event: Yielded) -> None:
        ref: Ref[Any] = Ref(self.session, tuple(event.object), self.name)
        ref._state = DONE
        ref._contains, self.inside = self.inside or None, []
        if self._wanted:
            self._items.append(ref)
            self._wake()

    def succeeded(self, event: Succeeded) -> None:
        self.ended = True
        self._holds = None
        self._wake()

    def failed(self, failure: Failure) -> None:
        self.failure = failure
        self._holds = None
        self._wake()

    def unwanted(self) -> bool:
        """The stream was collected. Whether its generator may still run."""
        self._wanted = False
        self._items.clear()
        return not self.ended and self.failure is None

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.one()
