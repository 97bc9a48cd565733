"""Runs that wait without a process: let go of, woken, cancelled, taken up by somebody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dagengine
from dagengine import aio, cancelling
from dagengine.blocking import Blocking
from dagengine.core.events import InterruptRequested
from dagengine.driver import Driver
from dagengine.engine import Engine, current_engine
from dagengine.errors import RunCancelled, RunInterrupted
from dagengine.model import RunState, StepState
from dagengine.outside import Outside
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import RunFilter
from dagengine.storage.sleepers import due, next_due, sleeper
from tests.semantics.clocks import Jumping

calls: list[str] = []


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Opens an engine on the store."""
    calls.clear()
    engines: list[Engine] = []

    def opens(**options: Any) -> Engine:
        while engines:
            engines.pop().close()
        store = "memory:" if request.param == "memory" else str(tmp_path / "store.db")
        engines.append(Engine(store, home=tmp_path, runtime=InlineRuntime(), **options))
        return engines[0]

    yield opens
    for engine in engines:
        engine.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks an engine's thread waits for it however busy the machine is."""
    monkeypatch.setattr("dagengine.answers.ANSWER_SECONDS", 300.0)


def until(run: Run[Any], state: RunState) -> None:
    while run.state is not state:
        assert not run.wait(0.002), run.state


@dagengine.task
def note(what: str) -> str:
    calls.append(what)
    return what


@dagengine.workflow
def reminds(times: int) -> list[Any]:
    answers = []
    for index in range(times):
        answers.append(dagengine.get(note(f"before {index}")))
        dagengine.sleep("1d")
    return answers


def bodies() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("body-")}


def test_a_run_that_sleeps_is_let_go_of(opened: Callable[..., Engine]) -> None:
    """It has no owner, no thread and no driver; the store says until when."""
    engine = opened(clock=Jumping(stands=True))
    run = engine.start(reminds, 1)
    until(run, RunState.WAITING)
    record = engine.store.find_run(run.id)
    assert (record.state, record.owner) == (RunState.WAITING, None)
    found = sleeper(engine.store, record.number)
    (timer,) = [step for step in run.steps() if step.kind == "timer"]
    assert found is not None
    assert found.wake_at == next_due(engine.store) == timer.created_at + 86_400
    assert not engine._drivers
    assert run.progress().tasks[0].done == 1
    assert not run.wait(0)


def test_it_is_woken_when_its_time_has_come_and_goes_on_where_it_was(opened: Callable[..., Engine]) -> None:
    """As often as it sleeps; what had been done is not done again."""
    clock = Jumping(stands=True)
    engine = opened(clock=clock)
    run = engine.start(reminds, 3)
    until(run, RunState.WAITING)
    clock.go(engine)
    assert run.result() == ["before 0", "before 1", "before 2"]
    assert calls == ["before 0", "before 1", "before 2"]
    assert run.progress().tasks[0].done == 3


@dagengine.workflow
def asks(name: str) -> Any:
    return dagengine.wait_event(name)


@dagengine.workflow
async def asks_in_branches() -> Any:
    return await asyncio.gather(aio.wait_event("one"), aio.wait_event("two"), aio.sleep("1d"))


def test_a_signal_wakes_it(opened: Callable[..., Engine]) -> None:
    """One of another name, too; but then it falls asleep again."""
    engine = opened()
    run = engine.start(asks, "paid")
    until(run, RunState.WAITING)
    token = engine.store.find_run(run.id).token
    engine.signal(run.id, "other")
    while engine.store.find_run(run.id).token == token or run.state is not RunState.WAITING:
        assert not run.wait(0.002)
    engine.signal(run.id, "paid", 12)
    assert run.result() == 12
    assert due(engine.store, 1e12) == []


def test_an_async_body_sleeps_as_well(opened: Callable[..., Engine]) -> None:
    """When none of its branches has anything to do."""
    clock = Jumping(stands=True)
    engine = opened(clock=clock)
    run = engine.start(asks_in_branches)
    until(run, RunState.WAITING)
    engine.signal(run.id, "two", 2)
    engine.signal(run.id, "one", 1)
    clock.go(engine)
    assert run.result() == [1, 2, None]


release = threading.Event()


@dagengine.workflow
async def works_in_a_thread() -> Any:
    waits = dagengine.event("paid")
    await asyncio.to_thread(release.wait)
    calls.append("worked")
    return await waits


def test_a_body_that_works_is_not_let_go_of(opened: Callable[..., Engine]) -> None:
    """A thread that works for it, whatever else it waits for, keeps it."""
    release.clear()
    engine = opened()
    run = engine.start(works_in_a_thread)
    while not run._driver.outside.waits:
        assert not run.wait(0.002)
    outside = run._driver.outside
    assert not engine.look_into(outside._may_sleep)
    release.set()
    until(run, RunState.WAITING)
    engine.signal(run.id, "paid", "done")
    assert run.result() == "done"


def test_a_body_that_comes_to_wait_late_is_let_go_of(
    opened: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread was not given a processor while its engine looked. The story: nobody looked again, so on a busy machine
    256 such runs filled all places of a server, for ever."""
    looked, given = threading.Event(), threading.Event()
    until_told, lingered = Blocking.until, Outside._lingered

    def late(self: Blocking, nothing: Callable[[], bool]) -> None:
        given.wait()
        until_told(self, nothing)

    def look(self: Outside, turn: int) -> None:
        lingered(self, turn)
        if turn == self._turns:
            looked.set()

    monkeypatch.setattr(Blocking, "until", late)
    monkeypatch.setattr(Outside, "_lingered", look)
    engine = opened()
    run = engine.start(asks, "go")
    looked.wait()
    assert run.state is RunState.RUNNING
    given.set()
    until(run, RunState.WAITING)


def test_a_hint_that_brings_nothing_keeps_no_run_awake(
    opened: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while the store is looked at for the last time before the run is let go of."""
    hinted, read = threading.Event(), Outside._read

    def look(self: Outside, arranging: list[int], timed: list[int], events: bool, turn: int | None = None) -> None:
        read(self, arranging, timed, events, turn)
        if turn is not None and not hinted.is_set():
            hinted.set()
            self.hint()

    monkeypatch.setattr(Outside, "_read", look)
    engine = opened()
    run = engine.start(asks, "go")
    hinted.wait()
    until(run, RunState.WAITING)


def test_a_run_that_sleeps_without_a_process_is_cancelled_at_once(opened: Callable[..., Engine]) -> None:
    """There is nothing to stop; and nobody wakes it any more."""
    engine = opened(clock=Jumping(stands=True))
    run = engine.start(reminds, 1)
    until(run, RunState.WAITING)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result()
    assert engine.store.find_run(run.id).state is RunState.CANCELLED
    assert next_due(engine.store) is None


def test_one_that_falls_asleep_while_it_is_being_cancelled_ends(opened: Callable[..., Engine]) -> None:
    """It was worked on when it was looked at, and had no owner any more when the request was recorded."""
    engine = opened(clock=Jumping(stands=True))
    run = engine.start(reminds, 1)
    until(run, RunState.WAITING)
    awake = replace(engine.store.find_run(run.id), state=RunState.RUNNING, owner=engine.process)
    assert cancelling.request(engine.store, engine._control_folder, awake) is RunState.CANCELLED
    assert run.wait(300.0)
    assert run.state is RunState.CANCELLED
    assert next_due(engine.store) is None


def test_an_engine_that_closes_leaves_it_waiting_for_the_next(tmp_path: Path) -> None:
    """Whoever resumes it finds the same time; what came meanwhile is there."""
    store = str(tmp_path / "store.db")
    with Engine(store, home=tmp_path, runtime=InlineRuntime(), clock=Jumping(stands=True)) as engine:
        run = engine.start(reminds, 2)
        until(run, RunState.WAITING)
    with pytest.raises(RunInterrupted, match="dagengine resume"):
        run.result()
    with Engine(store, home=tmp_path, runtime=InlineRuntime(), clock=Jumping()) as engine:
        assert engine.store.find_run(run.id).state is RunState.WAITING
        assert engine.resume(run.id).result() == ["before 0", "before 1"]


def test_an_interrupt_that_comes_when_it_has_just_fallen_asleep_lets_go_of_it(opened: Callable[..., Engine]) -> None:
    """It was on its way to the run's process, which heard of nothing any more: whoever waited for the end waited on."""
    engine = opened()
    drivers: list[Driver] = []
    make = engine.driver_for

    def made(*given: Any) -> Driver:
        drivers.append(make(*given))
        return drivers[-1]

    engine.driver_for = made  # type: ignore[method-assign,assignment]
    run = engine.start(asks, "go")
    until(run, RunState.WAITING)
    engine.tell(drivers[0], [InterruptRequested()])
    with pytest.raises(RunInterrupted, match="dagengine resume"):
        run.result()


def test_an_engine_that_does_not_wake_leaves_that_to_others(opened: Callable[..., Engine]) -> None:
    """Its runs are over for it when they wait; the store has them as due when their time has come."""
    clock = Jumping(stands=True)
    engine = opened(clock=clock, wakes=False)
    run = engine.start(reminds, 1)
    assert run.wait(300)
    assert run.state is RunState.WAITING
    assert [found.id for found in due(engine.store, clock.now() + 86_400)] == [run.id]
    clock.go(engine)
    assert engine.resume(run.id, reopen=False).result() == ["before 0"]
    assert due(engine.store, 1e12) == []


def test_who_resumes_a_run_that_sleeps_here_gets_the_same_run(opened: Callable[..., Engine]) -> None:
    """It is loaded, waits, and is let go of again; the first handle follows it, too."""
    clock = Jumping(stands=True)
    engine = opened(clock=clock)
    first = engine.start(reminds, 1)
    until(first, RunState.WAITING)
    second = engine.resume(first.id)
    until(second, RunState.WAITING)
    clock.go(engine)
    assert first.result() == second.result() == ["before 0"]


@dagengine.task(checkpoint=False)
def unrecorded() -> int:
    return 7


@dagengine.workflow
def holds() -> int:
    value = unrecorded()
    dagengine.get(value)
    dagengine.wait_event("go")
    return dagengine.get(value)


@dagengine.task
def fails() -> None:
    raise ValueError("no")


@dagengine.workflow
def has_failed() -> None:
    fails()
    dagengine.wait_event("go")


def test_a_value_that_is_not_recorded_keeps_its_run_loaded(engine: Engine) -> None:
    """It would have to be made again."""
    run = engine.start(holds)
    while not run._driver.outside.waits:
        assert not run.wait(0.002)
    assert not engine.look_into(run._driver.outside._may_sleep)
    engine.signal(run.id, "go")
    assert run.result() == 7


def test_a_failure_is_not_slept_away(opened: Callable[..., Engine]) -> None:
    """A step that failed before the run was let go of, and of which the body never asks, fails the run in the end."""
    engine = opened()
    run = engine.start(has_failed)
    until(run, RunState.WAITING)
    engine.signal(run.id, "go")
    assert run.wait(300)
    assert run.state is RunState.FAILED
    assert run.failure is not None
    assert run.failure.facts["step"] == "has_failed/fails[0]"


@dagengine.workflow
def returns_a_timer() -> Any:
    return note.options(key="x")(dagengine.timer("1d"))


def test_a_run_whose_body_has_returned_sleeps_as_well(opened: Callable[..., Engine]) -> None:
    """What is left of it are steps that wait for the world, and steps that wait for those."""
    clock = Jumping(stands=True)
    engine = opened(clock=clock)
    run = engine.start(returns_a_timer)
    until(run, RunState.WAITING)
    clock.go(engine)
    assert run.result() is None
    assert [step.state for step in run.steps()] == [StepState.SUCCEEDED] * 2


@dagengine.workflow
def counts_those_that_run() -> int:
    """A run that has ended may still have its thread, so those are nothing to count."""
    dagengine.sleep("1d")
    store = current_engine().store
    return sum(run.state is RunState.RUNNING for run in store.runs(RunFilter(limit=100)))


def test_many_runs_that_sleep_hold_no_thread_and_wake_a_few_at_a_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is taken up when one of those that were has ended."""
    monkeypatch.setattr("dagengine.sleeping.WAKING", 2)
    clock = engine.timers._clock = engine.clock = Jumping(stands=True)
    others = bodies()
    runs = [engine.start(counts_those_that_run) for _ in range(30)]
    for run in runs:
        until(run, RunState.WAITING)
    while bodies() - others or engine._by_id:  # a hang ends with the test's time
        threading.Event().wait(0.001)
    clock.go(engine)
    assert max(run.result() for run in runs) <= 2
