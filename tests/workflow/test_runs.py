"""What a workflow does when it runs: keys, values, waiting, failures, scopes. Store in memory, tasks in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dagengine import aio, as_completed, context, first, gather, get, task, workflow
from dagengine.contexts import Context
from dagengine.control import ask
from dagengine.engine import Engine
from dagengine.errors import (
    BadArguments,
    DefinitionError,
    RefMisuse,
    RunExists,
    RunFailed,
    StepSkipped,
    StoreUnavailable,
    Unpicklable,
)
from dagengine.model import RunState, StepState
from dagengine.workflows import Workflow


@dataclasses.dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


class Point(NamedTuple):
    x: Any
    y: Any


@task
def increment(x: int, by: int = 1) -> int:
    return x + by


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def upto(n: int) -> list[int]:
    return list(range(n))


@task
def identity(value: Any) -> Any:
    return value


@task
def fail(text: str = "no") -> int:
    raise ValueError(text)


STOLEN: list[Any] = []
"""Refs that left the body that made them."""


@workflow
def ouroboros() -> int:
    return ouroboros()


@workflow
def needs_one(x: int) -> int:
    return x


@workflow
def steal() -> None:
    STOLEN.append(increment(1))


@workflow
def get_stolen() -> int:
    return int(get(STOLEN[0]))


@workflow
def pass_stolen() -> int:
    return increment(STOLEN[0])


def run(engine: Engine, body: Workflow[..., Any] | Callable[..., Any], *args: Any) -> Any:
    flow = body if isinstance(body, Workflow) else workflow(body)
    return engine.start(flow, *args).result()


def only(function: Callable[[], Any]) -> Workflow[[], Any]:
    """A workflow that calls this and nothing else."""

    def calls_it() -> Any:
        return function()

    return workflow(calls_it)


def keys(engine: Engine, body: Callable[..., Any], *args: Any) -> list[str]:
    started = engine.start(workflow(body), *args)
    started.wait()
    return [step.key for step in started.steps()]


# ---- values and keys --------------------------------------------------------------------------


def test_a_workflow_runs_its_graph_and_returns_its_value(engine: Engine) -> None:
    """Refs are passed on, and the result is the value."""

    def flow(n: int) -> int:
        return total(increment.map(range(n), by=2))

    assert run(engine, flow, 3) == 9


def test_outside_of_a_run_everything_is_the_plain_function() -> None:
    """Unit tests need nothing."""
    assert increment(1) == 2
    assert increment.map([1, 2], by=3) == [4, 5]
    assert get(3) == 3
    assert gather([1, 2]) == [1, 2]
    assert list(as_completed([1, 2])) == [1, 2]
    assert first([7]) == 7
    assert workflow(lambda: total(increment.map([1])))() == 2
    assert context() == Context(None, None, None, None, 1, None)


def test_refs_are_found_in_all_containers(engine: Engine) -> None:
    """Lists, tuples, dicts, sets, dataclasses, named tuples, nested."""

    def flow() -> Any:
        one = increment(0)
        return identity([one, (one,), {"k": one}, {one}, Pair(one, [one]), Point(one, 2)])

    assert run(engine, flow) == [1, (1,), {"k": 1}, {1}, Pair(1, [1]), Point(1, 2)]


def test_a_result_may_hold_refs_in_containers(engine: Engine) -> None:
    """Also what was never a step's value."""
    assert run(engine, lambda: {"a": increment(1), "b": [increment(2), 5]}) == {"a": 2, "b": [3, 5]}


def test_keys_count_the_calls_of_a_function_in_its_scope(engine: Engine) -> None:
    """Also those of a map over a known list."""

    def flow() -> None:
        increment(1)
        upto(2)
        increment.map([1, 2])
        increment(1)

    assert keys(engine, flow) == [
        f"flow/{k}" for k in ("increment[0]", "upto[0]", "increment[1]", "increment[2]", "increment[3]")
    ]


def test_a_key_can_be_chosen_once_in_a_scope(engine: Engine) -> None:
    """Twice is an error at the call."""
    assert keys(engine, lambda: increment.options(key="a", name="inc")(1)) == ["<lambda>/inc[a]"]

    def twice() -> None:
        increment.options(key="a")(1)
        increment.options(key="a")(2)

    with pytest.raises(RunFailed, match=r"two calls have the key twice/increment\[a\]"):
        run(engine, twice)


def test_a_map_over_a_ref_expands_when_the_list_is_known(engine: Engine) -> None:
    """Its items are steps in a scope of the map's; its value is the list."""

    def flow(n: int) -> int:
        return total(increment.map(upto(n), by=increment(9)))

    assert run(engine, flow, 4) == 46
    assert "flow/increment.map[0]/increment[2]" in keys(engine, flow, 4)
    assert run(engine, flow, 0) == 0


def test_maps_of_maps(engine: Engine) -> None:
    """A map's value is a list like any other."""
    assert run(engine, lambda: total(increment.map(increment.map(upto(3))))) == 9


def test_a_map_over_something_that_is_no_list_fails_by_name(engine: Engine) -> None:
    """The step of the map carries the error."""
    with pytest.raises(RunFailed, match=r"increment\.map"):
        run(engine, lambda: increment.map(increment(1)))  # type: ignore[arg-type]


def test_a_map_over_a_string_is_taken_for_a_mistake(engine: Engine) -> None:
    """It would call the task for each character."""
    with pytest.raises(RunFailed, match="each character"):
        run(engine, lambda: identity.map("abc"))


# ---- waiting ----------------------------------------------------------------------------------


def test_a_body_branches_on_values(engine: Engine) -> None:
    """get waits; what follows may depend on it."""

    def flow() -> int:
        n = 0
        while get(increment(n)) < 3:
            n += 1
        return n

    assert run(engine, flow) == 2


def test_gather_keeps_the_order_and_can_return_exceptions(engine: Engine) -> None:
    """A failure is raised, or put in the place of its value."""

    def flow() -> Any:
        refs = [increment(1), fail("a"), increment(2)]
        found = gather(refs, return_exceptions=True)
        return [repr(value) for value in found]

    assert run(engine, flow) == ["2", "ValueError('a')", "3"]

    def raises() -> Any:
        return gather([increment(1), fail("a")])

    with pytest.raises(RunFailed, match="ValueError: a"):
        run(engine, raises)


def test_get_of_a_list_of_refs_says_who_takes_one(engine: Engine) -> None:
    """Returned as it is, it would fail later and say less."""

    def flow() -> Any:
        return get([increment(1), increment(2)])

    with pytest.raises(RunFailed, match=r"gather\(refs\) gives their values"):
        run(engine, flow)


def test_as_completed_and_first_give_values(engine: Engine) -> None:
    """Every value once; first the one that ended first."""

    def flow() -> tuple[list[int], int]:
        refs = increment.map(range(5))
        return sorted(as_completed(refs)), first(refs)

    assert run(engine, flow) == ([1, 2, 3, 4, 5], 1)


def test_as_completed_goes_on_after_a_failure(engine: Engine) -> None:
    """The iterator can be asked on after it raised."""

    def flow() -> list[str]:
        found = []
        values = as_completed([increment(0), fail(), increment(1)])
        while True:
            try:
                found.append(str(next(values)))
            except StopIteration:
                return found
            except ValueError as error:
                found.append(f"error {error}")

    assert run(engine, flow) == ["1", "error no", "2"]


def test_async_bodies_await_refs_and_branches(engine: Engine) -> None:
    """Each asyncio task is a scope of its own, numbered at its creation."""

    @task
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async def branch(n: int) -> int:
        for _ in range(3 - n):
            n = await aio.get(increment(n))
        return await double(n)

    async def flow() -> list[int]:
        return await asyncio.gather(*(branch(n) for n in range(3)))

    assert run(engine, flow) == [6, 6, 6]
    found = keys(engine, flow)
    assert "flow/branch[0]/increment[2]" in found
    assert "flow/branch[2]/double[0]" in found


def test_async_waiting_has_the_same_forms(engine: Engine) -> None:
    """gather, as_completed, first."""

    async def flow() -> Any:
        refs = increment.map(range(3))
        values = [value async for value in aio.as_completed(refs)]
        failures = await aio.gather([fail("x")], return_exceptions=True)
        return sorted(values), await aio.first(refs), await aio.gather(refs), str(failures[0])

    assert run(engine, flow) == ([1, 2, 3], 1, [1, 2, 3], "x")


# ---- failures ---------------------------------------------------------------------------------


def test_get_raises_the_steps_own_exception_with_its_traceback(engine: Engine) -> None:
    """The user's class, the user's line, the step's key."""

    def flow() -> str:
        try:
            get(fail("told you"))
        except ValueError as error:
            return f"{error} | {error.__cause__} | {error.__notes__}"
        return ""

    text = run(engine, flow)
    assert text.startswith("told you | ")
    assert "raise ValueError(text)" in text
    assert "flow/fail[0]" in text


def test_a_failure_skips_what_depends_on_it_and_lets_the_rest_finish(engine: Engine) -> None:
    """The run fails with the step's exception as the cause."""

    def flow() -> Any:
        bad = fail()
        return [increment(bad), increment(increment(bad)), increment(1)]

    started = engine.start(workflow(flow))
    with pytest.raises(RunFailed, match=r"step flow/fail\[0\]: ValueError: no.*dagengine resume") as caught:
        started.result()
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.failed == ("flow/fail[0]",)
    states = [step.state for step in started.steps()]
    assert states == [StepState.FAILED, StepState.SKIPPED, StepState.SKIPPED, StepState.SKIPPED, StepState.SUCCEEDED]


def test_get_of_a_skipped_step_names_the_first_cause(engine: Engine) -> None:
    """Through a chain of skips."""

    def flow() -> str:
        try:
            get(increment(increment(fail())))
        except StepSkipped as error:
            return f"{error} | {type(error.__cause__).__name__}"
        return ""

    assert run(engine, flow) == "flow/increment[1] did not run, because flow/increment[0] did not succeed | ValueError"


def test_a_failure_that_the_body_handled_does_not_fail_the_run(engine: Engine) -> None:
    """It was given the exception, and went on."""

    def flow() -> int:
        try:
            return get(fail())
        except ValueError:
            return get(increment(1))

    assert run(engine, flow) == 2


def test_a_failure_that_nobody_looked_at_fails_the_run(engine: Engine) -> None:
    """Also when the result does not depend on it."""

    def flow() -> int:
        fail()
        return increment(1)

    with pytest.raises(RunFailed):
        run(engine, flow)


def test_an_exception_of_the_body_fails_the_run(engine: Engine) -> None:
    """With the body's own exception as the cause; steps that were called finish."""

    def flow() -> None:
        increment(1)
        raise KeyError("mine")

    started = engine.start(workflow(flow))
    with pytest.raises(RunFailed) as caught:
        started.result()
    assert isinstance(caught.value.__cause__, KeyError)
    assert [step.state for step in started.steps()] == [StepState.SUCCEEDED]


def test_retries_until_it_works(engine: Engine, tmp_path: Any) -> None:
    """Three attempts, each numbered."""
    marks = tmp_path / "marks"

    @task(retries=2, retry_delay=0)
    def flaky() -> int:
        with marks.open("a") as file:
            file.write(f"{context().attempt} ")
        if context().attempt < 3:
            raise OSError("again")
        return 7

    started = engine.start(only(flaky))
    assert started.result() == 7
    assert marks.read_text().split() == ["1", "2", "3"]
    assert [step.attempts for step in started.steps()] == [3]


def test_retry_on_is_asked_next_to_the_exception(engine: Engine) -> None:
    """A predicate that says no makes the first failure final."""

    @task(retries=5, retry_delay=0, retry_on=OSError)
    def picky() -> int:
        raise ValueError("never mind")

    started = engine.start(only(picky))
    started.wait()
    assert [step.attempts for step in started.steps()] == [1]


def test_what_cannot_be_pickled_is_named_with_the_step_and_the_path(engine: Engine) -> None:
    """Arguments at the call, results in the step, the workflow's own result in the run."""
    import threading

    @task
    def lock() -> Any:
        return {"it": threading.Lock()}

    def argument() -> None:
        identity([1, threading.Lock()])

    with pytest.raises(RunFailed, match=r"argument/identity\[0\] can't be pickled: arguments\[0\]\[0\]\[1\]") as caught:
        run(engine, argument)
    assert isinstance(caught.value.__cause__, Unpicklable)
    with pytest.raises(RunFailed, match=r"result\['it'\]"):
        run(engine, only(lock))
    with pytest.raises(RunFailed, match="can't be pickled"):
        run(engine, only(threading.Lock))


def test_misusing_a_ref_fails_the_run_with_advice(engine: Engine) -> None:
    """`if ref:`"""

    def flow() -> int:
        return 1 if increment(1) else 2

    with pytest.raises(RunFailed, match="Wait for it with get") as caught:
        run(engine, flow)
    assert isinstance(caught.value.__cause__, RefMisuse)


def test_wrong_arguments_are_named_before_anything_runs(engine: Engine) -> None:
    """Of a task at the call, of a workflow at the start."""
    with pytest.raises(RunFailed, match=r"increment\(x: 'int', by: 'int' = 1\).*unexpected keyword argument 'bye'"):
        run(engine, lambda: increment(1, bye=2))  # type: ignore[call-arg]
    with pytest.raises(BadArguments, match="missing a required argument"):
        engine.start(needs_one)


# ---- scopes, ids, handles -----------------------------------------------------------------------


def test_a_workflow_in_a_workflow_is_a_scope_of_the_same_run(engine: Engine) -> None:
    """Its steps are the run's; its value is what it returns."""

    @workflow
    def child(n: int) -> int:
        return increment(increment(n))

    def flow() -> int:
        return total([child(1), child(10)])

    assert run(engine, flow) == 15
    assert keys(engine, flow) == [
        "flow/child[0]/increment[0]",
        "flow/child[0]/increment[1]",
        "flow/child[1]/increment[0]",
        "flow/child[1]/increment[1]",
        "flow/total[0]",
    ]


def test_a_workflow_that_calls_itself_without_end_is_named(engine: Engine) -> None:
    """A cycle of workflows ends in one line, not in a stack of a thousand frames."""
    with pytest.raises(RunFailed, match=r"ouroboros is called 100 scopes deep\. Does a workflow call itself") as caught:
        run(engine, ouroboros)
    assert "\n" not in str(caught.value)


def test_run_and_start_use_the_engine_that_is_open(engine: Engine) -> None:
    """A `with` block is enough."""
    flow = workflow(lambda: increment(1))
    assert flow.run() == 2
    handle = flow.start()
    assert handle.wait(300)
    assert handle.state is RunState.SUCCEEDED
    assert engine.store.find_run(handle.id).state is RunState.SUCCEEDED


def test_an_id_can_be_chosen_and_is_taken_once(engine: Engine) -> None:
    """The same id again is refused."""
    flow = workflow(lambda: increment(1))
    assert engine.begin(flow, (), {}, run_id="mine").result() == 2
    with pytest.raises(RunExists):
        engine.begin(flow, (), {}, run_id="mine")
    with pytest.raises(BadArguments, match="run id"):
        engine.begin(flow, (), {}, run_id="../x")


def test_context_tells_a_task_where_it_runs(engine: Engine) -> None:
    """Run, key, attempt, idempotency key; in the body, the scope."""

    @task
    def where() -> Any:
        return context()

    def flow() -> Any:
        return [where(), context().run_id, context().key]

    started = engine.start(workflow(flow))
    inside, run_id, scope = started.result()
    assert inside == Context(started.id, "flow", "flow/where[0]", "where", 1, f"{started.id}/flow/where[0]")
    assert (run_id, scope) == (started.id, "flow")


def test_a_ref_of_another_run_is_refused(engine: Engine) -> None:
    """It would name a step of this one."""
    run(engine, steal)
    with pytest.raises(RunFailed, match="belongs to another run"):
        run(engine, get_stolen)
    with pytest.raises(RunFailed, match="belongs to another run"):
        run(engine, pass_stolen)


def test_calls_in_an_engine_that_is_closed_are_refused(engine: Engine) -> None:
    """One line, and what to do."""
    engine.close()
    with pytest.raises(Exception, match="Open a new one"):
        engine.start(steal)


def test_a_lambda_can_be_no_task_by_accident() -> None:
    """What is decorated has to be a function."""
    with pytest.raises(DefinitionError, match="takes a function"):
        task(3)  # type: ignore[call-overload]


def test_large_values_travel_as_artifacts(engine: Engine) -> None:
    """Arguments, results, map items, the run's result."""
    import numpy as np

    @task
    def make(n: int) -> Any:
        return np.arange(n)

    @task
    def add(a: Any, b: Any) -> Any:
        return a + b

    def flow() -> Any:
        big = np.ones(100_000)
        return [add(make(100_000), big), add.map([make(100_000)], big), big]

    one, many, given = run(engine, flow)
    assert one[5] == 6
    assert many[0][7] == 8
    assert given.sum() == 100_000
    assert not one.flags.writeable


@task
def wait_for_the_end() -> None:
    """Until its process is ended; no longer than a test may take."""
    threading.Event().wait(300)


@workflow(timeout=0.2)
def too_long() -> None:
    get(wait_for_the_end())


def test_a_run_whose_time_is_up_fails_and_can_be_resumed(tmp_path: Path) -> None:
    """What runs is ended; the step stays open, if it came to be called in so short a time."""
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1) as engine:
        run = engine.start(too_long)
        with pytest.raises(RunFailed, match=r"still working 0\.2 s after its start"):
            run.result()
        assert {step.state for step in run.steps()} <= {StepState.WAITING}


def test_a_timeout_has_to_be_a_time() -> None:
    """When the workflow is defined, not when it is late."""
    with pytest.raises(DefinitionError, match="above 0"):
        workflow(timeout=0)(lambda: None)


@pytest.mark.parametrize("what", ["the artifacts", "the control socket"])
def test_an_engine_that_could_not_begin_begins_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A bucket that can't be reached for a moment, a folder that is gone: the next run finds all of the engine at work."""

    def fails() -> int:
        raise StoreUnavailable("not now", store="")

    with monkeypatch.context() as broken:
        if what == "the artifacts":
            broken.setattr(engine.artifacts, "sweep", fails)
        else:
            broken.setattr(engine._control, "start", fails)
        with pytest.raises(StoreUnavailable, match="not now"):
            run(engine, only(lambda: increment(1)))
    assert run(engine, only(lambda: increment(1))) == 2
    assert ask(engine._control_folder, engine.process.id, {"verb": "nothing"}, 60.0) is not None
