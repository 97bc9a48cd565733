"""A request to cancel that comes while its run falls asleep: whoever takes the run up next carries it out, whatever dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dagengine import wait_event, workflow
from dagengine.core.events import CancelRequested
from dagengine.engine import Engine
from dagengine.model import Claim, RunRecord, RunState
from dagengine.storage import sleepers
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.memory import MemoryStore
from dagengine.storage.sqlite import SqliteStore
from dagengine.storage.writes import FinishRun, Write
from dagengine.taking_up import take_up_all
from dagengine.testing.crashes import RUN_ID, _Case, _Lives
from dagengine.testing.mortal import Fate
from tests.semantics.conftest import STORES, emptied_postgres

SECONDS = 300.0
"""For anything that is waited for."""


@workflow
def child() -> Any:
    return wait_event("go")


@workflow
def parent() -> Any:
    return child.start()


def runs_of(store: Store) -> dict[str, RunRecord]:
    return {run.id: run for run in store.runs(RunFilter(limit=10))}


class Process(_Lives):
    """The first begins the run; another process asks it to stop at the last moment, and perhaps the engine hears of it. The
    next one takes up what nobody works on and what is due, as a server does."""

    heard = False

    def _work(self, engine: Engine) -> None:
        if self.find() is None:
            self._cancelled_while_it_falls_asleep(engine)
            engine.begin(self.case.workflow, (), {}, RUN_ID)
        self._over(engine)

    def _cancelled_while_it_falls_asleep(self, engine: Engine) -> None:
        write = engine.store.write

        def late(claim: Claim, batch: Sequence[Write], done: Callable[..., None]) -> None:
            falls_asleep = any(isinstance(part, FinishRun) and part.state is RunState.WAITING for part in batch)
            if falls_asleep and claim.run_id == RUN_ID:
                assert self.store.request_cancel(RUN_ID, 1.0) is RunState.RUNNING
                driver = engine.driver_of(RUN_ID)
                if self.heard and driver is not None:
                    engine.tell(driver, [CancelRequested()])
            write(claim, batch, done)

        engine.store.write = late  # type: ignore[method-assign]

    def _over(self, engine: Engine) -> None:
        """Until both are cancelled, taking up what nobody has."""
        moment, until = threading.Event(), time.monotonic() + SECONDS
        while True:
            found = runs_of(engine.store)
            assert time.monotonic() < until, f"they never end: {[run.state for run in found.values()]}"
            if found and all(run.state is RunState.CANCELLED for run in found.values()):
                return
            due = {sleeper.id for sleeper in sleepers.due(engine.store, time.time())}
            left = [
                run
                for run in found.values()
                if (run.state is RunState.RUNNING and engine.driver_of(run.id) is None)
                or (run.state is RunState.WAITING and run.id in due and not engine.sleeping.knows(run.id))
            ]
            take_up_all(engine, left)
            moment.wait(0.002)


class Heard(Process):
    heard = True


@pytest.mark.parametrize("wakes", [True, False])
@pytest.mark.parametrize(
    ("opening", "process", "every"),
    [("memory", Process, 1), ("memory", Heard, 1), *((store, Process, 2) for store in STORES if store != "memory")],
)
def test_a_cancel_that_was_answered_outlives_the_process_that_let_go_of_the_run(
    opening: str, process: type[Process], every: int, wakes: bool, *, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before and after its writes; the runs that it has begun end with it."""
    monkeypatch.setattr("dagengine.outside.LINGER", 0.0)
    opened: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(f"{tmp_path}/{len(list(tmp_path.iterdir()))}.db"),
        "postgres": emptied_postgres(),
    }
    number, doomed = 1 - every, True
    while doomed:
        number, doomed = number + every, False
        for after in (False, True):
            case = _Case(parent, (), {}, opened[opening], None, None, None, None, 300, None, {"wakes": wakes})
            with case.lives() as lives:
                fate = Fate(number, after)
                first = process(case, lives.store, lives.folder)
                first.live(fate)
                found = runs_of(lives.store)
                if RUN_ID in found and found[RUN_ID].cancel_requested_at is not None:
                    first.live(Fate())
                    found = runs_of(lives.store)
                    assert {run.state for run in found.values()} == {RunState.CANCELLED}, f"{number} {after}"
                doomed = doomed or fate.doomed
    assert number > 5
