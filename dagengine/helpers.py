"""Threads for what has to wait for a disk or the store, so that the engine's thread never does.

Somebody waits for each answer: what goes wrong on the way to it reaches the run that it is for. It is then as if it had
gone wrong on the engine's thread: this process lets go of that run, which can be resumed, and of no other.

May import errors.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from dagengine.errors import InternalError, StoreError

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine

THREADS = 2
"""They wait for the disk, which serves few at a time; more would only hold more descriptors open."""


class Helpers:
    """Of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(THREADS, "helper")

    def submit(self, work: Callable[..., object], *arguments: Any) -> None:
        """Have work done that itself sees to what goes wrong."""
        self._threads.submit(work, *arguments)

    def work_for(self, driver: Driver, work: Callable[[], object]) -> None:
        """Have work done that a run waits for."""
        self._threads.submit(self._guarded, driver, work)

    def _guarded(self, driver: Driver, work: Callable[[], object]) -> None:
        try:
            work()
        except StoreError as error:
            self._engine.tell(driver, error)
        except Exception as error:
            internal = InternalError(f"run {driver.run_id}: {type(error).__name__}: {error}")
            internal.__cause__ = error
            self._engine.tell(driver, internal)

    def shutdown(self) -> None:
        """Wait for what is being done."""
        self._threads.shutdown()
