"""Whether a body waits for the engine and for nothing else: only then may its run be let go of.

A body's thread says so itself, when it finds that nobody has told it anything yet. Whoever tells it takes that back
in the same breath, under one lock: so as long as the engine's thread, which alone tells, sees that the body is blocked, it is.

An async body is blocked when its loop would wait without a limit, and for nothing but us: it has no timers of its own, no
sockets, no thread that works for it.

Imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

_OWN_ENDS = 1  # the pipe by which an asyncio loop is woken from other threads


class Blocking:
    """Of one body."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocked = False
        self._then: Callable[[], None] | None = None

    @property
    def now(self) -> bool:
        """For the engine's thread."""
        with self._lock:
            return self._blocked

    @contextmanager
    def told(self) -> Iterator[None]:
        """While the body is told something."""
        with self._lock:
            self._blocked = False
            yield

    def until(self, nothing: Callable[[], bool]) -> None:
        """The body's thread waits from here on, if `nothing` was told. It goes on when it is told something."""
        with self._lock:
            self._blocked = nothing()
            then = None
            if self._blocked:
                then, self._then = self._then, None
        if then is not None:
            then()

    def when(self, then: Callable[[], None]) -> None:
        """Call `then` once when the body waits: on its thread, or at once if it does now. It replaces what was said before.
        For the engine's thread."""
        with self._lock:
            if not self._blocked:
                self._then = then
                return
        then()


class _Selector(selectors.DefaultSelector):
    """What an asyncio loop waits with."""

    def __init__(self, blocking: Blocking) -> None:
        super().__init__()
        self._blocking = blocking
        self.working = 0  # calls that threads make for the loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None and not self.working and len(self.get_map()) <= _OWN_ENDS:
            found: list[tuple[selectors.SelectorKey, int]] = []

            def nothing() -> bool:
                found.extend(super(_Selector, self).select(0))
                return not found

            self._blocking.until(nothing)
            if found:
                return found
        return super().select(timeout)


class _Loop(asyncio.SelectorEventLoop):
    """A loop that knows of the threads that work for it."""

    def __init__(self, selector: _Selector) -> None:
        super().__init__(selector)
        self._watched = selector

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        self._watched.working += 1
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._worked)
        return future

    def _worked(self, _: asyncio.Future[Any]) -> None:
        self._watched.working -= 1


def watched_loop(blocking: Blocking) -> asyncio.AbstractEventLoop:
    """A loop for an async body."""
    return _Loop(_Selector(blocking))
