"""Other engines on the same workloads, in the same hour: their scripts are run as they are, and their JSON is read.

A folder of scripts has `bench_NAME.py` for each engine, and either `common.py` (engines that record what they did: one
call measures several times and prints the median) or `workloads.py` (runtimes that record nothing: one call measures
once and prints metrics). Each script runs under a Python that has its engine installed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Result

TIMEOUT = 900.0  # seconds for one script: three runs of the slowest peer, with its own limit of 300 each

DURABLE = ("fan", "steps", "startup", "resume", "payload")

VOLATILE: dict[str, Callable[[dict[str, Any]], float]] = {
    "fan": lambda metrics: 2_002 / metrics["total_s"],
    "chain": lambda metrics: float(metrics["tasks_per_s"]),
    "latency": lambda metrics: float(metrics["p50_us"]),
    "startup": lambda metrics: float(metrics["total_s"]),
    "idle": lambda metrics: float(metrics["cpu_percent"]),
}
"""Workload -> its figure in our unit."""

VOLATILE_N = {"fan": 2_000, "chain": 1_000, "latency": 500}


class PeerFailed(Exception):
    """A peer's script did not give a figure; the message says why, in a line."""


def scripts(folders: Sequence[Path], name: str) -> list[Path]:
    """The scripts of that engine: one that measures it as durable, one as a runtime, or both."""
    found = [folder / f"bench_{name}.py" for folder in folders if (folder / f"bench_{name}.py").is_file()]
    if not found:
        known = sorted(file.stem.removeprefix("bench_") for folder in folders for file in folder.glob("bench_*.py"))
        raise SystemExit(f"error: no bench_{name}.py in the folders given. There are: {', '.join(known) or 'none'}.")
    return found


def measure(script: Path, python: str, results: Sequence[Result], repeat: int, workers: int) -> Iterator[Result]:
    """The peer's figure for each of our results that it has a workload for. One that fails is named and left out."""
    durable = (script.parent / "common.py").is_file()
    for ours in results:
        if ours.workload not in (DURABLE if durable else VOLATILE):
            continue
        try:
            if durable:
                yield _durable(script, python, ours, repeat)
            else:
                yield _volatile(script, python, ours, repeat, workers)
        except PeerFailed as failure:
            print(f"{script.stem.removeprefix('bench_')} {ours.workload}: {failure}", flush=True)


def _durable(script: Path, python: str, ours: Result, repeat: int) -> Result:
    said = call(script, python, ["--workload", ours.workload, "--repeat", str(repeat)])
    facts = [{"peer": f"{said['peer']} {said['version']}", **extra} for extra in said["extra"]]
    return Result(ours.workload, ours.unit, said["n"], ours.lower_is_better, said["runs"], facts, said["busy_before"])


def _volatile(script: Path, python: str, ours: Result, repeat: int, workers: int) -> Result:
    result = Result(ours.workload, ours.unit, VOLATILE_N.get(ours.workload, 1), ours.lower_is_better)
    for _ in range(repeat):
        said = call(script, python, ["--workload", ours.workload, "--workers", str(workers)])
        if "metrics" not in said:
            raise PeerFailed(said.get("failed") or said.get("unsupported") or "no metrics")
        result.runs.append(VOLATILE[ours.workload](said["metrics"]))
        result.facts.append({"peer": f"{said['peer']} {said['version']} (nothing recorded)"})
    return result


def call(script: Path, python: str, arguments: list[str]) -> dict[str, Any]:
    command = [python, script.name, *arguments, "--json"]
    try:
        done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerFailed(str(error)) from None
    if done.returncode or not done.stdout.strip():
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise PeerFailed(f"ended with {done.returncode}: {words}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said
