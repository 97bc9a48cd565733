"""Worker processes under test: nothing that a test starts is left behind when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dagengine.runtime.processes import ProcessRuntime
from tests.runtime.harness import Harness
from tests.runtime.left_behind import Left


@pytest.fixture
def left() -> Iterator[Left]:
    """Checks at the end that no process, descriptor or thread is left."""
    before = Left.now()
    yield before
    before.check()


@pytest.fixture
def open_harness(left: Left) -> Iterator[Callable[..., Harness]]:
    """Opens harnesses around process runtimes with the given arguments, and closes them."""
    opened: list[Harness] = []

    def open_one(workers: int = 1, **options: object) -> Harness:
        harness = Harness(ProcessRuntime(workers, **options))  # type: ignore[arg-type]
        opened.append(harness)
        return harness.__enter__()

    yield open_one
    for harness in opened:
        harness.__exit__()


@pytest.fixture
def harness(open_harness: Callable[..., Harness]) -> Harness:
    """A runtime of one worker."""
    return open_harness(1)
