"""The workloads, as they run in a fresh process of their own. Prints one line of JSON: the metrics.

    python -m benchmarks.runtime.workloads NAME --workers 2 --scale 1

Two workers; bodies do nothing unless said otherwise; where it is timed from within, workers are up and warm. `scale`
makes counts and bytes smaller, for a test that all of it still runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagengine.runtime as rt
from benchmarks import processes
from benchmarks.runtime import tasks

KIB, MIB, GIB = 2**10, 2**20, 2**30
Metrics = dict[str, Any]

nothing = rt.remote(tasks.nothing)
increment = rt.remote(tasks.increment)
total = rt.remote(tasks.total)
kilobyte = rt.remote(tasks.kilobyte)
length = rt.remote(tasks.length)
block = rt.remote(tasks.block)
sum_of = rt.remote(tasks.sum_of)
touch = rt.remote(tasks.touch)
merge_keys = rt.remote(tasks.merge_keys)
marked_sleep = rt.remote(tasks.marked_sleep)


@contextmanager
def running(workers: int, object_memory: int | None = None) -> Iterator[None]:
    """A runtime whose workers have all run something, NumPy included."""
    with rt.start(workers, object_memory=object_memory):
        import numpy as np

        rt.get([touch.remote(np.ones(KIB)) for _ in range(100)])
        yield


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def round_trips(call: Callable[[], Any], count: int) -> Metrics:
    taken = sorted(seconds(call)[0] * 1e6 for _ in range(count))
    return {"p50_us": statistics.median(taken), "p99_us": taken[int(count * 0.99)]}


def startup(workers: int, scale: float) -> Metrics:
    """A new interpreter to the first result, as seen from outside."""
    command = [sys.executable, "-m", "benchmarks.runtime.workloads", "first", "--workers", str(workers)]
    began = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    ended = time.monotonic()
    inner = json.loads(done.stdout.splitlines()[-1])
    return {
        "total_s": inner["result_at"] - began,
        "import_s": inner["main_at"] - began,
        "init_s": inner["started_at"] - inner["main_at"],
        "first_task_s": inner["result_at"] - inner["started_at"],
        "stop_s": ended - inner["result_at"],
    }


def first(workers: int, scale: float) -> Metrics:
    """What `startup` runs in the new interpreter."""
    main_at = time.monotonic()
    rt.start(workers)
    started_at = time.monotonic()
    rt.get(nothing.remote())
    result_at = time.monotonic()
    rt.stop()
    return {"main_at": main_at, "started_at": started_at, "result_at": result_at}


def independent(workers: int, scale: float) -> Metrics:
    count = int(10_000 * scale)
    with running(workers):
        submitting, refs = seconds(lambda: [nothing.remote(n) for n in range(count)])
        gathering, _ = seconds(lambda: rt.get(refs))
    return {"tasks_per_s": count / (submitting + gathering), "submit_us_per_task": submitting / count * 1e6}


def chain(workers: int, scale: float) -> Metrics:
    count = int(1_000 * scale)

    def run() -> int:
        ref = increment.remote(0)
        for _ in range(count - 1):
            ref = increment.remote(ref)
        return rt.get(ref)

    with running(workers):
        taken, result = seconds(run)
    assert result == count
    return {"tasks_per_s": count / taken}


def latency(workers: int, scale: float) -> Metrics:
    with running(workers):
        return round_trips(lambda: rt.get(nothing.remote()), int(500 * scale))


def fan(workers: int, scale: float) -> Metrics:
    width = int(2_000 * scale)

    def run() -> int:
        source = increment.remote(0)
        return rt.get(total.remote(*[increment.remote(source) for _ in range(width)]))

    with running(workers):
        taken, result = seconds(run)
    assert result == 2 * width
    return {"total_s": taken}


def actor(workers: int, scale: float) -> Metrics:
    count = int(10_000 * scale)
    with running(workers):
        counter = rt.remote(tasks.Counter).remote()
        rt.get(counter.add.remote(0))
        taken, values = seconds(lambda: rt.get([counter.add.remote(1) for _ in range(count)]))
        assert values[-1] == count
        single = round_trips(lambda: rt.get(counter.add.remote(1)), int(500 * scale))
    return {"calls_per_s": count / taken, "sync_p50_us": single["p50_us"]}


def args(workers: int, scale: float) -> Metrics:
    array = tasks.block(int(100_000_000 * scale))
    count = 200

    def run() -> list[float]:
        ref = rt.put(array)
        return rt.get([sum_of.remote(ref) for _ in range(count)])

    with running(workers), processes.PeakMemory() as peak:
        taken, results = seconds(run)
        shared = rt.put(array)
        mapping = round_trips(lambda: rt.get(length.remote(shared)), 50)
    assert results == [tasks.sum_of(array)] * count
    return {"total_s": taken, "peak_pss_mb": peak.bytes / 1e6, "map_p50_us": mapping["p50_us"]}


def putget(workers: int, scale: float) -> Metrics:
    size = int(GIB * scale)
    array = tasks.block(size)
    puts, reads = [], []
    with running(workers, object_memory=4 * size + 64 * MIB):
        copying, _ = min(seconds(array.copy) for _ in range(2))
        for _ in range(3):
            putting, reading = _put_and_read(array)
            puts.append(size / 1e9 / putting)
            reads.append(size / 1e9 / reading)
            time.sleep(1)  # let the runtime free it, and warm up what it wants to
    return {
        "put_first_gbps": puts[0],
        "put_best_gbps": max(puts),
        "read_first_gbps": reads[0],
        "read_best_gbps": max(reads),
        "copy_gbps": size / 1e9 / copying,
    }


def _put_and_read(array: Any) -> tuple[float, float]:
    putting, ref = seconds(lambda: rt.put(array))
    reading, result = seconds(lambda: rt.get(touch.remote(ref)))
    assert result == len(array[:: tasks.PAGE])
    return putting, reading


def smallobj(workers: int, scale: float) -> Metrics:
    count = int(10_000 * scale)

    def run() -> list[int]:
        made = [kilobyte.remote(n) for n in range(count)]
        return rt.get([length.remote(ref) for ref in made])

    with running(workers):
        taken, results = seconds(run)
    assert results == [KIB] * count
    return {"tasks_per_s": 2 * count / taken, "total_s": taken}


def shuffle(workers: int, scale: float) -> Metrics:
    """Four times more data than memory for objects."""
    import numpy as np

    parts = 32
    data = int(2 * GIB * scale)
    each = data // 8 // parts
    checksum = 0
    for seed in range(parts):
        checksum ^= int(np.bitwise_xor.reduce(tasks.random_keys(seed, each)))
    split_keys = rt.remote(tasks.split_keys).options(returns=parts)

    def run() -> list[tuple[int, int]]:
        rows: Any = [split_keys.remote(seed, each, parts) for seed in range(parts)]
        columns = list(zip(*rows, strict=True))
        del rows
        return rt.get([merge_keys.remote(part, parts, *columns.pop(0)) for part in range(parts)])

    with running(workers, object_memory=data // 4):
        idle = processes.memory_bytes(processes.tree(os.getpid()))
        with processes.PeakMemory() as peak:
            taken, results = seconds(run)
        stats = rt.stats()
    merged = 0
    for _, part in results:
        merged ^= part
    assert merged == checksum
    assert sum(size for size, _ in results) == each * parts
    return {
        "total_s": taken,
        "gb_per_s": data / 1e9 / taken,
        "peak_pss_mb": peak.bytes / 1e6,
        "idle_pss_mb": idle / 1e6,
        "spilled_mib": stats["spilled_bytes"] / MIB,
        "restored_mib": stats["restored_bytes"] / MIB,
    }


def oom(workers: int, scale: float) -> Metrics:
    """Room for six blocks, eight are made, two tasks read four each."""
    size = int(64 * MIB * scale)

    def run() -> list[float]:
        blocks = [block.remote(size) for _ in range(8)]
        rt.wait(blocks, len(blocks))
        return rt.get([sum_of.remote(*blocks[:4]), sum_of.remote(*blocks[4:])])

    # A block is a little more than its array: its header, and a whole number of pages.
    with running(workers, object_memory=6 * (size + 64 * KIB)), processes.PeakMemory() as peak:
        taken, results = seconds(run)
        stats = rt.stats()
    assert results == [4 * (size // 8)] * 2
    return {
        "total_s": taken,
        "peak_pss_mb": peak.bytes / 1e6,
        "spilled_mib": stats["spilled_bytes"] / MIB,
        "restored_mib": stats["restored_bytes"] / MIB,
    }


def kill(workers: int, scale: float) -> Metrics:
    """One worker is killed when half of the tasks have begun; compared with none killed."""
    count = int(1_000 * scale)

    def run(log: Path, killing: bool) -> None:
        refs = [marked_sleep.remote(str(log), 0.005) for _ in range(count)]
        while killing:
            begun = log.read_text().split() if log.exists() else []
            if len(begun) >= count // 2:
                os.kill(int(begun[-1]), signal.SIGKILL)
                break
            time.sleep(0.005)
        rt.get(refs)

    with tempfile.TemporaryDirectory() as folder, running(workers):
        plain, _ = seconds(lambda: run(Path(folder, "plain"), False))
        log = Path(folder, "killed")
        killed, _ = seconds(lambda: run(log, True))
        begun = len(log.read_text().split())
    return {"plain_s": plain, "killed_s": killed, "extra_s": killed - plain, "rerun_tasks": begun - count}


def idle(workers: int, scale: float) -> Metrics:
    """Processor time of a runtime that has nothing to do."""
    length_s = 20 * scale
    with rt.start(workers):
        rt.get(nothing.remote())
        time.sleep(5 * scale)
        pids = processes.tree(os.getpid())
        before = processes.cpu_seconds(pids)
        time.sleep(length_s)
        used = processes.cpu_seconds(pids) - before
        memory = processes.memory_bytes(pids)
    return {"cpu_percent": used / length_s * 100, "pss_mb": memory / 1e6, "processes": len(pids)}


WORKLOADS: dict[str, Callable[[int, float], Metrics]] = {
    "startup": startup,
    "tasks": independent,
    "chain": chain,
    "latency": latency,
    "fan": fan,
    "actor": actor,
    "args": args,
    "putget": putget,
    "smallobj": smallobj,
    "shuffle": shuffle,
    "oom": oom,
    "kill": kill,
    "idle": idle,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*WORKLOADS, "first"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    metrics = WORKLOADS.get(options.name, first)(options.workers, options.scale)
    print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    main()
