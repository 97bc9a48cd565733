"""A fork with today's code of a workflow that no name leads to: a function in a function, as the tasks of DAGs are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dagengine import Engine, task, workflow
from dagengine.functions import Reference, stand_for, today
from dagengine.runtime.inline import InlineRuntime
from dagengine.workflows import Workflow


@task
def doubled(x: int) -> int:
    return 2 * x


def made(more: int) -> Workflow[..., Any]:
    """The workflow as somebody has written it, and as it was changed."""

    @workflow
    def total(x: int) -> list[int]:
        return [doubled(x), doubled(more)]

    return total


def test_a_fork_with_todays_code_calls_todays_body(tmp_path: Path) -> None:
    """What this process has said that the function is; without code="current" it is the one that was recorded."""
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        first = engine.start(made(1), 5)
        assert first.result() == [10, 2]
        stand_for(made(100))
        assert engine.fork(first.id).result() == [10, 2]
        fork = engine.fork(first.id, code="current", from_=["total/doubled[1]"])
        assert fork.result() == [10, 200]
        assert engine.fork(fork.id).result() == [10, 200]


def test_only_what_travels_by_value_has_another_meaning_today() -> None:
    """A function that a name leads to is found by its name; one of which nothing was said is the recorded one."""
    by_name, unsaid = Reference("jobs", "nightly"), Reference("jobs", "f.<locals>.g", pickled="00")
    assert today(by_name) == by_name
    assert today(unsaid) == unsaid
