"""Tasks that the runtime's tests have run. Loaded by path, in workers and in the test's own process."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from dagengine.errors import ObjectLost
from dagengine.runtime.current import context


def same(value: Any) -> Any:
    return value


def add(left: Any, right: Any = 0) -> Any:
    return left + right


def total(values: list[Any]) -> Any:
    return sum(values)


async def add_later(left: int, right: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return left + right


def current_context() -> dict[str, Any] | None:
    return context.get()


def pid() -> int:
    return os.getpid()


# ---- failing --------------------------------------------------------------------------------


def fail(text: str = "no luck") -> NoReturn:
    raise ValueError(text)


def fail_deeper(text: str) -> None:
    try:
        fail(text)
    except ValueError as error:
        raise KeyError("deeper") from error


async def fail_later() -> None:
    fail("later")


def leave(status: int) -> NoReturn:
    sys.exit(status)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def fail_unspeakably() -> NoReturn:
    raise Unspeakable


class NeedsTwo(Exception):
    """Pickles, and does not come back: unpickling calls it with one argument."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def fail_needing_two() -> NoReturn:
    raise NeedsTwo("a", "b")


def fail_at_length(characters: int) -> NoReturn:
    raise ValueError("x" * characters)


def unpicklable_result() -> Any:
    return {"fine": 1, "bad": [1, threading.Lock()]}


def unpicklable_generator() -> Iterator[int]:
    yield 1


def fail_unpicklably() -> NoReturn:
    raise ValueError("holds a lock", threading.Lock())


class Decorated:
    """As a decorator of the workflow layer leaves a function: the plain one inside, and a say about retries."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *args: Any) -> NoReturn:
        raise AssertionError("the plain function is to be called")

    def is_retriable(self, error: BaseException) -> bool:
        if isinstance(error, ZeroDivisionError):
            raise TypeError("a broken predicate")
        return not isinstance(error, ValueError)


@Decorated
def divide(left: int, right: int) -> float:
    if left < 0:
        raise ValueError("negative")
    if right == 1:
        raise OSError("busy")
    return left / right


# ---- dying ----------------------------------------------------------------------------------


def exit_hard(status: int) -> NoReturn:
    os._exit(status)


def crash() -> int:
    return ctypes.string_at(0)[0]


def kill_self(number: int) -> NoReturn:
    os.kill(os.getpid(), number)
    raise AssertionError("still here")


def touch_and_hang(path: str) -> NoReturn:
    """Say that it runs, by a file that appears whole, then wait for a signal that does not come."""
    announce(path)
    hang()


def hang() -> NoReturn:
    """Not by `signal.pause`, nor in long naps: a signal that comes just before is heard only afterwards."""
    while True:
        time.sleep(0.05)


def announce(path: str) -> None:
    part = Path(f"{path}.part")
    part.write_text(str(os.getpid()))
    part.rename(path)


def touch_and_wait(path: str, gate: str) -> str:
    """Say that it runs, then wait until someone opens the named pipe `gate` for writing."""
    announce(path)
    with open(gate) as file:
        return file.read()


def ignore_sigterm_and_hang(path: str) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    touch_and_hang(path)


def print_and_hang(path: str, text: str) -> NoReturn:
    print(text)
    touch_and_hang(path)


def print_and_exit(text: str) -> NoReturn:
    print(text)
    os._exit(3)


def print_and_fail(text: str) -> NoReturn:
    print(text)
    raise ValueError("after printing")


def start_child(path: str) -> NoReturn:
    """Start a process that only ends when it is killed, and hang."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    Path(f"{path}.child").write_text(str(child.pid))
    touch_and_hang(path)


# ---- rude -----------------------------------------------------------------------------------


def print_all_ways(text: str) -> None:
    print(text, "print")
    print(text, "error", file=sys.stderr)
    os.write(1, f"{text} write\n".encode())
    subprocess.run([sys.executable, "-c", f"print({text!r}, 'child')"], check=True)
    libc = ctypes.CDLL(None)
    libc.printf(f"{text} printf\n".encode())


def print_bytes() -> None:
    os.write(1, bytes(range(256)))
    print("\udc80")


def print_much(size: int) -> int:
    chunk = "x" * 1023
    for _ in range(size // 1024):
        print(chunk)
    return size


def close_streams() -> None:
    os.close(1)
    os.close(2)


def close_stdout_object() -> None:
    sys.stdout.close()


def replace_stdout(path: str) -> None:
    sys.stdout = open(path, "w")  # noqa: SIM115 - the rudeness is the point


def close_everything() -> None:
    os.closerange(0, 64)


def change_folder(path: str) -> str:
    before = str(Path.cwd())
    os.chdir(path)
    return before


def folder() -> str:
    return str(Path.cwd())


_variable: ContextVar[int] = ContextVar("count", default=0)


def count_in_context() -> int:
    _variable.set(_variable.get() + 1)
    return _variable.get()


def fork_and_return() -> int:
    """Both processes return from this."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return 7


def leave_thread() -> int:
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    return threading.active_count()


def read_stdin() -> str:
    with contextlib.suppress(ValueError):
        return sys.stdin.read()
    return ""


def settings() -> dict[str, Any]:
    return {
        "threads": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        "terminate": signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, None),
        "leads": os.getpgrp() == os.getpid(),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
        "name": Path("/proc/self/comm").read_text().strip(),
        "parent_threads": len(list(Path(f"/proc/{os.getppid()}/task").iterdir())),
        "descriptors": sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir()),
        "path": sys.path,
    }


# ---- large ----------------------------------------------------------------------------------


def array(count: int) -> Any:
    import numpy

    return numpy.arange(count, dtype="f8")


def look_at_array(values: Any) -> dict[str, Any]:
    import numpy

    address = values.__array_interface__["data"][0]
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [(line.split()[0].split("-"), line) for line in lines]
    mapping = next(line for (low, high), line in spans if int(low, 16) <= address < int(high, 16))
    return {"sum": float(numpy.sum(values)), "writeable": values.flags.writeable, "mapping": mapping}


def table(rows: int) -> Any:
    import pyarrow

    return pyarrow.table({"number": list(range(rows))})


def random_numbers() -> Any:
    import numpy

    return float(numpy.random.random())


def work(seconds: float) -> float:
    """Use the processor for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def touch_and_wait_if(path: str, gate: str) -> str:
    """Quick, unless it is given paths."""
    return touch_and_wait(path, gate) if path else ""


def exit_if_negative(number: int) -> int:
    if number < 0:
        os._exit(9)
    return number


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def import_and_call(module: str) -> Any:
    return importlib.import_module(module).answer()


def loaded(names: list[str]) -> list[str]:
    return [name for name in names if name in sys.modules]


def append(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(f"{text}\n")


# ---- objects --------------------------------------------------------------------------------


def length(value: Any) -> int:
    return len(value)


def say_that_it_is_damaged(number: int) -> None:
    raise ObjectLost("it is not what it was", objects=[[number]])


def lengths(values: list[Any]) -> list[int]:
    return [len(value) for value in values]


def repeat(text: str, count: int) -> str:
    return text * count


def repeat_like(value: Any, count: int) -> str:
    return chr(value[0]) * count


def checked(value: bytes, number: int) -> int:
    """The length of a value that is nothing but `number`."""
    assert value == bytes([number]) * len(value)
    return len(value)


_kept: list[Any] = []


def keep_array(values: Any) -> int:
    _kept.append(values)
    return len(values)


def sum_of_kept() -> float:
    return float(_kept[-1].sum())


# ---- actors and streams ---------------------------------------------------------------------


class Counter:
    def __init__(self, count: int) -> None:
        self.count = count + 0
        self.barrier = 2

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> NoReturn:
        fail()

    def die(self) -> NoReturn:
        kill_self(signal.SIGSEGV)

    def hang(self) -> NoReturn:
        hang()

    def meet(self) -> int:
        return _meeting.wait(300)


_meeting = threading.Barrier(2)


def count_up(count: int, folder: str) -> Iterator[list[int]]:
    try:
        for number in range(count):
            Path(folder, str(number)).touch()
            yield [number] * 1000
    finally:
        Path(folder, "closed").touch()


# ---- resources and ends ---------------------------------------------------------------------


def visible_devices() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def alone(path: str) -> bool:
    """Whether nobody else is in here."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    time.sleep(0.01)
    Path(path).unlink()
    return True


def meet_files(folder: str, number: int, count: int) -> int:
    """Wait until `count` of us have come."""
    Path(folder, str(number)).touch()
    deadline = time.monotonic() + 300
    while len(os.listdir(folder)) < count and time.monotonic() < deadline:  # noqa: PTH208 - names only
        time.sleep(0.005)
    return len(os.listdir(folder))  # noqa: PTH208 - names only


def refuse_to_end(path: str) -> NoReturn:
    announce(path)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(60)


def clean_up(path: str, clean: str) -> NoReturn:
    try:
        announce(path)
        hang()
    finally:
        Path(clean).touch()


def hoard(size: int) -> NoReturn:
    """Take memory, more and more, and keep it until somebody looks."""
    taken = []
    for _ in range(size // (10 << 20)):
        taken.append(os.urandom(1 << 20) * 10)
        time.sleep(0.01)
    hang()


def die_first(path: str) -> str:
    """Dies the first time that it runs."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "survived"
    os._exit(5)


def grow(number: int, values: list[bytes], size: int) -> bytes:
    """`size` bytes that say which number they are; its inputs have to be right."""
    for value in values:
        assert value == value[:1] * len(value)
    return bytes([number % 256]) * size


def right(value: bytes, number: int) -> bool:
    return value == bytes([number % 256]) * len(value)


# ---- asking ---------------------------------------------------------------------------------


def ask(verb: str, body: Any, blocks: bool = False) -> Any:
    from dagengine.runtime import current

    assert current.link is not None
    answer = current.link.ask(verb, body, blocks)
    if answer.failure is not None:
        raise ValueError(answer.failure.message)
    return answer.body


def put_and_get(value: Any, name: list[int]) -> int:
    import msgspec

    from dagengine.runtime import current
    from dagengine.values import encode

    assert current.link is not None
    ask("put", msgspec.to_builtins(current.link.keep(encode(value))))
    return len(current.link.open(ask("get", name, True)))


def put_and_die(size: int) -> NoReturn:
    from dagengine.runtime import current
    from dagengine.values import encode

    assert current.link is not None
    current.link.keep(encode(b"x" * size))
    kill_self(signal.SIGKILL)


# ---- whoever submitted ----------------------------------------------------------------------


def ask_owner(question: dict[str, Any], value: Any = None) -> Any:
    from dagengine.runtime import owner
    from dagengine.values import encode

    return owner.ask(question, None if value is None else encode(value))


def tell_owner(count: int) -> int:
    from dagengine.runtime import owner

    for number in range(count):
        owner.tell({"number": number})
    return count


def is_within() -> list[bool]:
    """Here, and on a thread of this task's own."""
    import threading

    from dagengine.runtime import owner

    found = [owner.within()]
    thread = threading.Thread(target=lambda: found.append(owner.within()))
    thread.start()
    thread.join()
    return found
