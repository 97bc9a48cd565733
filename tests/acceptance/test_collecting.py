"""Collecting, killed at one transaction after the other, beside live runs: what is kept is whole, what goes is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Float, Integer, bindparam, func, select, update

from dagengine import get, task, workflow
from dagengine.collecting import SHARDS
from dagengine.engine import Engine
from dagengine.errors import RunConflict, RunNotFound
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.lifetime_notes import pin
from dagengine.storage.schema import METADATA, RUN
from dagengine.storage.statements import Query
from tests.postgres.server import fresh_schema, shared
from tests.storage.kit import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0
SIZE = 20_000

COLLECTS = """
import os, signal, sys
from dagengine.collecting import collect
from dagengine.retention import Retention
from dagengine.storage import open_artifacts, open_store

url, folder, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
store, artifacts = open_store(url), open_artifacts(folder + "/artifacts")
done = 0

def mortal(function, counted):
    def called(*given, **named):
        global done
        if not counted(given, named):
            return function(*given, **named)
        done += 1
        if done == last and last % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*given, **named)
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return called

store.side = mortal(store.side, lambda given, named: named.get("write", True))
artifacts.discard = mortal(artifacts.discard, lambda given, named: True)
complete = collect(store, artifacts, None, Retention(), seconds=3_600.0).complete
store.close()
sys.exit(0 if complete else 1)
"""
"""A pass that is killed at its `last` write: before it, or, of even ones, after it."""


@task
def large(number: int) -> bytes:
    return b"%06d" % number * (SIZE // 6)


@task(cache=True)
def shared_value(number: int) -> bytes:
    return b"%06d" % -number * (SIZE // 6)


@workflow
def work(number: int) -> int:
    """Three artifacts: one of its own, one that its neighbours have, too, and one that the cache keeps."""
    values = [get(large(number)), get(large(number // 10)), get(shared_value(number))]
    return sum(map(len, values)) + number


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """On each database, with artifacts in a folder."""
    url = str(tmp_path / "store.db") if request.param == "sqlite" else shared().url(fresh_schema())
    with Engine(url, home=tmp_path, artifacts=tmp_path / "artifacts", runtime=InlineRuntime()) as opened:
        yield opened


_AGE = Query(
    lambda: (
        update(RUN)
        .where(RUN.c.number == bindparam("run", type_=Integer))
        .values(created_at=bindparam("at", type_=Float), finished_at=bindparam("ended", type_=Float))
    )
)


def run_of(engine: Engine, number: int, days: float) -> str:
    """A run that ended so many days ago."""
    run = engine.start(work, number)
    assert run.result() == expected(number)
    age(engine, run.id, days)
    return run.id


def expected(number: int) -> int:
    return 3 * (SIZE // 6 * 6) + number


def age(engine: Engine, run_id: str, days: float) -> None:
    number, at = engine.store.find_run(run_id).number, time.time() - days * DAY
    engine.store.side(lambda connection: _AGE(connection, run=number, at=at, ended=at) and None)


def collect_and_die(url: str, folder: Path, last: int) -> int:
    """The exit status of a pass."""
    command = [sys.executable, "-c", COLLECTS, url, str(folder), str(last)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=PATIENCE).returncode


def left_of(engine: Engine, numbers: list[int]) -> dict[str, int]:
    """Rows of these runs, by table."""
    found: dict[str, int] = {}
    for table in METADATA.sorted_tables:
        if "run" in table.c:
            of = bindparam("of", type_=Integer)
            counted = Query(lambda t=table, of=of: select(func.count()).where(t.c.run == of))  # type: ignore[misc]
            rows = sum(engine.store.ask(counted, of=number)[0][0] for number in numbers)
            found |= {table.name: rows} if rows else {}
    return found


def test_killed_at_any_write_beside_live_runs_it_takes_only_what_may_go(engine: Engine, tmp_path: Path) -> None:
    """Passes die at their first write, their second, fourth, … until one gets through; runs begin and end all the while."""
    old = [run_of(engine, number, 100) for number in (500, 501, 502)]
    expired = run_of(engine, 11, 20)
    donor = run_of(engine, 21, 100)
    fork = engine.fork(donor, from_=["shared_value"])
    kept = {fork.id: 21, run_of(engine, 5, 100): 5, run_of(engine, 31, 1): 31}
    assert fork.result() == expected(21)
    store = engine.store
    pin(store, store.find_run(next(run for run, number in kept.items() if number == 5)).number, 0.0, "ada", "")
    for file in (tmp_path / "artifacts").glob("??/*"):
        os.utime(file, (0, 0))
    numbers = [store.find_run(run).number for run in (*old, donor)]
    theirs = {digest for number in numbers[:3] for digest, _ in store.artifacts_of(number)}
    live: dict[str, int] = {}
    over = threading.Event()

    def keep_running() -> None:
        """Some of their artifacts are those of runs that go."""
        for number in range(10_000):
            run = engine.start(work, number % 40)
            assert run.result() == expected(number % 40)
            live[run.id] = number % 40
            if over.is_set():
                return

    beside = threading.Thread(target=keep_running)
    beside.start()
    try:
        address = store.address
        assert address is not None
        ends = []
        for step in range(100):
            ends.append(collect_and_die(address, tmp_path, 1 + step * (step + 1) // 2))
            if ends[-1] == 0:
                break
    finally:
        over.set()
        beside.join()
    assert ends == [-signal.SIGKILL] * (len(ends) - 1) + [0]
    assert len(ends) > 4
    for run_id in (*old, donor):
        with pytest.raises(RunNotFound):
            store.find_run(run_id)
    assert left_of(engine, numbers) == {}
    with pytest.raises(RunConflict, match="rerun"):
        engine.fork(expired)
    # Theirs were three each, the neighbours' common one and what the cache has of each.
    assert sum(not engine.artifacts.exists(digest) for digest in theirs) == 4
    values_are_there(engine, {**kept, **dict(list(live.items())[-40:])})
    named = store.payloads()
    for shard in SHARDS:
        there = [found.digest for found in engine.artifacts.listed(shard)]
        assert set(there) - named - store.referenced(there) == set()


def values_are_there(engine: Engine, runs: dict[str, int]) -> None:
    """Of each step of each run, as they were; and what the cache has is still had."""
    for run_id, number in runs.items():
        record = engine.store.find_run(run_id)
        steps = engine.store.steps(record.number)
        for value in engine.store.values(record.number, [step.seq for step in steps]).values():
            if value.inline is None:
                assert Path(engine.artifacts.local_path(value.digest, value.size)).stat().st_size == value.size
        assert engine.start(work, number).result() == expected(number)
