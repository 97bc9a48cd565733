"""The joblib backend, held against what joblib documents of Parallel."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from dagengine.runtime import joblib as backend

joblib = pytest.importorskip("joblib", reason="the joblib extra is not installed")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    backend.register()
    backend.register()
    with joblib.parallel_config("dagengine", n_jobs=2):
        yield
    backend.shutdown()


def fail_at(number: int, at: int) -> int:
    if number == at:
        raise ValueError(f"at {at}")
    return number


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.005)


def inner(number: int) -> int:
    found: list[float] = joblib.Parallel(n_jobs=2)(joblib.delayed(sqrt)(n * n) for n in range(number))
    return int(sum(found))


def test_results_keep_the_order_of_the_calls() -> None:
    """However they are batched, and from any iterable."""
    for size in ("auto", 1, 50):
        found = joblib.Parallel(batch_size=size)(joblib.delayed(sqrt)(n * n) for n in range(200))
        assert found == list(range(200))
    assert joblib.Parallel()([]) == []


def test_the_work_is_done_in_other_processes() -> None:
    """In no more of them than there are jobs, and the same for the next call."""
    pids = [set(joblib.Parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(20))) for _ in range(2)]
    assert os.getpid() not in pids[0]
    assert len(pids[0] | pids[1]) <= 2


def test_lambdas_and_closures_can_be_called() -> None:
    """As with joblib's own default backend."""
    offset = 3
    assert joblib.Parallel()(joblib.delayed(lambda x: x + offset)(n) for n in range(3)) == [3, 4, 5]


def test_the_first_error_aborts_the_call_and_not_the_backend() -> None:
    """The exception keeps its type; the next call works."""
    with pytest.raises(ValueError, match="at 7"):
        joblib.Parallel(batch_size=1)(joblib.delayed(fail_at)(n, 7) for n in range(100))
    assert joblib.Parallel()(joblib.delayed(fail_at)(n, -1) for n in range(3)) == [0, 1, 2]


def test_results_can_be_generated_as_they_come() -> None:
    """In order, or as they end; a generator that is dropped half-way is no harm."""
    parallel = joblib.Parallel(return_as="generator")
    assert list(parallel(joblib.delayed(sqrt)(n * n) for n in range(20))) == list(range(20))
    unordered = joblib.Parallel(return_as="generator_unordered")
    assert sorted(unordered(joblib.delayed(sqrt)(n * n) for n in range(20))) == list(range(20))
    half = parallel(joblib.delayed(sqrt)(n * n) for n in range(20))
    assert next(half) == 0
    half.close()
    assert joblib.Parallel()(joblib.delayed(abs)(n) for n in (-1, -2)) == [1, 2]


def test_a_timeout_ends_the_call(tmp_path: Path) -> None:
    """joblib raises TimeoutError, and the workers that hung are replaced."""
    with pytest.raises(multiprocessing.TimeoutError):
        joblib.Parallel(timeout=0.1)(joblib.delayed(wait_for)(str(tmp_path / "never")) for _ in range(2))
    assert joblib.Parallel()(joblib.delayed(abs)(n) for n in (-1, -2)) == [1, 2]


def test_parallel_calls_within_tasks_work() -> None:
    """Nested parallelism neither deadlocks nor starts more processes."""
    assert joblib.Parallel()(joblib.delayed(inner)(n) for n in (3, 4)) == [3, 6]


def test_a_context_keeps_the_workers() -> None:
    """`with Parallel() as p` may be called again and again."""
    with joblib.Parallel() as parallel:
        found: list[Any] = [parallel(joblib.delayed(abs)(-n) for n in range(5)) for _ in range(3)]
    assert found == [list(range(5))] * 3


def test_zero_jobs_are_refused() -> None:
    """As by joblib's own backends."""
    with pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0)(joblib.delayed(abs)(n) for n in range(2))
