"""What follows from a run's end: its parent hears of it, and the run that it was continued as begins.

May import everything of the workflow layer that the driver may.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from dagengine.continuing import find, successor_id
from dagengine.errors import DagengineError, RuntimeStopped
from dagengine.model import Claim, RunRecord, RunState
from dagengine.storage.interface import Store
from dagengine.storage.writes import FinishRun, SideWrite, Write

if TYPE_CHECKING:
    from dagengine.driver import Driver

OVER = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH)


def parent_of(store: Store, run: RunRecord) -> RunRecord | None:
    """The run whose child the run is."""
    return None if run.parent is None else find(store, run.parent[0])


def word_of_end(driver: Driver, writes: Iterable[Write]) -> list[Write]:
    """What is written together with the end of a child run: its parent is due."""
    parent = driver.parent
    if parent is None or not any(isinstance(write, FinishRun) and write.state in OVER for write in writes):
        return []
    return [_come(parent)]


def after_end(driver: Driver) -> None:
    """The end of the driver's run is durable. On the engine's thread."""
    engine, state = driver.engine, driver.state
    if driver.stage.continued and state is RunState.SUCCEEDED:
        engine.helpers.submit(_begin_successor, driver)
    elif driver.adopt and state is RunState.MISMATCH:
        engine.helpers.submit(_adopt_more, driver)
    else:
        driver.life.end(state, driver.error)
    if driver.parent is not None and state in OVER:
        waiting = engine.driver_of(driver.parent.id)
        if waiting is not None:
            engine.tell(waiting, waiting.outside.look)
        elif not engine.sleeping.look(driver.parent.id):
            engine.helpers.submit(tell_parent, engine.store, engine.post.control, driver.parent.id)


def _begin_successor(driver: Driver) -> None:
    """Whoever follows the run follows the one that goes on from here. On a helper thread."""
    engine, life = driver.engine, driver.life
    run_id = successor_id(driver.run_id)
    try:
        record = engine.store.find_run(run_id)
        life.run_id, life.number, life.driver = record.id, record.number, None
        engine.sleeping.hand_over(life)
        engine.resume(run_id, reopen=False)
    except BaseException as error:  # it is recorded, and can be resumed as any run that nobody works on
        engine.sleeping.taken(run_id)
        closed = isinstance(error, RuntimeStopped)
        life.end(RunState.INTERRUPTED, None if closed else error)


def _adopt_more(driver: Driver) -> None:
    """The body of a run whose mismatches are to be adopted has come to another one. On a helper thread."""
    engine, life = driver.engine, driver.life
    life.driver = None
    engine.sleeping.hand_over(life)
    try:
        engine.resume(life.run_id, adopt=True)
    except BaseException as error:
        engine.sleeping.taken(life.run_id)
        life.end(RunState.MISMATCH, None if isinstance(error, RuntimeStopped) else error)


def tell_parent(store: Store, control: Path, parent_id: str) -> None:
    """The parent is due, and hears of it now if its process can be told. (One that is being cancelled needs no word of
    each child that it cancels.)"""
    from dagengine.signals import tell

    with contextlib.suppress(DagengineError):
        parent = find(store, parent_id)
        if parent is not None and parent.cancel_requested_at is None:
            tell(store, control, parent)


def end_without_driver(store: Store, control: Path, claim: Claim, end: FinishRun, timeout: float | None = None) -> None:
    """End a claimed run that nobody works on; its parent hears of it. Raises what the store says; queue.Empty if it says
    nothing for `timeout` seconds."""
    parent = parent_of(store, store.find_run(claim.run_id))
    answers: SimpleQueue[Exception | None] = SimpleQueue()
    store.write(claim, [end, *([] if parent is None else [_come(parent)])], answers.put)
    error = answers.get(timeout=timeout)
    if error is not None:
        raise error
    if parent is not None:
        tell_parent(store, control, parent.id)


def _come(parent: RunRecord) -> SideWrite:
    return SideWrite("children:COME", ({"parent": parent.number, "id": parent.id},))
