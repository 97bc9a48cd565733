"""Tasks that make many objects, one by one, as fast as somebody takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagengine.runtime.messages import Answer, Ask, Credit, Done, Erred, Stop, Yield
from dagengine.runtime.protocol import TaskId
from tests.runtime.worker.controller import WAIT, Controller


def drain(worker: Controller, task: TaskId) -> list[object]:
    """All items, of which each is read as it comes; the result is held against their number."""
    items: list[object] = []
    while not isinstance(message := worker.message(), Done):
        if isinstance(message, Yield):
            assert (message.id, message.index) == (task, len(items))
            items.append(worker.value(message.result))
            worker.link.send([Credit(task, 1)])
    assert worker.value(message.result) == len(items)
    return items


@pytest.mark.parametrize("name", ["count_to", "several", "count_to_later"])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_each_item_is_told_in_order_and_the_result_is_their_number(worker: Controller, name: str, count: int) -> None:
    """Of generators, lists, and async generators."""
    assert drain(worker, worker.start(name, count, mode="stream", ahead=3)) == list(range(count))


def test_large_items_are_written_to_rooms_of_their_own(worker: Controller) -> None:
    """Each where the controller says."""
    items = drain(worker, worker.start("large_items", 3, mode="stream"))
    assert items == [bytes([number]) * 100_000 for number in range(3)]


@pytest.mark.parametrize("name", ["count_to", "count_to_later"])
def test_a_stream_waits_when_nobody_reads(worker: Controller, name: str) -> None:
    """It makes as many as it may, and goes on with each that is read."""
    task = worker.start(name, 4, mode="stream", ahead=2)
    assert [worker.next(Yield).index for _ in range(2)] == [0, 1]
    assert not worker.permits.take()
    worker.link.socket.setblocking(False)
    assert worker.link.receive() == []
    worker.link.socket.settimeout(WAIT)
    worker.link.send([Credit(task, 1)])
    assert worker.next(Yield).index == 2
    worker.link.send([Credit(task, 5)])
    assert worker.next(Yield).index == 3
    assert worker.value(worker.next(Done).result) == 4


@pytest.mark.parametrize("ahead", [2, 1_000_000])
def test_a_stream_that_nobody_wants_is_closed(worker: Controller, tmp_path: Path, ahead: int) -> None:
    """Its generator's `finally` runs, whether it waits or goes on, and the next task runs."""
    task = worker.start("count_until_closed", str(tmp_path / "closed"), mode="stream", ahead=ahead)
    worker.next(Yield)
    worker.next(Yield)
    worker.link.send([Stop(task)])
    done = worker.until(Done, task)
    items = [message for message in worker.seen if isinstance(message, Yield)]
    assert worker.value(done.result) == len(items)
    assert (tmp_path / "closed").read_text() == "closed"
    assert worker.call("same", 1) == 1


def test_a_stream_that_raises_fails_after_its_items(worker: Controller) -> None:
    """What was made before is there."""
    task = worker.start("fail_at", 2, mode="stream")
    assert [worker.next(Yield).index for _ in range(2)] == [0, 1]
    erred = worker.next(Erred)
    assert (erred.id, erred.failure.message) == (task, "no more")


def test_what_can_not_be_iterated_is_refused(worker: Controller) -> None:
    """By name."""
    failure = worker.fails("same", 3, mode="stream").failure
    assert failure.message == "same is to give several results, and returned int, which can't be iterated"


def test_credit_for_a_stream_that_has_ended_is_ignored(worker: Controller) -> None:
    """It was on its way."""
    task = worker.start("count_to", 1, mode="stream")
    worker.until(Done, task)
    worker.link.send([Credit(task, 1), Stop(task)])
    assert worker.call("same", 1) == 1


def test_a_stream_may_be_stopped_before_it_has_begun(worker: Controller) -> None:
    """It makes nothing; another attempt with the same number is not stopped."""
    first = worker.start("ask", "get", None)
    asked = worker.next(Ask)
    run = worker.make_run("count_to", 3, mode="stream")
    worker.send(run)
    worker.link.send([Stop(run.id), Answer(asked.number, None)])
    assert worker.result(first) is None
    assert worker.result(run.id) == 0
    worker.link.send([Stop(run.id)])
    worker.send(run)
    assert worker.result(run.id) == 3
