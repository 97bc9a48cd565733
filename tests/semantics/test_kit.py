"""The kit beside its crashes: fakes of tasks, and the clock that jumps."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dagengine import EventTimeout, RunFailed, get, now, sleep, task, wait_event, workflow
from dagengine.testing import VirtualClock, crash_everywhere, fake, memory_engine

START = datetime(2024, 2, 29, tzinfo=UTC).timestamp()


@task
def charge(order: int) -> str:
    raise AssertionError("a test is not to charge anybody")


@task
def receipt(text: str) -> str:
    return f"sent: {text}"


@workflow
def sale(order: int) -> str:
    return receipt(charge(order))


@workflow
def patient() -> list[str]:
    days = []
    for _ in range(3):
        sleep("1d")
        days.append(now().date().isoformat())
    try:
        wait_event("never", timeout="30d")
    except EventTimeout:
        days.append(now().date().isoformat())
    return days


@workflow
def asked_twice() -> list[str]:
    return [get(charge(1)), get(charge.options(retries=2)(2))]


def test_a_task_is_replaced_by_a_value_and_its_calls_are_seen() -> None:
    """As long as the block lasts, also where the body gives other options."""
    with fake(charge, returns="paid") as charged, memory_engine() as engine:
        assert engine.start(sale, 17).result() == "sent: paid"
        assert engine.start(asked_twice).result() == ["paid", "paid"]
    assert charged.calls == [((17,), {}), ((1,), {}), ((2,), {})]
    with pytest.raises(AssertionError):
        charge(17)


def test_a_task_is_replaced_by_a_function_or_a_failure() -> None:
    """A failure of the fake is the step's, like any."""
    with fake(charge, lambda order: f"order {order}"), memory_engine() as engine:
        assert engine.start(sale, 3).result() == "sent: order 3"
    with (
        fake(charge, raises=ValueError("no money")),
        memory_engine() as engine,
        pytest.raises(RunFailed, match="no money"),
    ):
        engine.start(sale, 3).result()


def test_a_fake_is_said_in_one_way() -> None:
    """Neither none nor two of a value, a function, a failure."""
    with pytest.raises(TypeError, match="one of"), fake(charge):
        pass
    with pytest.raises(TypeError, match="one of"), fake(charge, returns=1, raises=ValueError()):
        pass


def test_days_pass_at_once_on_a_virtual_clock() -> None:
    """Sleeps and timeouts end when they are due by that clock, in order; nothing waits for them."""
    with memory_engine(clock=VirtualClock(START)) as engine:
        assert engine.start(patient).result() == ["2024-03-01", "2024-03-02", "2024-03-03", "2024-04-02"]


def test_a_workflow_that_sleeps_survives_every_crash() -> None:
    """One clock for all of a case's processes: a timer that was begun is not begun anew."""
    clocks: list[VirtualClock] = []
    report = crash_everywhere(
        patient, clock=lambda: clocks[-1], before=lambda: clocks.append(VirtualClock(START)), limit=40
    )
    assert report.result == ["2024-03-01", "2024-03-02", "2024-03-03", "2024-04-02"]
