"""How a body hears of the ends of steps: from the engine's thread, in the order of completion.

`Waiting` is whoever is told; `Waiter` waits for several steps, in a sync or an async body, and reads their values; `End` for
one. When the run stops, the wait ends with `BodyStopped`. What the engine calls, `tell` and `stop`, only takes a note.

May import errors, model, scopes and refs; the body only for types.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from dagengine.model import StepState
from dagengine.refs import Ref, body_of
from dagengine.scopes import outside

if TYPE_CHECKING:
    from dagengine.body import Body


class BodyStopped(BaseException):
    """The run stops; the body is let go of, and called again on resume."""


class Outcome:
    """How a step ended, for the body that waited for it."""

    __slots__ = ("_body", "_key", "_seq", "_state", "_value")

    def __init__(self, body: Body, ref: Ref, state: StepState, value: Any) -> None:
        self._body = body
        self._seq = ref._seq
        self._key = ref._key
        self._state = state
        self._value = value

    def value(self) -> Any:
        if self._state is not StepState.SUCCEEDED:
            raise self._body.delivered(self._seq, self._key)
        return self._value

    def value_or_exception(self) -> Any:
        return self._value if self._state is StepState.SUCCEEDED else self._body.delivered(self._seq, self._key)


class Waiting(Protocol):
    """Somebody on the body's side who is told of ends by the engine's thread."""

    def tell(self, seq: int, state: StepState) -> None: ...

    def stop(self) -> None:
        """The run stops: nothing more will be told."""


class End:
    """The end of one step."""

    def __init__(self) -> None:
        self.told: SimpleQueue[StepState | None] = SimpleQueue()

    def tell(self, seq: int, state: StepState) -> None:
        self.told.put(state)

    def stop(self) -> None:
        self.told.put(None)

    def wait(self, seconds: float) -> StepState | None:
        """None if the run stops, or if it takes too long."""
        try:
            return self.told.get(timeout=seconds)
        except Empty:
            return None


class Waiter:
    """The ends of some steps, in the order of completion. Steps that ended in an earlier process come first."""

    def __init__(self, body: Body, refs: Sequence[Ref]) -> None:
        self._body = body
        self._refs: dict[int, list[Ref]] = {}
        for ref in refs:
            body_of(ref)  # raises, if it is not this body's
            self._refs.setdefault(ref._seq, []).append(ref)
        self.left = len(refs)
        self._ready: deque[Outcome] = deque()
        self._told: SimpleQueue[tuple[int, StepState] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        body.watch(self, list(self._refs))

    def tell(self, seq: int, state: StepState) -> None:
        """Called by the engine's thread, in the order of completion."""
        self._say((seq, state))

    def stop(self) -> None:
        self._say(None)

    def _say(self, told: tuple[int, StepState] | None) -> None:
        with self._body.blocking.told():
            self._told.put(told)
            self._wake_loop()

    def _wake_loop(self) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the loop was closed: nobody waits any more
                self._loop = None

    def _take(self, told: tuple[int, StepState] | None) -> None:
        """Turn news into outcomes: together with all other news that is there, so that values are read at once."""
        news = [told]
        while not self._told.empty():
            news.append(self._told.get())
        if None in news:
            self._told.put(None)
            raise BodyStopped
        ends = [new for new in news if new is not None]
        with outside():
            values = self._body.stage.read_steps([seq for seq, state in ends if state is StepState.SUCCEEDED])
        for seq, state in ends:
            for ref in self._refs[seq]:
                self._ready.append(Outcome(self._body, ref, state, values.get(seq)))

    def next(self) -> Outcome:
        """The next end; blocks."""
        if not self._ready:
            self._body.blocking.until(self._told.empty)
            self._take(self._told.get())
        self.left -= 1
        return self._ready.popleft()

    async def next_async(self) -> Outcome:
        self._loop = asyncio.get_running_loop()
        while not self._ready:
            if self._told.empty():
                self._wake.clear()
                if self._told.empty():
                    await self._wake.wait()
                continue
            self._take(self._told.get())
        self.left -= 1
        return self._ready.popleft()

    async def all_async(self) -> None:
        while self.left:
            await self.next_async()
