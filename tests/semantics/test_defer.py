"""Tasks that return calls to be made after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dagengine import get, task, workflow
from dagengine.engine import Engine
from dagengine.errors import BadArguments, DefinitionError, RefMisuse, RunFailed, TooDeep
from dagengine.model import RunState, StepState
from dagengine.run import Run
from dagengine.testing import memory_engine
from tests.engines import opened
from tests.semantics.conftest import Everywhere

SEEN: list[Any] = []
FLAGS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def clean() -> None:
    SEEN.clear()
    FLAGS.clear()


@task
def add(left: int, right: int) -> int:
    SEEN.append((left, right))
    if FLAGS.get("fail") == (left, right):
        raise ValueError("not today")
    return left + right


@task
def fib(n: int) -> int:
    return n if n < 2 else add.defer(fib.defer(n - 1), fib.defer(n - 2))


@task
def down(n: int) -> int:
    return n if n == 0 else down.defer(n - 1)


@task(retries=1, retry_delay=0)
def second_time(n: int) -> int:
    SEEN.append("try")
    later = add.defer(n, n)
    if SEEN.count("try") < 2:
        raise ValueError("the first time")
    return later


@task(checkpoint=False)
def light(n: int) -> int:
    SEEN.append(("light", n))
    return n


@task
def one_light(n: int) -> int:
    return light.defer(light.defer(n))


@task(checkpoint=False)
def light_that_defers(n: int) -> int:
    return add.defer(n, n)


@task
def shaped(kind: str) -> Any:
    one, two = add.defer(1, 1), add.defer(2, 2)
    shapes = {
        "one": one,
        "list": [one, two],
        "list of what others read": [one, add.defer(one, two)],
        "list of what reads": [add.defer(one, two), add.defer(two, one)],
        "twice": [one, one],
        "tuple": (one, two),
        "dict": {"one": one, "more": [two, {"again": one}], "plain": 5},
        "mixed list": [one, 5],
    }
    return shapes[kind]


SHAPES = {
    "one": 2,
    "list": [2, 4],
    "list of what others read": [2, 6],
    "list of what reads": [6, 6],
    "twice": [2, 2],
    "tuple": (2, 4),
    "dict": {"one": 2, "more": [4, {"again": 2}], "plain": 5},
    "mixed list": [2, 5],
}


@task
async def shaped_later() -> Any:
    return [add.defer(1, 1), add.defer(1, 2)]


@task
def misuse(how: str) -> Any:
    later = add.defer(1, 1)
    if how == "calculate":
        return later + 1
    if how == "truth":
        return 1 if later else 2
    if how == "stash":
        FLAGS["stashed"] = later
        return 1
    if how == "stashed":
        return FLAGS["stashed"]
    if how == "arguments":
        return cast(Any, add).defer(1)
    if how == "twice the key":
        named = add.options(key="a")
        return [named.defer(1, 1), named.defer(1, 2)]
    return cast(Any, add).defer(1, bytes(40_000_000))


@workflow
def one(function: Any, *args: Any) -> Any:
    return add(0, 1), function(*args)


@workflow
def total(n: int) -> Any:
    return add(fib(n), 1)


@workflow
def mapped(numbers: list[int]) -> Any:
    return fib.map(numbers), shaped_later()


@workflow
def in_the_body() -> Any:
    return add.defer(1, 1)


@workflow
def branching(n: int) -> str:
    return "many" if get(fib(n)) > 5 else "few"


def keys(run: Run[Any]) -> dict[str, StepState]:
    return {step.key: step.state for step in run.steps()}


def test_a_task_may_return_calls_that_return_calls() -> None:
    """Recursion: each step ends with the value of what it deferred, and whoever reads it gets that."""
    with memory_engine() as engine:
        assert engine.start(total, 6).result() == 9
        assert engine.start(branching, 6).result() == "many"


@pytest.mark.parametrize("kind", SHAPES)
def test_deferred_calls_are_found_in_any_container(engine: Engine, kind: str) -> None:
    """Their values stand in their places, and one that stands in two places is called once."""
    assert engine.start(one, shaped, kind).result() == (1, SHAPES[kind])
    assert SEEN.count((1, 1)) == (0 if kind == "plain" else 1)


def test_keys_begin_with_that_of_the_step_that_deferred(engine: Engine) -> None:
    """What grew, and from what, can be read from the keys."""
    run = engine.start(one, shaped, "dict")
    run.result()
    assert list(keys(run)) == [
        "one/add[0]",
        "one/shaped[0]",
        "one/shaped[0]/add[0]",
        "one/shaped[0]/add[1]",
        "one/shaped[0]/together[0]",
    ]


def test_items_of_a_map_and_async_tasks_defer_as_well(engine: Engine) -> None:
    """A step that grows may be any call of a task."""
    assert engine.start(mapped, [1, 5, 2]).result() == ([1, 5, 1], [2, 3])


def test_outside_of_a_run_defer_is_the_plain_call() -> None:
    """A task that defers is still a function."""
    assert fib(7) == 13
    assert shaped("dict") == SHAPES["dict"]


def test_only_what_the_attempt_that_succeeded_deferred_is_called(engine: Engine) -> None:
    """The calls that a failed attempt had made ready are nobody's."""
    assert engine.start(one, second_time, 4).result() == (1, 8)
    assert SEEN.count((4, 4)) == 1


def test_a_chain_of_tail_calls_ends_in_one_commit(engine: Engine) -> None:
    """Each step of it has the last one's value, without anybody having to follow the chain."""
    run = engine.start(one, down.options(max_depth=3_000), 1_500)
    with pytest.raises(RunFailed) as failed:
        run.result()  # the calls below are down's own, with its own limit
    assert isinstance(failed.value.__cause__, TooDeep)
    run = engine.start(one, down, 999)
    assert run.result() == (1, 0)
    steps = run.steps()
    assert len(steps) == 1_001
    assert max(len(step.key) for step in steps) < 300
    assert len({step.value_digest for step in steps[1:]}) == 1


def test_the_limit_of_depth_is_named(engine: Engine) -> None:
    """A recursion without end stops with a line that says what to change."""
    with pytest.raises(RunFailed, match=r"max_depth=1,000 is the limit.*down\.options\(max_depth=\.\.\.\)"):
        engine.start(one, down, 5_000).result()


def test_a_deferred_call_that_fails_fails_the_run_and_is_all_that_runs_again(tmp_path: Path) -> None:
    """What deferred it is skipped, keeps what it grew, and takes its value when that is there."""
    FLAGS["fail"] = (2, 1)
    with opened(tmp_path) as engine:
        run = engine.start(total, 4)
        with pytest.raises(RunFailed, match="not today"):
            run.result()
        states = keys(run)
        assert states["total/fib[0]"] is StepState.SKIPPED
        assert states["total/add[0]"] is StepState.SKIPPED
    FLAGS.clear()
    SEEN.clear()
    with opened(tmp_path) as engine:
        assert engine.resume(run.id).result() == 4
        assert SEEN == [(2, 1), (3, 1)]


def test_growth_goes_on_after_an_interruption(tmp_path: Path) -> None:
    """The steps that were deferred are recorded with the end of what deferred them, and are found by the next process."""
    with opened(tmp_path) as engine:
        FLAGS["fail"] = (1, 0)
        run = engine.start(one, fib, 5)
        engine.interrupt()
        run.wait()
    FLAGS.clear()
    with opened(tmp_path) as engine:
        assert engine.resume(run.id).result() == (1, 5)


def test_a_cancelled_run_cancels_what_was_deferred(engine: Engine) -> None:
    """Nothing of it is left to do."""
    run = engine.start(one, down, 900)
    run.cancel()
    run.wait()
    assert run.state in (RunState.CANCELLED, RunState.SUCCEEDED)
    assert not [state for state in keys(run).values() if not state.ended]


def test_what_a_value_is_made_of_is_recorded(tmp_path: Path) -> None:
    """A deferred call without a checkpoint is recorded where a recorded value is its own, and is light elsewhere."""
    with opened(tmp_path) as engine:
        run = engine.start(one, one_light, 3)
        assert run.result() == (1, 3)
        sizes = {step.key: step.value_digest for step in run.steps()}
        assert sizes["one/one_light[0]/light[0]"] == ""
        assert sizes["one/one_light[0]/light[1]"] == sizes["one/one_light[0]"] != ""


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("calculate", RefMisuse, "add is deferred: it is called after this task"),
        ("truth", RefMisuse, "Return it, or hand it to another deferred call"),
        ("arguments", BadArguments, "missing a required argument: 'right'"),
        ("twice the key", DefinitionError, r"misuse\[0\]/add\[a\]"),
        ("large", BadArguments, "Let a task of its own return the data"),
    ],
)
def test_misuse_says_what_to_do(engine: Engine, how: str, error: type[Exception], words: str) -> None:
    """One line each."""
    with pytest.raises(RunFailed, match=words) as failed:
        engine.start(one, misuse, how).result()
    assert isinstance(failed.value.__cause__, error)


def test_what_another_step_deferred_can_not_be_returned(engine: Engine) -> None:
    """A deferred call belongs to the attempt that made it."""
    engine.start(one, misuse, "stash").result()
    with pytest.raises(RunFailed, match="deferred by another step"):
        engine.start(one, misuse, "stashed").result()


def test_a_task_without_a_checkpoint_can_not_defer(engine: Engine) -> None:
    """Its value would have to be made again, and with it the steps that it grew."""
    with pytest.raises(RunFailed, match="Take checkpoint=False away from light_that_defers"):
        engine.start(one, light_that_defers, 1).result()


def test_a_body_calls_and_does_not_defer(engine: Engine) -> None:
    """In a body the call itself is what comes later."""
    with pytest.raises(RunFailed, match=r"add\.defer\(\) in the body of in_the_body: there, call add"):
        engine.start(in_the_body).result()


def test_worker_processes_defer(tmp_path: Path) -> None:
    """The same from the workers' side of the wire."""
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1) as engine:
        assert engine.start(one, shaped, "dict").result() == (1, SHAPES["dict"])
        assert engine.start(total, 4).result() == 4


@workflow
def grows_everywhere(n: int) -> Any:
    return total_of.map(numbers(n)), shaped("dict"), one_light(n)


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def total_of(n: int) -> int:
    return fib.defer(n)


def test_growth_survives_every_crash(everywhere: Everywhere) -> None:
    """Whatever dies when: what was deferred is there with the end of what deferred it, once."""
    reports = everywhere(grows_everywhere, 4)
    assert all(report.result == ([0, 1, 1, 2], SHAPES["dict"], 4) for report in reports.values())
