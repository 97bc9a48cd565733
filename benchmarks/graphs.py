"""Real graphs for the simulator: workflow executions, Debian's packages, a git history. None of them is in the repository
but Debian's (examples/debian); the others are looked for in a folder next to the checkout, or in DATA.

Cycles of packages are named and refused, or merged.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagengine.runtime.simulation.graphs import Graph, NotAcyclic

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
DEBIAN = ROOT / "examples" / "debian" / "debian-bookworm-main.tsv.gz"


def instances(folder: Path = DATA / "wfinstances") -> list[Path]:
    return sorted(folder.glob("*.json.gz"))


def instance(path: Path) -> Graph:
    """A workflow execution: what each task took, and the bytes of the files that it wrote."""
    with gzip.open(path, "rt") as file:
        return read_instance(json.load(file))


def read_instance(document: dict[str, Any]) -> Graph:
    """WfFormat 1.5 and 1.6. Ids are taken as they are: with dots, slashes and spaces in them."""
    workflow = document["workflow"]
    tasks = workflow["specification"]["tasks"]
    sizes = {file["id"]: file["sizeInBytes"] for file in workflow["specification"].get("files", [])}
    seconds = {task["id"]: float(task["runtimeInSeconds"]) for task in workflow["execution"]["tasks"]}
    number = {task["id"]: place for place, task in enumerate(tasks)}
    return Graph(
        [task["id"] for task in tasks],
        [[number[parent] for parent in task.get("parents", [])] for task in tasks],
        [seconds[task["id"]] for task in tasks],
        [sum(sizes[file] for file in task.get("outputFiles", [])) for task in tasks],
    )


def debian(path: Path = DEBIAN) -> Graph:
    """A task for each package, which reads the results of those it depends on. It has cycles: see `merged`."""
    rows = list(_rows(path))
    number = {row["package"]: place for place, row in enumerate(rows)}
    return Graph(
        [row["package"] for row in rows],
        [sorted({number[name] for name in row["depends"].split() if name in number}) for row in rows],
        [int(row["installed_kb"] or 0) / 1e6 for row in rows],
        [int(row["deb_bytes"]) for row in rows],
    )


def history(path: Path = DATA / "graphs" / "git-history-dask.tsv.gz") -> Graph:
    """A task for each commit, which reads what its parents made."""
    rows = list(_rows(path))
    number = {row["commit"]: place for place, row in enumerate(rows)}
    count = len(rows)
    parents = [[number[name] for name in row["parents"].split()] for row in rows]
    return Graph([row["commit"] for row in rows], parents, [0.001] * count, [100] * count)


def knots(graph: Graph) -> list[list[int]]:
    """The cycles: sets of tasks (two or more, or one that waits for itself) each of which waits for all of its set."""
    import networkx as nx

    drawn = nx.DiGraph()
    drawn.add_nodes_from(range(len(graph.names)))
    drawn.add_edges_from((parent, child) for child, parents in enumerate(graph.parents) for parent in parents)
    found = [sorted(part) for part in nx.strongly_connected_components(drawn)]
    return sorted(part for part in found if len(part) > 1 or drawn.has_edge(part[0], part[0]))


def refuse_knots(graph: Graph) -> None:
    """Raises NotAcyclic, naming each cycle."""
    if found := knots(graph):
        text = "; ".join(", ".join(graph.names[number] for number in part) for part in found)
        raise NotAcyclic(f"{len(found)} cycles: {text}")


def merged(graph: Graph) -> Graph:
    """Each cycle made one task, named after all of its parts."""
    lead = list(range(len(graph.names)))
    found = {part[0]: part for part in knots(graph)}
    for first, part in found.items():
        for number in part:
            lead[number] = first
    kept = sorted(set(lead))
    number_of = {old: new for new, old in enumerate(kept)}
    whole = [found.get(first, [first]) for first in kept]
    return Graph(
        ["+".join(graph.names[number] for number in part) for part in whole],
        [
            sorted({number_of[lead[up]] for number in part for up in graph.parents[number] if lead[up] != lead[number]})
            for part in whole
        ],
        [sum(graph.seconds[number] for number in part) for part in whole],
        [sum(graph.sizes[number] for number in part) for part in whole],
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
