"""What happens in the fresh process of one measurement. Prints one line of JSON as its last.

    python -m benchmarks.child ROLE --n N --folder FOLDER --workers W

Where a workload is timed from within, workers are up and warm (100 small steps have run): starting is measured by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import workflows
from dagengine import Engine

Report = dict[str, Any]


def _resident(field: str) -> int:
    """Bytes of this process' memory: `VmRSS` now, `VmHWM` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"error: the kernel does not tell {field}; memory is measured on Linux")


def timed(engine: Engine, workflow: Any, n: int, expected: int) -> Report:
    """The seconds from the call to the result."""
    warm_up(engine)
    began = time.perf_counter()
    result = engine.start(workflow, n).result()
    seconds = time.perf_counter() - began
    if result != expected:
        raise SystemExit(f"error: {workflow.name} gave {result}, not {expected}")
    return {"seconds": seconds}


def warm_up(engine: Engine) -> None:
    engine.start(workflows.fan, 100).result()


def latency(engine: Engine, n: int) -> Report:
    warm_up(engine)
    taken = sorted(engine.start(workflows.latency, n).result())
    return {"p50_us": statistics.median(taken) * 1e6, "p99_us": taken[int(n * 0.99)] * 1e6}


def memory(engine: Engine, n: int) -> Report:
    """What the controller's memory grows by at its highest, over what it had before the run."""
    warm_up(engine)
    Path("/proc/self/clear_refs").write_text("5")  # the highest from now on
    before = _resident("VmRSS")
    began = time.perf_counter()
    engine.start(workflows.marked_fan, n).result()
    return {"seconds": time.perf_counter() - began, "grown": _resident("VmHWM") - before}


def resumable(engine: Engine, workflow: Any, n: int, folder: Path) -> Report:
    """Begin the run, or go on with it where an earlier process has begun it."""
    note = folder / "run"
    if note.exists():
        run = engine.resume(note.read_text())
    else:
        run = engine.start(workflow, n)
        note.write_text(run.id)
    run.result()
    return {}


def idle(engine: Engine) -> Report:
    """Be ready and do nothing until the other side closes the pipe."""
    warm_up(engine)
    print("ready", flush=True)
    sys.stdin.read()
    return {}


def once(engine: Engine) -> Report:
    engine.start(workflows.one).result()
    return {}


def roles(n: int, folder: Path) -> dict[str, Callable[[Engine], Report]]:
    return {
        "fan": lambda engine: timed(engine, workflows.fan, n, n),
        "steps": lambda engine: timed(engine, workflows.steps, n, n),
        "chain": lambda engine: timed(engine, workflows.chain, n, n),
        "payload": lambda engine: timed(engine, workflows.payload, n, workflows.PAYLOAD_BYTES // 8),
        "latency": lambda engine: latency(engine, n),
        "memory": lambda engine: memory(engine, n),
        "resume-steps": lambda engine: resumable(engine, workflows.marked_steps, n, folder),
        "resume-fan": lambda engine: resumable(engine, workflows.marked_fan, n, folder),
        "idle": idle,
        "once": once,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role")
    parser.add_argument("--n", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with Engine(store=str(options.folder / "store.db"), workers=options.workers) as engine:
        report = roles(options.n, options.folder)[options.role](engine)
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
