"""Submitted runs of one step, taken up by servers on this machine: how many begin and end in a second.

python -m benchmarks.serving                        500 runs, two servers, PostgreSQL
python -m benchmarks.serving --store sqlite --servers 1 --repeat 3

The servers are warm: their hosts have had a run before. Timed is what a user sees: from the first submission until the last
run has ended. Beside it stands the processor time that a run takes in each kind of process, which says more than the rate
where other work shares the cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import machine, workflows
from benchmarks.processes import cpu_seconds, tree
from dagengine.engine import Engine
from dagengine.model import RunState
from dagengine.storage import open_store, queues
from dagengine.storage.interface import RunFilter, Store
from tests.postgres.server import Server, fresh_schema

ROLES = ("submitter", "servers", "hosts", "workers", "database")


def ended(store: Store) -> None:
    """Wait until no run waits or is under way. What is asked is cheap: it shares the cores with what is measured."""
    while queues.counts(store):
        time.sleep(0.02)


def cpu(servers: list[int], database: int | None) -> dict[str, float]:
    """Seconds of processor time so far, by role."""
    found: dict[str, float] = defaultdict(float)
    found["submitter"] = time.process_time()
    for pid in servers:
        found["servers"] += cpu_seconds([pid])
        for child in tree(pid)[1:]:
            is_host = b"serving.host" in _command(child)
            found["hosts" if is_host else "workers"] += cpu_seconds([child])
    found["database"] = cpu_seconds(tree(database)) if database is not None else 0.0
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def rates(
    store: str, home: Path, servers: int, runs: int, database: int | None
) -> tuple[float, float, dict[str, float]]:
    """Runs submitted in a second, runs a second from the first submission to the last end, and a run's processor time."""
    environment = {**os.environ, "DAGENGINE_HOME": str(home), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "dagengine", "serve", "--store", store]
    serving = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(servers)]
    pids = [process.pid for process in serving]
    try:
        watched = open_store(store)
        with Engine(store=store, home=home, workers=1) as engine:
            warm = 100 * servers  # so that each host has all its workers up
            for _ in range(warm):
                engine.submit(workflows.one, (), {})
            ended(watched)
            before = cpu(pids, database)
            began = time.perf_counter()
            for _ in range(runs):
                engine.submit(workflows.one, (), {})
            submitted = time.perf_counter()
            ended(watched)
            over = time.perf_counter()
            after = cpu(pids, database)
        succeeded = len(watched.runs(RunFilter((RunState.SUCCEEDED,), limit=warm + runs + 1)))
        assert succeeded == warm + runs, f"{succeeded} of {warm + runs} runs have succeeded"
        watched.close()
    finally:
        for process in serving:
            process.terminate()
        for process in serving:
            process.wait()
    return (
        runs / (submitted - began),
        runs / (over - began),
        {role: (after[role] - before[role]) / runs for role in ROLES},
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    print(machine.sentence(machine.facts()))
    server = Server(in_memory=False)
    found = []
    try:
        if options.store == "postgres":
            server.start()
        for _ in range(options.repeat):
            home = Path(tempfile.mkdtemp(prefix="dagengine-bench-"))
            store = server.url(fresh_schema()) if options.store == "postgres" else str(home / "store.db")
            found.append(rates(store, home, options.servers, options.runs, server.pid))
            shutil.rmtree(home, ignore_errors=True)
    finally:
        server.remove()
    for name, each in (("submitted", [one[0] for one in found]), ("ended", [one[1] for one in found])):
        print(f"{name:10}{statistics.median(each):>8,.0f} runs/s  ({min(each):,.0f} to {max(each):,.0f})")
    for role in ROLES:
        each = [1e3 * taken[role] for _, _, taken in found]
        print(f"{role:10}{statistics.median(each):>8.2f} ms of a CPU a run  ({min(each):.2f} to {max(each):.2f})")


if __name__ == "__main__":
    main()
