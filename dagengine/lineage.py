"""What a step's value was made from, what was made from it, and what would run again if it were lost.

A value that is recorded can't be lost with a process; one that is not (`checkpoint=False`) is made again from its inputs,
as far up as those are not recorded either. May import nothing of ours but graph and model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagengine.model import StepState

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True)
class Lineage:
    """Of step `seq`. `up` and `down`: seqs, in the order of calling; `graph`: of these and the step itself.

    reruns: what would run again if the step's value were lost, the step itself included
    stops_at: recorded values from which that would begin
    """

    seq: int
    graph: nx.DiGraph
    up: tuple[int, ...]
    down: tuple[int, ...]
    reruns: tuple[int, ...]
    stops_at: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        nodes = self.graph.nodes
        return {
            "id": self.graph.graph["run"],
            "step": _node(nodes, self.seq),
            "up": [_node(nodes, seq) for seq in self.up],
            "down": [_node(nodes, seq) for seq in self.down],
            "edges": [[nodes[a]["key"], nodes[b]["key"]] for a, b in self.graph.edges],
            "if_lost": {
                "runs_again": [nodes[seq]["key"] for seq in self.reruns],
                "stops_at": [nodes[seq]["key"] for seq in self.stops_at],
            },
        }


def _node(nodes: Any, seq: int) -> dict[str, Any]:
    data = nodes[seq]
    return {"seq": seq, **{name: data[name] for name in ("key", "task", "state", "checkpointed", "size")}}


def lineage(graph: nx.DiGraph, seq: int, *, up: bool = True, down: bool = True, depth: int | None = None) -> Lineage:
    """The lineage of a step in the graph of its run (`graph.graph_of`). `depth`: edges away at the most."""
    above = _reached(graph.pred, seq, depth) if up else set[int]()
    below = _reached(graph.succ, seq, depth) if down else set[int]()
    reruns, stops_at = _if_lost(graph, seq)
    shown = graph.subgraph(above | below | {seq})
    return Lineage(seq, shown, tuple(sorted(above)), tuple(sorted(below)), *_within(shown, reruns, stops_at))


def _reached(neighbours: Any, seq: int, depth: int | None) -> set[int]:
    """Breadth first, level by level: graphs are deeper than a stack."""
    seen = {seq}
    level: Iterable[int] = [seq]
    while level and (depth is None or depth > 0):
        level = {other for at in level for other in neighbours[at]} - seen
        seen |= level
        depth = None if depth is None else depth - 1
    return seen - {seq}


def _if_lost(graph: nx.DiGraph, seq: int) -> tuple[set[int], set[int]]:
    reruns: set[int] = set()
    stops_at: set[int] = set()
    todo = [seq]
    while todo:
        at = todo.pop()
        if at in reruns or at in stops_at:
            continue
        if graph.nodes[at]["checkpointed"] and graph.nodes[at]["state"] == StepState.SUCCEEDED:
            stops_at.add(at)
        else:
            reruns.add(at)
            todo += graph.pred[at]
    return reruns, stops_at - {seq}


def _within(graph: nx.DiGraph, *sets: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first, second = (tuple(sorted(seq for seq in some if seq in graph)) for some in sets)
    return first, second
