"""Heartbeats: what a task says of its progress, and the end of one that is silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dagengine import Engine, RunState, context, task, workflow
from dagengine.clocks import Clock
from dagengine.core.core import RunCore
from dagengine.core.events import AttemptStarted, Recorded, StepsCalled
from dagengine.liveness import Liveness, shown
from dagengine.model import Definition
from dagengine.runtime.protocol import Asked, Started
from dagengine.storage.beats import beats
from dagengine.views import run_view
from tests.core.kit import go
from tests.core.test_core import new

HOUR = 3600.0


# ---- silence, on a clock of the test's own ------------------------------------------------------


class Stopped(Clock):
    """A clock that goes on when the test says so."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class World:
    """A run with one attempt out, whose task has a heartbeat_timeout of 10 s, and what would happen in an engine."""

    def __init__(self) -> None:
        self.clock = Stopped()
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.ended: list[tuple[int, ...]] = []
        self.written: list[Any] = []
        core = RunCore()
        go(core, StepsCalled([Definition(0, "f", {}, {"heartbeat_timeout": 10.0})], [new(0)]))
        go(core, Recorded())
        runtime = SimpleNamespace(cancel=lambda ids, force: self.ended.extend(ids))
        engine = SimpleNamespace(clock=self.clock, runtime=runtime, after=self._after)
        driver = SimpleNamespace(engine=engine, index=5, record_beside=self.written.extend)
        self.liveness = Liveness(cast(Any, driver), core)
        self.liveness.started(Started((5, 0, 1), 3, 77, 1_000.0))
        go(core, AttemptStarted(0, 1, 3, 77, 1_000.0))

    def _after(self, delay: float, driver: object, work: Callable[[], None]) -> None:
        self.timers.append((self.clock.at + delay, work))

    def go_on(self, seconds: float) -> None:
        self.clock.at += seconds
        due, self.timers = (
            [w for at, w in self.timers if at <= self.clock.at],
            [(at, work) for at, work in self.timers if at > self.clock.at],
        )
        for work in due:
            work()

    def beat(self) -> None:
        self.liveness.beat(Asked((5, 0, 1), 3, -1, {"progress": 0.5}))


def test_an_attempt_that_is_silent_for_its_timeout_is_ended() -> None:
    """By force, once; what comes back is a timeout that says which."""
    world = World()
    world.go_on(9.9)
    assert world.ended == []
    world.go_on(0.1)
    assert world.ended == [(5, 0, 1)]
    began, failure = world.liveness.silenced((0, 1)) or pytest.fail("nothing was silenced")
    assert (began.worker, failure.kind) == (3, "timeout")
    assert "no heartbeat for 10 s" in failure.message
    assert world.liveness.silenced((0, 1)) is None


def test_each_heartbeat_gives_it_as_long_again() -> None:
    """It ends when it falls silent, and not before."""
    world = World()
    for _ in range(5):
        world.go_on(9.0)
        world.beat()
    assert world.ended == []
    world.go_on(9.9)
    assert world.ended == []
    world.go_on(0.2)
    assert world.ended == [(5, 0, 1)]


def test_heartbeats_are_recorded_once_a_second_at_most() -> None:
    """However many come."""
    world = World()
    for _ in range(100):
        world.beat()
        world.go_on(0.05)
    assert 5 <= len(world.written) <= 6


@pytest.mark.parametrize(
    ("progress", "text"),
    [(0.25, "25%"), (None, ""), ("half", "half"), (7, "7"), ({"rows": 7, "of": 9}, "rows 7, of 9")],
)
def test_progress_is_shown_in_a_few_words(progress: Any, text: str) -> None:
    """A share as per cent."""
    assert shown(progress) == text


# ---- in real processes --------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1) as opened:
        yield opened


@task(heartbeat_timeout=0.5)
def never_speaks() -> None:
    time.sleep(HOUR)


@workflow
def silent() -> None:
    return never_speaks()


def test_a_task_that_never_speaks_is_killed(engine: Engine) -> None:
    """The attempt is recorded as one that ran out of time."""
    run = engine.start(silent)
    run.wait()
    assert run.state is RunState.FAILED
    (attempt,) = engine.store.attempts(run._driver.claim.run_number)
    assert attempt.outcome == "timeout"
    assert attempt.failure is not None
    assert "no heartbeat for 0.5 s" in attempt.failure.message


@task(heartbeat_timeout=HOUR)
def speaks(folder: str) -> None:
    """Until it was looked at."""
    while not Path(folder, "seen").exists():
        context().heartbeat({"rows": 7})
        time.sleep(0.01)


@workflow
def speaking(folder: str) -> None:
    return speaks(folder)


def test_progress_can_be_seen_while_the_task_runs(engine: Engine, tmp_path: Path) -> None:
    """From the store, so from another process, too; then the row goes."""
    run = engine.start(speaking, str(tmp_path))
    number = run._driver.claim.run_number
    while not (seen := run_view(engine.store, engine.store.find_run(run.id))["heartbeats"]):
        assert not run.wait(0.01), run.failure
    assert (seen[0]["seq"], seen[0]["attempt"], seen[0]["progress"]) == (0, 1, {"rows": 7})
    (tmp_path / "seen").touch()
    run.wait()
    assert run.state is RunState.SUCCEEDED
    assert beats(engine.store, number) == {}
