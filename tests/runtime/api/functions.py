"""Functions and classes that the tests of the public API run on workers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import dagengine.runtime as rt


@rt.remote
def add(left: int, right: int) -> int:
    return left + right


@rt.remote
def total(*values: Any) -> int:
    return sum(sum(value) if isinstance(value, list) else value for value in values)


@rt.remote
def same(value: Any) -> Any:
    return value


@rt.remote
def keywords(self: int, fn: int, args: int, kwargs: int) -> tuple[int, int, int, int]:
    return self, fn, args, kwargs


@rt.remote
def divide(left: int, right: int) -> float:
    return left / right


@rt.remote
async def later(value: int) -> int:
    await asyncio.sleep(0)
    return value


@rt.remote(returns=3)
def three() -> list[int]:
    return [1, 2, 3]


@rt.remote
def count_to(most: int) -> Iterator[int]:
    yield from range(most)


@rt.remote
async def count_async(most: int) -> AsyncIterator[int]:
    for item in range(most):
        yield item


@rt.remote
def two_then_fail() -> Iterator[int]:
    yield 1
    yield 2
    raise ValueError("no third")


@rt.remote(ahead=2)
def logged_count(log: str, most: int) -> Iterator[int]:
    for item in range(most):
        with open(log, "a") as file:
            file.write(f"{item}\n")
        yield item


@rt.remote
def wait_for(path: str) -> str:
    """Until the file is there."""
    while not Path(path).exists():
        time.sleep(0.005)
    return path


@rt.remote
def note_and_wait(begun: str, path: str) -> int:
    Path(begun).touch()
    while not Path(path).exists():
        time.sleep(0.005)
    return os.getpid()


@rt.remote
def die(log: str | None = None) -> None:
    if log is not None:
        with open(log, "a") as file:
            file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@rt.remote
def die_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second attempt"


@rt.remote
def array_sum(array: Any) -> int:
    assert not array.flags.writeable
    return int(array.sum())


@rt.remote
def make_array(size: int) -> Any:
    import numpy as np

    return np.arange(size)


@rt.remote
def kind_of(value: Any) -> str:
    return type(value).__name__


def make_lock() -> threading.Lock:
    return threading.Lock()


@rt.remote
def interrupt(pid: int, path: str) -> int:
    while not Path(path).exists():
        time.sleep(0.005)
    os.kill(pid, signal.SIGINT)
    return 5


# ---- nested ---------------------------------------------------------------------------------


@rt.remote
def sum_of_children(count: int) -> int:
    return sum(rt.get([add.remote(item, 1) for item in range(count)]))


@rt.remote
def tree(depth: int) -> int:
    if depth == 0:
        return 1
    return sum(rt.get([tree.remote(depth - 1), tree.remote(depth - 1)]))


@rt.remote
def refs_of_children(count: int) -> list[Any]:
    return [add.remote(item, 1) for item in range(count)]


@rt.remote
def yield_refs(count: int) -> Iterator[Any]:
    for item in range(count):
        yield [rt.put([item] * 5_000)]


@rt.remote
def get_it(ref: Any) -> Any:
    return rt.get(ref)


@rt.remote
def put_and_get(size: int) -> tuple[int, Any]:
    import numpy as np

    ref = rt.put(np.arange(size))
    return int(rt.get(ref).sum()), ref


@rt.remote
def failing_child() -> float:
    return rt.get(divide.remote(1, 0))


@rt.remote
def sum_of_stream(most: int) -> int:
    return sum(rt.get(item) for item in count_to.remote(most))


@rt.remote
def wait_in_task(path: str) -> tuple[int, int]:
    refs: list[rt.Ref[Any]] = [add.remote(1, 1), wait_for.remote(path)]
    done, rest = rt.wait(refs, 1)
    Path(path).touch()
    rt.get(refs)
    return len(done), len(rest)


@rt.remote
def get_with_timeout(path: str) -> str:
    try:
        rt.get(wait_for.remote(path), timeout=0.05)
    except TimeoutError as error:
        Path(path).touch()
        return type(error).__name__
    return "it came"


# ---- actors ---------------------------------------------------------------------------------


class CounterState:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def wait_then_add(self, begun: str, path: str) -> int:
        Path(begun).touch()
        while not Path(path).exists():
            time.sleep(0.005)
        return self.add()

    def fail(self) -> None:
        raise KeyError("no such thing")

    def ask(self, me: Any) -> int:
        found: int = rt.get(me.add.remote())
        return found

    def make(self, size: int) -> Any:
        import numpy as np

        return np.arange(size)


class BrokenState:
    def __init__(self) -> None:
        raise ValueError("can't be made")

    def hello(self) -> str:
        return "hello"


class MeetingState:
    """Its calls end only when all of them have come."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)

    def meet(self) -> bool:
        self.barrier.wait(300)
        return True


class AsyncMeetingState:
    def __init__(self, size: int) -> None:
        self.size = size
        self.came = 0
        self.all: asyncio.Event | None = None

    async def meet(self) -> int:
        self.all = self.all or asyncio.Event()
        self.came += 1
        if self.came == self.size:
            self.all.set()
        await self.all.wait()
        return self.came


class SavingState:
    """Says itself what its state is."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.lock = open("/dev/null")  # noqa: SIM115 - something that can't be pickled

    def checkpoint(self) -> list[int]:
        return self.items

    def restore(self, items: list[int]) -> None:
        self.items = items
        self.lock = open("/dev/null")  # noqa: SIM115

    def push(self, item: int) -> list[int]:
        self.items.append(item)
        return self.items

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


Counter = rt.remote(CounterState)
Broken = rt.remote(BrokenState)
Meeting = rt.remote(MeetingState).options(concurrency=4)
AsyncMeeting = rt.remote(AsyncMeetingState).options(concurrency=10)
Saving = rt.remote(SavingState).options(max_restarts=2)


@rt.remote(max_restarts=1)
class Decorated:
    def where(self) -> int:
        return os.getpid()


@rt.remote
def add_thrice(counter: Any) -> list[int]:
    return rt.get([counter.add.remote() for _ in range(3)])


@rt.remote
def find_and_add(name: str) -> int:
    found: int = rt.get(rt.actor(name).add.remote())
    return found


@rt.remote
def make_counter() -> Any:
    counter = Counter.remote(10)
    rt.get(counter.add.remote())
    return counter
