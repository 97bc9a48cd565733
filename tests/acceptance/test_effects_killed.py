"""Killed (SIGKILL, workers and all) around its commits, a run of effects has each of them once, and undoes what is to be undone."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from dagengine.storage import open_store
from dagengine.storage.interface import RunFilter
from tests.acceptance.crash_flow import place_of
from tests.acceptance.effects_flow import world
from tests.acceptance.processes import await_end, of_folder
from tests.acceptance.warm import run
from tests.postgres.server import fresh_schema, shared

PROGRAM = "tests.acceptance.effects_flow"
END = "failed moved [100]"
STRIDE = 6
"""Every place to die at is walked in one process by tests/semantics; here are some of them, in real processes."""


@pytest.mark.parametrize(
    ("url", "when", "first"), [("sqlite", "before", 6), ("sqlite", "after", 9), ("postgres", "before", 7)]
)
@pytest.mark.timeout(1800)
def test_killed_around_its_commits_every_effect_counts_once(url: str, when: str, first: int, tmp_path: Path) -> None:
    """The walk ends with the run that has fewer commits."""
    count = first
    while killed_and_resumed(
        tmp_path / str(count), when, count, shared().url(fresh_schema()) if url == "postgres" else ""
    ):
        count += STRIDE
    assert count > first, "the run had fewer commits than it has effects: nothing was killed"


def killed_and_resumed(folder: Path, when: str, count: int, url: str) -> bool:
    folder.mkdir()
    if url:
        (folder / "store-url").write_text(url)
    ended = run(PROGRAM, folder, "begin", "commit", when, str(count))
    assert await_end(of_folder(folder)) == []
    if ended.status == 0:
        assert ended.output.strip() == END, ended.errors
        assert_once(folder, crashed=False)
        return False
    assert ended.status == -signal.SIGKILL, ended.errors
    ended = run(PROGRAM, folder, "resume")
    assert ended.output.strip() == END, ended.errors
    assert_once(folder, crashed=True)
    return True


def assert_once(folder: Path, crashed: bool) -> None:
    """One job, submitted once; a part again only where the process died right after it; the steps undone once."""
    assert world(str(folder), "SELECT submitted FROM job") == [(1,)]
    done = Counter(what for (what,) in world(str(folder), "SELECT what FROM ledger"))
    assert sum(done.values()) <= 2 + crashed
    assert set(done) == {"one", "two"}
    store = open_store(place_of(folder))
    try:
        (run,) = store.runs(RunFilter())
        undone = [step for step in store.steps(run.number) if step.kind == "undo"]
        assert [(step.key, step.state) for step in undone] == [("effects/move_there[0]/undo", "succeeded")]
        address = store.address
    finally:
        store.close()
    assert address is not None
    assert moved(folder, address, run.id) == [-100, 100]


def moved(folder: Path, address: str, run_id: str) -> list[int]:
    if address.startswith("postgresql:"):
        rows = shared().run(f"SELECT amount FROM public.moved_by_effects WHERE run = '{run_id}'")
        return sorted(amount for (amount,) in rows)
    import sqlite3

    connection = sqlite3.connect(address)
    try:
        rows = connection.execute("SELECT amount FROM moved_by_effects WHERE run = ?", (run_id,)).fetchall()
    finally:
        connection.close()
    return sorted(amount for (amount,) in rows)
