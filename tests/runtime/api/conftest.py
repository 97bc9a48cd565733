"""One runtime of two workers for the tests of a module: starting it costs more than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dagengine.runtime as rt
from dagengine.runtime import clients
from tests.runtime.api.fake import FakeRuntime


@pytest.fixture(scope="module")
def runtime() -> Iterator[Any]:
    """A session of two workers."""
    with rt.start(2) as session:
        yield session
    assert not clients.running()


@pytest.fixture
def fake() -> Iterator[FakeRuntime]:
    """A session on a runtime whose moves the test makes."""
    from dagengine.runtime.session import Session

    made = FakeRuntime()
    clients._session = Session(made, clients._forget)
    yield made
    made.go()
    rt.stop()
