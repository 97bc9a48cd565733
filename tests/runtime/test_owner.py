"""What tasks ask whoever submitted them, on every runtime."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from dagengine.model import Failure
from dagengine.runtime.inline import InlineRuntime
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import Asked, Content, Failed, Runtime
from dagengine.values import decode
from tests.runtime.harness import WAIT, Harness

RUNTIMES: dict[str, Callable[[], Runtime]] = {"inline": InlineRuntime, "processes": lambda: ProcessRuntime(1)}


@pytest.fixture(params=RUNTIMES)
def harness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with Harness(RUNTIMES[request.param]()) as harness:
        yield harness


def test_a_question_is_answered_by_whoever_submitted(harness: Harness) -> None:
    """It arrives as it was asked, under the attempt's id, and the task goes on with the answer."""
    seen: list[Asked] = []

    def desk(asked: Asked) -> None:
        seen.append(asked)
        harness.runtime.reply(asked, [asked.question["n"] + 1, b"bytes"])

    harness.desk = desk
    task = harness.start("ask_owner", {"n": 41})
    assert harness.result(task) == [42, b"bytes"]
    assert [asked.id for asked in seen] == [task]


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_value_goes_with_a_question(harness: Harness, size: int) -> None:
    """A small one in the message, a large one as an object of the runtime's, to be read and freed by whoever is asked."""
    found: list[Content | Failure] = []
    read = threading.Event()

    def desk(asked: Asked) -> None:
        if asked.object is None:
            found.append(Content("", 0, asked.data))
            harness.runtime.reply(asked)
            return

        def told(content: Content | Failure) -> None:
            found.append(content)
            read.set()
            harness.runtime.reply(asked)

        harness.runtime.read(asked.object, told)

    harness.desk = desk
    harness.run("ask_owner", {}, "x" * size)
    content = found[0]
    assert isinstance(content, Content)
    if content.shared is not None:
        assert decode(bytes(content.shared.view())) == "x" * size
        content.shared.close()
    else:
        assert content.data is not None
        assert decode(content.data) == "x" * size


def test_a_refusal_is_raised_in_the_task(harness: Harness) -> None:
    """The failure that is answered is what the task fails with."""
    harness.desk = lambda asked: harness.runtime.reply(asked, None, Failure("stopped", "RuntimeStopped", "not now"))
    failure = harness.end(harness.start("ask_owner", {}), Failed).failure
    assert "not now" in failure.message


def test_what_is_told_comes_in_order_and_before_the_end(harness: Harness) -> None:
    """Nobody answers it, and the task does not wait."""
    seen: list[int] = []
    harness.desk = lambda asked: seen.append(asked.question["number"]) if asked.number < 0 else None
    assert harness.run("tell_owner", 3) == 3
    assert seen == [0, 1, 2]


def test_a_task_that_waits_for_an_answer_ends_with_the_runtime(harness: Harness) -> None:
    """A question that nobody answers holds up no end by force."""
    asked = threading.Event()
    harness.desk = lambda question: asked.set()
    harness.start("ask_owner", {})
    assert asked.wait(WAIT)
    harness.runtime.close(force=True)
    assert len(harness.ends) == 1


def test_threads_of_a_task_are_not_within_it(harness: Harness) -> None:
    """Only the attempt's own code can ask in its name."""
    assert harness.run("is_within") == [True, False]
