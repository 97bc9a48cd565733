"""What is told of a run while it goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dagengine import context, task, workflow
from dagengine.core.actions import Notice
from dagengine.driver import Driver
from dagengine.engine import Engine
from dagengine.progress import TaskProgress
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.writes import Write


@task
def fine() -> int:
    return 1


@task
def broken() -> int:
    raise ValueError("no")


@task(retries=1, retry_delay=3600)
def patient() -> int:
    if context().attempt == 1:
        raise OSError("later")
    return 1


@task
def after(value: int) -> int:
    return value


@workflow
def mixed() -> list[int]:
    return [fine(), fine(), after(broken())]


@workflow
def waits_long() -> int:
    return patient()


def counts(run: Run[object]) -> dict[str, TaskProgress]:
    return {progress.task: progress for progress in run.progress().tasks}


def test_each_task_is_counted_and_failures_are_noticed(engine: Engine) -> None:
    """Done, failed, skipped; one line for people."""
    run = engine.start(mixed)
    run.wait()
    found = counts(run)
    assert (found["fine"].total, found["fine"].done, found["fine"].running) == (2, 2, 0)
    assert (found["broken"].failed, found["after"].skipped) == (1, 1)
    assert run.progress().notices == ("mixed/broken[0] failed: ValueError: no",)


def test_a_step_that_waits_for_its_next_attempt_is_counted_as_such(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the attempt, or the end of the run."""
    told = threading.Event()
    tell = Driver._tell

    def tell_and_say_so(driver: Driver, notice: Notice) -> Write:
        write = tell(driver, notice)
        told.set()
        return write

    monkeypatch.setattr(Driver, "_tell", tell_and_say_so)
    run = engine.start(waits_long)
    assert told.wait(300)
    assert counts(run)["patient"].retrying == 1
    run.cancel()
    run.wait()
    assert (counts(run)["patient"].retrying, counts(run)["patient"].skipped) == (0, 1)


def test_a_resumed_run_knows_what_was_done_before(tmp_path: Path) -> None:
    """So that nobody announces it again."""
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(mixed)
        run.wait()
        again = engine.resume(run.id)
        again.wait()
    assert counts(again)["fine"].before == 2
    assert counts(again)["broken"].before == 0
