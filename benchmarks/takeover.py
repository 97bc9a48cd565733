"""How long a run stands still when its owner is killed: `kill -9` of a process that works on a run in a PostgreSQL store, and
another process of the same machine goes on with it.

python -m benchmarks.takeover                 20 times each; median, least to most

    resumed    this process, which has an engine open, resumes the run as soon as the owner is dead
    served     a `dagengine serve` that is up notices by itself; a host that it had ready begins, and that its workers

Timed is from the kill to the first line of the step that had been running, in its next attempt.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from dagengine import Engine, task, workflow
from dagengine.model import RunState
from tests.postgres.server import Server, fresh_schema

SECONDS = 60.0
"""For anything to happen that is waited for."""


@task
def marked(folder: str, holds: bool) -> int:
    """Leave a mark for each attempt; the first one of a run never ends."""
    mark = Path(folder, f"{time.monotonic_ns()}")
    mark.touch()
    while holds and len(list(Path(folder).iterdir())) == 1:
        time.sleep(0.05)
    return 1


@workflow
def held(folder: str) -> int:
    return marked(folder, True)


def until(folder: Path, marks: int) -> float:
    """When the last of so many attempts began, on the monotonic clock."""
    end = time.monotonic() + SECONDS
    while len(found := sorted(folder.iterdir())) < marks:
        if time.monotonic() > end:
            raise SystemExit(f"error: attempt {marks} did not begin in {SECONDS:.0f} s")
        time.sleep(0.002)
    return int(found[-1].name) / 1e9


def owner(store: str, folder: Path, run_id: str) -> subprocess.Popen[bytes]:
    """A process that works on a new run, whose step has begun."""
    command = [sys.executable, "-m", "benchmarks.takeover", "--own", store, str(folder), run_id]
    process = subprocess.Popen(command, start_new_session=True)
    until(folder, 1)
    return process


def kill(process: subprocess.Popen[bytes]) -> float:
    at = time.monotonic()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return at


def resumed(store: str, home: Path) -> float:
    with Engine(store=store, home=home / "second", workers=1) as engine:
        warm = home / "warm"
        warm.mkdir()
        engine.start(held, str(warm))
        until(warm, 1)
        (warm / "0").touch()  # lets it end
        folder = home / "marks"
        folder.mkdir()
        process = owner(store, folder, "held-run")
        at = kill(process)
        run = engine.resume("held-run")
        seconds = until(folder, 2) - at
        run.result()
        return seconds


def served(store: str, home: Path) -> float:
    folder = home / "marks"
    folder.mkdir()
    environment = {**os.environ, "DAGENGINE_HOME": str(home / "first"), "PYTHONPATH": str(Path.cwd())}
    process = owner(store, folder, "held-run")
    command = [sys.executable, "-m", "dagengine", "serve", "--store", store]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert server.stdout is not None
        server.stdout.readline()  # it serves
        with Engine(store=store, home=home / "third", workers=1) as engine:
            time.sleep(5.0)  # it has looked around, watches the owner, and has a host ready
            at = kill(process)
            seconds = until(folder, 2) - at
            while engine.store.find_run("held-run").state is not RunState.SUCCEEDED:
                time.sleep(0.02)
            return seconds
    finally:
        server.terminate()
        server.wait()


def own(store: str, folder: str, run_id: str) -> None:
    with Engine(store=store, home=Path(folder).parent / "first", workers=1) as engine:
        engine.begin(held, (folder,), {}, run_id).result()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.takeover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--own", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own is not None:
        own(*options.own)
        return
    print(machine.sentence(machine.facts()))
    server = Server(in_memory=False)
    try:
        server.start()
        for name, measure in (("resumed", resumed), ("served", served)):
            found = []
            for _ in range(options.repeat):
                home = Path(tempfile.mkdtemp(prefix="dagengine-bench-"))
                found.append(measure(server.url(fresh_schema()), home))
                shutil.rmtree(home, ignore_errors=True)
            print(f"{name:10}{statistics.median(found):>7.2f} s  ({min(found):.2f} to {max(found):.2f})", flush=True)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
