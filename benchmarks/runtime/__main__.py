"""The command: measure the runtime's workloads, each in a fresh process, and print a table.

python -m benchmarks.runtime                          all of them, three times each
python -m benchmarks.runtime tasks latency --repeat 5
python -m benchmarks.runtime --peers FOLDER --env ray=ENV/bin/python     other runtimes' figures beside ours

FOLDER has `bench_NAME.py` for each of the other runtimes; their runs alternate with ours, so that a machine that is
busy for a while is so for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, processes, table
from benchmarks.measure import ROOT, Result
from benchmarks.peers import PeerFailed, call, scripts
from benchmarks.runtime.workloads import WORKLOADS

TIMEOUT = 600.0  # seconds for one run: far over the slowest

Metrics = dict[str, Any]


def _each(name: str) -> Callable[[Metrics], float]:
    """Microseconds for one, from a rate."""
    return lambda metrics: 1e6 / float(metrics[name])


def _plain(name: str) -> Callable[[Metrics], float]:
    return lambda metrics: float(metrics[name])


FIGURES: dict[str, list[tuple[str, str, Callable[[Metrics], float], bool]]] = {
    "startup": [("first result", "s", _plain("total_s"), True)],
    "tasks": [("each", "us", _each("tasks_per_s"), True)],
    "chain": [("each link", "us", _each("tasks_per_s"), True)],
    "latency": [("p50", "us", _plain("p50_us"), True)],
    "fan": [("all", "s", _plain("total_s"), True)],
    "actor": [
        ("each of many", "us", _each("calls_per_s"), True),
        ("single p50", "us", _plain("sync_p50_us"), True),
    ],
    "args": [("all", "s", _plain("total_s"), True)],
    "putget": [
        ("put, warm", "GB/s", _plain("put_best_gbps"), False),
        ("read, first", "GB/s", _plain("read_first_gbps"), False),
    ],
    "smallobj": [("each", "us", _each("tasks_per_s"), True)],
    "shuffle": [("all", "s", _plain("total_s"), True), ("peak", "MB", _plain("peak_pss_mb"), True)],
    "oom": [("all", "s", _plain("total_s"), True)],
    "kill": [("with one killed", "s", _plain("killed_s"), True)],
    "idle": [("processor", "%", _plain("cpu_percent"), True)],
}
"""Of each workload: what is shown, its unit, how it follows from the metrics, and whether less is better."""


class Failed(Exception):
    """A run of ours did not end well; the message has its last words."""


def measure(name: str, workers: int, scale: float) -> Metrics:
    """One run of ours in a fresh process. It and all that it started are gone afterwards."""
    command = [sys.executable, "-m", "benchmarks.runtime.workloads", name]
    command += ["--workers", str(workers), "--scale", str(scale)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            output, errors = child.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Failed(f"{name} has not ended within {TIMEOUT:g} s") from None
        finally:
            processes.kill_tree(child.pid)
    if child.returncode:
        raise Failed(f"{name} ended with {child.returncode}: {(errors.strip() or 'no words').splitlines()[-1]}")
    found: Metrics = json.loads(output.splitlines()[-1])
    return found


class Rows:
    """The figures of one workload, ours or a peer's, as they come."""

    def __init__(self, workload: str, peer: str | None = None) -> None:
        self.results = [
            (Result(f"{workload}, {shown}", unit, 1, lower), figure) for shown, unit, figure, lower in FIGURES[workload]
        ]
        self._peer = peer

    def add(self, metrics: Metrics, peer: str | None = None) -> None:
        for result, figure in self.results:
            result.runs.append(figure(metrics))
            shown = {key: round(value, 2) for key, value in metrics.items() if isinstance(value, (int, float))}
            result.facts.append({"peer": peer} if peer else shown)

    def filled(self) -> list[Result]:
        return [result for result, _ in self.results if result.runs]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}; all if none")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each workload (3)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    parser.add_argument("--scale", type=float, default=1.0, help="size, as a share of each workload's own (1)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write machine and figures there, too (-: print them)"
    )
    parser.add_argument("--peers", type=Path, action="append", default=[], metavar="FOLDER", help="of bench_NAME.py")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=PYTHON", help="a runtime, and the Python that has it"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"no workload {unknown[0]}. There are: {', '.join(WORKLOADS)}")
    if any("=" not in pair for pair in options.env):
        parser.error("--env takes NAME=PYTHON, as in ray=ENV/bin/python")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    others = [
        (script, python)
        for name, _, python in (pair.partition("=") for pair in options.env)
        for script in scripts(options.peers, name)
    ]
    known = machine.facts()
    quiet = str(options.json) == "-"

    def say(line: str) -> None:
        if not quiet:
            print(line, flush=True)

    say(machine.sentence(known))
    results: list[Result] = []
    compared: list[Result] = []
    failed = False
    for name in options.workloads or WORKLOADS:
        ours, theirs = Rows(name), [Rows(name) for _ in others]
        for _ in range(options.repeat):
            try:
                ours.add(measure(name, options.workers, options.scale))
            except Failed as failure:
                failed = True
                say(f"error: {failure}")
            for rows, (script, python) in zip(theirs, others, strict=True):
                _add_peer(rows, name, (script, python), options.workers, say)
        results += ours.filled()
        compared += [result for rows in theirs for result in rows.filled()]
        for result in ours.filled():
            say(f"  {result.workload}: {table.number(result.median)} {result.unit}")
    say("\n" + "\n".join(table.lines(results, compared)))
    if options.json:
        document = {
            "machine": known,
            "results": [result.to_json() for result in results],
            "peers": [result.to_json() for result in compared],
        }
        text = json.dumps(document, indent=1)
        print(text) if quiet else options.json.write_text(text + "\n")
    sys.exit(1 if failed else 0)


def _add_peer(rows: Rows, name: str, peer: tuple[Path, str], workers: int, say: Callable[[str], None]) -> None:
    script, python = peer
    try:
        said = call(script, python, ["--workload", name, "--workers", str(workers)])
        if "metrics" not in said:
            raise PeerFailed(said.get("failed") or said.get("unsupported") or "no metrics")
        rows.add(said["metrics"], f"{said['peer']} {said['version']}")
    except (PeerFailed, KeyError) as failure:
        say(f"  {script.stem.removeprefix('bench_')} {name}: {failure}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
