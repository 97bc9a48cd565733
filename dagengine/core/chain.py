"""The chain of calls on one stateful object: whose turn it is.

A call that may change the state is alone: it starts when all calls before it have ended. Read-only calls between two of
those run side by side. "Ended" is always a durable end, because the state is an input like any other. A call that was
skipped or cancelled leaves the chain where it stands; what is behind it waits for what is before it.

May import model.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagengine.core.step import Step
    from dagengine.model import Failure


class Life(IntEnum):
    """Of the runtime's actor that holds a stateful object."""

    NONE = 0  # there is none; a call that is ready asks for one
    STARTING = 1
    UP = 2


class Instance:
    """A stateful object, as far as this process needs to know it.

    every: the state is saved with every so many calls that change it
    held: the body may call it again
    wanted: its CREATE step may run: a call waits for nothing else, or none will come
    open: calls whose end was not asked for
    out: calls that the runtime has
    incarnation: number of the latest actor. Old ones are fenced off by it
    unsaved: recorded calls that the saved state does not have
    parked: calls that wait for the actor to be rebuilt
    served: whether a call has ended in the latest actor
    wasted: actors in a row that died before one had; `cause`: of the last such death
    """

    __slots__ = (
        "cause",
        "every",
        "held",
        "incarnation",
        "life",
        "open",
        "out",
        "parked",
        "queue",
        "readers",
        "seq",
        "served",
        "unsaved",
        "wanted",
        "wasted",
        "writer",
    )

    def __init__(self, seq: int, every: int) -> None:
        self.seq = seq
        self.every = every
        self.held = True
        self.wanted = False
        self.open = 0
        self.out = 0
        self.life = Life.NONE
        self.incarnation = 0
        self.unsaved = 0
        self.parked: list[Step] = []
        self.queue: deque[Step] = deque()  # calls whose turn has not come
        self.writer: Step | None = None  # the call that may change the state, whose turn it is
        self.served = False
        self.wasted = 0
        self.cause: Failure | None = None
        self.readers = 0  # read-only calls whose turn it is

    def join(self, call: Step) -> None:
        self.queue.append(call)

    def turns(self) -> list[Step]:
        """The calls whose turn comes now."""
        come = []
        while self.queue and self.writer is None:
            call = self.queue[0]
            if call.end is None:
                if not call.readonly and self.readers:
                    break
                come.append(call)
                _place_of(call).turn = True
                if call.readonly:
                    self.readers += 1
                else:
                    self.writer = call
            self.queue.popleft()
        return come

    def leave(self, call: Step) -> None:
        """The call's end is durable."""
        if call is self.writer:
            self.writer = None
        elif _place_of(call).turn:
            self.readers -= 1


class Place:
    """A step's place at a stateful object: its creation, or a call in its chain.

    turn: of a call: all that it has to wait for in the chain has ended
    incarnation: of the actor that has, or had, the latest attempt
    """

    __slots__ = ("incarnation", "instance", "turn")

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.turn = False
        self.incarnation = 0


def _place_of(call: Step) -> Place:
    assert call.place is not None
    return call.place
