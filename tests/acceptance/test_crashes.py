"""Killed at every store write, before and after it, and at every step of an artifact on its way to disk; then resumed.

The whole process group dies (SIGKILL), controller, workers and all. What must hold, each time: the same result, no
recorded step executed again, and nothing left behind.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from dagengine.model import StepState
from dagengine.storage import open_store
from dagengine.storage.interface import RunFilter
from tests.acceptance.crash_flow import EXPECTED, place_of
from tests.acceptance.processes import await_end, of_folder
from tests.acceptance.warm import run

PROGRAM = "tests.acceptance.crash_flow"
STRIDES = 4  # kill points are dealt out to as many tests, which run side by side


@pytest.mark.parametrize("first", range(1, STRIDES + 1))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(1800)
def test_killed_at_every_commit_the_run_goes_on_without_repeating_a_step(when: str, first: int, tmp_path: Path) -> None:
    """Each commit of the run is a place to die at; the walk ends with the run that has fewer commits."""
    count = first
    while kill_and_resume(tmp_path / str(count), "commit", when, count):
        count += STRIDES
    assert count > 2 * STRIDES, "the run had fewer commits than it has steps: nothing was killed"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(1800)
def test_killed_while_an_artifact_goes_to_disk_the_run_goes_on(when: str, tmp_path: Path) -> None:
    """Before and after each of write, fsync, rename, fsync of the folder."""
    count = 1
    while kill_and_resume(tmp_path / str(count), "artifact", when, count):
        count += 1
    assert count > 4


def kill_and_resume(folder: Path, kind: str, when: str, count: int, url: str = "") -> bool:
    """Run until the kill, look, resume, look again. False if the run ended before it came to be killed.

    `url`: of the store, if it is not a file.
    """
    folder.mkdir()
    if url:
        (folder / "store-url").write_text(url)
    ended = run(PROGRAM, folder, "begin", kind, when, str(count))
    assert await_end(of_folder(folder)) == [], "processes outlived their controller"
    if ended.status == 0:
        assert ended.output.strip() == str(EXPECTED)
        return False
    assert ended.status == -signal.SIGKILL, ended.errors
    before = executed(folder)
    done = recorded(folder)
    if done is None:  # killed before the run itself was recorded: there is nothing to resume, and nothing half-made
        assert before == Counter()
        return True
    ended = run(PROGRAM, folder, "resume")
    if ended.status:  # killed after the very last commit: the run had succeeded
        assert "succeeded" in ended.errors, ended.errors
    else:
        assert ended.output.strip() == str(EXPECTED), ended.errors
    assert await_end(of_folder(folder)) == []
    again = {key for key in done if executed(folder)[key] > before[key]}
    assert again == set(), "recorded steps were executed again"
    assert_clean(folder)
    return True


def executed(folder: Path) -> Counter[str]:
    """How often each step was begun, from the ledger."""
    ledger = folder / "ledger"
    return Counter(ledger.read_text().split()) if ledger.exists() else Counter()


def recorded(folder: Path) -> set[str] | None:
    """The keys of the steps whose end is in the store and stands; None if there is no run."""
    store = open_store(place_of(folder))
    try:
        runs = store.runs(RunFilter())
        if not runs:
            return None
        steps = store.steps(runs[0].number)
        kept = {step.key for step in steps if step.state is StepState.SUCCEEDED}
        return kept | {call.key for call in store.recorded_calls(runs[0].number) if call.handled}
    finally:
        store.close()


def assert_clean(folder: Path) -> None:
    """No temporary file, socket or scratch folder is left."""
    left = [
        path
        for place in ("tmp", "artifacts/tmp", "control")
        for path in (folder / place).rglob("*")
        if not path.is_dir() or place == "tmp"
    ]
    assert left == []
