"""Which function a step calls in another process: what its name leads to there, or, where that is another one, itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from dagengine import Engine, RunFailed, gather, get, task, workflow
from dagengine.errors import DefinitionError
from dagengine.functions import Reference, has_name, refer, resolve

BEGUN: list[str] = []


@task(cache=True)
def twice(x: int) -> str:
    return f"old {x}"


old = twice


@task(cache=True)  # type: ignore[no-redef]
def twice(x: int) -> str:
    return f"new {x}"


in_a_loop = []
for number in range(3):

    @task(cache=True)
    def looped(x: int, number: int = number) -> int:
        return 10 * number + x

    in_a_loop.append(looped)


def one_more(function: Callable[[int], Any]) -> Callable[[int], Any]:
    @functools.wraps(function)
    def around(x: int) -> Any:
        return function(x + 1)

    return around


def one_more_in_secret(function: Callable[[int], Any]) -> Callable[[int], Any]:
    return lambda x: function(x + 1)


@one_more
@task
def wrapped(x: int) -> int:
    return x


@one_more_in_secret
@task
def hidden(x: int) -> int:
    return x


@task
@one_more
def inside(x: int) -> int:
    return x


named_otherwise = task(lambda x: -x)
power = task(functools.partial(pow, 2))
upper = task(str.upper)
pairs: Any = task(dict)


def fails(name: str) -> None:
    BEGUN.append(name)
    raise ValueError(name)


plain = task(fails)
only_keys = task(retries=2, retry_delay=0, retry_on=KeyError)(fails)


@task(retries=2, retry_delay=0, retry_on=KeyError)
def fails_with_values(name: str) -> None:
    fails(name)


@workflow
def all_of_them() -> list[Any]:
    calls: list[Any] = [old(1), twice(1), *(each(1) for each in in_a_loop), wrapped(1), hidden(1), inside(1)]
    return gather([*calls, named_otherwise(1), power(3), upper("a"), pairs(a=1)])


@workflow
def retried() -> None:
    calls = (
        only_keys("by the wrapper's"),
        fails_with_values("by the definition's"),
        fails_with_values.options(retry_on=ValueError)("by the call's"),
        plain.options(retries=1, retry_delay=0, retry_on=lambda error: "that" in str(error))("that one"),
        plain.options(retries=1, retry_delay=0, retry_on=lambda error: "that" in str(error))("this one"),
    )
    gather(calls, return_exceptions=True)


def test_a_step_calls_the_function_that_the_body_called(engine: Engine) -> None:
    """A user's three tasks of one loop all ran the last one, without a word: their names led there."""
    expected = ["old 1", "new 1", 1, 11, 21, 2, 2, 2, -1, 8, "A", {"a": 1}]
    assert engine.start(all_of_them).result() == expected
    assert engine.start(all_of_them).result() == expected, "the cache took one for the other"


def test_retry_on_is_that_of_the_call(engine: Engine) -> None:
    """`f.options(retry_on=…)` and `task(retry_on=…)(f)` were not heard of: workers asked what the name leads to."""
    BEGUN.clear()
    engine.start(retried).result()
    assert sorted(BEGUN) == sorted(
        ["by the wrapper's", "by the definition's", *3 * ["by the call's"], *2 * ["that one"], "this one"]
    )


@task
def both_ways() -> Any:
    first = fails_with_values.defer("by the definition's")
    second = fails_with_values.options(retry_on=ValueError).defer("by the call's")
    return [first, second]


@workflow
def deferred_both_ways() -> Any:
    return gather([both_ways()], return_exceptions=True)


def test_retry_on_is_that_of_the_deferred_call(engine: Engine) -> None:
    BEGUN.clear()
    with pytest.raises(RunFailed):
        engine.start(deferred_both_ways).result()
    assert sorted(BEGUN) == ["by the call's"] * 3 + ["by the definition's"]


def test_what_a_name_leads_to_is_named() -> None:
    for function in (twice, inside, test_what_a_name_leads_to_is_named, twice.options(retries=5), plain):
        reference = refer(function)
        assert reference == Reference(__name__, function.__qualname__)
    wrapped_task: Any = wrapped.__wrapped__  # type: ignore[attr-defined]
    assert refer(wrapped_task) == Reference(__name__, "wrapped")
    assert resolve(refer(wrapped_task)) is wrapped_task
    assert not has_name(old)


def test_a_transactional_task_has_to_be_found_by_its_name(engine: Engine) -> None:
    """Its database is not recorded, for the password's sake; the plain function would have been called instead."""

    @workflow
    def body() -> None:
        get(task(transactional=True)(fails)("never begun"))

    with pytest.raises(RunFailed) as failed:
        engine.start(body).result()
    assert isinstance(failed.value.__cause__, DefinitionError)
    assert "Say it where the function is defined" in str(failed.value)
