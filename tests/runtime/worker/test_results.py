"""What becomes of a result, of room for it, and what a task finds around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dagengine.runtime.messages import Acknowledge, AskRoom, Done, Erred, Expanded, Revoke, Room
from dagengine.values import decode
from tests.runtime.worker.controller import Controller


def test_a_small_result_travels_in_the_message(worker: Controller) -> None:
    """It asks for no room, and its digest is there."""
    task = worker.start("same", "small")
    done = worker.next(Done)
    assert done.id == task
    assert done.result.data is not None
    assert worker.value(done.result) == "small"
    assert len(done.result.digest) == 64


def test_a_large_result_is_written_to_the_room_that_was_given(worker: Controller) -> None:
    """In the arena, in place, under its digest."""
    task = worker.start("large")
    done = worker.next(Done)
    asked = worker.seen[-2]
    assert isinstance(asked, AskRoom)
    assert (asked.id, asked.size) == (task, done.result.size)
    assert done.result.request == asked.request
    assert done.result.data is None
    assert worker.value(done.result) == b"x" * 100_000


def test_without_room_a_result_is_written_to_the_file(worker: Controller) -> None:
    """With a checksum, and only its owner may read it."""
    worker.give_room = worker.file_room
    task = worker.start("large")
    done = worker.until(Done, task)
    assert worker.value(done.result) == b"x" * 100_000
    path = Path(worker.rooms[done.result.request].path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("size", [10, 100_000])
def test_only_who_wants_a_digest_pays_for_it(worker: Controller, hashed: bool, size: int) -> None:
    """Small and large."""
    worker.start("large", size, hashed=hashed)
    done = worker.next(Done)
    assert bool(done.result.digest) is hashed
    assert worker.value(done.result) == b"x" * size


def test_a_full_store_fails_the_attempt_and_the_worker_goes_on(worker: Controller) -> None:
    """What the controller said is what the user reads."""
    worker.give_room = worker.refuse_room
    erred = worker.fails("large")
    assert (erred.failure.kind, erred.failure.type) == ("objects", "dagengine.errors.ObjectStoreFull")
    assert erred.failure.message == "the disk is full (here): make room there."
    assert worker.call("same", 1) == 1


def test_a_file_that_can_not_be_written_fails_the_attempt(worker: Controller) -> None:
    """As a store that is full, naming the file."""
    worker.give_room = lambda asked: Room(asked.request, -1, "/dev/full/nothing")
    failure = worker.fails("large").failure
    assert failure.kind == "objects"
    assert "/dev/full/nothing" in failure.message


def test_what_arrives_while_a_task_waits_for_room_is_kept(worker: Controller) -> None:
    """Tasks and functions that come between the question and its answer; a revoke takes only what had not begun."""
    held: list[AskRoom] = []
    worker.give_room = held.append
    first = worker.start("large")
    while not held:
        worker.message()
    second = worker.start("same", 2)
    third = worker.start("pid")
    assert worker.permits.take()
    worker.link.send([Revoke(1)])
    worker.next(Acknowledge)
    room = worker.arena_room(held[0])
    worker.rooms[room.request] = room
    worker.link.send([room])
    assert worker.result(first) == b"x" * 100_000
    assert worker.result(second) == 2
    assert worker.finish() == []
    assert third not in [message.id for message in worker.seen if isinstance(message, Done)]


def test_results_come_in_order_one_by_one(worker: Controller) -> None:
    """Also where one fails."""
    runs = [worker.make_run("fail" if number == 3 else "same", number) for number in range(6)]
    worker.send(*runs)
    ends = [worker.next(object) for _ in runs]
    assert [end.id for end in ends] == [run.id for run in runs]  # type: ignore[attr-defined]
    assert [type(end) for end in ends].count(Erred) == 1


def test_a_map_gives_a_call_for_each_item(worker: Controller) -> None:
    """The first argument's items take its place."""
    worker.start("same", [1, 2, 3], mode="expand")
    expanded = worker.next(Expanded)
    assert [decode(call) for call in expanded.calls] == [((item,), {}) for item in (1, 2, 3)]


def test_devices_are_shown_or_hidden_for_each_task(worker: Controller) -> None:
    """Set for every task, to nothing where there are none."""
    assert worker.call("environment", "CUDA_VISIBLE_DEVICES") == ""
    assert worker.call("environment", "CUDA_VISIBLE_DEVICES", devices=[0, 1]) == "0,1"
    assert worker.call("environment", "CUDA_VISIBLE_DEVICES") == ""


def test_the_controllers_own_devices_are_those_that_ids_mean(
    start_worker: Callable[[], Controller], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the user has chosen devices, the ids are places in that choice."""
    from tests.runtime.worker.controller import Parent

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    parent = Parent()
    worker = Controller(parent, tmp_path)
    assert worker.call("environment", "CUDA_VISIBLE_DEVICES", devices=[1]) == "5"
    worker.close()
    parent.close()


def test_a_task_with_more_cpus_may_use_more_threads(worker: Controller) -> None:
    """Libraries are told, and the next task's as before."""
    assert worker.call("environment", "OMP_NUM_THREADS", cpus=2) == "2"
    assert worker.call("environment", "OMP_NUM_THREADS") == "1"


def test_the_memory_of_a_task_is_told_if_it_took_a_while(worker: Controller) -> None:
    """Its own peak, not what is shared, and not that of the task before."""
    worker.start("busy", 200)
    much = worker.next(Done)
    worker.start("busy", 1)
    little = worker.next(Done)
    assert 200 << 20 <= much.peak < 600 << 20
    assert 0 < little.peak < 200 << 20
    worker.start("same", 1)
    while worker.next(Done).peak:  # on a busy machine even this may take a while
        worker.start("same", 1)
