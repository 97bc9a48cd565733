"""`test` and `cache`, and `run --refresh`, as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

FLOW = """\
import itertools
import pathlib

from dagengine import task, workflow

_calls = itertools.count()

@task(cache=True)
def square(x: int) -> int:
    with pathlib.Path("calls").open("a") as calls:
        calls.write("called\\n")
    return x * x

@task
def unsteady() -> int:
    return next(_calls)

@workflow
def squares(x: int) -> int:
    return square(x)

@workflow
def drifting() -> int:
    return unsteady()
"""


@pytest.fixture
def flow(home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A file of its own: a process loads each name once."""
    name = f"cached_{request.node.name.partition('[')[0]}"
    (tmp_path / f"{name}.py").write_text(FLOW)
    return f"{name}.py"


def test_a_workflow_is_killed_at_every_write(cli: Cli, flow: str) -> None:
    """The report says how often, and names what began again; --json has it as an object."""
    done = cli("test", f"{flow}:squares", "x=3", "--crash-everywhere")
    assert done.status == 0
    assert done.out.startswith("squares succeeded, with ")
    assert "squares/square[0]: after " in done.out
    found = cli("--json", "test", f"{flow}:squares", "x=3", "--crash-everywhere").json
    assert found["same"]
    assert found["crashes"] > found["writes"]


def test_a_difference_is_one_line_and_a_failure(cli: Cli, flow: str) -> None:
    """It says after which write, and what differs."""
    done = cli("test", f"{flow}:drifting", "--crash-everywhere")
    assert (done.status, done.out) == (1, "")
    assert "after a crash before write 1" in done.err
    assert "without a crash" in done.err
    found = cli("--json", "test", f"{flow}:drifting", "--crash-everywhere")
    assert found.status == 1
    assert not found.json["same"]


def test_a_task_that_may_run_once_only_is_named_on_the_command_line(cli: Cli, flow: str) -> None:
    """--once makes a failure of what is only reported without."""
    done = cli("test", f"{flow}:squares", "x=3", "--crash-everywhere", "--once", "square")
    assert done.status == 1
    assert "square may not" in done.err


def test_a_store_with_runs_in_it_is_not_tested_on(cli: Cli, flow: str) -> None:
    """Tests make stores of their own; one line says which kinds there are."""
    done = cli("test", f"{flow}:squares", "x=3", "--store", "my.db")
    assert done.status == 2
    assert "test makes stores of its own: --store memory: or sqlite:" in done.err


def test_values_are_shared_listed_refreshed_and_removed(cli: Cli, flow: str, tmp_path: Path) -> None:
    """From the first run's value to the empty cache."""
    calls = tmp_path / "calls"
    run = ("run", "--workers", "1", "-q", f"{flow}:squares", "x=3")
    assert cli(*run).status == cli(*run).status == 0
    assert calls.read_text() == "called\n"
    [entry] = cli("--json", "cache", "ls").json
    assert entry["task"] == "square"
    assert cli("cache", "ls").out.splitlines()[1].startswith(entry["key"][:12])
    assert "  argument x: " in cli("cache", "explain", "square").out
    assert "the value of run" in cli("explain", "@last", "squares/square[0]").out
    assert cli(*run, "--refresh", "square").status == 0
    assert calls.read_text() == "called\n" * 2
    assert cli("cache", "rm", "--all", "--older", "1d").out == "0 values removed\n"
    assert cli("cache", "rm", "square").out == "1 value removed\n"
    assert json.loads(cli("--json", "cache", "ls").out) == []
    gone = cli("cache", "rm", "square")
    assert gone.status == 1
    assert gone.err == (
        "error: there is nothing in the cache of a task or with a key square. To see: dagengine cache ls\n"
    )


def test_what_to_remove_has_to_be_said(cli: Cli) -> None:
    """Names, or all of them; and an age that is one."""
    assert "name tasks or keys, or say --all" in cli("cache", "rm").err
    assert "is no length of time" in cli("cache", "rm", "--all", "--older", "soon").err
