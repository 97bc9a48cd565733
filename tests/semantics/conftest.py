"""Engines for these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagengine.engine import Engine
from dagengine.testing import memory_engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A store in memory, tasks in this process."""
    with memory_engine() as opened:
        yield opened
