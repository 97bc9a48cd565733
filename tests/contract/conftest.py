"""The stores that have to keep the store's promises. Another one joins by a line in STORES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dagengine.storage.interface import Store
from dagengine.storage.memory import MemoryStore
from dagengine.storage.postgres import PostgresStore
from dagengine.storage.sqlite import SqliteStore
from tests.postgres.emptied import emptied_schema
from tests.postgres.pooler import NONE, binary, shared_pooler
from tests.postgres.server import shared
from tests.storage.kit import NOW

STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SqliteStore(str(folder / "store.db"), clock=lambda: NOW),
    # An hour's lease: nothing here renews it.
    "postgres": lambda folder: PostgresStore(shared().url(emptied_schema(), lease="3600"), clock=lambda: NOW),
    "pooler": lambda folder: PostgresStore(shared_pooler().url(emptied_schema(), lease="3600"), clock=lambda: NOW),
    "memory": lambda folder: MemoryStore(clock=lambda: NOW),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    if request.param == "pooler" and binary() is None:
        pytest.skip(NONE)
    opened = STORES[request.param](tmp_path)
    yield opened
    opened.close()
