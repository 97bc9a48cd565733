"""The workflows that are measured. Their tasks do next to nothing, so that what is left is the engine.

They live in a module of their own, because workers import them by name.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from typing import TYPE_CHECKING, Any

from dagengine import get, task, workflow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

PAYLOAD_BYTES = 8 * 2**20
MARK = struct.Struct("<qd")
"""One mark: the step's number, and the machine's monotonic clock."""

HELD = int(os.environ.get("BENCH_HELD", "-1"))
"""The number of a step that does not go on: whoever is to be killed on the way must not come to an end before."""

_trace: list[int] = []


def mark(number: int) -> None:
    """Note that step `number` runs, in a file that a kill does not take back. One descriptor for each worker."""
    if not _trace:
        _trace.append(os.open(os.environ["BENCH_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    os.write(_trace[0], MARK.pack(number, time.monotonic()))


@task
def increment(number: int) -> int:
    return number + 1


@task
def count(items: list[int]) -> int:
    return len(items)


@task
def marked(number: int) -> int:
    while number == HELD:
        signal.pause()
    mark(number)
    return number


@task
def first_array() -> Array:
    import numpy as np

    return np.random.default_rng(0).standard_normal(PAYLOAD_BYTES // 8)


@task
def next_array(array: Array) -> Array:
    following: Array = array + 1
    return following


@task
def length(array: Array) -> int:
    return len(array)


@workflow
def one() -> int:
    """The least there is: one step."""
    return increment(0)


@workflow
def fan(n: int) -> int:
    """One step, n that read it, one that reads them all."""
    source = increment(0)
    return count([increment(source) for _ in range(n)])


@workflow
def steps(n: int) -> int:
    """n steps by a body that waits for each before it calls the next."""
    value = 0
    for _ in range(n):
        value = get(increment(value))
    return value


@workflow
def chain(n: int) -> int:
    """n steps, each reading the one before, called without waiting."""
    value = 0
    for _ in range(n):
        value = increment(value)
    return value


@workflow
def latency(n: int) -> list[float]:
    """n times: call a step and wait for its value. Returns the seconds of each."""
    taken = []
    for number in range(n):
        began = time.perf_counter()
        get(increment(number))
        taken.append(time.perf_counter() - began)
    return taken


@workflow
def payload(n: int) -> int:
    """n arrays of 8 MiB, each made from the one before."""
    array = first_array()
    for _ in range(n - 1):
        array = next_array(array)
    return length(array)


@workflow
def marked_steps(n: int) -> int:
    """`steps`, with a mark for each."""
    for number in range(n):
        get(marked(number))
    return n


@workflow
def marked_fan(n: int) -> int:
    """n independent steps with a mark for each, and one that reads them all."""
    return count([marked(number) for number in range(n)])
