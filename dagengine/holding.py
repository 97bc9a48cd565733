"""Ephemeral values of one run: objects that the runtime holds, named by the step and the attempt that made them.

Which are held, and what is made again, the run core decides (core/ephemeral.py). Here is what follows: readers are given
the object's name, the body its value; what a run returns is made durable; and what nobody needs any more is freed.

May import everything of the workflow layer that a driver may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dagengine.core.core import RunCore
from dagengine.core.ephemeral import MAP
from dagengine.core.events import Event, InputsLost, ValueKept, ValueLost, ValueWanted
from dagengine.errors import ObjectLost, RuntimeStopped
from dagengine.model import Failure, StepState
from dagengine.runtime.protocol import Content, Failed, ListInput, ObjectId, ObjectInput, TaskInput
from dagengine.supply import Found, Supply, had
from dagengine.values import decode

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine

READ_TRIES = 10
"""How often the body's read of one value may find that it was lost meanwhile, until something is wrong with the machine."""


class Holding:
    """`index`: of the run, in the names of its objects."""

    def __init__(self, engine: Engine, index: int, core: RunCore, supply: Supply) -> None:
        self._engine = engine
        self._index = index
        self._core = core
        self._supply = supply
        self._failures: dict[int, Failure] = {}  # why values can't be made again

    # ---- the engine's thread --------------------------------------------------------------------

    def of_steps(self, seqs: Iterable[int]) -> Found:
        """What these steps made, to be read by others: recorded values and objects."""
        recorded: list[int] = []
        found: Found = {}
        for seq in seqs:
            if self._is_object(seq):
                found[seq] = self._input(seq)
            else:
                recorded.append(seq)
        return {**found, **self._supply.of_steps(recorded)} if recorded else found

    def _is_object(self, seq: int) -> bool:
        return self._core.is_ephemeral(seq) and seq not in self._core.kept

    def _input(self, seq: int) -> TaskInput:
        step = self._core.steps[seq]
        if step.items is None:
            return ObjectInput((self._index, seq, self._core.held[seq]))
        first, count = step.items
        items = self.of_steps(range(first, first + count))
        return ListInput(tuple(had(items[first + index]) for index in range(count)))

    def free(self, objects: list[tuple[int, int]]) -> None:
        self._engine.runtime.free([(self._index, *made) for made in objects])

    def free_all(self) -> None:
        """The run is over here: whatever is held is of no more use."""
        with suppress(RuntimeStopped):  # then it is gone
            self.free([(seq, made) for seq, made in self._core.held.items() if made != MAP])

    def keep(self, objects: list[tuple[int, int]], driver: Driver) -> None:
        """Make these durable; the driver is told of each."""
        for seq, made in objects:

            def told(content: Content | Failure, seq: int = seq, made: int = made) -> None:
                if isinstance(content, Failure):
                    self._engine.tell(driver, ValueLost(((seq, made),)))
                else:
                    self._engine.keeping.keep_content(driver, content, lambda value: ValueKept(seq, value))

            self._engine.runtime.read((self._index, seq, made), told)

    def lost(self, event: Failed) -> InputsLost | None:
        """If the attempt failed because an object of ours is gone: what the core has to know."""
        named = event.failure.facts.get("object")
        if event.failure.kind != "object" or not isinstance(named, (list, tuple)) or len(named) != 3:
            return None
        _, seq, number = event.id
        return InputsLost(seq, number, ((named[1], named[2]),), event.failure.message)

    def unmade(self, seq: int, why: Failure) -> None:
        self._failures[seq] = why

    # ---- the body's thread ----------------------------------------------------------------------

    def failure_of(self, seq: int) -> Failure | None:
        """Why the value of a step that succeeded can't be had."""
        return self._failures.get(seq)

    def read(self, seq: int, post: Callable[[Event], None], end_of: Callable[[int], StepState]) -> Any:
        """The value, made again if need be. `end_of` waits for the step; raises what the body is to raise."""
        for _ in range(READ_TRIES):
            post(ValueWanted(seq))
            if end_of(seq) is not StepState.SUCCEEDED:
                raise ObjectLost(self._failures[seq].message)
            read = self._content(seq)
            if not isinstance(read, ObjectLost):
                return read
            post(ValueLost(((seq, self._core.held.get(seq, 0)),)))
        raise read

    def _content(self, seq: int) -> Any:
        step = self._core.steps.get(seq)
        if step is None or seq in self._core.kept:
            raise AssertionError(f"step {seq} is recorded")
        if step.items is not None:
            first, count = step.items
            items = [self._content(item) for item in range(first, first + count)]
            return next((item for item in items if isinstance(item, ObjectLost)), items)
        answer: SimpleQueue[Content | Failure] = SimpleQueue()
        name: ObjectId = (self._index, seq, self._core.held.get(seq, 0))
        self._engine.runtime.read(name, answer.put)
        content = answer.get()
        if isinstance(content, Failure):
            return ObjectLost(content.message)
        if content.shared is None:
            return decode(content.data or b"")
        try:
            return decode(content.shared.view())
        finally:
            content.shared.close()  # the views that the value is made of keep its bytes
