"""Heartbeats: what a task says of its progress, and the end of one that is silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagengine import Engine, RunState, context, task, workflow
from dagengine.storage.beats import beats
from dagengine.views import run_view

HOUR = 3600.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1) as opened:
        yield opened


@task(heartbeat_timeout=2.0, retries=2, retry_delay=0.0)
def falls_silent() -> int:
    here = context()
    here.heartbeat()
    if here.attempt == 1:
        time.sleep(HOUR)
    return here.attempt


@workflow
def silent_once() -> int:
    return falls_silent()


def test_a_silent_attempt_is_ended_and_tried_again(engine: Engine) -> None:
    """Its worker is killed; the failure is a timeout that says which."""
    run = engine.start(silent_once)
    assert run.result() >= 2
    first, *_, last = engine.store.attempts(run._driver.claim.run_number)
    assert (first.outcome, last.outcome) == ("timeout", "succeeded")
    assert first.failure is not None
    assert "no heartbeat for 2 s" in first.failure.message


@task(heartbeat_timeout=3.0)
def speaks(folder: str) -> None:
    """For longer than its timeout, and then until it was looked at."""
    begun = time.monotonic()
    while time.monotonic() - begun < 3.5 or not Path(folder, "seen").exists():
        context().heartbeat({"rows": 7})
        time.sleep(0.01)


@workflow
def speaking(folder: str) -> None:
    return speaks(folder)


def test_progress_can_be_seen_while_the_task_runs(engine: Engine, tmp_path: Path) -> None:
    """From the store, so from another process, too; a task that speaks is not ended, and then the row goes."""
    run = engine.start(speaking, str(tmp_path))
    number = run._driver.claim.run_number
    while not beats(engine.store, number):
        assert not run.wait(0.01), run.failure
    (beat,) = beats(engine.store, number).values()
    assert (beat.seq, beat.attempt, beat.progress) == (0, 1, {"rows": 7})
    while not (seen := run_view(engine.store, engine.store.find_run(run.id))["heartbeats"]):
        assert not run.wait(0.01), run.failure
    assert seen[0]["progress"] == {"rows": 7}
    (tmp_path / "seen").touch()
    run.wait()
    assert run.state is RunState.SUCCEEDED
    assert beats(engine.store, number) == {}
