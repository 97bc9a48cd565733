"""The messages of an engine, and on which thread they are worked off: one turn at a time, in the order in which they came.

    put    ── the engine's own thread is woken, and takes the turn
    offer  ── whoever brings the message takes the turn himself, if nobody is at it and there is little to do

Waking a thread costs about as much as a small turn: some 30 µs for who wakes it, and as much again until it runs. A step of a
chain is brought by the runtime's thread, and its commit by the store's; both are at their leisure then. When there is much
to do the engine's thread is awake anyway, and they leave it to that.

Invariants: `work` is never called twice at once, and never in itself; no message overtakes another one; each is worked off,
until `close`, which waits for the turn that is under way. A turn must not wait for the threads that offer (the store's own
calls see to that by themselves).

May import nothing of ours.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Message = TypeVar("Message")

BATCH = 4_096
"""Messages worked off in one turn: enough to share commits, few enough that the first is not kept waiting."""

LITTLE = 2
"""Messages that are worked off where they are offered. More of them are a sign that the engine is busy."""


class Turns(Generic[Message]):
    """work: given the messages of a turn, none if only time has passed; answers whether there is something to do at a time that
    was not known before. pause: real seconds for which the engine's thread may sleep. Neither is called twice at once.
    """

    def __init__(self, work: Callable[[list[Message]], bool], pause: Callable[[], float | None], name: str) -> None:
        self._work = work
        self._pause = pause
        self._messages: deque[Message] = deque()
        self._turn = threading.Lock()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._rung = False  # the engine's thread looks again before it sleeps
        self._closing = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Wait until all that was put before is worked off, and end the thread."""
        self._closing = True
        self._ring()
        self._thread.join()

    def put(self, message: Message) -> None:
        """From any thread."""
        self._messages.append(message)
        self._ring()

    def offer(self, message: Message) -> None:
        """As `put`, from a thread that can spare the time of a small turn."""
        self._messages.append(message)
        if self._closing or len(self._messages) > LITTLE or not self._turn.acquire(blocking=False):
            self._ring()
            return
        try:
            sooner = self._take()
        finally:
            self._turn.release()
        if sooner or self._messages:
            self._ring()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def _take(self) -> bool:
        """One turn, with the lock held."""
        messages = self._messages
        return self._work([messages.popleft() for _ in range(min(len(messages), BATCH))])

    def _main(self) -> None:
        while True:
            with self._turn:
                pause = 0.0 if self._messages else self._pause()
            with contextlib.suppress(Empty):
                self._bell.get(timeout=pause)
            self._rung = False  # what is put from here on rings again; what was put before is seen below
            with self._turn:
                self._take()
            if self._closing and not self._messages:
                return
