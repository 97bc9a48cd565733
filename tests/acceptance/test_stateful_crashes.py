"""A stateful run killed at every store write and at every step of an artifact on its way to disk; then resumed.

What must hold, each time: the same result, no recorded call executed as a step again, replays that only rebuild.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.acceptance.processes import await_end, of_folder
from tests.acceptance.stateful_flow import EXPECTED
from tests.acceptance.test_crashes import assert_clean, recorded
from tests.acceptance.warm import run

PROGRAM = "tests.acceptance.stateful_flow"
STRIDES = 2  # kill points are dealt out to as many tests, which run side by side


@pytest.mark.parametrize("first", range(1, STRIDES + 1))
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(1800)
def test_killed_at_every_commit_a_stateful_run_goes_on_from_the_recorded_state(
    when: str, first: int, tmp_path: Path
) -> None:
    """Each commit is a place to die at; the walk ends with the run that has fewer commits."""
    count = first
    while kill_and_resume(tmp_path / str(count), "commit", when, count):
        count += STRIDES
    assert count > 10, "the run had fewer commits than it has calls: nothing was killed"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.timeout(1800)
def test_killed_while_a_state_goes_to_disk_the_run_goes_on_from_the_one_before(when: str, tmp_path: Path) -> None:
    """Before and after each of write, fsync, rename, fsync of the folder."""
    count = 1
    while kill_and_resume(tmp_path / str(count), "artifact", when, count):
        count += 1
    assert count > 4


def kill_and_resume(folder: Path, kind: str, when: str, count: int) -> bool:
    """Run until the kill, look, resume, look again. False if the run ended before it came to be killed."""
    folder.mkdir()
    ended = run(PROGRAM, folder, "begin", kind, when, str(count))
    if ended.status == 0:
        assert ended.output.strip() == str(EXPECTED)
        return False
    assert ended.status == -signal.SIGKILL, ended.errors
    assert await_end(of_folder(folder)) == [], "processes outlived their controller"
    before = lines(folder)
    done = recorded(folder)
    if done is None:  # killed before the run itself was recorded
        assert before == []
        return True
    ended = run(PROGRAM, folder, "resume")
    if ended.status:  # killed after the very last commit: the run had succeeded
        assert "succeeded" in ended.errors, ended.errors
    else:
        assert ended.output.strip() == str(EXPECTED), ended.errors
    again = [line for line in lines(folder)[len(before) :] if line.removeprefix("step ") in done]
    assert again == [], "recorded calls were executed as steps again"
    replayed = [line for line in lines(folder) if line.startswith("again ")]
    # The call that stumbles has the state rebuilt once in each process, the resumption once: one call each at most.
    assert len(replayed) <= 4, replayed
    assert_clean(folder)
    return True


def lines(folder: Path) -> list[str]:
    ledger = folder / "ledger"
    return ledger.read_text().splitlines() if ledger.exists() else []
