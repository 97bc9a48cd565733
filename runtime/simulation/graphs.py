"""Graphs of tasks: their longest paths, what no schedule can beat, and replaying them on light nodes.

Nothing here is recursive: real graphs are thousands of tasks deep.

May import nothing of ours but the simulator's other modules and the core.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dagengine.runtime.core.events import UNIT, Capacity, Freed, Request, Submitted
from dagengine.runtime.simulation.light import LightWorld, Work

_LOOKS: Final = 40
"""Values that a bound is worked out for, of as many as there are tasks."""


class NotAcyclic(ValueError):
    """Some tasks wait for one another. `names`: one of each knot, at least."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks by number. `parents`: whose results each reads; `seconds`: of each; `sizes`: bytes of its result."""

    names: list[str]
    parents: list[list[int]]
    seconds: list[float]
    sizes: list[int]

    @property
    def work(self) -> float:
        return sum(self.seconds)

    def scaled(self, mean_seconds: float, largest_size: int) -> Graph:
        """The same graph with other units: tasks take so long on average, and results are no larger than that."""
        seconds = mean_seconds * len(self.seconds) / (self.work or 1.0)
        size = min(1.0, largest_size / max(1, *self.sizes))
        return Graph(
            self.names,
            self.parents,
            [value * seconds for value in self.seconds],
            [max(1, int(value * size)) for value in self.sizes],
        )


def order(graph: Graph) -> list[int]:
    """Parents first. Raises NotAcyclic, with the names of those that wait for themselves or for such."""
    children: list[list[int]] = [[] for _ in graph.names]
    for number, parents in enumerate(graph.parents):
        for parent in parents:
            children[parent].append(number)
    missing = [len(parents) for parents in graph.parents]
    found = [number for number, count in enumerate(missing) if not count]
    for number in found:  # grows meanwhile
        for child in children[number]:
            missing[child] -= 1
            if not missing[child]:
                found.append(child)
    if len(found) < len(graph.names):
        stuck = [graph.names[number] for number, count in enumerate(missing) if count]
        raise NotAcyclic(f"{len(stuck)} tasks wait for one another, or for those that do: {', '.join(stuck[:5])}, …")
    return found


def ranks(graph: Graph) -> list[float]:
    """For each task the seconds of the longest path from its start to the end of everything."""
    rank = list(graph.seconds)
    for number in reversed(order(graph)):
        for parent in graph.parents[number]:
            rank[parent] = max(rank[parent], graph.seconds[parent] + rank[number])
    return rank


def bound(graph: Graph, workers: int) -> float:
    """No schedule on so many workers is shorter."""
    return max(max(ranks(graph), default=0.0), graph.work / workers)


def least(graph: Graph, workers: int) -> float:
    """As `bound`, and also counting the times in which a graph has no work for all: what can't begin before a time, and
    has a path of some length behind it, has to be done in between."""
    rank = ranks(graph)
    earliest = [0.0] * len(rank)
    for number in order(graph):
        for parent in graph.parents[number]:
            earliest[number] = max(earliest[number], earliest[parent] + graph.seconds[parent])
    tails = [whole - own for whole, own in zip(rank, graph.seconds, strict=True)]
    limits = _spread(tails)
    best = bound(graph, workers)
    for begin in _spread(earliest):
        work = [0.0] * len(limits)
        for at, tail, seconds in zip(earliest, tails, graph.seconds, strict=True):
            if at >= begin:
                work[bisect_right(limits, tail) - 1] += seconds
        total = 0.0
        for limit, more in zip(reversed(limits), reversed(work), strict=True):
            total += more
            if total:
                best = max(best, begin + total / workers + limit)
    return best


def _spread(values: list[float]) -> list[float]:
    """Some of the values that there are, from the smallest on."""
    there = sorted(set(values)) or [0.0]
    return there[:: -(-len(there) // _LOOKS)]


@dataclass(frozen=True, slots=True)
class Replay:
    seconds: float
    events: int
    moved: dict[str, int]
    outcomes: dict[str, int]


def requests(graph: Graph, ranked: bool = True, objects: bool = True) -> list[Request]:
    """One for each task, in the graph's own order: readers may come before what they read."""
    rank = ranks(graph) if ranked else [0.0] * len(graph.names)
    found = []
    for number, parents in enumerate(graph.parents):
        found.append(
            Request(
                id=(0, number),
                function=0,
                inputs=tuple((parent,) for parent in parents) if objects else (),
                output=(number,) if objects else None,
                rank=rank[number],
                plain=True,
                spec=Work(graph.seconds[number], graph.sizes[number]),
            )
        )
    return found


def replay(graph: Graph, nodes: int = 1, workers: int = 2, arena: int = 1 << 30, ranked: bool = True) -> Replay:
    """Run it on nodes with so many workers each. Nobody but the tasks wants the objects: each lives as long as a task
    that reads it."""
    world = LightWorld(capacity(nodes, workers, arena))
    world.feed(Submitted(requests(graph, ranked)))
    world.feed(Freed([(number,) for number in range(len(graph.names))]))
    seconds = world.run(len(graph.names))
    return Replay(seconds, world.events, world.moved, world.outcomes)


def capacity(nodes: int, workers: int, arena: int) -> Sequence[Capacity]:
    return [Capacity(f"n{number}", workers * UNIT, 1 << 34, arena, slots=workers) for number in range(nodes)]
