"""Tasks that use the runtime themselves: asking, telling, noting; from any thread, whatever else arrives."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from dagengine.model import Failure
from dagengine.runtime.messages import Answer, Ask, AskRoom, Done, GiveBack, Room
from tests.runtime.worker.controller import Controller


def test_a_task_asks_and_gets_the_answer(worker: Controller) -> None:
    """What asks is named, and whether it needs its cpu."""
    task = worker.start("ask", "get", [1], True)
    asked = worker.next(Ask)
    assert (asked.verb, asked.body, asked.id, asked.blocks) == ("get", [1], task, True)
    worker.link.send([Answer(asked.number, "here")])
    assert worker.result(task) == "here"


def test_a_refusal_reaches_the_task(worker: Controller) -> None:
    """As the failure that it is."""
    task = worker.start("ask", "get", None)
    asked = worker.next(Ask)
    worker.link.send([Answer(asked.number, None, Failure("error", "ValueError", "not there"))])
    assert worker.result(task) == "not there"


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(worker: Controller) -> None:
    """Answered in another order than asked, and several in one frame."""
    task = worker.start("ask_on_threads", 8)
    asked = [worker.next(Ask) for _ in range(8)]
    assert len({ask.number for ask in asked}) == 8
    answers = [Answer(ask.number, ask.body * 10) for ask in reversed(asked)]
    worker.link.send(answers[:3])
    worker.link.send(answers[3:])
    assert worker.result(task) == [number * 10 for number in range(8)]


def test_tasks_that_arrive_while_one_asks_run_afterwards(worker: Controller) -> None:
    """In their order, with functions that were defined meanwhile."""
    first = worker.start("ask", "get", None)
    asked = worker.next(Ask)
    second = worker.start("same", 2)
    third = worker.start("pid")
    worker.link.send([Answer(asked.number, 1)])
    assert worker.result(first) == 1
    assert worker.result(second) == 2
    assert worker.result(third) == worker.pid


def test_a_thread_that_a_task_leaves_behind_shares_the_socket_with_the_loop(worker: Controller) -> None:
    """It reads for the loop, and the loop for it."""
    worker.start("leave_an_asker", "first")
    asked = worker.until(Ask)
    assert worker.call("same", 5) == 5
    worker.link.send([Answer(asked.number, "second")])
    again = worker.until(Ask)
    assert (again.verb, again.body, again.id) == ("again", "second", None)
    assert worker.call("same", 6) == 6
    worker.link.send([Answer(again.number, None)])
    assert worker.call("same", 7) == 7


def test_loop_and_threads_take_turns_at_reading(worker: Controller) -> None:
    """Four threads ask all the time while tasks come, one by one and in batches: everybody gets what is theirs."""
    worker.start("leave_many_askers", 4)
    waiting = {worker.start("same", 0)}
    finished: set[int] = set()
    asked = dict.fromkeys(range(4), 0)
    started = 1
    while len(finished) < 4 or waiting:
        message = worker.message()
        if isinstance(message, Ask) and message.verb == "finished":
            finished.add(message.body)
            worker.link.send([Answer(message.number, None)])
        elif isinstance(message, Ask):
            asked[message.body[0]] += 1
            enough = min(asked.values()) > 100 and started > 10
            worker.link.send([Answer(message.number, None if enough else message.body * 2)])
        elif isinstance(message, Done):
            waiting.discard(message.id)
        if not waiting and len(finished) < 4:
            runs = [worker.make_run("same", number) for number in range(1 + started % 4)]
            worker.send(*runs)
            waiting = {run.id for run in runs}
            started += 1


def test_a_put_is_written_before_it_is_named(worker: Controller) -> None:
    """Large ones to room of nobody's attempt; small ones go with the question."""
    task = worker.start("put", 50_000)
    asked = worker.next(Ask)
    room = next(message for message in worker.seen if isinstance(message, AskRoom))
    assert room.id is None
    assert asked.body == [room.size, room.request, None]
    worker.link.send([Answer(asked.number, "kept")])
    assert worker.result(task) == "kept"
    worker.start("put", 10)
    size, request, data = worker.next(Ask).body
    assert (size, request) == (len(data), -1)


def test_room_that_a_put_could_not_use_is_given_back_at_once(worker: Controller) -> None:
    """Not only when the worker ends, which may be much later."""
    worker.give_room = lambda asked: Room(asked.request, -1, "/dev/full/nothing")
    worker.start("put", 50_000)
    asked = worker.until(AskRoom)
    assert worker.until(GiveBack).request == asked.request


def test_room_that_comes_too_late_is_given_back(worker: Controller) -> None:
    """Whoever asked for it was interrupted while it waited, and has gone on without."""
    worker.link.send([Room(99, worker.parent.allocate(50_000))])
    assert worker.until(GiveBack).request == 99
    assert worker.call("same", 1) == 1


def test_what_is_told_and_noted_goes_out_before_the_result(worker: Controller) -> None:
    """Told at once, with what was noted before; what is noted after that goes with the end of the task."""
    task = worker.start("tell_and_note")
    messages = [worker.next(Ask) for _ in range(3)]
    assert [(ask.verb, ask.body, ask.number) for ask in messages] == [
        ("gone", [1, 2], -1),
        ("told", "now", -1),
        ("gone", [3], -1),
    ]
    assert worker.next(Done).id == task


def test_an_idle_worker_tells_what_is_noted_at_once(worker: Controller, tmp_path: Path) -> None:
    """Whichever thread notes it."""
    os.mkfifo(tmp_path / "go")
    worker.call("note_when_told", str(tmp_path / "go"))
    (tmp_path / "go").write_text("go")
    noted = worker.next(Ask)
    assert (noted.verb, noted.body) == ("late", [1])


def test_a_signal_handler_of_the_tasks_own_may_interrupt_an_ask(worker: Controller) -> None:
    """The late answer to it does not confuse the next."""
    task = worker.start("give_up_asking")
    first = worker.next(Ask)
    while not select.select([worker.link.fileno()], [], [], 0.05)[0]:  # one that comes before it waits is not heard
        os.kill(worker.pid, signal.SIGALRM)
    second = worker.next(Ask)
    worker.link.send([Answer(first.number, "late"), Answer(second.number, "right")])
    assert worker.result(task) == "right"


def test_a_child_that_a_task_forks_can_not_ask(worker: Controller) -> None:
    """It would write into the worker's stream, and read its messages."""
    assert "can't use the runtime" in worker.call("ask_in_a_child")
    assert worker.call("same", 1) == 1


def test_the_end_of_the_controller_ends_who_asks(worker: Controller) -> None:
    """No answer will come: the task is told so, and the worker ends."""
    worker.start("ask", "get", None)
    worker.next(Ask)
    (end,) = worker.finish()
    assert end.failure.type == "dagengine.errors.RuntimeStopped"  # type: ignore[union-attr]
    assert worker.status() == 0
