"""What a body asks of the world: recorded values, timers, events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import dagengine
from dagengine import aio
from dagengine.engine import Engine
from dagengine.errors import (
    BadArguments,
    DefinitionError,
    EventTimeout,
    RunCancelled,
    RunExists,
    RunFailed,
    RunNotFound,
)
from dagengine.model import RunState, StepKind, StepState
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from tests.semantics.clocks import Jumping

DAY = 86_400.0
seen: list[Any] = []


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Jumping], Engine]]:
    """Opens engines on one store, one after the other. In memory there is one engine only."""
    seen.clear()
    engines: list[Engine] = []

    def opens(clock: Jumping) -> Engine:
        if request.param == "memory" and engines:
            engines[0].clock = engines[0].timers._clock = clock
            return engines[0]
        if engines:
            engines.pop().close()
        store = "memory:" if request.param == "memory" else str(tmp_path / "store.db")
        engines.append(Engine(store, home=tmp_path, runtime=InlineRuntime(), clock=clock))
        return engines[0]

    yield opens
    for engine in engines:
        engine.close()


@pytest.fixture
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that wait are not let go of, however long a busy machine takes to look at them."""
    for linger in ("LINGER", "LINGER_FOR_TIME"):
        monkeypatch.setattr(f"dagengine.outside.{linger}", 3_600.0)


def until_it_waits(engine: Engine, run: Run[Any], steps: int = 1) -> None:
    """Until so many steps of the run are arranged to wait."""
    while len(run._driver.outside.waits) < steps:
        assert not run.wait(0.002)


def again(opened: Callable[[Jumping], Engine], run: Run[Any], clock: Jumping) -> Run[Any]:
    """Interrupt the run, and resume it under another clock."""
    run._engine.interrupt()
    run.wait()
    assert run.state is RunState.INTERRUPTED
    return opened(clock).resume(run.id)


@dagengine.task
def double(x: float) -> float:
    return 2 * x


@dagengine.workflow
def values_then_event() -> tuple[Any, ...]:
    values = dagengine.now(), dagengine.random(), dagengine.uuid(), dagengine.random()
    seen.append(values)
    dagengine.get(double(values[1]))
    dagengine.wait_event("go")
    return values


@pytest.mark.usefixtures("_loaded")
def test_recorded_values_are_the_same_when_the_body_is_called_again(opened: Callable[[Jumping], Engine]) -> None:
    """The time, random numbers and UUIDs are facts of the run once it has asked for them."""
    engine = opened(Jumping())
    run = engine.start(values_then_event)
    until_it_waits(engine, run)
    run = again(opened, run, Jumping())
    until_it_waits(run._engine, run)
    run._engine.signal(run.id, "go")
    assert run.result() == seen[0] == seen[1]
    assert seen[0][1] != seen[0][3]
    keys = [(step.key, step.kind) for step in run.steps() if step.kind is StepKind.RECORDED]
    assert [key for key, _ in keys] == [
        f"values_then_event/{name}" for name in ("now[0]", "random[0]", "uuid[0]", "random[1]")
    ]


def test_outside_of_a_run_they_are_the_plain_thing() -> None:
    """Unit tests of a body need nothing."""
    assert dagengine.now().utcoffset() == timedelta(0)
    assert 0 <= dagengine.random() < 1
    assert dagengine.uuid() != dagengine.uuid()
    dagengine.sleep(0)
    assert dagengine.timer("1d") is None
    with pytest.raises(DefinitionError, match="only be waited for in the body"):
        dagengine.event("paid")


@dagengine.workflow
def naps(duration: Any) -> str:
    dagengine.sleep(duration)
    return "woke"


@pytest.mark.parametrize("duration", ["1d", DAY, timedelta(days=1)])
def test_a_sleep_ends_when_its_time_has_come(opened: Callable[[Jumping], Engine], duration: Any) -> None:
    """A day is a day after the step was recorded, on the engine's clock."""
    run = opened(Jumping()).start(naps, duration)
    assert run.result() == "woke"
    (step,) = run.steps()
    assert (step.key, step.kind) == ("naps/sleep[0]", StepKind.TIMER)
    assert step.finished_at == step.created_at + DAY


@pytest.mark.usefixtures("_loaded")
def test_a_timer_is_due_at_the_same_time_whoever_waits_for_it(opened: Callable[[Jumping], Engine]) -> None:
    """A process that takes the run over does not begin to count anew; and a timer that is over due fires at once."""
    run = opened(Jumping(stands=True)).start(naps, "1d")
    until_it_waits(run._engine, run)
    run = again(opened, run, Jumping())
    assert run.result() == "woke"
    (step,) = run.steps()
    assert step.finished_at == step.created_at + DAY


@dagengine.workflow
def impatient() -> Any:
    return dagengine.first([dagengine.event("paid"), dagengine.timer("1h")])


def test_a_timer_can_be_the_first_of_several(opened: Callable[[Jumping], Engine]) -> None:
    """The run does not wait for the other one once its body has returned."""
    engine = opened(Jumping())
    assert engine.start(impatient).result() is None
    run = opened(Jumping(stands=True)).start(impatient)
    run._engine.signal(run.id, "paid", "at last")
    assert run.result() == "at last"
    assert [step.state for step in run.steps()] == [StepState.SUCCEEDED, StepState.CANCELLED]


@dagengine.workflow
async def branches() -> list[Any]:
    async def branch(name: str, hours: int) -> tuple[str, float]:
        await aio.sleep(f"{hours}h")
        return name, dagengine.random()

    told = await asyncio.gather(branch("late", 2), branch("soon", 1), aio.wait_event("paid", "1d", "nothing"))
    return [told, await aio.wait_event("other", timeout="1m", default=7)]


def test_branches_of_an_async_body_sleep_side_by_side(opened: Callable[[Jumping], Engine]) -> None:
    """Each in its own scope, so that neither order nor time changes a key."""
    run = opened(Jumping()).start(branches)
    (late, soon, event), other = run.result()
    assert (late[0], soon[0], event, other) == ("late", "soon", "nothing", 7)
    assert {step.key for step in run.steps()} == {
        "branches/branch[0]/sleep[0]",
        "branches/branch[0]/random[0]",
        "branches/branch[1]/sleep[0]",
        "branches/branch[1]/random[0]",
        "branches/branch[2]/paid.event[0]",
        "branches/other.event[0]",
    }


@dagengine.workflow
def collects(count: int) -> list[Any]:
    first = dagengine.event("item")
    second = dagengine.event("item")
    rest = [dagengine.wait_event("item") for _ in range(count - 2)]
    return [*dagengine.gather([first, second]), *rest]


@pytest.mark.usefixtures("_loaded")
def test_signals_go_to_the_steps_in_their_order_and_once(opened: Callable[[Jumping], Engine]) -> None:
    """Those that come before anybody waits are kept; one that is sent again with the same id is no second one."""
    engine = opened(Jumping(stands=True))
    run = engine.start(collects, 4)
    assert engine.signal(run.id, "item", "a", signal_id="1")
    assert not engine.signal(run.id, "item", "a", signal_id="1")
    engine.signal(run.id, "other", "for nobody")
    engine.signal(run.id, "item", {"large": "b" * 100_000})
    while len([step for step in run.steps() if step.state is StepState.SUCCEEDED]) < 2:
        assert not run.wait(0.002)
    run = again(opened, run, Jumping(stands=True))
    run._engine.signal(run.id, "item", "c")
    run._engine.signal(run.id, "item", "d")
    assert run.result() == ["a", {"large": "b" * 100_000}, "c", "d"]


@dagengine.workflow
def times_out(handled: bool) -> str:
    try:
        dagengine.wait_event("paid", timeout="1h")
    except EventTimeout as error:
        if not handled:
            raise
        return error.event
    return "paid"


def test_an_event_that_does_not_come_in_time_can_be_handled(opened: Callable[[Jumping], Engine]) -> None:
    """It is a failure like that of any step: the body may catch it, or the run fails with it."""
    engine = opened(Jumping())
    assert engine.start(times_out, True).result() == "paid"
    failed = engine.start(times_out, False)
    with pytest.raises(RunFailed, match="nobody sent paid in time") as caught:
        failed.result()
    assert isinstance(caught.value.__cause__, EventTimeout)
    with pytest.raises(RunExists, match="dagengine fork"):
        engine.signal(failed.id, "paid")


@pytest.mark.usefixtures("_loaded")
def test_a_run_that_sleeps_is_cancelled_at_once(opened: Callable[[Jumping], Engine]) -> None:
    """Nobody waits for its timer any more."""
    run = opened(Jumping(stands=True)).start(naps, "1d")
    until_it_waits(run._engine, run)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result()
    assert [step.state for step in run.steps()] == [StepState.CANCELLED]


@pytest.mark.parametrize(
    ("duration", "message"),
    [(-1, "sleep\\(-1\\)"), ("soon", "say how long"), (None, "say how long"), (float("nan"), "say how long")],
)
def test_a_duration_that_cannot_be_meant_is_refused(duration: Any, message: str) -> None:
    """One line says what would be right."""
    with pytest.raises(BadArguments, match=message) as caught:
        dagengine.sleep(duration)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "a[0]", "new\nline", "\ud800", "x" * 201, "approval:x", None])
def test_a_name_with_odd_characters_is_refused(engine: Engine, name: Any) -> None:
    """By whoever waits and by whoever sends."""
    run = engine.start(naps, 0)
    for wrong in (lambda: dagengine.event(name), lambda: engine.signal(run.id, name)):
        with pytest.raises(BadArguments, match="can't name an event"):
            wrong()


def test_what_cannot_be_sent_is_refused_in_one_line(engine: Engine) -> None:
    """To a run that is over, to one that there is not, and more than a signal may carry."""
    run = engine.start(naps, 0)
    run.wait()
    with pytest.raises(RunExists, match="has succeeded"):
        engine.signal(run.id, "paid")
    with pytest.raises(RunNotFound):
        engine.signal("zzz", "paid")
    waiting = engine.start(impatient)
    with pytest.raises(BadArguments, match=r"carries 1\.0 GiB, and may 256\.0 MiB"):
        engine.signal(waiting.id, "paid", _Huge())
    with pytest.raises(BadArguments, match="printable"):
        engine.signal(waiting.id, "paid", signal_id="\n")
    waiting.cancel()


class _Huge(bytes):
    """A gigabyte, as far as anybody asks."""

    def __len__(self) -> int:
        return 1024**3


@dagengine.workflow
def approved() -> Any:
    try:
        answer = dagengine.wait_approval("deploy")
    except dagengine.Rejected as error:
        return "no", error.by, error.why
    return "yes", answer.by, answer.why


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_person_says_yes_or_no_and_why(engine: Engine, answer: str) -> None:
    """What is sent as a signal of that name is no answer."""
    run = engine.start(approved)
    engine.signal(run.id, "deploy", "yes")
    (dagengine.approve if answer == "yes" else dagengine.reject)(run.id, "deploy", by="ada", why="tested")
    assert run.result() == (answer, "ada", "tested")
