"""Submitted runs of one step, taken up by servers on this machine: how many begin and end in a second.

python -m benchmarks.serving                        500 runs, two servers, PostgreSQL
python -m benchmarks.serving --store sqlite --servers 1 --repeat 3

The servers are warm: their hosts have had a run before. Timed is what a user sees: from the first submission until the last
run has ended.
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
from pathlib import Path

from benchmarks import machine
from dagengine import task, workflow
from dagengine.engine import Engine
from dagengine.model import RunState
from dagengine.storage import open_store
from dagengine.storage.interface import RunFilter, Store
from tests.postgres.server import Server, fresh_schema


@task
def add(a: int, b: int) -> int:
    """Next to nothing."""
    return a + b


@workflow
def one(a: int) -> int:
    """A run of one step."""
    return add(a, 1)


def ended(store: Store, count: int) -> None:
    """Wait until so many runs have succeeded."""
    while len(store.runs(RunFilter((RunState.SUCCEEDED,), limit=count))) < count:
        time.sleep(0.02)


def rates(store: str, home: Path, servers: int, runs: int) -> tuple[float, float]:
    """Runs submitted in a second, and runs a second from the first submission to the last end."""
    environment = {**os.environ, "DAGENGINE_HOME": str(home), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "dagengine", "serve", "--store", store]
    serving = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(servers)]
    try:
        watched = open_store(store)
        with Engine(store=store, home=home, workers=1) as engine:
            warm = 20 * servers
            for number in range(warm):
                engine.submit(one, (number,), {})
            ended(watched, warm)
            began = time.perf_counter()
            for number in range(runs):
                engine.submit(one, (number,), {})
            submitted = time.perf_counter()
            ended(watched, warm + runs)
            over = time.perf_counter()
        watched.close()
    finally:
        for process in serving:
            process.terminate()
        for process in serving:
            process.wait()
    return runs / (submitted - began), runs / (over - began)


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
            found.append(rates(store, home, options.servers, options.runs))
            shutil.rmtree(home, ignore_errors=True)
    finally:
        server.remove()
    for name, each in zip(("submitted", "ended"), zip(*found, strict=True), strict=True):
        print(f"{name:10}{statistics.median(each):>8,.0f} runs/s  ({min(each):,.0f} to {max(each):,.0f})")


if __name__ == "__main__":
    main()
