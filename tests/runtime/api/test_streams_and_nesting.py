"""Generators as streams of refs; tasks that use the runtime themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dagengine.runtime as rt
from dagengine.errors import Deadlock, RuntimeStopped, WaitTimeout
from tests.runtime.api import functions as f
from tests.runtime.harness import WAIT

pytestmark = pytest.mark.usefixtures("runtime")


def test_a_generator_is_a_stream_of_refs() -> None:
    """In order, to its end; items can be read by tasks."""
    assert [rt.get(ref) for ref in f.count_to.remote(5)] == [0, 1, 2, 3, 4]
    assert [rt.get(ref) for ref in f.count_async.remote(3)] == [0, 1, 2]
    assert rt.get([f.add.remote(ref, 1) for ref in f.count_to.remote(3)]) == [1, 2, 3]
    assert list(f.count_to.remote(0)) == []


def test_what_a_generator_raises_comes_after_its_items() -> None:
    """The items before are good."""
    stream = f.two_then_fail.remote()
    assert [rt.get(next(stream)), rt.get(next(stream))] == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(stream)


def test_a_generator_waits_for_its_readers(tmp_path: Path) -> None:
    """With `ahead=2` it is never more than that before what was read."""
    log = tmp_path / "log"
    stream = f.logged_count.remote(str(log), 100)
    for read in range(1, 20):
        rt.get(next(stream))
        assert len(log.read_text().split()) <= read + 3


def test_a_stream_that_nobody_wants_any_more_ends_its_generator(tmp_path: Path) -> None:
    """The worker is free for others, long before the generator would have ended."""
    streams = [f.logged_count.remote(str(tmp_path / f"log{n}"), 10**9) for n in range(2)]
    for stream in streams:
        rt.get(next(stream))
    del stream, streams
    assert rt.get(f.add.remote(1, 1), timeout=WAIT) == 2


def test_waiting_for_an_item_may_time_out(tmp_path: Path) -> None:
    """The stream goes on afterwards."""
    gate = f.wait_for.remote(str(tmp_path / "go"))
    other = f.wait_for.remote(str(tmp_path / "go"))
    stream = f.count_to.remote(1)
    with pytest.raises(WaitTimeout, match="count_to"):
        stream.next(timeout=0.05)
    (tmp_path / "go").touch()
    assert rt.get(stream.next()) == 0
    rt.get([gate, other])


def test_a_task_may_call_tasks_and_wait_for_them() -> None:
    """While it waits it has no cpu, so that depth costs no worker: six parents, two workers."""
    assert rt.get(f.sum_of_children.remote(10)) == 55
    assert rt.get([f.sum_of_children.remote(3) for _ in range(6)]) == [6] * 6
    assert rt.get(f.tree.remote(4)) == 16


def test_refs_in_results_are_refs_here() -> None:
    """What a task's children made outlives the task, as long as somebody can name it."""
    refs = rt.get(f.refs_of_children.remote(4))
    assert rt.get(refs) == [1, 2, 3, 4]
    for item in f.yield_refs.remote(3):
        [inner] = rt.get(item)
        assert len(rt.get(inner)) == 5_000


def test_a_borrowed_ref_arrives_as_itself() -> None:
    """Its object stays while the task runs, although nobody here has the ref any more."""
    assert rt.get(f.kind_of.remote(rt.borrow(f.add.remote(1, 1)))) == "Ref"
    assert rt.get(f.get_it.remote(rt.borrow(f.add.remote(20, 22)))) == 42
    assert rt.get(f.get_it.remote(rt.borrow(rt.put(list(range(10_000)))))) == list(range(10_000))


def test_a_task_may_put_large_values() -> None:
    """It reads them back without a copy, and their refs can be returned."""
    total, ref = rt.get(f.put_and_get.remote(100_000))
    assert total == sum(range(100_000))
    assert int(rt.get(ref).sum()) == total


def test_errors_of_nested_tasks_come_through() -> None:
    """The exception of the inner task is the outer one's, and the stream's as well."""
    with pytest.raises(ZeroDivisionError):
        rt.get(f.failing_child.remote())


def test_streams_waits_and_timeouts_work_within_tasks(tmp_path: Path) -> None:
    """The same functions, the same meaning."""
    assert rt.get(f.sum_of_stream.remote(20)) == 190
    assert rt.get(f.wait_in_task.remote(str(tmp_path / "a"))) == (1, 1)
    assert rt.get(f.get_with_timeout.remote(str(tmp_path / "b"))) == "WaitTimeout"


def test_a_circle_of_waits_is_told_and_not_waited_for() -> None:
    """An actor that waits for a call on itself would wait for ever: Deadlock names the circle."""
    counter = f.Counter.remote()
    with pytest.raises(Deadlock, match=r"CounterState\.ask waits for CounterState\.add waits for CounterState\.ask"):
        rt.get(counter.ask.remote(counter), timeout=WAIT)
    assert rt.get(counter.add.remote()) == 2  # the call that was not waited for was made


def test_a_task_has_no_runtime_of_its_own_to_start() -> None:
    """`start` within a task says so."""
    with pytest.raises(RuntimeStopped, match="nothing to start"):
        rt.get(rt.remote(_start).remote())


def _start() -> Any:
    return rt.start(1)
