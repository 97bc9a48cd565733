"""What follows from a run's end: its parent hears of it, and the run that it was continued as begins.

May import everything of the workflow layer that the driver may.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from dagengine.continuing import find, successor_id
from dagengine.errors import DagengineError
from dagengine.model import RunRecord, RunState
from dagengine.storage.interface import FinishRun, SideWrite, Store, Write

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
    return [SideWrite("children:COME", ({"parent": parent.number, "id": parent.id},))]


def after_end(driver: Driver) -> None:
    """The end of the driver's run is durable. On the engine's thread."""
    engine = driver.engine
    if driver.continued and driver.state is RunState.SUCCEEDED:
        engine.helpers.submit(_begin_successor, driver)
        return
    _over(driver)
    if driver.parent is not None and driver.state in OVER:
        waiting = engine.driver_of(driver.parent.id)
        if waiting is not None:
            engine.tell(waiting, waiting.outside.look)
        else:
            engine.helpers.submit(_hint, driver)


def _begin_successor(driver: Driver) -> None:
    """The run is over for those who wait, and forgotten, when the one that goes on is under way: somebody who follows the
    chain finds each of its runs either at work or ended."""
    try:
        with contextlib.suppress(DagengineError):  # it is recorded, and resumed as any run that nobody works on
            driver.engine.resume(successor_id(driver.run_id), reopen=False)
    finally:
        driver.engine.tell(driver, partial(_over, driver))


def _over(driver: Driver) -> None:
    driver.ended.set()
    driver.engine.forget(driver)


def _hint(driver: Driver) -> None:
    from dagengine.hints import hint

    with contextlib.suppress(DagengineError):
        hint(driver.engine.store, driver.engine._control_folder)
