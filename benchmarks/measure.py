"""One measurement: a fresh process on a fresh store in a temporary folder, and what comes out of it.

A workload is a `Workload`: how it is run, how often at what size, and what its figure means. Knows nothing of the
engine but the command line of `benchmarks.child`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.workflows import MARK, PAYLOAD_BYTES

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300.0  # seconds for one process: far over the slowest, so that a hang ends
IDLE_SECONDS = 5.0

Facts = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """`measure` takes a Trial and returns the figure and what else is worth telling."""

    what: str
    unit: str
    n: int
    measure: Callable[[Trial], tuple[float, Facts]]
    lower_is_better: bool = False


@dataclass
class Result:
    workload: str
    unit: str
    n: int
    lower_is_better: bool
    runs: list[float] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    busy_before: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def to_json(self) -> Facts:
        return {**vars(self), "median": self.median, "min": min(self.runs), "max": max(self.runs)}


@dataclass
class Trial:
    """One run of one workload, in `folder`."""

    folder: Path
    n: int
    workers: int

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    @contextmanager
    def process(self, role: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """A fresh interpreter in that role, with these environment variables. It and all that it started are gone
        afterwards."""
        command = [sys.executable, "-m", "benchmarks.child", role, "--n", str(self.n)]
        command += ["--folder", str(self.folder), "--workers", str(self.workers)]
        environment = {**os.environ, "BENCH_TRACE": str(self.trace), "DAGENGINE_HOME": str(self.folder)}
        environment |= {"PYTHONPATH": str(ROOT), **variables}
        with (
            (self.folder / "log").open("a") as log,
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            ) as child,
        ):
            try:
                yield child
            finally:
                processes.kill_tree(child.pid)

    def call(self, role: str) -> Facts:
        """Run the role to its end; what it reported."""
        with self.process(role) as child:
            output, _ = child.communicate(timeout=TIMEOUT)
        if child.returncode:
            raise SystemExit(f"error: {role} ended with {child.returncode}; its last words:\n{self.last_words()}")
        report: Facts = json.loads(output.splitlines()[-1])
        return report

    def last_words(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def marks(self) -> list[tuple[int, float]]:
        """(step's number, when it ran) in the order of running."""
        data = self.trace.read_bytes() if self.trace.exists() else b""
        return [(number, at) for number, at in MARK.iter_unpack(data[: len(data) // MARK.size * MARK.size])]


def run(name: str, workload: Workload, n: int | None, repeat: int, workers: int) -> Result:
    """Measure a workload `repeat` times."""
    result = Result(name, workload.unit, n or workload.n, workload.lower_is_better)
    for _ in range(repeat):
        result.busy_before.append(round(processes.busy(), 3))
        folder = Path(tempfile.mkdtemp(prefix="dagengine-bench-"))
        try:
            figure, facts = workload.measure(Trial(folder, result.n, workers))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        result.runs.append(figure)
        result.facts.append(facts)
    return result


def _rate(role: str) -> Callable[[Trial], tuple[float, Facts]]:
    def measure(trial: Trial) -> tuple[float, Facts]:
        seconds = trial.call(role)["seconds"]
        return trial.n / seconds, {"seconds": round(seconds, 3)}

    return measure


def _payload(trial: Trial) -> tuple[float, Facts]:
    seconds = trial.call("payload")["seconds"]
    stored = sum(file.stat().st_size for file in trial.folder.rglob("*") if file.is_file())
    return trial.n * PAYLOAD_BYTES / 2**20 / seconds, {"stored_mb": round(stored / 2**20)}


def _latency(trial: Trial) -> tuple[float, Facts]:
    report = trial.call("latency")
    return report["p50_us"], {"p99_us": round(report["p99_us"])}


def _startup(trial: Trial) -> tuple[float, Facts]:
    """The whole process: interpreter, engine, workers, one step, end. The second time, because a store is made once."""
    taken = []
    for _ in range(2):
        began = time.monotonic()
        trial.call("once")
        taken.append(time.monotonic() - began)
    return taken[1], {"new_store_s": round(taken[0], 3)}


def _resume(role: str) -> Callable[[Trial], tuple[float, Facts]]:
    """Killed with all that it started when half of the steps have run; then seconds from start to the first new step.

    Steps that had run but were not yet recorded run again, often before any new one: `first_s` is when the first step
    of any kind begins.
    """

    def measure(trial: Trial) -> tuple[float, Facts]:
        with trial.process(role, BENCH_HELD=str(trial.n - 1)) as child:
            end = time.monotonic() + TIMEOUT
            while not trial.trace.exists() or trial.trace.stat().st_size < trial.n // 2 * MARK.size:
                if child.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"error: {role} ended before the kill:\n{trial.last_words()}")
                time.sleep(0.002)
            processes.kill_tree(child.pid)
        before = trial.marks()
        began = time.monotonic()
        trial.call(role)
        whole = time.monotonic() - began
        after = trial.marks()[len(before) :]
        ran = {number for number, _ in before}
        if {number for number, _ in [*before, *after]} != set(range(trial.n)):
            raise SystemExit(f"error: {role} ended without running all of its {trial.n} steps")
        again = sum(number in ran for number, _ in after)
        first = min(at for number, at in after if number not in ran) - began
        facts = {"first_s": round(min(at for _, at in after) - began, 3), "run_again": again}
        return first, {**facts, "to_the_end_s": round(whole, 2)}

    return measure


def _memory(trial: Trial) -> tuple[float, Facts]:
    report = trial.call("memory")
    return report["grown"] / trial.n, {"steps_per_s": round(trial.n / report["seconds"])}


def _idle(trial: Trial) -> tuple[float, Facts]:
    """Share of one processor, all processes together, while nothing is asked of them; and what they wrote meanwhile."""
    with trial.process("idle") as child:
        assert child.stdout is not None
        if child.stdout.readline().strip() != "ready":
            raise SystemExit(f"error: idle did not start:\n{trial.last_words()}")
        time.sleep(1)  # what the run before leaves to do: checkpoints of the store, ends of threads
        pids = processes.tree(child.pid)
        cpu, written = processes.cpu_seconds(pids), processes.written_bytes(pids)
        time.sleep(IDLE_SECONDS)
        facts = {
            "written_bytes": processes.written_bytes(pids) - written,
            "memory_mb": round(processes.memory_bytes(pids) / 2**20),
            "processes": len(pids),
        }
        return (processes.cpu_seconds(pids) - cpu) / IDLE_SECONDS * 100, facts


def _core(trial: Trial) -> tuple[float, Facts]:
    """The scheduler core alone, on simulated nodes; with its own table, and real graphs: python -m benchmarks.simulation."""
    command = [sys.executable, "-m", "benchmarks.simulation", "--tasks", str(trial.n)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if done.returncode:
        raise SystemExit(f"error: the simulation ended with {done.returncode}; its last words:\n{done.stderr[-3000:]}")
    report = json.loads(done.stdout)
    return report["us_per_task"], {"seconds": report["seconds"], "peak_mb": report["peak_mb"]}


def _objects(trial: Trial) -> tuple[float, Facts]:
    """The arena and the spill space alone; with a table of its own: python -m benchmarks.memory."""
    command = [sys.executable, "-m", "benchmarks.memory", "--mib", str(trial.n), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if done.returncode:
        raise SystemExit(f"error: the memory benchmark ended with {done.returncode}:\n{done.stderr[-3000:]}")
    report = json.loads(done.stdout)
    beside = ("put_warm_gb_s", "worker_warm_gb_s", "spill_share", "restore_share", "map_first_ms", "small_fused_times")
    return report["put_warm_share"] * 100, {name: report[name] for name in beside}


WORKLOADS = {
    "fan": Workload("1 → n → 1 steps that do nothing", "steps/s", 10_000, _rate("fan")),
    "steps": Workload("n steps, the body waits for each", "steps/s", 1_000, _rate("steps")),
    "chain": Workload("n dependent steps, called up front", "steps/s", 1_000, _rate("chain")),
    "latency": Workload("call a step, wait for its value (median of n)", "µs", 500, _latency, True),
    "startup": Workload("whole process: one step", "s", 1, _startup, True),
    "resume": Workload(
        "kill -9 at half of n steps; start to first new step", "s", 1_000, _resume("resume-steps"), True
    ),
    "payload": Workload("n values of 8 MiB, each made from the last", "MiB/s", 100, _payload),
    "idle": Workload("an open engine with nothing to do", "% of a core", 1, _idle, True),
    "memory": Workload("the controller's memory in a fan of n", "bytes/step", 100_000, _memory, True),
    "core": Workload("the scheduler core: n tasks on 1,000 simulated nodes", "µs/task", 100_000, _core, True),
    "objects": Workload("put n MiB into warm object memory", "% of memcpy", 1024, _objects),
    "resume-wide": Workload("as resume, for a fan of n", "s", 100_000, _resume("resume-fan"), True),
}
