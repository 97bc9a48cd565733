"""Workers under test, each a real process forked by a real forker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.worker.controller import Controller, Parent


@pytest.fixture(scope="module")
def parent() -> Iterator[Parent]:
    """One forker for the tests of a module."""
    made = Parent()
    yield made
    made.close()


@pytest.fixture
def start_worker(parent: Parent, tmp_path: Path) -> Iterator[Callable[[], Controller]]:
    """Starts workers, and ends them with the test."""
    started: list[Controller] = []

    def start_one() -> Controller:
        controller = Controller(parent, tmp_path)
        started.append(controller)
        return controller

    yield start_one
    for controller in started:
        controller.close()


@pytest.fixture
def worker(start_worker: Callable[[], Controller]) -> Controller:
    """One worker."""
    return start_worker()
