"""dagengine and DBOS on the same PostgreSQL server, by turns in the same minutes: rates, and how many times better ours is.

python -m benchmarks.beside_dbos --python ENV/bin/python           ENV: a virtual environment with `dbos` and `psycopg[binary]`
python -m benchmarks.beside_dbos --python … steps --n 200 --repeat 5

    steps    one workflow, whose body waits for each of n steps
    fan      n steps side by side between two others
    runs     n workflows of one step, begun in the process that works on them
    queued   the same, left to a queue; ours to a `dagengine serve`, DBOS's to its own process

The server has fsync on and keeps its data in the temporary folder; both reach it over 127.0.0.1. Each measurement is a
process of its own on a database of its own, warm: a small run has gone before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine, serving, workflows
from benchmarks.postgres import commit_rate
from dagengine import Engine
from tests.postgres.server import Server, fresh_schema

SIZES = {"steps": 300, "fan": 1_000, "runs": 300, "queued": 300}
SECONDS = 300.0
"""For one measurement of DBOS."""


def ours(url: str, name: str, n: int) -> float:
    """Units a second."""
    home = Path(tempfile.mkdtemp(prefix="dagengine-bench-"))
    try:
        if name == "queued":
            return serving.rates(url, home, 1, n, None)[1]
        with Engine(store=url, home=home, workers=2) as engine:

            def runs(count: int) -> None:
                for run in [engine.start(workflows.one) for _ in range(count)]:
                    run.result()

            def whole(count: int) -> None:
                engine.start(getattr(workflows, name), count).result()

            work: Callable[[int], None] = runs if name == "runs" else whole
            work(10)
            began = time.perf_counter()
            work(n)
            return n / (time.perf_counter() - began)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def dbos(server: Server, python: str, name: str, n: int) -> float:
    database = f"dbos_{uuid.uuid4().hex[:12]}"
    server.run(f"CREATE DATABASE {database}")
    url = f"postgresql+psycopg://tester@127.0.0.1:{server.port}/{database}"
    script = Path(__file__).with_name("dbos_child.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [python, str(script), url, name, str(n)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=environment,
        )
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise SystemExit(f"error: DBOS ended with {done.returncode}: {words}")
        return n / float(json.loads(done.stdout.splitlines()[-1])["seconds"])
    finally:
        server.run(f"DROP DATABASE {database} WITH (FORCE)")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside_dbos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(SIZES)}; all if none is named")
    parser.add_argument("--python", required=True, help="one that has DBOS installed")
    parser.add_argument("--n", type=int, help="size, instead of each workload's own")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each, by turns (3)")
    options = parser.parse_args()
    if unknown := [name for name in options.workloads if name not in SIZES]:
        parser.error(f"no workload {unknown[0]}. There are: {', '.join(SIZES)}")
    print(machine.sentence(machine.facts()))
    server = Server(port=free_port(), in_memory=False)
    try:
        server.start()
        print(f"{'':8}{'n':>7}{'dagengine':>12}{'DBOS':>8}{'ratio':>8}  least to most  commits/s", file=sys.stdout)
        for name in options.workloads or SIZES:
            n = options.n or SIZES[name]
            pairs, commits = [], []
            for _ in range(options.repeat):
                commits.append(commit_rate(server))
                url = f"postgresql://tester@127.0.0.1:{server.port}/postgres?schema={fresh_schema()}"
                pairs.append((ours(url, name, n), dbos(server, options.python, name, n)))
            ratios = [mine / theirs for mine, theirs in pairs]
            mine, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
            print(
                f"{name:8}{n:>7,}{mine:>12,.0f}{theirs:>8,.0f}{statistics.median(ratios):>8.1f}"
                f"  {min(ratios):.1f} to {max(ratios):.1f}  {statistics.median(commits):>9,.0f}",
                flush=True,
            )
    finally:
        server.remove()


if __name__ == "__main__":
    main()
