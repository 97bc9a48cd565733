"""The kit's own promise: a crash at every write makes no difference, and where it does, that is found."""

from __future__ import annotations

import itertools

import pytest

from dagengine import get, task, workflow
from dagengine.testing import CrashFailure, crash_everywhere
from tests.semantics.conftest import Everywhere


@task
def double(x: int) -> int:
    return 2 * x


@task
def numbers(n: int) -> list[int]:
    return list(range(n))


@task
def total(parts: list[int]) -> int:
    return sum(parts)


@task
def refuse(x: int) -> int:
    raise ValueError(f"{x} is refused")


@workflow
def branching(n: int) -> int:
    first = double(n)
    if get(first) > 3:
        first = double(first)
    try:
        get(refuse(first))
    except ValueError:
        first = double(first)
    return total(double.map(numbers(first)))


@workflow
def refusing(n: int) -> int:
    return total([refuse(double(n))])


_calls = itertools.count()


@task
def unsteady() -> int:
    return next(_calls)


@workflow
def unsteady_result() -> int:
    return unsteady()


@workflow
def unsteady_body() -> int:
    return double(next(_calls) + get(double(1)))


@workflow
def chain() -> int:
    return double(double(double(1)))


@workflow
def wide() -> int:
    return total([double(x) for x in range(5)])


def test_a_workflow_that_waits_branches_and_catches_survives_every_crash(everywhere: Everywhere) -> None:
    """On each store the result is that of the plain run, whatever write the process died at."""
    for report in everywhere(branching, 2).values():
        assert report.result == 2 * sum(range(16))
        assert report.crashes


def test_each_write_is_died_at_before_and_after(everywhere: Everywhere) -> None:
    """The cases count through the writes of the plain run, both sides of each."""
    report = everywhere(wide, stores=("memory",))["memory"]
    reached = {(crash.write, crash.after) for crash in report.crashes}
    assert {(1, False), (1, True), (2, False), (2, True), (3, False), (3, True)} <= reached


def test_a_workflow_that_fails_fails_in_the_same_way_after_a_crash(everywhere: Everywhere) -> None:
    """The failure that is compared is the run's: its type and message."""
    report = everywhere(refusing, 2, stores=("memory",))["memory"]
    assert report.state == "failed"
    assert report.result == "ValueError: 4 is refused"


def test_a_step_that_began_again_is_reported() -> None:
    """Attempts are at least once: the one whose end was not recorded is made again, and the report names it."""
    report = crash_everywhere(chain)
    assert set(report.again) <= {"chain/double[0]", "chain/double[1]", "chain/double[2]"}
    assert report.again
    assert f"{next(iter(report.again))}: after" in str(report)


def test_a_task_that_may_run_once_only_and_ran_twice_is_a_failure() -> None:
    """What the report only names is a failure for tasks that the user marks."""
    with pytest.raises(CrashFailure, match=r"step chain/double\[\d\] ran twice, and double may not"):
        crash_everywhere(chain, once=[double])


def test_a_result_that_differs_from_run_to_run_is_found() -> None:
    """The message says at which write, and both results."""
    with pytest.raises(CrashFailure, match=r"after a crash before write 1 \(.*\): it returned \d+; without"):
        crash_everywhere(unsteady_result)


def test_a_body_that_calls_something_else_on_replay_is_found() -> None:
    """A body with state outside of the record ends in a mismatch, which no plain run shows."""
    with pytest.raises(CrashFailure, match="without a crash"):
        crash_everywhere(unsteady_body)


def test_the_world_is_told_again_in_each_life_and_what_is_around_each_case_is_called() -> None:
    """`world` is called once the run has begun and once it is resumed; `before` and `after` once in each case."""
    told: list[str] = []
    report = crash_everywhere(
        wide,
        world=lambda engine, run_id: told.append("world"),
        before=lambda: told.append("before"),
        after=lambda: told.append("after"),
        limit=3,
    )
    cases = len(report.crashes) + 1
    assert told.count("before") >= cases
    assert told.count("after") == told.count("before")
    assert told.count("world") >= cases
