"""What a simulated task will do. The core never sees it: it travels as `Request.spec`, and the nodes carry it out.

Every object has a *value* that follows from what made it and from the values that it read, so that an input which is
another one than it should be, or an old one, shows in what comes out. `expected` says what each has to be.

May import nothing of ours but the core's words.
"""

from __future__ import annotations

from dataclasses import dataclass

from dagengine.runtime.core.events import Request
from dagengine.runtime.protocol import ObjectId, TaskId


class Violation(AssertionError):
    """Something that must never happen has happened. Says what, where and when."""


@dataclass(slots=True, eq=False)
class Plan:
    """What one task does, in whatever attempt.

    seconds: that it computes; size: of its output (or of each object that it yields)
    inline: small enough to travel with the message; fails: it raises, each time; timeout: after which it is ended
    yields: how many objects a STREAM makes; children: tasks that it submits in the middle, and waits for
    ordinal: of a METHOD: its number among the calls of its actor
    blocks_on: an object that it waits for in the middle, made by nobody whom it started
    handed: the id of a large result that no output was named for: whoever runs the node gives it one, and reads it
    """

    request: Request
    seconds: float = 0.1
    size: int = 0
    inline: bool = False
    fails: bool = False
    timeout: float | None = None
    yields: int = 0
    children: tuple[Plan, ...] = ()
    ordinal: int = -1
    blocks_on: ObjectId | None = None
    handed: ObjectId | None = None

    @property
    def id(self) -> TaskId:
        return self.request.id

    def named(self) -> list[ObjectId]:
        """Those of its objects that others can know of."""
        return [] if self.handed is not None else self.outputs()

    def outputs(self) -> list[ObjectId]:
        """The objects that it makes if all goes well."""
        output = self.handed or self.request.output
        if output is None:
            return []
        return [(*output, index) for index in range(self.yields)] if self.yields else [output]


class Values:
    """The value that each object must have. Objects are told in an order in which inputs come before what reads them."""

    def __init__(self) -> None:
        self._expected: dict[ObjectId, int] = {}

    def put(self, object_id: ObjectId) -> int:
        self._expected[object_id] = hash((1, object_id))
        return self._expected[object_id]

    def planned(self, plan: Plan) -> None:
        if plan.outputs():
            # A producer that never comes leaves readers that never run: then any number will do.
            values = [self._expected.get(object_id, 0) for object_id in plan.request.inputs]
            for object_id in plan.outputs():
                self._expected[object_id] = computed(plan, object_id, values)

    def expected(self, object_id: ObjectId) -> int:
        return self._expected[object_id]


def computed(plan: Plan, object_id: ObjectId, values: list[int]) -> int:
    """What the task makes of the values that it has read."""
    return hash((2, plan.id, object_id, tuple(values)))


def name(id_: tuple[int, ...]) -> str:
    """An id for a trace."""
    return ".".join(map(str, id_))
