"""The workflow of the fixture stores in `stores/`: each was killed in the middle of it, by the code of its day.

To make another: with DAGENGINE_TEST_DIES set, start `old` on a new store with the code of that day; it kills its process.
What `sqlite3.Connection.iterdump` says of the store then, without names of machines, is the fixture.
"""

from __future__ import annotations

import os
import signal

from dagengine import get, task, workflow


@task
def numbers(count: int) -> list[int]:
    """So many."""
    return list(range(count))


@task
def large(number: int) -> bytes:
    """A value that is an artifact."""
    return bytes([number]) * 20_000


@task
def square(number: int) -> int:
    """A small value."""
    return number * number


@task
def total(squares: list[int], size: int) -> int:
    """The end of it."""
    return sum(squares) + size


@workflow
def old() -> int:
    """Waits for a value, loses its process the first time, and goes on."""
    known = numbers(6)
    size = len(get(large(7)))
    squares = square.map(known)
    if len(get(squares)) == 6 and os.environ.get("DAGENGINE_TEST_DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    return total(squares, size)


RESULT = 0 + 1 + 4 + 9 + 16 + 25 + 20_000
