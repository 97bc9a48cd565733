"""A cancelled run whose process dies on the way: none of the runs that it has begun goes on for a parent that is over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import task, wait_event, workflow
from dagengine.children import child_id
from dagengine.engine import Engine
from dagengine.errors import RunOwned
from dagengine.model import RunRecord, RunState
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.memory import MemoryStore
from dagengine.storage.sqlite import SqliteStore
from dagengine.testing.crashes import RUN_ID, _Case, _Lives
from dagengine.testing.mortal import Fate
from tests.semantics.conftest import STORES, emptied_postgres


@task
def free(result: int) -> None: ...


@task(undo=free)
def book() -> int:
    return 1


@workflow
def grandchild() -> Any:
    return wait_event("go")


@workflow
def child() -> Any:
    return grandchild.start()


@workflow
def on_its_own() -> Any:
    return wait_event("go")


@workflow
def parent() -> Any:
    on_its_own.detach()
    return child.start(), book()


CHILD = child_id(RUN_ID, 1)
GRANDCHILD = child_id(CHILD, 0)
ATTACHED = (RUN_ID, CHILD, GRANDCHILD)
ALONE = child_id(RUN_ID, 0)


def runs_of(store: Store) -> dict[str, RunRecord]:
    return {run.id: run for run in store.runs(RunFilter(limit=10))}


class Process(_Lives):
    """The first begins the run and cancels it when all is under way; the next one takes up whatever has not ended, as a
    server does: nobody has asked it to go on."""

    compensate = False
    newest_first = False

    def _work(self, engine: Engine) -> None:
        if self.find() is None:
            engine.begin(self.case.workflow, (), {}, RUN_ID)
        else:
            self._take_up(engine)
        self._under_way(engine)
        if runs_of(engine.store)[RUN_ID].cancel_requested_at is None:
            engine.cancel(RUN_ID, compensate=self.compensate)
        self._ended(engine)

    def _take_up(self, engine: Engine) -> None:
        """Runs that are over already stay as they are."""
        found = runs_of(engine.store)
        for run_id in reversed(ATTACHED) if self.newest_first else ATTACHED:
            if run_id in found and found[run_id].state is RunState.RUNNING and engine.driver_of(run_id) is None:
                with contextlib.suppress(RunOwned):  # its parent is quicker
                    engine.resume(run_id, reopen=False)

    def _under_way(self, engine: Engine) -> None:
        """Until the youngest of them waits, or somebody has heard of the request."""
        moment = threading.Event()
        while True:
            found = runs_of(engine.store)
            asked = RUN_ID in found and found[RUN_ID].cancel_requested_at is not None
            if asked or (GRANDCHILD in found and engine.store.steps(found[GRANDCHILD].number)):
                return
            moment.wait(0.002)

    def _ended(self, engine: Engine) -> None:
        moment = threading.Event()
        while True:
            found = runs_of(engine.store)
            if all(found[run_id].state is RunState.CANCELLED for run_id in ATTACHED if run_id in found):
                return
            moment.wait(0.002)


class Undoing(Process):
    compensate = True


class NewestFirst(Process):
    newest_first = True


EVERY = {"memory": 1, "sqlite": 3, "postgres": 5}
"""Writes of which one is the last: what is decided is the same on all stores, and on one of them nothing is left out."""


def cases(
    opening: Callable[[], Store], process: type[Process], every: int
) -> Iterator[tuple[str, Store, Process, Fate]]:
    """One for each write of the first process, died before it and after it, until it dies no more."""
    number = 1 - every
    doomed = True
    while doomed:
        number += every
        doomed = False
        for after in (False, True):
            case = _Case(parent, (), {}, opening, None, None, None, None, 300, None, {"wakes": False})
            with case.lives() as lives:
                fate = Fate(number, after)
                yield f"{number} {after}", lives.store, process(case, lives.store, lives.folder), fate
                doomed = doomed or fate.doomed


@pytest.mark.parametrize(
    ("opening", "process"),
    [*((store, Process) for store in STORES), ("memory", NewestFirst), ("memory", Undoing)],
)
def test_no_child_outlives_a_parent_whose_process_dies(
    opening: str, process: type[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes up what has not ended ends it; a child that lives on its own is never asked."""
    for linger in ("LINGER", "LINGER_FOR_TIME"):  # they are worked on, all the time
        monkeypatch.setattr(f"dagengine.outside.{linger}", 3_600.0)
    opened: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(f"{tmp_path}/{len(list(tmp_path.iterdir()))}.db"),
        "postgres": emptied_postgres(),
    }
    for name, store, lives, fate in cases(opened[opening], process, EVERY[opening]):
        lives.live(fate)
        died = runs_of(store)
        for above, below in ((RUN_ID, CHILD), (CHILD, GRANDCHILD)):
            if above in died and died[above].state is RunState.CANCELLED:
                assert below not in died or died[below].cancel_requested_at is not None, name
        if fate.doomed:
            lives.live(Fate())
        found = runs_of(store)
        assert all(found[run_id].state is RunState.CANCELLED for run_id in ATTACHED if run_id in found), name
        assert ALONE not in found or found[ALONE].cancel_requested_at is None, name
