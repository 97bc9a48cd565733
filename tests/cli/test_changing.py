"""The verbs that change runs, make new ones of them, and compare them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli

FLOW = f"{Path(__file__).parent / 'flows' / 'sums.py'}:sums"


@pytest.fixture
def run(cli: Cli) -> Cli:
    """A run of two that failed for its last argument."""
    done = cli("run", FLOW, "last=99", "-q", "-w", "1", "--run-id", "bad")
    assert done.status == 1
    return cli


def test_runs_are_forked_compared_and_looked_into(run: Cli) -> None:
    """By an argument, a value, a step; what differs is told, where the time went, and when."""
    assert run("fork", "bad", "--param", "last=5", "-q", "-w", "1", "--run-id", "good").out == "11\n"
    assert run("fork", "good", "--set", "double=1", "-q", "-w", "1").out == "6\n"
    told = run("diff", "bad", "good")
    assert told.status == 1
    assert "  - sums(last=99)\n  + sums(last=5)" in told.out
    assert "sums/add[0]: failed → succeeded" in told.out
    assert "2 steps are the same" in told.out
    assert run("diff", "good", "good", "--json").json["equal"]
    assert "in run bad it has failed" in run("explain", "good", "add").out
    assert "it is shared with run bad" in run("explain", "good", "load").out
    assert "2 steps did not run here" in run("profile", "good").out
    assert [leg["key"] for leg in run("profile", "good", "--json").json["critical_path"]] == ["sums/add[0]"]
    assert "sums/load[0]" in run("timeline", "bad").out
    assert len(run("timeline", "bad", "--format", "chrome").json["traceEvents"]) >= 4


def test_a_step_is_marked_and_the_run_goes_on(run: Cli) -> None:
    """With who and why; a succeeded one is refused."""
    marked = run("mark", "bad", "add", "success", "--value", "17", "--by", "ann", "--why", "measured")
    assert (marked.status, marked.out) == (0, "sums/add[0] is marked succeeded\nto go on: dagengine resume bad\n")
    again = run("mark", "bad", "load", "skipped")
    assert again.status == 4
    assert "dagengine fork bad --set 'sums/load[0]=VALUE'" in again.err
    assert run("resume", "bad", "-q", "-w", "1").out == "17\n"


def test_a_step_is_called_again_without_a_record(run: Cli) -> None:
    """Its traceback begins in the task; one that succeeds prints what it returns."""
    failed = run("debug", "bad", "add", "--no-interactive")
    assert failed.status == 1
    assert failed.err.splitlines()[1:3] == [
        "Traceback (most recent call last):",
        f'  File "{FLOW[:-5]}", line 19, in add',
    ]
    assert run("debug", "bad", "double", "--no-interactive").out == "6\n"


MISUSES: list[tuple[list[str], int, str]] = [
    (["fork", "bad", "--from", "dobule"], 3, "Did you mean sums/double[0]?"),
    (["fork", "bad", "--set", "dobule=1"], 3, "Did you mean sums/double[0]?"),
    (["fork", "bad", "--set", "double=x"], 2, "the value of double is not JSON"),
    (["fork", "bad", "--set", "double"], 2, "sets nothing. Say STEP=VALUE"),
    (["fork", "bad", "--set", "double=@none.json"], 2, "can't be read: No such file"),
    (["fork", "bad", "--param", "lsat=1"], 2, "Did you mean last?"),
    (["retry", "bad", "load"], 4, "has succeeded: only a failed step can be retried"),
    (["mark", "bad", "add", "failed", "--value", "1"], 2, "--value goes with success"),
    (["mark", "bad", "add", "success", "--value", "{"], 2, "is not JSON"),
    (["pause", "bad"], 4, "has already ended: failed"),
    (["unpause", "bad"], 4, "is not paused, but failed"),
    (["debug", "bad", "ad"], 3, "Did you mean sums/add[0]?"),
]


def test_what_does_not_fit_gets_one_line(run: Cli) -> None:
    """That says what to do."""
    for words, status, says in MISUSES:
        done = run(*words)
        assert (done.status, done.err.count("error: ")) == (status, 1), done.err
        assert says in done.err
