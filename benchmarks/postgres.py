"""The PostgreSQL store on a server of its own on this machine, beside that server's own commit rate in the same run.

python -m benchmarks.postgres                 fan, chain, steps
python -m benchmarks.postgres fan --n 20000 --repeat 3

The server keeps its data in the temporary folder, with fsync on. A ratio of 1 means: one step for each commit that a
single connection could do by itself, with one inserted row in each.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time

from benchmarks import machine, workflows
from dagengine import Engine
from tests.postgres.server import Server, fresh_schema

SIZES = {"fan": 10_000, "chain": 1_000, "steps": 1_000}
COMMITS = 500


def commit_rate(server: Server) -> float:
    """Commits a second of one connection that inserts one row in each."""
    import psycopg

    where = f"host={server.folder} port={server.port} user=tester dbname=postgres"
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bench (number serial PRIMARY KEY, text text)")
        began = time.perf_counter()
        for _ in range(COMMITS):
            connection.execute("INSERT INTO bench (text) VALUES ('x')")
        return COMMITS / (time.perf_counter() - began)


def step_rate(server: Server, name: str, n: int) -> float:
    """Steps a second, with workers that are up."""
    home = tempfile.mkdtemp(prefix="dagengine-bench-")
    try:
        with Engine(store=server.url(fresh_schema()), home=home, workers=2) as engine:
            engine.start(workflows.fan, 100).result()
            began = time.perf_counter()
            engine.start(getattr(workflows, name), n).result()
            return n / (time.perf_counter() - began)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.postgres", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(SIZES)}; all if none is named")
    parser.add_argument("--n", type=int, help="size, instead of each workload's own")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each workload (3)")
    options = parser.parse_args()
    if unknown := [name for name in options.workloads if name not in SIZES]:
        parser.error(f"no workload {unknown[0]}. There are: {', '.join(SIZES)}")
    print(machine.sentence(machine.facts()))
    server = Server(in_memory=False)
    try:
        server.start()
        print(f"{'':8}{'steps/s':>10}{'commits/s':>12}{'ratio':>8}")
        for name in options.workloads or SIZES:
            rates, ratios, commits = [], [], []
            for _ in range(options.repeat):
                commits.append(commit_rate(server))
                rates.append(step_rate(server, name, options.n or SIZES[name]))
                ratios.append(rates[-1] / commits[-1])
            middle = statistics.median
            print(f"{name:8}{middle(rates):>10,.0f}{middle(commits):>12,.0f}{middle(ratios):>8.2f}", flush=True)
    finally:
        server.remove()


if __name__ == "__main__":
    main()
