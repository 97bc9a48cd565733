"""What is said of runs: why a step of a fork ran, what differs between two runs, and a failed step in a debugger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import context, stateful, task, workflow
from dagengine.comparison import compare
from dagengine.debugging import prepare
from dagengine.engine import Engine
from dagengine.errors import RunConflict, RunFailed, RunNotFound
from dagengine.explanation import explain
from dagengine.model import RunRecord
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from dagengine.timing import commits_of, profile, timed_steps
from dagengine.views import find_step

FLAGS: dict[str, Any] = {}
KEYS: list[str | None] = []


@pytest.fixture(autouse=True)
def clean() -> None:
    FLAGS.clear()
    KEYS.clear()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as opened:
        yield opened


@task
def load(name: str) -> int:
    return len(name)


@task
def double(value: int) -> int:
    KEYS.append(context().idempotency_key)
    if FLAGS.get("double") == "fail":
        raise ValueError(f"no {value}")
    return 2 * value


@task
async def later(value: int) -> int:
    return value + 1


@stateful
class Thing:
    def touch(self) -> int:
        return 1


@workflow
def flow(name: str = "abc", more: int = 1) -> list[Any]:
    first = double(load(name))
    return [double(first), later(load("other")), *(load("more") for _ in range(more)), Thing().touch()]


def record(engine: Engine, run: Run[Any]) -> RunRecord:
    return engine.store.find_run(run.id)


def why(engine: Engine, run: Run[Any], key: str) -> str:
    found = record(engine, run)
    return "\n".join(explain(engine.store, found, find_step(engine.store, found, key)).lines)


# ---- explain --------------------------------------------------------------------------------------


def test_explain_says_why_a_step_of_a_fork_ran_or_did_not(engine: Engine) -> None:
    """Shared, given, asked for, other arguments, a step that it reads ran again, not in the donor."""
    donor = engine.start(flow)
    donor.wait()
    fork = engine.fork(donor.id, params={"name": "ab", "more": 0})
    fork.wait()
    assert f"its arguments differ: in run {donor.id[:12]} it was load('abc'), here load('ab')" in why(
        engine, fork, "load[0]"
    )
    assert "it reads flow/load[0], which ran again" in why(engine, fork, "double[0]")
    assert f"it is shared with run {donor.id[:12]}" in why(engine, fork, "load[1]")
    fork = engine.fork(donor.id, set_={"load[0]": 7}, from_="later")
    fork.wait()
    assert "its value was given when the run was forked" in why(engine, fork, "load[0]")
    assert "it reads flow/load[0], which ran again or has another value" in why(engine, fork, "double[0]")
    assert "it ran because the run was forked from it" in why(engine, fork, "later[0]")
    fork = engine.fork(fork.id, params={"more": 2})
    fork.wait()
    back = engine.fork(fork.id, params={"more": 0})
    back.wait()
    again = engine.fork(back.id, params={"more": 1})
    again.wait()
    assert f"run {back.id[:12]} has no such step" in why(engine, again, "load[2]")


def test_explain_says_what_the_donor_lacked(engine: Engine) -> None:
    """A step that failed there is not shared."""
    FLAGS["double"] = "fail"
    donor = engine.start(flow)
    donor.wait()
    FLAGS.clear()
    fork = engine.fork(donor.id)
    fork.wait()
    assert f"in run {donor.id[:12]} it has failed" in why(engine, fork, "double[0]")


# ---- diff -----------------------------------------------------------------------------------------


def test_two_runs_that_did_the_same_are_equal(engine: Engine) -> None:
    """Times and ids do not count."""
    runs = [engine.start(flow) for _ in range(2)]
    assert all(run.wait(300) for run in runs)
    found = compare(engine.store, *(record(engine, run) for run in runs))
    assert found.equal
    assert found.steps.same == len(runs[0].steps())


def test_a_comparison_names_all_that_differs(engine: Engine) -> None:
    """Arguments, steps of only one, outputs by their digests, states; and says so as JSON."""
    first = engine.start(flow)
    first.wait()
    FLAGS["double"] = "fail"
    second = engine.start(flow, name="ab", more=0)
    with pytest.raises(RunFailed):
        second.result()
    found = compare(engine.store, record(engine, first), record(engine, second))
    assert found.arguments == ("flow()", "flow(name='ab', more=0)")
    assert found.steps.only_first == ("flow/load[2]",)
    assert found.steps.only_second == ()
    assert [key for key, _, _ in found.steps.outputs] == ["flow/load[0]"]
    assert ("flow/double[0]", "succeeded", "failed") in found.steps.states
    told = found.to_json()
    assert (told["equal"], told["only_first"]) == (False, ["flow/load[2]"])


# ---- profile --------------------------------------------------------------------------------------


def test_a_profile_has_the_run_and_its_commits(engine: Engine) -> None:
    """Each task's totals, a path that ends with a step that nobody reads, and how long commits took."""
    run = engine.start(flow)
    run.wait()
    found = profile(timed_steps(engine.store, record(engine, run)), commits_of(engine.store, record(engine, run)))
    assert {total.task: total.steps for total in found.totals} == {
        "load": 3,
        "double": 2,
        "later": 1,
        "Thing": 1,
        "Thing.touch": 1,
    }
    assert found.path
    assert found.commits["count"] >= 1
    assert 0 < found.commits["mean"] <= found.commits["longest"] * 1.001  # both are rounded
    fork = engine.fork(run.id)
    fork.wait()
    assert profile(timed_steps(engine.store, record(engine, fork))).path == ()


# ---- debug ----------------------------------------------------------------------------------------


def test_a_failed_step_is_called_again_with_its_inputs(engine: Engine) -> None:
    """Here, in this process: its exception comes as it is; nothing is recorded, and its key is not the run's."""
    FLAGS["double"] = "fail"
    run = engine.start(flow)
    run.wait()
    before = engine.store.steps(record(engine, run).number)
    prepared = prepare(engine._place(), record(engine, run), "double[0]")
    assert (prepared.args, prepared.kwargs) == ((3,), {})
    with pytest.raises(ValueError, match="no 3"):
        prepared.call()
    FLAGS.clear()
    assert prepared.call() == 6
    assert KEYS[-1] == f"debug/{run.id}/flow/double[0]"
    assert prepare(engine._place(), record(engine, run), "later").call() == 6
    assert engine.store.steps(record(engine, run).number) == before


def test_a_debugger_calls_the_function_itself(engine: Engine) -> None:
    """With its arguments; of an async one, what runs it."""
    run = engine.start(flow)
    run.wait()
    called: list[tuple[Any, ...]] = []

    def caller(function: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(args)
        return function(*args, **kwargs)

    assert prepare(engine._place(), record(engine, run), "double[0]").call(caller) == 6
    assert prepare(engine._place(), record(engine, run), "later").call(caller) == 6
    assert called == [(3,), ()]


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("touch[0]", RunConflict, "a call on a stateful object: only calls of tasks"),
        ("double[1]", RunConflict, r"flow/double\[0\], which it reads, has no value. Debug that step"),
        ("duoble", RunNotFound, "Did you mean flow/double"),
    ],
)
def test_what_can_not_be_debugged_is_said_in_one_line(
    engine: Engine, name: str, error: type[Exception], says: str
) -> None:
    """And what to do instead."""
    FLAGS["double"] = "fail"
    run = engine.start(flow)
    run.wait()
    with pytest.raises(error, match=says) as raised:
        prepare(engine._place(), record(engine, run), name)
    assert "\n" not in str(raised.value)
