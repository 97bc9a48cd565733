"""Tasks that are handed to their workers on the thread that submits them, while the runtime's own sleeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dagengine.runtime.processes import FEW
from dagengine.runtime.protocol import RuntimeEvent, Succeeded
from dagengine.runtime.shell import Shell
from tests.runtime.harness import WAIT, Harness

Open = Callable[..., Harness]
By = list[str]


@pytest.fixture
def taken_by(monkeypatch: pytest.MonkeyPatch) -> By:
    """The names of the threads that took tasks in, in order."""
    found: By = []
    submitted = Shell._submitted

    def noted(self: Shell, event: object) -> None:
        found.append(threading.current_thread().name)
        submitted(self, event)  # type: ignore[arg-type]

    monkeypatch.setattr(Shell, "_submitted", noted)
    return found


def asleep(harness: Harness) -> None:
    """Wait until the runtime's thread sleeps: then, and only then, somebody else can have the turn."""
    turn = harness.runtime._shell.turn  # type: ignore[attr-defined]
    assert turn.acquire(timeout=WAIT)
    turn.release()


def test_few_tasks_are_taken_in_where_they_are_submitted(open_harness: Open, taken_by: By) -> None:
    """And what they come to is told by the runtime's thread as always."""
    harness = open_harness(1, at_once=True)
    assert harness.run("same", 0) == 0
    told_by: By = []
    sink = harness.sink

    def noted(events: list[RuntimeEvent]) -> None:
        told_by.append(threading.current_thread().name)
        sink(events)

    harness.runtime._shell._sink = noted  # type: ignore[attr-defined]
    deadline = time.monotonic() + WAIT
    while threading.current_thread().name not in taken_by:  # the other may be awake just then, to look at the clock
        assert time.monotonic() < deadline
        assert harness.run("same", 1) == 1
    assert set(told_by) == {"dagengine-runtime"}


def test_many_tasks_or_a_runtime_that_was_not_asked_to_leave_it_to_its_thread(open_harness: Open, taken_by: By) -> None:
    """There the caller has better things to do."""
    for harness, count in ((open_harness(1, at_once=True), FEW + 1), (open_harness(1), 1)):
        asleep(harness)
        specs = [harness.spec("same", number) for number in range(count)]
        harness.submit(*specs)
        assert [harness.result(spec.id) for spec in specs] == list(range(count))
    assert set(taken_by) == {"dagengine-runtime"}


def test_what_is_submitted_while_the_runtimes_thread_is_at_it_waits_for_it(open_harness: Open, taken_by: By) -> None:
    """Nobody waits for the turn: the caller goes on, and the task runs when the thread has come to it."""
    harness = open_harness(1, at_once=True)
    holds, go_on = threading.Event(), threading.Event()
    sink = harness.sink

    def holding(events: list[RuntimeEvent]) -> None:
        if any(isinstance(event, Succeeded) for event in events):
            holds.set()
            assert go_on.wait(WAIT)
        sink(events)

    harness.runtime._shell._sink = holding  # type: ignore[attr-defined]
    first = harness.start("same", 1)
    assert holds.wait(WAIT)
    taken_by.clear()
    second = harness.start("same", 2)
    assert taken_by == []
    go_on.set()
    assert [harness.result(first), harness.result(second)] == [1, 2]
    assert taken_by == ["dagengine-runtime"]


def test_the_runtimes_thread_is_told_of_times_that_come_sooner(open_harness: Open, tmp_path: Path) -> None:
    """It sleeps without end when a task with a timeout is taken in elsewhere; the start is told, and the timeout comes."""
    harness = open_harness(1, at_once=True)
    harness.run("same", 0)
    asleep(harness)
    task, _ = harness.timed_out("touch_and_hang", tmp_path / "on")
    harness.wait_started(task)


def test_tasks_from_many_threads_all_end_once(open_harness: Open) -> None:
    """Some are taken in where they come from, some by the runtime's thread; none is lost or runs twice."""
    harness = open_harness(2, at_once=True)
    count = 100
    wrong: list[int] = []

    def submit(first: int) -> None:
        wrong.extend(number for number in range(first, first + count) if harness.run("same", number) != number)

    threads = [threading.Thread(target=submit, args=(1_000 * each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(harness.ends) == 4 * count


def test_what_goes_wrong_elsewhere_ends_the_runtime_as_on_its_own_thread(
    open_harness: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is left for a worker, say: who submits goes on, and is told by the event."""
    harness = open_harness(1, at_once=True)
    harness.run("same", 0)
    asleep(harness)

    def fail(self: Shell, event: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(Shell, "_submitted", fail)
    harness.start("same", 1)
    assert "too many open files" in harness.wait_broken().failure.message
