"""`Pool`, held against CPython's own tests of multiprocessing.Pool, and what they leave out."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import signal
import threading
import unittest
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from dagengine.runtime.pool import Pool, WorkerDied
from tests.runtime.left_behind import WAIT, Left

try:
    originals: Any = importlib.import_module("test._test_multiprocessing")
except ImportError:  # many distributions leave Python's own tests out
    originals = None


if originals is not None:

    class TestOriginal(originals._TestPool, unittest.TestCase):  # type: ignore[misc]
        """CPython's tests of Pool, on ours."""

        TYPE = "processes"
        Pool = staticmethod(Pool)

        @unittest.skip("looks at the original's list of processes; that wrong numbers are refused is tested below")
        def test_make_pool(self) -> None: ...

        @unittest.skip("sets the original's private state; a pool that is dropped ends by itself here")
        def test_resource_warning(self) -> None: ...

        @unittest.skip("times itself by the wall clock")
        def test_async(self) -> None: ...

        @unittest.skip("times itself by the wall clock; timeouts are tested below")
        def test_async_timeout(self) -> None: ...

        @unittest.skip("times itself by the wall clock")
        def test_map_no_failfast(self) -> None: ...

        @unittest.skip("sleeps, and counts instances of a class; what is kept is tested for Executor")
        def test_release_task_refs(self) -> None: ...

else:

    @pytest.mark.skip(reason="this Python has no `test` package with CPython's own tests")
    def test_original() -> None:
        """CPython's tests of Pool."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as made:
        yield made
    made.join()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(_: int = 0) -> None:
    signal.pause()


def set_up(word: str) -> None:
    os.environ["DAGENGINE_POOL_TEST"] = word


def word() -> str | None:
    return os.environ.get("DAGENGINE_POOL_TEST")


def test_callbacks_are_called_before_the_result_is_ready(pool: Pool) -> None:
    """With the value or the error, each once; and a result tells how it ended."""
    told: list[Any] = []
    result = pool.apply_async(divmod, (7, 2), callback=told.append, error_callback=told.append)
    assert result.get(WAIT) == (3, 1)
    assert result.successful()
    failed = pool.apply_async(divmod, (7, 0), callback=told.append, error_callback=told.append)
    failed.wait(WAIT)
    assert not failed.successful()
    assert told[0] == (3, 1)
    assert isinstance(told[1], ZeroDivisionError)
    assert len(told) == 2


def test_a_result_that_is_not_there_in_time_raises_the_librarys_timeout(pool: Pool) -> None:
    """And `successful` refuses to say anything yet. The same of an iterator, which goes on afterwards."""
    with Pool(1) as other:
        result = other.apply_async(hang)
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(0.05)
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        results = other.imap(abs, [1])
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0.05)
    with pytest.raises(BrokenProcessPool):
        result.get(WAIT)


def test_a_closed_pool_does_what_it_was_given_and_takes_no_more(pool: Pool) -> None:
    """Also what an iterator has not taken from its iterable yet."""
    left = Left.now()
    other = Pool(2)
    with pytest.raises(ValueError, match="still running"):
        other.join()
    results = other.imap_unordered(abs, iter(range(-5_000, 0)), chunksize=10)
    other.close()
    for call in (lambda: other.apply(abs, (1,)), lambda: other.map(abs, [1]), lambda: other.imap(abs, [1])):
        with pytest.raises(ValueError, match="Pool not running"):
            call()
    assert sorted(results) == list(range(1, 5_001))
    other.join()
    left.check()


def test_a_terminated_pool_ends_at_once() -> None:
    """What hung in it fails; nothing is left."""
    left = Left.now()
    other = Pool(2)
    result = other.map_async(hang, range(10), chunksize=1)
    other.terminate()
    other.join()
    with pytest.raises(BrokenProcessPool):
        result.get(WAIT)
    left.check()


def test_an_endless_iterable_is_taken_as_results_are(pool: Pool) -> None:
    """imap does not run away from whoever reads it."""
    with Pool(1) as other:
        results = other.imap(abs, itertools.count())
        assert [next(results) for _ in range(100)] == list(range(100))


def test_a_lost_worker_is_an_error_of_its_call(pool: Pool) -> None:
    """The original hangs; here the call tells, and the pool goes on."""
    with pytest.raises(WorkerDied, match="SIGKILL"):
        pool.apply(kill_self)
    assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))


def test_workers_are_initialised(pool: Pool) -> None:
    """Before their first call."""
    with Pool(2, set_up, ("ready",)) as other:
        assert set(other.starmap(word, [()] * 20)) == {"ready"}


def test_arguments_are_checked_as_the_original_does(pool: Pool) -> None:
    """Numbers of processes, of tasks for each, of calls in a chunk; and a pool can't be sent."""
    for processes in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            Pool(processes)
    for most in (0, -1, 0.5, "12"):
        with pytest.raises(ValueError, match="positive"):
            Pool(1, maxtasksperchild=most)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Chunksize"):
        pool.imap(abs, [1], 0)
    with pytest.raises(TypeError):
        Pool(1, initializer=3)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        pool.__reduce__()


def test_unpicklable_results_are_told_as_the_original_does(pool: Pool) -> None:
    """MaybeEncodingError, and the worker is not lost."""
    for _ in range(5):
        with pytest.raises(multiprocessing.pool.MaybeEncodingError):  # type: ignore[attr-defined]
            pool.apply(threading.Lock)
