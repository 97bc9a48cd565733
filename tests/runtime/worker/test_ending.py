"""How a worker ends: asked to, politely or not, at any time; and what a task may still do about it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dagengine.runtime.messages import Ask, Done, Yield
from tests.runtime.worker.controller import Controller


def died_of(worker: Controller) -> int:
    """The signal."""
    status = worker.status()
    assert os.WIFSIGNALED(status), status
    return os.WTERMSIG(status)


@pytest.mark.parametrize("name", ["clean_up_when_terminated", "clean_up_later", "ask_for_ever"])
def test_a_task_cleans_up_when_its_worker_is_terminated(worker: Controller, tmp_path: Path, name: str) -> None:
    """Its `finally` runs, also when it waits, for an answer or in an event loop; then the process dies of the signal, without a result."""
    worker.start(name, str(tmp_path / "file"))
    worker.next(Ask)
    worker.signal(signal.SIGTERM)
    assert died_of(worker) == signal.SIGTERM
    assert (tmp_path / "file").read_text() == "cleaned up"
    assert worker.link.receive() is None


def test_what_a_terminated_task_has_printed_is_not_lost(worker: Controller, tmp_path: Path) -> None:
    """All of it is in the file that the controller holds, half lines too."""
    worker.start("clean_up_when_terminated", str(tmp_path / "file"))
    worker.next(Ask)
    worker.signal(signal.SIGTERM)
    died_of(worker)
    assert os.pread(worker.output, 100, 0) == b"half a line"


@pytest.mark.parametrize("name", ["count_until_closed", "count_until_closed_later"])
def test_a_stream_that_waits_is_closed_when_its_worker_is_terminated(
    worker: Controller, tmp_path: Path, name: str
) -> None:
    """Although nobody reads what it has made."""
    worker.start(name, str(tmp_path / "file"), mode="stream", ahead=1)
    worker.next(Yield)
    worker.signal(signal.SIGTERM)
    assert died_of(worker) == signal.SIGTERM
    assert (tmp_path / "file").exists()


def test_a_task_that_swallows_its_termination_has_no_result(worker: Controller) -> None:
    """The controller has ended it, whatever it says."""
    worker.start("swallow_termination")
    worker.next(Ask)
    worker.signal(signal.SIGTERM)
    assert died_of(worker) == signal.SIGTERM
    assert worker.link.receive() is None


def test_a_tasks_own_handler_is_called_instead(worker: Controller) -> None:
    """It may end well; the next task is terminated as any other."""
    task = worker.start("handle_termination")
    worker.next(Ask)
    worker.signal(signal.SIGTERM)
    assert worker.result(task) == "ended well"
    worker.start("swallow_termination")
    worker.next(Ask)
    worker.signal(signal.SIGTERM)
    assert died_of(worker) == signal.SIGTERM


def test_an_idle_worker_dies_at_once(worker: Controller) -> None:
    """There is nothing to clean up."""
    worker.call("same", 1)
    worker.signal(signal.SIGTERM)
    assert died_of(worker) == signal.SIGTERM


def test_an_actors_async_call_cleans_up_when_it_runs_alone(worker: Controller, tmp_path: Path) -> None:
    """It runs on another thread, for which the main thread waits."""
    worker.until(Done, worker.start("Counter", mode="create"))
    path = str(tmp_path / "file")
    worker.start("Counter", path, mode="method", method="clean_up_later", devices=None)
    worker.next(Ask)
    worker.signal(signal.SIGTERM)
    assert died_of(worker) == signal.SIGTERM
    assert (tmp_path / "file").read_text() == "cleaned up"


def test_an_actor_that_runs_concurrent_calls_dies_at_once(worker: Controller) -> None:
    """They are on other threads, which no signal reaches."""
    worker.until(Done, worker.start("Counter", mode="create", threads=2))
    worker.start("Counter", "never", mode="method", method="ask", concurrent=True, devices=None)
    worker.next(Ask)
    worker.signal(signal.SIGTERM)
    assert died_of(worker) == signal.SIGTERM


def test_a_child_that_a_task_forks_dies_of_the_signal(worker: Controller) -> None:
    """It is no worker: it meets what it would without us."""
    assert worker.call("terminate_a_child") == -signal.SIGTERM


def test_a_worker_that_is_done_ends_well(worker: Controller) -> None:
    """All that was sent is run first."""
    tasks = [worker.start("same", number) for number in range(3)]
    assert [end.id for end in worker.finish() if isinstance(end, Done)] == tasks
    assert worker.status() == 0
