"""Tasks that use the runtime themselves: what the node agent does around the questions that `serving` answers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dagengine.model import Failure
from dagengine.runtime.messages import Answer, Ask, Written
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import Lost, ObjectId, ObjectInput, Resources, TimedOut
from dagengine.values import encode
from tests.runtime.harness import WAIT, Harness, Input
from tests.runtime.left_behind import Left

MB = 1 << 20


class Desk:
    """Serves `echo` (answered at once), `hang` (never), `put` and `get` of objects, `sub` (a task of its own)."""

    def __init__(self, runtime: ProcessRuntime) -> None:
        self.runtime = runtime
        self.asked = threading.Event()
        self.left: list[int] = []
        self.left_one = threading.Event()
        self.submit: Callable[[Callable[[Any], None]], None] | None = None

    def ask(self, worker: int, message: Ask) -> None:
        def reply(body: Any, failure: Failure | None = None, holds: list[ObjectId] | None = None) -> None:
            self.runtime.answer(worker, Answer(message.number, body, failure, holds or []))

        match message.verb:
            case "echo":
                reply(message.body)
            case "put":
                self.runtime.adopt(worker, (50,), msgspec.convert(message.body, Written))
                reply(None)
            case "get":

                def told(packed: Any) -> None:
                    if isinstance(packed, Failure):
                        reply(None, packed)
                    else:
                        reply(packed, None, [] if isinstance(packed, bytes) else [tuple(message.body)])

                self.runtime.read_for(worker, tuple(message.body), told)
            case "sub":
                assert self.submit is not None
                self.submit(reply)
        self.asked.set()

    def awaited(self, message: Ask) -> tuple[ObjectId, ...]:
        return ()

    def gone(self, worker: int) -> None:
        self.left.append(worker)
        self.left_one.set()


@pytest.fixture
def served(left: Left, tmp_path: Path) -> Iterator[tuple[Harness, Desk]]:
    """A runtime of one worker whose tasks are served by a desk."""
    runtime = ProcessRuntime(1, object_memory=8 * MB, spill=(str(tmp_path / "spill"),))
    desk = Desk(runtime)
    runtime.serving = desk
    with Harness(runtime) as harness:
        yield harness, desk


def test_a_question_is_answered(served: tuple[Harness, Desk]) -> None:
    """Whatever the body is, it comes back."""
    harness, _ = served
    assert harness.run("ask", "echo", [1, "two", None]) == [1, "two", None]


def test_without_anybody_who_serves_a_task_is_told_so(open_harness: Callable[..., Harness]) -> None:
    """A task that asks a runtime that can't be asked is not left waiting."""
    failure = open_harness(1).fails("ask", "echo", 1).failure
    assert "can't use it themselves" in failure.message


def test_a_task_that_waits_for_another_does_not_hold_its_cpu(served: tuple[Harness, Desk]) -> None:
    """On one cpu, nested as deep as one likes: each that waits lets the next one run, on a worker of its own."""
    harness, desk = served
    depth = 0

    def submit(reply: Callable[[Any], None]) -> None:
        nonlocal depth
        depth += 1
        if depth < 5:
            waiting.append(reply)
            harness.start("ask", "sub", None, True)
        else:
            for waiter in [*waiting, reply]:
                waiter("done")

    waiting: list[Callable[[Any], None]] = []
    desk.submit = submit
    first = harness.start("ask", "sub", None, True)
    assert harness.result(first) == "done"
    harness.wait(lambda: len(harness.ends) == 5)
    assert harness.run("same", 1, resources=Resources(1.0)) == 1


@pytest.mark.parametrize("size", [100, MB])
def test_a_task_puts_and_gets_objects(served: tuple[Harness, Desk], size: int) -> None:
    """What it has put is an object like any other, and what it gets it reads where it lies."""
    harness, _ = served
    assert harness.run("put_and_get", "x" * size, [50]) == size
    assert harness.run("length", Input(), inputs=[ObjectInput((50,))]) == size
    harness.runtime.free([(50,)])
    assert harness.run("same", 1) == 1


def test_the_death_of_a_worker_that_waits_for_an_answer_is_told_to_who_serves_it(served: tuple[Harness, Desk]) -> None:
    """Its question needs no answer any more; one that comes all the same does no harm."""
    harness, desk = served
    task = harness.start("ask", "hang", None, True)
    assert desk.asked.wait(WAIT)
    started = harness.wait_started(task)
    os.kill(started.pid, signal.SIGKILL)
    assert harness.end(task, Lost).worker == started.worker
    assert desk.left_one.wait(WAIT)
    assert desk.left == [started.worker]
    desk.runtime.answer(started.worker, Answer(0, None))
    assert harness.run("same", 1) == 1


def test_room_that_a_dead_task_had_asked_for_is_given_back(served: tuple[Harness, Desk]) -> None:
    """Killed between being granted room and using it, again and again: nothing of the arena is lost."""
    harness, _ = served
    for _ in range(5):
        task = harness.start("put_and_die", 3 * MB)
        assert harness.end(task, Lost).failure.facts == {"signal": "SIGKILL"}
    harness.settle(object_bytes=0)
    harness.runtime.put((1,), encode(b"x" * (7 * MB)))
    assert harness.runtime.stats()["spilled_bytes"] == 0


def test_a_task_that_waits_too_long_for_an_answer_is_timed_out(served: tuple[Harness, Desk]) -> None:
    """A wait inside of a task is the task's own time."""
    harness, _ = served
    task = harness.start("ask", "hang", None, True, timeout=0.3, grace=0.5)
    harness.end(task, TimedOut)
    assert harness.run("same", 1) == 1
