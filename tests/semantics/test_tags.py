"""Tags of runs: whose they are, and who has them after that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dagengine import task, workflow
from dagengine.engine import Engine
from dagengine.errors import BadOption
from dagengine.model import RunRecord
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import RunFilter
from dagengine.tags import MOST, checked, given, tags_of, wanted


@task
def one() -> int:
    return 1


@workflow(tags={"team": "data", "level": "child"})
def child() -> int:
    return one()


@workflow(tags={"team": "ml"})
def parent() -> Any:
    return child.run()


@workflow
def many() -> list[Any]:
    return [child.tagged(level=level).limited(60.0 + len(level)).run() for level in ("low", "high", "low")]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine("memory:", runtime=InlineRuntime()) as opened:
        yield opened


def run_of(engine: Engine, workflow_name: str) -> RunRecord:
    [found] = engine.store.runs(RunFilter(name=workflow_name))
    return found


def test_a_run_has_the_tags_of_its_workflow_and_its_own(engine: Engine) -> None:
    """The ones that are said last win; a run that is submitted has them, too."""
    run = engine.start(child.tagged({"cost-centre": "7"}, level="top"))
    assert run.result() == 1
    expected = {"cost-centre": "7", "level": "top", "team": "data"}
    assert tags_of(engine.store.find_run(run.id)) == expected
    assert tags_of(engine.store.find_run(engine.submit(child, (), {}))) == {"level": "child", "team": "data"}
    assert {found.id for found in engine.store.runs(RunFilter(tags=(("level", "top"),)))} == {run.id}


def test_what_comes_from_a_run_has_its_tags(engine: Engine) -> None:
    """A child, which may say otherwise for itself; a fork; a rerun."""
    run = engine.start(parent.tagged(env="prod"))
    assert run.result() == 1
    assert tags_of(run_of(engine, "child")) == {"env": "prod", "level": "child", "team": "data"}
    for other in (engine.fork(run.id), engine.rerun(run.id)):
        other.result()
        assert tags_of(engine.store.find_run(other.id)) == {"env": "prod", "team": "ml"}
        assert other.id in {found.id for found in engine.store.runs(RunFilter(tags=wanted(["env=prod"])))}


def test_what_a_call_in_a_body_says_of_a_child_holds_for_that_child(engine: Engine) -> None:
    """Its tags and its timeout, also where another call of the same workflow says otherwise."""
    assert engine.start(many).result() == [1, 1, 1]
    found = engine.store.runs(RunFilter(name="child"))
    said = sorted((tags_of(run)["level"], run.facts["timeout"], tags_of(run)["team"]) for run in found)
    assert said == [("high", 64.0, "data"), ("low", 63.0, "data"), ("low", 63.0, "data")]


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"": "x"}, "a tag's name is ''"),
        ({"a=b": "x"}, "Leave out ="),
        ({"a": ""}, "tag a is ''"),
        ({"a": 1}, "tag a is 1"),
        ({"a": "line\n"}, "printable"),
        ({"a": "x" * 201}, "1 to 200"),
        ({str(n): "x" for n in range(MOST + 1)}, "32 at most"),
        (["a=b"], "has to be a mapping"),
    ],
)
def test_what_is_no_tag_is_refused(tags: object, why: str) -> None:
    """Where it is written, in one line."""
    with pytest.raises(BadOption, match=why) as caught:
        checked(tags)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_tags_are_typed_as_name_and_text() -> None:
    """A text may hold anything; one without a text is no tag, but can be looked for."""
    assert given(["a=b=c", "d=e f"]) == {"a": "b=c", "d": "e f"}
    assert wanted(["a", "b=c"]) == (("a", None), ("b", "c"))
    for wrong, why in ((["a"], "Say a=VALUE"), (["a=1", "a=2"], "given twice")):
        with pytest.raises(BadOption, match=why):
            given(wrong)
