"""A store of ten million steps: what listing, showing, resuming, counting and collecting take there.

python -m benchmarks.big_store                              10,000,000 steps, in SQLite and on a PostgreSQL server of its own
python -m benchmarks.big_store sqlite --steps 1000000 --largest 500000
python -m benchmarks.big_store sqlite --folder /data/big    kept there, and found there the next time

One run of `--largest` steps, interrupted when all but LEFT of them were done, and runs of a thousand steps each, which have
succeeded. Their rows are copies, made in SQL, of the rows of one real run. Each question is asked REPEAT times, in this
process, of a store that was just opened; the command line adds what it takes to start Python.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine
from dagengine import Engine, task, workflow
from dagengine.runtime import InlineRuntime
from dagengine.storage import open_artifacts, open_store
from dagengine.storage.blocks import BLOCK
from dagengine.storage.interface import RunFilter, Store
from tests.postgres.server import Server, fresh_schema

STEPS, LARGEST, EACH = 10_000_000, 1_000_000, 1_000
LEFT = 100
REPEAT = 3
TALLIES = {"first": json.dumps({0: 1, 1: BLOCK - 1}), "following": json.dumps({1: BLOCK})}
INTERRUPTED = "interrupted"
HELD = "BENCH_SQUARES_HELD"
"""Set while no step may end: a run that has ended can't be resumed once more."""


@task
def seed() -> int:
    """What all others read."""
    return 1


@task
def square(number: int) -> int:
    """One of many."""
    while HELD in os.environ:
        time.sleep(0.001)
    return number * number


@workflow
def big() -> int:
    """The run that is copied: two steps and an edge."""
    return square(seed())


# ---- making it ------------------------------------------------------------------------------


def fill(url: str, run: int, steps: int, largest: int) -> None:
    """From the two steps of `run`: its own are `largest`, and others have EACH, until there are `steps`."""
    others = max(0, (steps - largest) // EACH)
    numbers = {"run": run, "largest": largest, "others": others, "each": EACH, "left": largest - LEFT, **TALLIES}
    postgres = url.startswith("postgresql")
    with closing(_server(url) if postgres else _file(url)) as connection:
        for statement in _statements(postgres):
            connection.execute(statement.format(**numbers))


def _file(path: str) -> Any:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("synchronous=OFF", "cache_size=-400000", "wal_autocheckpoint=100000"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _server(url: str) -> Any:
    from dagengine.storage.postgres_connections import Link
    from dagengine.storage.postgres_url import parse

    target = parse(url)
    connection: Any = Link(target).raw
    connection.execute(f'SET search_path TO "{target.schema}"')
    connection.execute("SET statement_timeout = 0")
    return connection


def _statements(postgres: bool) -> Iterator[str]:
    def series(name: str, first: str, last: str) -> str:
        if postgres:
            return f"generate_series({first}, {last}) AS {name}(i)"
        counting = f"SELECT {first} AS i UNION ALL SELECT i + 1 FROM counting WHERE i < {last}"
        return f"(WITH RECURSIVE counting AS ({counting}) SELECT i FROM counting) AS {name}"

    copies = {
        "step": "step.run = {run} AND step.seq = 1",
        "edge": "edge.run = {run} AND edge.child = 1",
        "attempt": "attempt.run = {run} AND attempt.seq = 1",
    }
    seqs = {"step": "seq", "edge": "child", "attempt": "seq"}
    for name, which in copies.items():
        changed = {seqs[name]: "n.i", "key": "'big/square[' || (n.i - 1) || ']'", "finish_order": "n.i"}
        yield _copy(name, changed, f"{series('n', '2', '{largest} - 1')} CROSS JOIN {name} WHERE {which}")
    yield _copy(
        "run",
        {"number": "{run} + m.i", "id": "'copy-' || m.i", "next_seq": "{each}", "created_at": "created_at - m.i"},
        f"{series('m', '1', '{others}')} CROSS JOIN run WHERE number = {{run}} AND {{others}} > 0",
    )
    for name in ("definition", "step", "edge", "attempt"):
        first = "seq" if name == "attempt" else seqs.get(name)
        some = f" AND {name}.{first} < {{each}}" if first else ""
        yield _copy(
            name, {"run": "{run} + m.i"}, f"{series('m', '1', '{others}')} CROSS JOIN {name} WHERE run = {{run}}{some}"
        )
    yield (
        "UPDATE step SET state = 'waiting', value = NULL, value_digest = NULL, value_size = NULL, finished_at = NULL,"
        " finish_order = NULL, attempts = 0 WHERE run = {run} AND seq >= {left}"
    )
    whole = f"({{largest}} / {BLOCK}) - 1"  # as the engine notes them while it records the steps
    yield (
        f"INSERT INTO tally (run, block, tasks) SELECT {{run}}, b.i, CASE b.i WHEN 0 THEN '{{first}}' ELSE '{{following}}' END"
        f" FROM {series('b', '0', whole)} WHERE {{largest}} >= {BLOCK}"
    )
    yield "DELETE FROM attempt WHERE run = {run} AND seq >= {left}"
    yield (
        f"UPDATE run SET state = 'interrupted', id = '{INTERRUPTED}', next_seq = {{largest}}, finished_at = NULL"
        " WHERE number = {run}"
    )
    if postgres:
        yield "SELECT setval(pg_get_serial_sequence('run', 'number'), max(number)) FROM run"
    yield "ANALYZE"


def _copy(name: str, changed: dict[str, str], source: str) -> str:
    from dagengine.storage import side_schema  # noqa: F401 - so that the metadata is whole
    from dagengine.storage.schema import METADATA

    columns = [column.name for column in METADATA.tables[name].columns]
    selected = [changed.get(column, f"{name}.{column}") for column in columns]
    return f"INSERT INTO {name} ({', '.join(columns)}) SELECT {', '.join(selected)} FROM {source}"


def make(url: str, folder: Path, steps: int, largest: int) -> None:
    """The store at `url`, if it is not there."""
    with Engine(store=url, home=folder, runtime=InlineRuntime()) as engine:
        if any(run.id == INTERRUPTED for run in engine.store.runs(RunFilter(limit=1))):
            return
        run = engine.start(big)
        run.result()
        number = engine.store.find_run(run.id).number
    fill(url, number, steps, largest)


# ---- asking it ------------------------------------------------------------------------------


def listed(store: Store, url: str, folder: Path) -> None:
    """What `ls` asks."""
    _verb(url, folder, "ls")


def shown(store: Store, url: str, folder: Path) -> None:
    """What `show` asks."""
    _verb(url, folder, "show", INTERRUPTED)


def counted(store: Store, url: str, folder: Path) -> None:
    """What `db stats` asks."""
    _verb(url, folder, "db", "stats")


def _verb(url: str, folder: Path, *words: str) -> None:
    from dagengine.cli.app import app

    with contextlib.redirect_stdout(io.StringIO()):
        app([*words, "--store", url], standalone_mode=False)


def gc_said(store: Store, url: str, folder: Path) -> None:
    """What `gc --dry-run` asks."""
    from dagengine.collecting import collect
    from dagengine.retention import Retention

    collect(store, open_artifacts(str(folder / "artifacts")), None, Retention(), dry_run=True)


def resumed(store: Store, url: str, folder: Path) -> None:
    """From the call until the engine has what is left in its hands: then it is let go of again."""
    os.environ[HELD] = "yes"
    try:
        with Engine(store=url, home=folder, runtime=InlineRuntime()) as engine:
            run = engine.resume(INTERRUPTED, code="current")
            engine.interrupt()
            for _ in range(2):  # what was said before the first one is answered is done when the second one is
                engine.look_into(lambda: None)
            del os.environ[HELD]
            run.wait()
    finally:
        os.environ.pop(HELD, None)


QUESTIONS: dict[str, Callable[[Store, str, Path], None]] = {
    "list": listed,
    "show": shown,
    "resume": resumed,
    "stats": counted,
    "gc --dry-run": gc_said,
}


def ask(url: str, folder: Path) -> dict[str, float]:
    """Seconds, the middle of REPEAT, of each question."""
    times = {}
    for name, question in QUESTIONS.items():
        took = []
        for _ in range(REPEAT):
            store = open_store(url)
            began = time.perf_counter()
            question(store, url, folder)
            took.append(time.perf_counter() - began)
            store.close()
        times[name] = statistics.median(took)
    return times


@contextmanager
def places(kind: str, folder: Path) -> Iterator[str]:
    """Where the store lies."""
    if kind == "sqlite":
        yield str(folder / "store.db")
        return
    server = Server(in_memory=False, shared_buffers="256MB", max_wal_size="4GB")
    try:
        server.start()
        yield server.url(fresh_schema())
    finally:
        server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.big_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="sqlite, postgres; both if none is named")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--largest", type=int, default=LARGEST, help="steps of the run that is resumed")
    parser.add_argument("--folder", type=Path, help="where a SQLite store is made, and kept; else it is removed")
    options = parser.parse_args()
    if unknown := [kind for kind in options.kinds if kind not in ("sqlite", "postgres")]:
        parser.error(f"no kind {unknown[0]}. There are: sqlite, postgres")
    print(machine.sentence(machine.facts()))
    for kind in options.kinds or ("sqlite", "postgres"):
        folder = options.folder or Path(tempfile.mkdtemp(prefix="dagengine-big-"))
        try:
            with places(kind, folder) as url:
                began = time.perf_counter()
                make(url, folder, options.steps, options.largest)
                print(f"{kind}: {options.steps:,} steps made in {time.perf_counter() - began:,.0f} s", flush=True)
                store = open_store(url)
                size = store.figures().bytes
                store.close()
                print(f"  {size:,} bytes, {size / options.steps:,.0f} for each step")
                for name, seconds in ask(url, folder).items():
                    print(f"  {name:14}{seconds:8.3f} s", flush=True)
        finally:
            if options.folder is None:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
