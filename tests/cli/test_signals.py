"""`dagengine signal`, `approve`, `reject`, and what is shown of a run that waits without a process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dagengine
from dagengine import gather
from dagengine.approvals import start_approval
from dagengine.engine import Engine
from dagengine.model import RunState, StepState
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from tests.cli.conftest import Cli


@dagengine.workflow
def orders() -> tuple[object, str]:
    paid = dagengine.wait_event("paid", timeout="2d")
    return paid, dagengine.wait_approval("release").why


@dagengine.workflow
def two_questions() -> tuple[str, str]:
    first, second = start_approval("tests", None), start_approval("legal", None)
    answers = gather([first, second])
    return answers[0].by, answers[1].by


def waiting(engine: Engine) -> Run[tuple[object, str]]:
    run = engine.start(orders)
    while run.state is not RunState.WAITING:
        assert not run.wait(0.002)
    return run


def test_what_is_typed_reaches_the_run_and_wakes_it(cli: Cli, home: Path) -> None:
    """Also when another process, or this one, has let go of it; the same id again is no second signal."""
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = waiting(engine)
        said = cli("signal", run.id[:8], "paid", '{"amount": 12.5}', "--id", "mail-7")
        assert (said.status, said.out) == (0, f"run {run.id[:8]}: paid sent\n")
        assert "was sent before" in cli("signal", run.id, "paid", "--id", "mail-7").out
        said = cli("approve", run.id, "release", "--by", "ada", "--why", "tested", "--json")
        assert said.json == {"id": run.id, "name": "release", "approved": True, "by": "ada", "why": "tested"}
        assert run.result() == ({"amount": 12.5}, "tested")
        late = cli("signal", run.id, "paid", "text")
        assert late.status != 0
        assert late.err.count("\n") == 1
        assert "has succeeded" in late.err


def test_an_approval_needs_no_name_where_one_is_asked_for(cli: Cli, home: Path) -> None:
    """Where several are, one has to be named."""
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = engine.start(two_questions)
        while run.state is not RunState.WAITING:
            assert not run.wait(0.002)
        said = cli("approve", run.id[:8])
        assert said.status == 2
        assert "asks for tests, legal. Name one." in said.err
        assert "tests approved by ada" in cli("approve", run.id[:8], "tests", "--by", "ada").out
        while len(engine.store.steps(engine.store.find_run(run.id).number, states=[StepState.WAITING])) == 2:
            assert not run.wait(0.002)
        assert "legal approved by bob" in cli("approve", run.id[:8], "--by", "bob").out
        assert run.result() == ("ada", "bob")


def test_what_nothing_waits_for_is_kept_and_said_so(cli: Cli, home: Path) -> None:
    """`approve` at a run that asked for nothing yet, and a slip of the pen, looked like any other answer."""
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = waiting(engine)
        said = cli("signal", run.id, "payd")
        assert said.out == f"run {run.id[:8]}: payd sent\n"
        assert said.err == "it does not wait for payd yet: this is kept until it does; now it waits for paid\n"
        assert cli("approve", run.id).err == "it does not wait for approval yet: this is kept until it does\n"
        assert cli("approve", run.id, "release", "--why", "early").status == 0
        assert cli("signal", run.id, "paid", "1").err == ""
        assert run.result() == (1, "early")


def test_the_second_answer_to_a_question_is_told_that_it_came_second(cli: Cli, home: Path) -> None:
    """Two people at once: whoever comes second is not to believe that the run does what he said."""
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = waiting(engine)
        cli("approve", run.id, "release", "--why", "early")
        said = cli("reject", run.id, "release")
        assert (said.status, said.err) == (
            0,
            "another answer came before it, and counts: this one is kept for the next time that the run asks\n",
        )
        assert cli("signal", run.id, "paid", "1").err == ""
        assert run.result() == (1, "early")


def test_a_run_that_waits_says_for_what_and_until_when(cli: Cli, home: Path) -> None:
    """In `ls`, `show` and `explain`, whether or not anybody has it; cancelling it ends it at once."""
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = waiting(engine)
        assert re.search("waiting, (2 d|47 h) .* more", cli("ls").out)
        (listed,) = cli("ls", "--json").json
        assert listed["waiting"]["steps"] == [{"key": "orders/paid.event[0]", "waits_for": "the signal paid"}]
        assert "for the signal paid" in cli("show", run.id).out
        assert "for the signal paid" in cli("explain", run.id).out
        assert cli("wait", run.id, "--timeout", "0").status == 124
        assert cli("cancel", run.id).status == 0
        run.wait()
        assert run.state is RunState.CANCELLED


@pytest.mark.parametrize("words", [("@nothing.json",), ("@broken.json",), ("@huge.json",)])
def test_a_payload_that_cannot_be_sent_is_refused_in_one_line(cli: Cli, home: Path, words: tuple[str, ...]) -> None:
    """A file that is not there, that is no JSON, that is a gigabyte large."""
    Path("broken.json").write_text("{")
    with Path("huge.json").open("wb") as file:
        file.truncate(1024**3)
    with Engine(home=home, runtime=InlineRuntime()) as engine:
        run = engine.start(orders)
        said = cli("signal", run.id, "paid", *words)
        assert (said.status, said.err.count("\n")) == (2, 1)
        run.cancel()
