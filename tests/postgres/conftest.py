"""Stores on the session's server, and servers that a test may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dagengine.storage.postgres import PostgresStore
from tests.postgres.server import Server, fresh_schema, shared

Open = Callable[..., PostgresStore]


@pytest.fixture
def url() -> str:
    """Of a new store on the session's server. Nothing renews its leases but a test that says so: they are long."""
    return shared().url(fresh_schema(), lease="3600")


@pytest.fixture
def open_store() -> Iterator[Open]:
    """Opens stores that are closed at the end of the test."""
    opened: list[PostgresStore] = []

    def make(url: str, **options: object) -> PostgresStore:
        opened.append(PostgresStore(url, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for store in opened:
        store.hurry()
        store.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, started."""
    own = Server()
    try:
        own.start()
        yield own
    finally:
        own.remove()
