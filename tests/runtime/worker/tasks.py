"""Tasks and actors that the worker's tests have run. Loaded by path, in workers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn

from dagengine.runtime import current

KEPT: list[Any] = []


def same(value: Any) -> Any:
    return value


def large(size: int = 100_000) -> bytes:
    return b"x" * size


def pid() -> int:
    return os.getpid()


def fail(text: str = "no luck") -> NoReturn:
    raise ValueError(text)


def environment(name: str) -> str | None:
    return os.environ.get(name)


def busy(megabytes: int) -> int:
    """Takes memory, and long enough for it to be looked at."""
    taken = bytearray(megabytes << 20)
    until = time.monotonic() + 0.02
    while time.monotonic() < until:
        pass
    return len(taken)


# ---- objects --------------------------------------------------------------------------------


def total(array: Any) -> float:
    return float(array.sum())


def try_to_write(array: Any) -> bool:
    try:
        array[0] = 1
    except ValueError:
        return False
    return True


def keep(value: Any) -> int:
    KEPT.append(value)
    return len(KEPT)


def keep_in_a_cycle(value: Any) -> None:
    gc.disable()
    cycle: list[Any] = [value]
    cycle.append(cycle)


def drop() -> None:
    KEPT.clear()


def drop_when_told(path: str) -> None:
    """Leaves a thread behind that drops what is kept once the FIFO is written to."""

    def wait() -> None:
        Path(path).read_bytes()
        KEPT.clear()

    threading.Thread(target=wait, daemon=True).start()


# ---- asking ---------------------------------------------------------------------------------


def ask(verb: str, body: Any, blocks: bool = False) -> Any:
    assert current.link is not None
    answer = current.link.ask(verb, body, blocks)
    return answer.body if answer.failure is None else answer.failure.message


def ask_and_open(verb: str) -> Any:
    assert current.link is not None
    value = current.link.open(current.link.ask(verb, None).body)
    return float(value.sum())


def ask_and_forget(verb: str) -> None:
    assert current.link is not None
    current.link.ask(verb, None)


def ask_on_threads(count: int) -> list[Any]:
    results: list[Any] = [None] * count

    def one(number: int) -> None:
        results[number] = ask("number", number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def leave_an_asker(verb: str) -> None:
    """Ends while a thread of its own still waits for an answer, with which it asks again."""

    def wait() -> None:
        ask("again", ask(verb, None))

    threading.Thread(target=wait, daemon=True).start()


def leave_many_askers(threads: int) -> None:
    """Ends while threads of its own ask one thing after the other, and check what they get, until it is nothing."""

    def one(number: int) -> None:
        for time_ in itertools.count():
            answer = ask("double", [number, time_])
            if answer is None:
                break
            if answer != [number, time_] * 2:
                os._exit(1)
        ask("finished", number)

    for number in range(threads):
        threading.Thread(target=one, args=(number,), daemon=True).start()


def put(size: int) -> Any:
    from dagengine.values import encode

    assert current.link is not None
    written = current.link.keep(encode(b"y" * size))
    return ask("put", [written.size, written.request, written.data])


def tell_and_note() -> None:
    assert current.link is not None
    current.link.note("gone", 1)
    current.link.note("gone", 2)
    current.link.tell("told", "now")
    current.link.note("gone", 3)


def note_when_told(path: str) -> None:
    """Leaves a thread behind that notes something once the FIFO is written to."""
    assert current.link is not None
    link = current.link
    link.tell("ready", None)

    def wait() -> None:
        Path(path).read_bytes()
        link.note("late", 1)

    threading.Thread(target=wait, daemon=True).start()


# ---- streams --------------------------------------------------------------------------------


def count_to(end: int) -> Iterator[int]:
    yield from range(end)


def several(end: int) -> list[int]:
    return list(range(end))


def large_items(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number]) * 100_000


def count_until_closed(path: str) -> Iterator[int]:
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        Path(path).write_text("closed")


def fail_at(index: int) -> Iterator[int]:
    yield from range(index)
    raise ValueError("no more")


async def count_to_later(end: int) -> AsyncIterator[int]:
    for number in range(end):
        await asyncio.sleep(0)
        yield number


async def count_until_closed_later(path: str) -> AsyncIterator[int]:
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        _clean_up(path)


# ---- ending ---------------------------------------------------------------------------------


def nap() -> None:
    """Not `signal.pause`, nor long: a signal that comes just before is heard only afterwards."""
    time.sleep(0.05)


def clean_up_when_terminated(path: str) -> None:
    try:
        print("half a line", end="")
        current_link().tell("running", None)
        while True:
            nap()
    finally:
        Path(path).write_text("cleaned up")


def ask_for_ever(path: str) -> None:
    try:
        ask("never", None, True)
    finally:
        Path(path).write_text("cleaned up")


def swallow_termination() -> str:
    try:
        current_link().tell("running", None)
        while True:
            nap()
    except current.Terminated:
        return "went on"


def handle_termination() -> str:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    current_link().tell("running", None)
    while not told:
        nap()
    return "ended well"


def terminate_a_child() -> int:
    """How a child that was forked here ends when it gets SIGTERM."""
    ready, wrote = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(wrote, b"x")
        while True:
            nap()
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ask_in_a_child() -> str:
    """What a child that was forked here gets when it asks."""
    ready, wrote = os.pipe()
    if os.fork() == 0:
        try:
            ask("get", None)
        except Exception as error:
            os.write(wrote, str(error).encode())
        os._exit(0)
    os.wait()
    return os.read(ready, 1000).decode()


async def clean_up_later(path: str) -> None:
    try:
        current_link().tell("running", None)
        await asyncio.gather(asyncio.sleep(1000), asyncio.sleep(1000))
    finally:
        _clean_up(path)


def _clean_up(path: str) -> None:
    Path(path).write_text("cleaned up")


class Alarmed(Exception):
    pass


def give_up_asking() -> str:
    """Asks, and is interrupted by a handler of its own; then asks again."""

    def ring(*_: object) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        raise Alarmed

    signal.signal(signal.SIGALRM, ring)
    with contextlib.suppress(Alarmed):
        ask("never", None)
    return str(ask("second", None))


def current_link() -> current.Link:
    assert current.link is not None
    return current.link


# ---- actors ---------------------------------------------------------------------------------


class Counter:
    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise ValueError("a counter starts at 0")
        self.value = start
        self.notes: list[int] = []

    def __getstate__(self) -> dict[str, int]:
        return {"value": self.value}

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def fail(self) -> NoReturn:
        raise ValueError("no luck")

    def pid(self) -> int:
        return os.getpid()

    def devices(self) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def meet(self, others: int) -> int:
        """Returns when `others` calls beside this one are here as well."""
        if not hasattr(self, "barrier"):
            with _making:
                if not hasattr(self, "barrier"):
                    self.barrier = threading.Barrier(others + 1)
        return self.barrier.wait(300)

    def ask(self, verb: str) -> Any:
        return ask(verb, None)

    def on_main(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    async def later(self, amount: int = 1) -> int:
        await asyncio.sleep(0)
        return self.add(amount)

    def note(self) -> int:
        self.notes.append(1)  # in one step, whichever thread does
        return len(self.notes)

    async def note_later(self) -> int:
        await asyncio.sleep(0)
        return self.note()

    async def wait_for(self, name: str) -> str:
        await self._event(name).wait()
        return name

    async def say_and_wait_for(self, name: str) -> str:
        current_link().tell("waiting", None)
        return await self.wait_for(name)

    async def let(self, name: str) -> None:
        self._event(name).set()

    async def clean_up_later(self, path: str) -> None:
        await clean_up_later(path)

    async def large_later(self) -> bytes:
        return b"z" * 100_000

    def _event(self, name: str) -> asyncio.Event:
        events = self.__dict__.setdefault("events", {})
        return events.setdefault(name, asyncio.Event())  # type: ignore[no-any-return]


_making = threading.Lock()


class Plain:
    """As most are: nothing said of pickling."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def call(self, name: str) -> list[str]:
        self.calls.append(name)
        return self.calls


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 1

    def add(self) -> int:
        self.value += 1
        return self.value


class Checkpointed:
    def __init__(self) -> None:
        self.value = 0
        self.lock = threading.Lock()

    def add(self) -> int:
        with self.lock:
            self.value += 1
            return self.value

    def checkpoint(self) -> int:
        return self.value

    def restore(self, state: int) -> None:
        self.__init__()  # type: ignore[misc]
        self.value = state


class CheckpointedByClass(Checkpointed):
    @classmethod
    def restore(cls, state: int) -> CheckpointedByClass:  # type: ignore[override]
        made = cls()
        made.value = state
        return made


class Listed(list[int]):
    def add(self) -> int:
        self.append(1)
        return len(self)


class Unsaveable:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def call(self) -> int:
        return 1
