"""Objects in the arena: read where they lie, and held as long as anything looks at them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagengine.runtime.messages import Answer, Ask, Done, Hold, LetGo
from dagengine.values import encode
from tests.runtime.worker.controller import Controller, Input

X, Y = (7, 1), (7, 2)


@pytest.fixture
def array(worker: Controller) -> tuple[int, int, tuple[int, ...]]:
    """Object X: an array of 100 ones, in the arena."""
    return worker.put(X, np.ones(100))


def test_an_object_is_read_where_it_lies(worker: Controller, array: Any) -> None:
    """What is in the arena at that time is what is read; nothing is left to tell."""
    assert worker.call("total", Input(), inputs=[array]) == 100.0
    offset, size, _ = array
    worker.parent.bytes[offset + size - 8 : offset + size] = np.float64(11).tobytes()
    assert worker.call("total", Input(), inputs=[array]) == 110.0
    assert [type(message) for message in worker.seen[1:]] == [Done, Done]


def test_an_object_can_not_be_written_to(worker: Controller, array: Any) -> None:
    """A task that tries gets an error from NumPy."""
    assert worker.call("try_to_write", Input(), inputs=[array]) is False


def test_objects_in_lists_and_beside_other_inputs_are_read(worker: Controller, array: Any) -> None:
    """Each kind of input can be part of a list."""
    given = {"items": [array, encode([1]).to_bytes()]}
    first, second = worker.call("same", Input(), inputs=[given])
    assert (first.sum(), second) == (100.0, [1])


def test_a_view_that_outlives_its_task_holds_the_object(worker: Controller, array: Any) -> None:
    """Hold comes before the result, LetGo when the view is gone."""
    worker.start("keep", Input(), inputs=[array])
    assert worker.next(Hold).objects == [X]
    worker.next(Done)
    worker.start("drop")
    assert worker.next(LetGo).objects == [X]
    worker.next(Done)


def test_an_object_that_is_held_is_not_held_twice(worker: Controller, array: Any) -> None:
    """Neither by another task that keeps it, nor by one that reads it and lets it go."""
    worker.start("keep", Input(), inputs=[array])
    worker.next(Hold)
    worker.next(Done)
    for name in ("keep", "total"):
        worker.start(name, Input(), inputs=[array])
        worker.next(Done)
    worker.start("drop")
    assert worker.next(LetGo).objects == [X]
    worker.next(Done)


def test_an_idle_worker_lets_go_at_once(worker: Controller, array: Any, tmp_path: Path) -> None:
    """The last view ends on a thread that a task has left behind, while there is nothing to do."""
    os.mkfifo(tmp_path / "go")
    worker.start("keep", Input(), inputs=[array])
    worker.next(Hold)
    worker.next(Done)
    worker.call("drop_when_told", str(tmp_path / "go"))
    (tmp_path / "go").write_text("go")
    assert worker.next(LetGo).objects == [X]


def test_an_idle_worker_finds_views_in_garbage(worker: Controller, array: Any) -> None:
    """A cycle holds the view, and nothing else runs that would collect it."""
    worker.start("keep_in_a_cycle", Input(), inputs=[array])
    worker.next(Hold)
    worker.next(Done)
    assert worker.next(LetGo).objects == [X]


def test_a_result_may_be_a_view_on_an_input(worker: Controller, array: Any) -> None:
    """It is written before the view goes, and holds nothing."""
    big = worker.put(Y, np.arange(10_000.0))
    result = worker.call("same", Input(), inputs=[big])
    assert result.sum() == np.arange(10_000.0).sum()
    assert not [message for message in worker.seen if isinstance(message, Hold)]


def test_damaged_bytes_are_an_object_that_is_lost(worker: Controller) -> None:
    """The failure names it, for whoever can make it again."""
    offset, size, number = worker.put(X, np.ones(10))
    worker.parent.bytes[offset : offset + 4] = b"????"
    failure = worker.fails("total", Input(), inputs=[(offset, size, number)]).failure
    assert failure.kind == "object"
    assert failure.facts == {"objects": [list(X)]}


# ---- what answers hand over -------------------------------------------------------------------


def answer(worker: Controller, packed: Any, *holds: tuple[int, ...]) -> None:
    """Answer what the task asks with an object."""
    asked = worker.until(Ask)
    worker.link.send([Answer(asked.number, packed, None, list(holds))])


def test_an_object_from_an_answer_is_let_go_when_it_was_read(worker: Controller, array: Any) -> None:
    """It was held from its arrival, without a Hold."""
    task = worker.start("ask_and_open", "get")
    answer(worker, array, X)
    assert worker.next(LetGo).objects == [X]
    assert worker.result(task) == 100.0


def test_an_object_from_an_answer_that_nobody_opens_is_let_go_at_the_end(worker: Controller, array: Any) -> None:
    """The task went on without it."""
    task = worker.start("ask_and_forget", "get")
    answer(worker, array, X)
    assert worker.next(LetGo).objects == [X]
    assert worker.next(Done).id == task


def test_holds_are_counted(worker: Controller, array: Any) -> None:
    """One of a task's, one of an answer's: both are given back when the last view is gone, not before."""
    worker.start("keep", Input(), inputs=[array])
    worker.next(Hold)
    worker.next(Done)
    task = worker.start("ask_and_open", "get")
    answer(worker, array, X)
    assert worker.next(Done).id == task
    worker.start("drop")
    assert worker.next(LetGo).objects == [X, X]
    worker.next(Done)
