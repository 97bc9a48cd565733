"""`dagengine cancel --compensate`, and how an unknown end looks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from dagengine import Engine, task, workflow
from dagengine.runtime.inline import InlineRuntime
from tests.cli.conftest import Cli


@task
def free(result: str, name: str) -> None:
    assert result == name


@task(undo=free)
def book(name: str) -> str:
    return name


@task
def pay(rooms: list[str]) -> None:
    raise ValueError("no money")


@workflow
def trip() -> None:
    return pay([book("a"), book("b")])


@task(at_most_once=True)
def launch() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@workflow
def launching() -> None:
    return launch()


@workflow
def empty() -> int:
    return 1


def test_a_failed_run_is_undone_here(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Nobody works on it, so the command does; its steps say so, and a second time there is nothing left."""
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = engine.start(trip)
        run.wait()
    for _ in range(2):
        done = cli("cancel", run.id, "--compensate", "--json")
        assert done.json["state"] == "cancelled", done.err
    steps = cli("steps", run.id, "--json").json
    assert [step["key"] for step in steps if step["kind"] == "undo"] == ["trip/book[1]/undo", "trip/book[0]/undo"]
    assert all(step["state"] == "succeeded" for step in steps if step["kind"] == "undo")


def test_what_can_not_be_compensated_is_said(cli: Cli, home: Path) -> None:
    """A run that has succeeded, and several at once: one line each."""
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = engine.start(empty)
        run.wait()
    refused = cli("cancel", run.id, "--compensate")
    assert (refused.status, "there is nothing to cancel" in refused.err) == (4, True)
    assert cli("cancel", run.id, run.id, "--compensate").status == 2


def test_an_unknown_end_is_shown_as_that(cli: Cli, home: Path) -> None:
    """In the list of steps; the failure says what to do."""
    with Engine(home=home, workers=1) as engine:
        run = engine.start(launching)
        run.wait()
    assert "? unknown" in cli("steps", run.id).out
    assert "dagengine retry" in cli("show", run.id).out
