"""A run's graph: from the record to networkx, and from there to text, Mermaid, DOT and JSON.

An edge leads from the step that is read to the step that reads. A map over a ref is recorded as one step, and its items as
steps of its scope; here the items stand between what the map reads and the map, whose value is the list of theirs.

What people look at is drawn in *groups*: the calls of one function in one scope that lie equally deep. A graph with more
groups than anyone reads (a loop of many rounds) is drawn by function alone, and loops are shown as such. Both are graphs
without cycles.

networkx is loaded when a graph is asked for. May import nothing of ours but model, views and storage's interface.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagengine.model import RunRecord, StepKind
from dagengine.storage.interface import Store
from dagengine.views import run_state, steps_view

if TYPE_CHECKING:
    import networkx as nx

STEPS_DRAWN = 200
"""Up to so many steps are drawn one by one in pictures."""

GROUPS_SHOWN = 60
"""More lines than this are not a picture any more, but a listing: `steps` is for that."""

_KEY = re.compile(r"(?:(?P<scope>.*)/)?(?P<function>[^/]*?)(?:\[(?P<ordinal>[^\]]*)\])?")


def graph_of(store: Store, run: RunRecord) -> nx.DiGraph:
    """The run's steps as nodes (by seq, with `key`, `task`, `scope`, `ordinal`, `state`, `attempts`, `seconds`,
    `checkpointed`: whether its value is recorded, `size` of the value in bytes)."""
    import networkx as nx

    graph = nx.DiGraph(run=run.id, workflow=run.workflow, state=str(run_state(run)))
    maps: dict[str, int] = {}
    items: dict[int, list[int]] = defaultdict(list)
    inputs: dict[int, tuple[int, ...]] = {}
    ephemeral = {
        definition.number
        for definition in store.definitions(run.number)
        if definition.options.get("checkpoint") is False
    }
    for step in steps_view(store, run, with_inputs=True):
        seq = step.record.seq
        scope, function, ordinal = split_key(step.key)
        graph.add_node(
            seq,
            key=step.key,
            task=step.record.task,
            kind=str(step.record.kind),
            scope=scope,
            function=function,
            ordinal=ordinal,
            state=str(step.state),
            attempts=step.attempts,
            seconds=step.seconds,
            checkpointed=step.record.definition not in ephemeral,
            size=step.record.value_size,
        )
        inputs[seq] = step.inputs
        if step.record.kind is StepKind.MAP:
            maps[step.key] = seq
        elif scope in maps:
            items[maps[scope]].append(seq)
    for seq, read in inputs.items():
        if seq in items:
            graph.add_edges_from((source, item) for source in read for item in items[seq])
            graph.add_edges_from((item, seq) for item in items[seq])
        else:
            graph.add_edges_from((source, seq) for source in read)
    return graph


def split_key(key: str) -> tuple[str, str, str]:
    """ "nightly/extract[3]" -> ("nightly", "extract", "3")."""
    found = _KEY.fullmatch(key)
    if found is None:
        return "", key, ""
    return found["scope"] or "", found["function"], found["ordinal"] or ""


def to_json(graph: nx.DiGraph) -> dict[str, Any]:
    return {
        "id": graph.graph["run"],
        "workflow": graph.graph["workflow"],
        "state": graph.graph["state"],
        "nodes": [{"seq": seq, **data} for seq, data in graph.nodes(data=True)],
        "edges": [list(edge) for edge in graph.edges],
    }


# ---- groups -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that are drawn as one. `loops`: they read each other in turn; `level`: how deep they lie."""

    label: str
    states: dict[str, int]
    level: int
    loops: bool = False

    @property
    def count(self) -> int:
        return sum(self.states.values())

    @property
    def state(self) -> str:
        """The one that a person wants to know of first."""
        order = ("failed", "running", "retrying", "skipped", "cancelled", "ready", "waiting", "succeeded")
        return next((state for state in order if state in self.states), "waiting")


def grouped(graph: nx.DiGraph, most: int = GROUPS_SHOWN) -> nx.DiGraph:
    """The graph of groups (node attribute `group`), by depth, or by function where that makes more than `most`."""
    levels = _levels(graph)
    data = graph.nodes
    by_depth = {seq: (levels[seq], data[seq]["scope"], data[seq]["function"]) for seq in graph}
    if len(set(by_depth.values())) <= most:
        return _quotient(graph, by_depth, levels, set())
    import networkx as nx

    by_function = {seq: (data[seq]["scope"], data[seq]["function"]) for seq in graph}
    functions = nx.DiGraph()
    functions.add_nodes_from(by_function.values())
    functions.add_edges_from((by_function[a], by_function[b]) for a, b in graph.edges)
    loops: dict[Any, int] = {}
    turning = set()
    for number, members in enumerate(nx.strongly_connected_components(functions)):
        loops |= dict.fromkeys(members, number)
        if len(members) > 1 or any(functions.has_edge(member, member) for member in members):
            turning.add(number)
    return _quotient(graph, {seq: loops[name] for seq, name in by_function.items()}, levels, turning)


def _levels(graph: nx.DiGraph) -> dict[int, int]:
    import networkx as nx

    return {seq: level for level, seqs in enumerate(nx.topological_generations(graph)) for seq in seqs}


def _quotient(graph: nx.DiGraph, part_of: dict[int, Any], levels: dict[int, int], loops: set[Any]) -> nx.DiGraph:
    import networkx as nx

    parts: dict[Any, list[int]] = defaultdict(list)
    for seq in graph:
        parts[part_of[seq]].append(seq)
    numbers = {
        part: number for number, part in enumerate(sorted(parts, key=lambda p: (levels[parts[p][0]], parts[p][0])))
    }
    result = nx.DiGraph(**graph.graph)
    for part, number in numbers.items():
        seqs = parts[part]
        states = Counter(graph.nodes[seq]["state"] for seq in seqs)
        label = _label([graph.nodes[seq] for seq in seqs], graph.graph["workflow"])
        level = min(levels[seq] for seq in seqs)
        result.add_node(number, group=Group(label, dict(states), level, part in loops))
    edges = {(numbers[part_of[a]], numbers[part_of[b]]) for a, b in graph.edges}
    result.add_edges_from(sorted((a, b) for a, b in edges if a != b))
    return result


def _label(steps: Sequence[dict[str, Any]], workflow: str) -> str:
    """extract[0…15] ×16; functions of a loop one after the other."""
    by_function: dict[tuple[str, str], list[str]] = defaultdict(list)
    for step in steps:
        by_function[step["scope"], step["function"]].append(step["ordinal"])
    parts = []
    for (scope, function), ordinals in list(by_function.items())[:6]:
        where = scope.removeprefix(workflow).removeprefix("/")
        name = f"{where}/{function}" if where else function
        parts.append(f"{name}{_range(ordinals)}" + (f" ×{len(ordinals)}" if len(ordinals) > 1 else ""))
    label = ", ".join(parts) + (", …" if len(by_function) > 6 else "")
    return "".join(c if c.isprintable() else "�" for c in label)  # names are anybody's: none steers a terminal


def _range(ordinals: Sequence[str]) -> str:
    if len(ordinals) == 1:
        # The first call of a function that is called once needs no number to be known by; its key has it all the same.
        return "" if ordinals[0] in ("", "0") else f"[{ordinals[0]}]"
    if all(ordinal.isdigit() for ordinal in ordinals):
        numbers = sorted(map(int, ordinals))
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            return f"[{numbers[0]}…{numbers[-1]}]"
    return ""


# ---- formats ------------------------------------------------------------------------------


def text(groups: nx.DiGraph, mark: dict[str, str]) -> list[str]:
    """A tree: each group below the deepest one that it reads, with the others named after an arrow."""
    marks = {number: _marked(data["group"], mark) for number, data in groups.nodes(data=True)}
    children: dict[int | None, list[int]] = defaultdict(list)
    others: dict[int, list[int]] = {}
    order = {number: place for place, number in enumerate(_topological(groups))}
    for number in order:
        read = sorted(groups.predecessors(number), key=lambda other: order[other])
        children[read[-1] if read else None].append(number)
        others[number] = read[:-1]
    lines = []
    todo = [(number, "", "") for number in reversed(children[None])]
    while todo:
        number, first, rest = todo.pop()
        also = [groups.nodes[other]["group"].label for other in others[number]]
        arrow = f"   ← {', '.join(also[:4])}{', …' if len(also) > 4 else ''}" if also else ""
        lines.append(f"{first}{marks[number]}{arrow}")
        below = children[number]
        if len(below) == 1:
            # An only child stays in its parent's column, so that a long chain does not walk off to the right.
            lines.append(f"{rest}│")
            todo.append((below[0], rest, rest))
        elif below:
            ends = [(f"{rest}├─ ", f"{rest}│  ")] * (len(below) - 1) + [(f"{rest}└─ ", f"{rest}   ")]
            todo += reversed([(child, *end) for child, end in zip(below, ends, strict=True)])
    return lines


def _topological(groups: nx.DiGraph) -> Iterable[int]:
    import networkx as nx

    order: Iterable[int] = nx.lexicographical_topological_sort(groups)
    return order


def _marked(group: Group, mark: dict[str, str]) -> str:
    loop = "⟳ " if group.loops else ""
    if len(group.states) == 1:
        return f"{mark.get(group.state, '?')} {loop}{group.label}"
    counts = ", ".join(f"{count} {state}" for state, count in sorted(group.states.items()))
    return f"{mark.get(group.state, '?')} {loop}{group.label}   ({counts})"


def drawn(graph: nx.DiGraph) -> nx.DiGraph:
    """What pictures show: the steps one by one, or their groups where there are too many."""
    if len(graph) > STEPS_DRAWN:
        return grouped(graph, STEPS_DRAWN)
    levels = _levels(graph)
    return _quotient(graph, {seq: seq for seq in graph}, levels, set())


COLORS = {
    "succeeded": "#2e7d32",
    "failed": "#c62828",
    "running": "#0277bd",
    "retrying": "#ef6c00",
    "ready": "#0097a7",
    "skipped": "#9e9d24",
    "cancelled": "#8d6e63",
    "waiting": "#78909c",
}


def mermaid(graph: nx.DiGraph) -> str:
    picture = drawn(graph)
    lines = ["flowchart TD"]
    for number, data in picture.nodes(data=True):
        group: Group = data["group"]
        label = "".join(c if c.isalnum() or c in " _.×…,()/" else f"#{ord(c)};" for c in group.label)
        lines.append(f'    n{number}["{label}"]:::{group.state}')
    lines += [f"    n{a} --> n{b}" for a, b in picture.edges]
    lines += [f"    classDef {state} stroke:{color},stroke-width:2px" for state, color in COLORS.items()]
    return "\n".join(lines)


def dot(graph: nx.DiGraph) -> str:
    picture = drawn(graph)
    lines = [
        f"digraph {_quoted(graph.graph['workflow'])} {{",
        "    rankdir=LR;",
        "    node [shape=box, style=rounded];",
    ]
    for number, data in picture.nodes(data=True):
        group: Group = data["group"]
        lines.append(f'    n{number} [label={_quoted(group.label)}, color="{COLORS[group.state]}"];')
    lines += [f"    n{a} -> n{b};" for a, b in picture.edges]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
