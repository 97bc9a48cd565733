"""`Executor`, held against what `concurrent.futures` documents of executors and futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import operator
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dagengine.runtime.futures import Executor, RemoteTraceback, WorkerDied
from tests.runtime.left_behind import WAIT, Left

ROOT = Path(__file__).parents[3]


def wait_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.005)
    return path


def keywords(self: int, fn: int) -> tuple[int, int]:
    return self, fn


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(message: str) -> None:
    raise RuntimeError(message)  # where it happens


_said: list[Any] = []


def say(*words: Any) -> None:
    _said.extend(words)


def said() -> list[Any]:
    return _said


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("this can't be pickled")


class Event:
    def __init__(self, number: int) -> None:
        self.number = number

    def same(self) -> int:
        return self.number


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(2) as made:
        yield made


def test_a_future_is_the_standard_librarys(executor: Executor) -> None:
    """Result, exception, states and callbacks are those of `concurrent.futures.Future`."""
    future = executor.submit(pow, 2, 5)
    assert type(future) is Future
    assert future.result(WAIT) == 32
    assert future.exception() is None
    assert future.done()
    assert not future.cancel()
    called: list[Any] = []
    future.add_done_callback(called.append)
    assert called == [future]


def test_any_keyword_is_the_functions(executor: Executor) -> None:
    """`self=` and `fn=` belong to the call."""
    assert executor.submit(keywords, self=1, fn=2).result() == (1, 2)


def test_whatever_can_be_called_can_be_submitted(executor: Executor) -> None:
    """Lambdas, partials, bound methods, built-ins, classes, instances of operator's."""
    calls: list[tuple[Any, tuple[Any, ...], Any]] = [
        (lambda x: x + 1, (1,), 2),
        (functools.partial(pow, 2), (3,), 8),
        (Event(7).same, (), 7),
        ("x-y".split, ("-",), ["x", "y"]),
        (int, ("5",), 5),
        (operator.itemgetter(1), ([1, 2],), 2),
    ]
    assert [executor.submit(fn, *args).result() for fn, args, _ in calls] == [expected for *_, expected in calls]


def test_an_exception_keeps_its_type_and_brings_its_remote_traceback(executor: Executor) -> None:
    """`__cause__` shows the line in the worker."""
    error = executor.submit(fail, "123").exception()
    assert type(error) is RuntimeError
    assert error.args == ("123",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "# where it happens" in str(error.__cause__)


def test_what_can_not_be_pickled_fails_its_own_call_only(executor: Executor) -> None:
    """The error is what pickling raised, and the executor goes on."""
    with pytest.raises(RuntimeError, match="this can't be pickled"):
        executor.submit(id, Unpicklable()).result()
    with pytest.raises(TypeError, match="pickle"):
        executor.submit(threading.Lock).result()
    assert executor.submit(abs, -1).result() == 1


def test_map_keeps_the_order_and_raises_where_a_call_failed(executor: Executor) -> None:
    """Results before the failed one are given; with chunks as well."""
    for size in (1, 2, 7):
        assert list(executor.map(pow, range(20), range(20), chunksize=size)) == list(map(pow, range(20), range(20)))
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=-1)


def test_map_gives_up_after_its_timeout(executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TimeoutError comes from the iterator, after the results that were in time."""
    now = 0.0
    monkeypatch.setattr(concurrent.futures._base, "time", SimpleNamespace(monotonic=lambda: now))
    results = executor.map(wait_for, [str(ROOT), str(tmp_path / "go")], timeout=WAIT)
    assert next(results) == str(ROOT)
    now = WAIT
    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "go").touch()


def test_wait_and_as_completed_work_with_its_futures(executor: Executor, tmp_path: Path) -> None:
    """As with those of any executor."""
    gate = str(tmp_path / "go")
    fast: Future[Any]
    slow: Future[Any]
    fast, slow = executor.submit(abs, -2), executor.submit(wait_for, gate)
    done, rest = concurrent.futures.wait([fast, slow], return_when=concurrent.futures.FIRST_COMPLETED, timeout=WAIT)
    assert done == {fast}
    assert rest == {slow}
    failed: Future[Any] = executor.submit(fail, "x")
    done, _ = concurrent.futures.wait([failed, slow], return_when=concurrent.futures.FIRST_EXCEPTION, timeout=WAIT)
    assert done == {failed}
    Path(gate).touch()
    assert set(concurrent.futures.as_completed([slow, fast, failed], timeout=WAIT)) == {slow, fast, failed}


def test_it_is_an_executor_for_asyncio(executor: Executor) -> None:
    """`run_in_executor` gives the value and the exception."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="oh"):
            await loop.run_in_executor(executor, fail, "oh")
        return await loop.run_in_executor(executor, abs, -5)

    assert asyncio.run(main()) == 5


def test_what_no_worker_was_given_can_be_cancelled(tmp_path: Path) -> None:
    """Running calls can't; cancelled ones never run, and their futures say so."""
    gate = str(tmp_path / "go")
    with Executor(1) as executor:
        futures = [executor.submit(wait_for, gate) for _ in range(5)]
        assert futures[0].running()
        assert not futures[0].cancel()
        assert futures[-1].cancel()
        assert futures[-1].cancelled()
        with pytest.raises(CancelledError):
            futures[-1].result()
        Path(gate).touch()
        assert futures[0].result() == gate


def test_shutdown_finishes_what_was_submitted() -> None:
    """With wait=False later; and nothing can be submitted afterwards."""
    executor = Executor(2)
    futures = [executor.submit(abs, -n) for n in range(50)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(abs, 1)
    assert [future.result(WAIT) for future in futures] == list(range(50))
    executor.shutdown()
    Executor().shutdown()  # that never began


def test_shutdown_can_cancel_what_waits(tmp_path: Path) -> None:
    """What runs is done; every future has ended when it returns."""
    gate = tmp_path / "go"
    executor = Executor(1)
    futures = [executor.submit(wait_for, str(gate)) for _ in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert futures[0].result() == str(gate)
    assert sum(future.cancelled() for future in futures) >= 15


def test_nothing_is_left_of_a_shut_down_executor() -> None:
    """No process, no thread, no descriptor; also where it is only collected."""
    left = Left.now()
    with Executor(2) as executor:
        assert list(executor.map(abs, range(-100, 0))) == list(range(100, 0, -1))
    left.check()
    collected = Executor(1)
    future = collected.submit(abs, -1)
    backlog = collected._backlog
    del collected
    gc.collect()
    assert future.result(WAIT) == 1
    assert backlog.join(WAIT)
    left.check()


def test_a_lost_worker_breaks_its_call_and_not_the_executor(executor: Executor) -> None:
    """WorkerDied is a BrokenProcessPool that names the signal; other calls are not touched."""
    others = [executor.submit(abs, -n) for n in range(50)]
    dying = executor.submit(kill_self)
    others += [executor.submit(abs, -n) for n in range(50)]
    with pytest.raises(WorkerDied, match="SIGKILL") as caught:
        dying.result(WAIT)
    assert isinstance(caught.value, BrokenProcessPool)
    assert isinstance(caught.value, BrokenExecutor)
    assert [future.result(WAIT) for future in others] == [*range(50)] * 2


def test_each_worker_is_initialised_before_its_first_call() -> None:
    """Once, with its arguments."""
    with Executor(2, initializer=say, initargs=("a", 1)) as executor:
        assert all(words == ["a", 1] for words in executor.map(lambda _: said(), range(20)))


def test_a_failing_initializer_breaks_the_executor() -> None:
    """As in the original: what was submitted fails, and nothing can be submitted."""
    with Executor(1, initializer=fail, initargs=("not today",)) as executor:
        futures = [executor.submit(abs, 1) for _ in range(3)]
        for future in futures:
            with pytest.raises(BrokenProcessPool, match="not today"):
                future.result(WAIT)
        with pytest.raises(BrokenProcessPool):
            executor.submit(abs, 1)


def test_arguments_are_checked() -> None:
    """With the original's words."""
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Executor(initializer=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pickle.dumps(Executor())


def test_arguments_and_results_are_let_go(executor: Executor) -> None:
    """Neither the executor nor its threads keep a value that the user has dropped."""
    argument = Event(3)
    gone = weakref.ref(argument)
    future = executor.submit(Event.same, argument)
    del argument
    assert future.result() == 3
    result = executor.submit(Event, 4).result()
    kept = weakref.ref(result)
    del result, future
    deadline = time.monotonic() + WAIT
    while gone() is not None or kept() is not None:
        assert time.monotonic() < deadline
        executor.submit(abs, 1).result()  # the thread that hands over results has gone on
        gc.collect()


def test_large_arrays_are_not_copied(executor: Executor) -> None:
    """They come as read-only views, and are right."""
    import numpy as np

    array = np.arange(500_000)
    assert executor.submit(np.sum, array).result() == array.sum()
    back = executor.submit(np.arange, 500_000).result()
    assert (back == array).all()
    assert not back.flags.writeable


def test_the_interpreters_end_waits_for_what_was_submitted(tmp_path: Path) -> None:
    """A script that ends without `shutdown` has all of its work done; so has one whose last line raises."""
    out = tmp_path / "out"
    code = f"""
from dagengine.runtime.futures import Executor
import pathlib, time
def note(n):
    time.sleep(0.01)
    with open({str(out)!r}, "a") as file: file.write(str(n))
if __name__ == "__main__":
    executor = Executor(1)
    for n in range(5): executor.submit(note, n)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert out.read_text() == "01234"
