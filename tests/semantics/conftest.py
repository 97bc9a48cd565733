"""Each feature once plain, and once with a crash before and after every write, on every store.

    def test_an_approved_order_is_shipped(everywhere: Everywhere) -> None:
        for report in everywhere(ship, 17, world=lambda engine, run_id: approve(run_id)).values():
            assert report.result == "shipped 17"

`everywhere` runs the plain case on each store, and on it the crashes (`dagengine.testing.crash_everywhere`; its options
can be given). A test that needs only one store says so: `everywhere(…, stores=("memory",))`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pytest

from dagengine.engine import Engine
from dagengine.storage.interface import Store
from dagengine.storage.postgres import PostgresStore
from dagengine.testing import CrashReport, crash_everywhere, memory_engine
from dagengine.workflows import Workflow
from tests.postgres.emptied import emptied_schema
from tests.postgres.server import shared

STORES = ("memory", "sqlite", "postgres")


class Everywhere(Protocol):
    def __call__(
        self,
        workflow: Workflow[..., Any],
        /,
        *args: Any,
        stores: Sequence[str] = STORES,
        **options: Any,
    ) -> dict[str, CrashReport]: ...


def emptied_postgres() -> Callable[[], Store]:
    """Opens the same store each time, with nothing in it."""
    return lambda: PostgresStore(shared().url(emptied_schema(), lease="3600"))


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A store in memory, tasks in this process."""
    with memory_engine() as opened:
        yield opened


@pytest.fixture
def everywhere() -> Everywhere:
    """Crashes before and after every write, on each store."""

    def run(
        workflow: Workflow[..., Any],
        /,
        *args: Any,
        stores: Sequence[str] = STORES,
        **options: Any,
    ) -> dict[str, CrashReport]:
        opening: dict[str, Any] = {"memory": "memory:", "sqlite": "sqlite:"}
        if "postgres" in stores:
            opening["postgres"] = emptied_postgres()
        return {
            name: crash_everywhere(workflow, *args, store=opening[name], **{"timeout": 300.0, **options})
            for name in STORES
            if name in stores
        }

    return run
