"""The scheduler core at scale: a thousand simulated nodes in one process, and real graphs replayed.

python -m benchmarks.simulation                 10^4, 10^5, 10^6 tasks; then the graphs
python -m benchmarks.simulation --tasks 1000000 --nodes 1000
python -m benchmarks.simulation --json FILE     the figures, for programs

Each size runs in a fresh process. Seconds are of the processor; memory is the process's peak, interpreter included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import graphs, machine
from dagengine.runtime.core.events import UNIT, Capacity, Request, Submitted
from dagengine.runtime.simulation.graphs import Graph, bound, replay
from dagengine.runtime.simulation.light import LightWorld, Work

SIZES = (10_000, 100_000, 1_000_000)
BATCH = 10_000
"""Tasks of one Submitted."""

SLOTS = 4


def measure(tasks: int, nodes: int) -> dict[str, Any]:
    """Independent tasks of 10 ms each, all submitted at the beginning."""
    began = time.process_time()
    world = LightWorld(
        [Capacity(f"n{number}", SLOTS * UNIT, 1 << 36, 1 << 30, slots=SLOTS) for number in range(nodes)], batches=True
    )
    joined = time.process_time()
    work = Work(0.01)
    for start in range(0, tasks, BATCH):
        end = min(tasks, start + BATCH)
        world.feed(Submitted([Request((0, number), number & 7, spec=work) for number in range(start, end)]))
    submitted = time.process_time()
    simulated = world.run(tasks)
    ended = time.process_time()
    return {
        "tasks": tasks,
        "nodes": nodes,
        "seconds": round(ended - began, 2),
        "us_per_task": round((ended - joined) / tasks * 1e6, 2),
        "submit_us_per_task": round((submitted - joined) / tasks * 1e6, 2),
        "events": world.events,
        "simulated_seconds": round(simulated, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def measure_graph(name: str, graph: Graph, nodes: int = 1, workers: int = 2) -> dict[str, Any]:
    began = time.process_time()
    replayed = replay(graph, nodes=nodes, workers=workers, arena=1 << 34)
    seconds = time.process_time() - began
    least = bound(graph, nodes * workers)
    return {
        "graph": name,
        "tasks": len(graph.names),
        "edges": sum(map(len, graph.parents)),
        "seconds": round(seconds, 3),
        "us_per_task": round(seconds / len(graph.names) * 1e6, 1),
        "makespan": round(replayed.seconds, 3),
        "bound": round(least, 3),
        "over": round(replayed.seconds / least - 1, 4) if least else 0.0,
    }


def all_graphs() -> list[dict[str, Any]]:
    found = []
    for path in graphs.instances():
        graph = graphs.instance(path).scaled(0.05, 1_000_000)
        found.append(measure_graph(path.name.removesuffix(".json.gz"), graph))
    found.append(measure_graph("debian, merged", graphs.merged(graphs.debian()).scaled(0.05, 100_000), 4, 4))
    if (graphs.DATA / "graphs").exists():
        found.append(measure_graph("git history of dask", graphs.history()))
    return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    columns = list(rows[0])
    texts = [columns] + [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in texts) for place in range(len(columns))]
    return [
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in texts
    ]


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, help="only this size, and no graphs")
    parser.add_argument("--nodes", type=int, default=1_000, help="simulated nodes (1,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and figures there, too")
    options = parser.parse_args()
    if options.tasks is not None:
        print(json.dumps(measure(options.tasks, options.nodes)))
        return
    known = machine.facts()
    print(machine.sentence(known), flush=True)
    rows = []
    for size in SIZES:
        command = [sys.executable, "-m", "benchmarks.simulation", "--tasks", str(size), "--nodes", str(options.nodes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        rows.append(json.loads(done.stdout))
    print("\n".join(["", *table(rows), ""]), flush=True)
    replayed = all_graphs()
    print("\n".join(table(replayed)))
    if options.json:
        options.json.write_text(json.dumps({"machine": known, "scale": rows, "graphs": replayed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
