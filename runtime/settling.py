"""Refs of one session: how they are settled, and waiting for them and reading what they stand for.

Invariants: a ref is settled once, with the lock held; whoever reads its state without the lock sees an older one at
worst. With the lock held nothing is called that takes another lock: what has to be done then waits in `later`.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from dagengine.errors import BadArguments, RuntimeStopped, WaitTimeout
from dagengine.model import Failure
from dagengine.runtime.handles import FAILED, PENDING, Ref
from dagengine.runtime.protocol import Content
from dagengine.runtime.raising import exception_of
from dagengine.runtime.waiters import Then, Waiter, add_waiter
from dagengine.values import decode


class Settling:
    """`runtime`: any `protocol.Runtime`. `over`: why the session has ended, once it has."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.lock = threading.Lock()
        self.later: list[Callable[[], None]] = []
        self.over: Failure | None = None

    def check(self) -> None:
        """Raises RuntimeStopped once the session is over."""
        if self.over is not None:
            raise RuntimeStopped(f"there is no runtime: {self.over.message}")

    # ---- ends ---------------------------------------------------------------------------------

    def settle(self, ref: Ref[Any], state: int, content: bytes | Failure | None) -> None:
        """With the lock held."""
        if ref._state != PENDING:
            return
        ref._content = content
        ref._state = state
        ref._reads = None
        ref._unsure = False
        waiters, ref._waiters = ref._waiters, None
        if waiters is not None:
            for waiter in waiters:
                waiter.one(state == FAILED)

    def do_later(self) -> None:
        """Without the lock."""
        while self.later:
            with self.lock:
                actions = self.later[:]
                self.later.clear()
            for action in actions:
                action()

    def when_settled(self, refs: list[Ref[Any]], action: Callable[[], None]) -> None:
        """Do it when all of them have ended, on whatever thread is told last."""
        with self.lock:
            pending = [ref for ref in refs if ref._state == PENDING]
            if pending:
                then = Then(len(pending), action, self.later)
                for ref in pending:
                    add_waiter(ref, then)
                return
        action()

    # ---- values -------------------------------------------------------------------------------

    def get(self, refs: Sequence[Ref[Any]], timeout: float | None) -> list[Any]:
        """Their values, when all have ended. Raises a failed one's exception, as soon as there is one."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.settled(refs, len(refs), timeout, hasty=True):
            raise late(refs, timeout)
        for ref in refs:
            if ref._state == FAILED:
                assert isinstance(ref._content, Failure)
                raise exception_of(ref._content, ref.name)
        contents = self._contents(refs, deadline, timeout)
        return [decode_content(found) for found in contents]

    def _contents(
        self, refs: Sequence[Ref[Any]], deadline: float | None, timeout: float | None
    ) -> list[bytes | Content]:
        contents: list[Any] = [ref._content for ref in refs]
        large = [index for index, content in enumerate(contents) if content is None]
        if not large:
            return contents
        waiter = Waiter(len(large))
        abandoned = False

        def reader(index: int) -> Callable[[Content | Failure], None]:
            def told(content: Content | Failure) -> None:
                with self.lock:
                    contents[index] = content
                    waiter.one()
                    unwanted = abandoned
                if unwanted and isinstance(content, Content) and content.shared is not None:
                    content.shared.close()

            return told

        self.check()
        for index in large:
            self.runtime.read(refs[index].id, reader(index))
        try:
            in_time = waiter.wait(None if deadline is None else deadline - time.monotonic())
        except BaseException:
            abandoned = True
            raise
        if not in_time:
            with self.lock:
                abandoned = waiter.left > 0
            if abandoned:
                raise late(refs, timeout)
        for index in large:
            if isinstance(contents[index], Failure):
                raise exception_of(contents[index], refs[index].name)
        return contents

    def settled(self, refs: Sequence[Ref[Any]], count: int, timeout: float | None, hasty: bool = False) -> bool:
        """Wait until `count` of them have ended, or if it is `hasty`, one has failed. False: not in time."""
        me: Any = self
        for ref in refs:
            if ref._client is not me:
                raise BadArguments(f"{ref!r} belongs to another runtime, which may have been stopped.")
        with self.lock:
            pending = [ref for ref in refs if ref._state == PENDING]
            missing = count - (len(refs) - len(pending))
            if missing <= 0 or (hasty and any(ref._state == FAILED for ref in refs)):
                return True
            if timeout is not None and timeout <= 0:
                return False
            waiter = Waiter(missing, hasty)
            for ref in pending:
                add_waiter(ref, waiter)
        done = False
        try:
            done = waiter.wait(timeout)
        finally:
            if not done or hasty or missing < len(pending):
                with self.lock:
                    for ref in pending:
                        if ref._waiters is not None and waiter in ref._waiters:
                            ref._waiters.remove(waiter)
        return done

    def wait(self, refs: Sequence[Ref[Any]], count: int, timeout: float | None) -> list[bool]:
        """For each whether it has ended, when `count` have or the time is over."""
        self.settled(refs, count, timeout)
        return [ref._state != PENDING for ref in refs]


def late(refs: Sequence[Ref[Any]], timeout: float | None) -> WaitTimeout:
    missing = [ref for ref in refs if ref._state == PENDING] or list(refs)
    others = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    name = missing[0].name
    return WaitTimeout(f"no result of {name}{others} within {timeout:g} s", task=name)


def decode_content(content: bytes | Content) -> Any:
    """The value; of a large one, as a view on shared memory that stays as long as the value does."""
    if isinstance(content, bytes):
        return decode(content)
    if content.data is not None:
        return decode(content.data)
    assert content.shared is not None
    view = content.shared.view()
    content.shared.close()
    return decode(view)
