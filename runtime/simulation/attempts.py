"""An attempt and an actor on a simulated node, and what the parts of a node need of one another.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.simulation.plans import Plan, Values
from dagengine.runtime.simulation.store import Copy, Store

Key = tuple[TaskId, int]
Life = Generator[float | None, None, None]


class World(Protocol):
    """What a node needs of what is around it."""

    rng: Random
    values: Values

    def later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None: ...

    def say(self, number: int, event: e.Event) -> None: ...

    def outside(self, object_id: ObjectId) -> int | None:
        """The value of an object that lies in no arena: it travels inline, or is mapped from an artifact."""

    def began(self, attempt: Attempt) -> None: ...

    def ended(self, attempt: Attempt) -> None: ...

    def nested(self, number: int, attempt: Attempt) -> None:
        """The attempt waits: start its children, and resume it when what it waits for has ended."""

    def fetch(self, number: int, source: int, object_id: ObjectId) -> Copy | None:
        """Another node's copy, if it can be reached and has one."""


class Host(Protocol):
    """What the crew needs of its node."""

    number: int
    epoch: int
    life: int
    up: bool
    capacity: e.Capacity
    world: World
    store: Store
    disk_rate: float
    write_rate: float

    def say(self, event: e.Event) -> None: ...

    def result(self, done: e.Done) -> None: ...

    def ask_room(
        self, size: int, told: Callable[[int, str], None], task: TaskId | None = None, attempt: int = 0
    ) -> int: ...

    def abandon_room(self, request: int) -> None: ...

    def seal(self, request: int, object_id: ObjectId, copy: Copy) -> None: ...


@dataclass(slots=True, eq=False)
class Attempt:
    """`stage` counts what it has waited for, so that a wake-up that comes late is known as such."""

    lease: a.Lease
    mapped: frozenset[ObjectId]
    state: str = "queued"  # queued, running, blocked, actor, over
    stage: int = 0
    life: Life | None = None
    rooms: set[int] = field(default_factory=set)
    answer: str = ""
    cpus: int = 0
    ending: bool = False

    @property
    def plan(self) -> Plan:
        plan = self.lease.request.spec
        assert isinstance(plan, Plan)
        return plan

    @property
    def key(self) -> Key:
        return self.lease.request.id, self.lease.attempt


@dataclass(slots=True, eq=False)
class Actor:
    create: Attempt
    calls: list[Attempt] = field(default_factory=list)  # in the order in which they were leased
    last: int = -1
