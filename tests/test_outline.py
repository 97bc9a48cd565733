"""What a workflow would call, seen without running anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from dagengine import Engine, continue_with, now, sleep, stateful, task, wait_event, workflow
from dagengine.errors import BadArguments, DefinitionError
from dagengine.model import StepKind
from dagengine.outline import CONTINUED, STEPS_MAX, Outline, outline, outline_of_run
from dagengine.testing import memory_engine

RAN: list[str] = []


@task
def extract(month: object) -> list[int]:
    RAN.append("extract")
    return [1, 2]


@task
def merge(parts: object) -> int:
    RAN.append("merge")
    return 0


@stateful
class Counter:
    def add(self, by: object) -> int:
        return 0


@workflow
def inner(month: Any) -> Any:
    return merge([extract(month)])


@workflow
def whole(year: int, months: int = 2) -> int:
    sleep("1h")
    parts = extract.map(range(2))
    counter = Counter()
    counter.add(parts[0])
    return merge([*parts, inner(months), extract.map(inner(year))])


@workflow
def halted(year: int) -> int:
    first = extract(year)
    wait_event("go")
    return merge(first)


@workflow
def by_value(count: int) -> list[list[int]]:
    return extract.map(range(count))


@workflow
def hidden(count: int) -> list[int]:
    try:
        return extract(count + 1)
    except TypeError:
        return extract(0)


@workflow
def on_and_on(step: int) -> int:
    extract(step)
    continue_with(step + 1)


@workflow
def endless(step: int) -> int:
    while True:
        extract(step)


@workflow
def broken(step: int) -> int:
    raise ValueError("of its own")


@workflow
def stuck(seconds: float = 30.0) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until and "stop" not in RAN:
        pass
    return 0


@workflow
async def awaited(year: int) -> int:
    at = now()
    assert at is not None
    return await merge(extract(year))  # type: ignore[misc,no-any-return]


@workflow
def grown() -> int:
    return merge(extract.map(extract(1)))


def _keys(found: Outline) -> list[str]:
    return [step.key for step in found.steps]


def test_the_steps_are_those_that_the_body_calls_and_nothing_runs() -> None:
    """With their keys, kinds and edges; time is sure to pass; parameters that the body passes on have stand-ins."""
    before = list(RAN)
    found = outline(whole, {})
    assert found.parameters == ("year", "months")
    assert _keys(found) == [
        "whole/sleep[0]",
        "whole/extract[0]",
        "whole/extract[1]",
        "whole/Counter[0]",
        "whole/Counter[0]/add[0]",
        "whole/inner[0]/extract[0]",
        "whole/inner[0]/merge[0]",
        "whole/inner[1]/extract[0]",
        "whole/inner[1]/merge[0]",
        "whole/extract.map[0]",
        "whole/merge[0]",
    ]
    assert [step.reads for step in found.steps] == [
        (),
        (),
        (),
        (),
        (3, 5),
        (1,),
        (7,),
        (0,),
        (9,),
        (10,),
        (3, 4, 8, 11),
    ]
    assert found.steps[9].kind is StepKind.MAP
    assert found.end == ""
    assert before == RAN


def test_what_comes_after_a_value_that_only_a_run_knows_is_not_guessed() -> None:
    """The outline says for which step the body waits."""
    found = outline(halted, {"year": 2013})
    assert _keys(found) == ["halted/extract[0]", "halted/go.event[0]"]
    assert found.end == "halted/go.event[0]"
    assert outline(awaited, {}).end == "awaited/merge[0]"


@pytest.mark.parametrize("flow", [by_value, hidden])
def test_a_parameter_whose_value_decides_about_the_steps_has_to_be_given(flow: Any) -> None:
    """It is named, also where the body handles the exception that the stand-in raised."""
    with pytest.raises(BadArguments, match=r"depends on count\. Say which value it is to have: count=…") as refused:
        outline(flow, {})
    assert refused.value.parameter == "count"  # type: ignore[attr-defined]
    assert len(outline(by_value, {"count": 3}).steps) == 3


def test_a_body_without_an_end_is_let_go_of() -> None:
    """One that goes on in another run, one that calls for ever, one that calculates."""
    assert outline(on_and_on, {"step": 1}).end == CONTINUED
    found = outline(endless, {})
    assert (len(found.steps), found.end) == (STEPS_MAX, "…")
    with pytest.raises(DefinitionError, match=r"stuck: its body has come to no end in 0.01 s"):
        outline(stuck, {"seconds": 30.0}, patience=0.01)
    RAN.append("stop")


def test_what_the_body_raises_is_told_in_one_line() -> None:
    """As the failure of the outline."""
    with pytest.raises(DefinitionError, match=r"broken: its body raises ValueError: of its own") as refused:
        outline(broken, {})
    assert "\n" not in str(refused.value)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with memory_engine() as opened:
        yield opened


def test_a_run_tells_what_only_it_knew(engine: Engine) -> None:
    """A map with its items is one step of the outline, as it is before it has run."""
    run = engine.start(grown)
    assert run.result() == 0
    recorded = outline_of_run(engine.store, engine.store.find_run(run.id))
    assert any("extract.map[0]/extract[1]" in step.key for step in run.steps())
    assert _keys(recorded) == ["grown/extract[0]", "grown/extract.map[0]", "grown/merge[0]"]
    assert recorded.same_graph(outline(grown, {}))


def test_outlines_with_other_edges_are_not_the_same() -> None:
    """What `same_graph` is asked for: whether a stand-in has led the body astray."""
    one = outline(inner, {})
    assert one.same_graph(outline(inner, {"month": 3}))
    assert not one.same_graph(outline(by_value, {"count": 2}))
