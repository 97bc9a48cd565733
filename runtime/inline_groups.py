"""What the inline runtime says that it has, and its placement groups: a ledger. Nothing is used up by tasks, since they
run one after the other; groups wait for each other all the same.

May import nothing of ours but errors, model and the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dagengine.errors import Infeasible, InternalError
from dagengine.model import Failure
from dagengine.runtime.protocol import GroupId, Resources, TaskSpec

Told = Callable[[Failure | None], None]

STRATEGIES = ("pack", "spread", "strict_pack", "strict_spread")


def misfit(asked: Resources, capacity: Resources) -> str | None:
    """Why what is asked for is never there, or None."""
    if asked.cpus > capacity.cpus:
        return (
            f"a task asks for {asked.cpus:g} cpus, and there are {capacity.cpus:g}: ask for less or give more workers"
        )
    if asked.memory > capacity.memory:
        return f"a task asks for {asked.memory:,} bytes of memory, and there are {capacity.memory:,}: ask for less"
    if asked.gpus > capacity.gpus:
        return f"a task asks for {asked.gpus:g} gpus, and there are {capacity.gpus:g}: ask for less, or declare them"
    if asked.gpu_memory > capacity.gpu_memory:
        return (
            f"a task asks for {asked.gpu_memory:,} bytes on a gpu, and each has {capacity.gpu_memory:,}: ask for less"
        )
    there = dict(capacity.custom)
    for name, amount in asked.custom:
        if amount > there.get(name, 0.0):
            return f"a task asks for {amount:g} {name}, and there are {there.get(name, 0.0):g}: declare them for a node"
    return None


class Groups:
    """Not thread-safe: the runtime's lock is held."""

    def __init__(self, capacity: Resources) -> None:
        self._capacity = capacity
        self._free = capacity
        self._reserved: dict[GroupId, tuple[Resources, ...]] = {}
        self._waiting: dict[GroupId, tuple[tuple[Resources, ...], Told]] = {}

    def free(self) -> Resources:
        return self._free

    def reserve(self, group: GroupId, bundles: Sequence[Resources], strategy: str, told: Told) -> list[Told]:
        """Returns who is to be told that it has its bundles. Raises Infeasible."""
        if group in self._reserved or group in self._waiting:
            raise InternalError(f"group {group} was reserved before")
        if strategy not in STRATEGIES:
            raise InternalError(f"there is no strategy {strategy!r}: {', '.join(STRATEGIES)}")
        if strategy == "strict_spread" and len(bundles) > 1:
            raise Infeasible(
                f"{len(bundles)} bundles are to be on as many nodes, and there is one: use another strategy"
            )
        total = _sum(bundles)
        problem = misfit(total, self._capacity)
        if problem is not None:
            raise Infeasible(problem.replace("a task asks", "the bundles of a group ask", 1))
        self._waiting[group] = (tuple(bundles), told)
        return self._serve()

    def unreserve(self, group: GroupId) -> list[Told]:
        """Give back; returns those whose bundles are there now."""
        self._waiting.pop(group, None)
        bundles = self._reserved.pop(group, None)
        if bundles is not None:
            self._free = _minus(self._free, _sum(bundles), -1)
        return self._serve()

    def _serve(self) -> list[Told]:
        """First come, first served: a large group is not passed for ever by small ones."""
        ready = []
        while self._waiting:
            group, (bundles, told) = next(iter(self._waiting.items()))
            if misfit(_sum(bundles), self._free) is not None:
                break
            del self._waiting[group]
            self._reserved[group] = bundles
            self._free = _minus(self._free, _sum(bundles))
            ready.append(told)
        return ready

    def misfit(self, group: GroupId, spec: TaskSpec) -> str | None:
        """Why a task never fits what its group has, or None."""
        bundles = self._reserved.get(group)
        if bundles is None:
            return f"task {spec.id} is to run in group {group}, which is not reserved"
        index = spec.placement.bundle
        if index >= len(bundles):
            return f"task {spec.id} is to run in bundle {index} of a group that has {len(bundles)}"
        some = bundles if index < 0 else bundles[index : index + 1]
        problems = [misfit(spec.resources, bundle) for bundle in some]
        return None if None in problems else (problems or ["the group has no bundles"])[0]


def _sum(bundles: Sequence[Resources]) -> Resources:
    """Of all; `gpu_memory` is of one device, and so is the largest."""
    custom: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.custom:
            custom[name] = custom.get(name, 0.0) + amount
    return Resources(
        sum(bundle.cpus for bundle in bundles),
        sum(bundle.memory for bundle in bundles),
        sum(bundle.gpus for bundle in bundles),
        max((bundle.gpu_memory for bundle in bundles), default=0),
        tuple(sorted(custom.items())),
    )


def _minus(there: Resources, taken: Resources, sign: int = 1) -> Resources:
    amounts = dict(taken.custom)
    return Resources(
        there.cpus - sign * taken.cpus,
        there.memory - sign * taken.memory,
        there.gpus - sign * taken.gpus,
        there.gpu_memory,
        tuple((name, amount - sign * amounts.get(name, 0.0)) for name, amount in there.custom),
    )
