"""Stores that the code of each schema revision has left in the middle of a run: upgraded, then resumed, they end rightly."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from dagengine.cli.app import app
from dagengine.engine import Engine
from dagengine.errors import StoreOutdated
from dagengine.model import StepState
from dagengine.runtime import InlineRuntime
from dagengine.storage import open_store, revisions, upgrade
from dagengine.storage.interface import RunFilter
from dagengine.storage.postgres import PostgresStore
from dagengine.storage.postgres_url import parse
from tests.migrations.old_flow import RESULT
from tests.migrations.old_stores import DIES, OLD, STORES, WAITS, make, upgrading
from tests.postgres.server import fresh_schema, shared
from tests.postgres.test_opening import schema_of
from tests.storage.kit import PATIENCE

_ALL = RunFilter()
KINDS = ("sqlite", "postgres")
LAST = revisions.REVISIONS[-2]


@pytest.fixture(params=KINDS)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be made."""
    return shared().url(fresh_schema()) if request.param == "postgres" else str(tmp_path / "store.db")


def goes_on(url: str, home: Path) -> None:
    """What was recorded stays as it was, by the same attempts; the rest is done, and the result is right."""
    with Engine(url, home=home, artifacts=home / "artifacts", runtime=InlineRuntime()) as engine:
        [run] = engine.store.runs(_ALL)
        before = {step.key: step for step in engine.store.steps(run.number) if step.state is StepState.SUCCEEDED}
        assert len(before) == 9
        assert engine.resume(run.id).result() == RESULT
        after = {step.key: step for step in engine.store.steps(run.number)}
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == {"old/total[0]"}


def until_it_waits(kind: str, process: subprocess.Popen[str]) -> None:
    """For a lock that another process holds."""
    while process.poll() is None:
        if kind == "postgres" and shared().run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            return
        waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if " -> " in line]
        if any(fields[2] == "FLOCK" and fields[5] == str(process.pid) for fields in waiting):
            return
        time.sleep(0.01)  # it may still be importing
    raise AssertionError("it did not wait")


def test_there_is_a_store_of_each_revision() -> None:
    """Whoever adds a revision keeps stores of the one before it."""
    assert tuple(sorted(file.stem for file in STORES.glob("*.sql"))) == revisions.REVISIONS[:-1]
    assert tuple(sorted(file.stem for file in STORES.glob("postgres/*.sql"))) == revisions.REVISIONS[2:-1]


@pytest.mark.parametrize(("kind", "revision"), OLD)
def test_an_old_store_is_upgraded_and_its_run_goes_on(kind: str, revision: str, tmp_path: Path) -> None:
    """It is refused as it is, saying what to do; upgraded, it is worked on as if it had always been of today."""
    url = make(kind, revision, tmp_path)
    with pytest.raises(StoreOutdated, match="dagengine db upgrade"):
        open_store(url)
    assert upgrade(url) == (revision, revisions.CURRENT)
    goes_on(url, tmp_path)


@pytest.mark.parametrize("revision", [revision for kind, revision in OLD if kind == "postgres"])
def test_an_upgraded_server_has_the_schema_of_a_new_one(revision: str, tmp_path: Path) -> None:
    """Tables, columns, indexes and what marks them as ours. (Of files `test_revisions` says so.)"""
    old, new = make("postgres", revision, tmp_path), shared().url(fresh_schema())
    upgrade(old)
    PostgresStore(new).close()
    assert schema_of(parse(old).schema) == schema_of(parse(new).schema)


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_that_is_killed_has_not_happened(kind: str, tmp_path: Path) -> None:
    """Killed just before it was committed: the store is the old one, and the next upgrade is the first."""
    url = make(kind, LAST, tmp_path)
    killed = upgrading(url, DIES)
    assert killed.communicate(timeout=PATIENCE)[0] == ""
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(StoreOutdated):
        open_store(url)
    assert upgrade(url) == (LAST, revisions.CURRENT)
    goes_on(url, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_upgrades_at_once_one_waits(kind: str, tmp_path: Path) -> None:
    """The second begins while the first is half-way, and finds nothing left to do."""
    url = make(kind, LAST, tmp_path)
    first = upgrading(url, WAITS)
    assert first.stdout is not None
    assert first.stdout.readline() == "half-way\n"
    second = upgrading(url, "print('begun', flush=True)")
    assert second.stdout is not None
    assert second.stdout.readline() == "begun\n"
    until_it_waits(kind, second)
    told, _ = first.communicate("go on\n", timeout=PATIENCE)
    found, _ = second.communicate(timeout=PATIENCE)
    assert (first.returncode, second.returncode) == (0, 0)
    assert told == f"{LAST} {revisions.CURRENT}\n"
    assert found.split()[1:] == [revisions.CURRENT]
    goes_on(url, tmp_path)


def test_of_two_processes_that_open_a_new_store_one_makes_it(empty: str) -> None:
    """Four at once, on each database: all of them find the same tables."""
    opening = [
        upgrading(empty, "from dagengine.storage import open_store\n" + f"open_store({empty!r}).close()")
        for _ in range(4)
    ]
    assert [process.communicate(timeout=PATIENCE)[0].split() for process in opening] == [[revisions.CURRENT] * 2] * 4


def test_what_lists_makes_no_tables() -> None:
    """A question of an empty database is answered from nothing, and leaves it as it is."""
    schema = fresh_schema()
    for words in (["ls"], ["db", "stats"], ["gc", "--dry-run"], ["doctor"]):
        CliRunner().invoke(app, [*words, "--store", shared().url(schema)])
    asked = f"SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'"
    assert shared().run(asked) == [(0,)]
    PostgresStore(shared().url(schema)).close()
    assert shared().run(asked) == [(1,)]
