"""Actors in their worker: made, called, called side by side, saved and brought back."""

from __future__ import annotations

from typing import Any

import pytest

from dagengine.runtime.messages import Acknowledge, Answer, Ask, Done, Erred, Revoke, Stop
from dagengine.runtime.protocol import TaskId
from dagengine.values import encode
from tests.runtime.worker.controller import Controller, Input


def create(worker: Controller, kind: str = "Counter", *args: Any, **fields: Any) -> Done:
    """An actor in the worker."""
    return worker.until(Done, worker.start(kind, *args, mode="create", **fields))


def start(worker: Controller, method: str, *args: Any, kind: str = "Counter", **fields: Any) -> TaskId:
    return worker.start(kind, *args, mode="method", method=method, devices=None, **fields)


def call(worker: Controller, method: str, *args: Any, **fields: Any) -> Any:
    return worker.result(start(worker, method, *args, **fields))


def test_an_actor_keeps_its_state_between_calls(worker: Controller) -> None:
    """In one process; its creation has no value."""
    done = create(worker, "Counter", 5)
    assert worker.value(done.result) is None
    assert [call(worker, "add"), call(worker, "add", 10)] == [6, 16]
    assert call(worker, "pid") == worker.pid


def test_an_actor_keeps_the_devices_that_it_was_created_with(worker: Controller) -> None:
    """Calls say nothing of devices."""
    create(worker, devices=[1])
    assert call(worker, "devices") == "1"


def test_a_constructor_that_raises_fails_the_creation(worker: Controller) -> None:
    """With the class's own exception."""
    failure = worker.fails("Counter", -1, mode="create").failure
    assert (failure.type, failure.message) == ("ValueError", "a counter starts at 0")


def test_a_call_that_raises_leaves_the_actor_as_it_is(worker: Controller) -> None:
    """So do one of a method that is not there, and one with wrong arguments."""
    create(worker)
    call(worker, "add")
    for task in (start(worker, "fail"), start(worker, "nothing"), start(worker, "add", 1, 2, 3)):
        assert worker.next(Erred).id == task
    assert call(worker, "add") == 2


def test_async_methods_run_on_the_actors_own_loop(worker: Controller) -> None:
    """Alone, when they are not said to be concurrent; what waits there goes on between calls."""
    create(worker)
    assert [call(worker, "later"), call(worker, "add"), call(worker, "later")] == [1, 2, 3]
    assert call(worker, "large_later") == b"z" * 100_000


# ---- side by side -----------------------------------------------------------------------------


def test_concurrent_calls_run_on_threads_at_the_same_time(worker: Controller) -> None:
    """They wait for each other, which they could not do one after the other."""
    create(worker, threads=3)
    tasks = [start(worker, "meet", 2, concurrent=True) for _ in range(3)]
    ends = [worker.next(Done) for _ in tasks]
    assert {end.id for end in ends} == set(tasks)
    assert sorted(worker.value(end.result) for end in ends) == [0, 1, 2]


def test_concurrent_async_calls_finish_out_of_order(worker: Controller) -> None:
    """The first one ends when the second has."""
    create(worker, threads=2)
    first = start(worker, "wait_for", "signal", concurrent=True)
    second = start(worker, "let", "signal", concurrent=True)
    assert worker.next(Done).id == second
    assert worker.next(Done).id == first


def test_no_more_calls_run_at_once_than_the_actor_has_threads(worker: Controller) -> None:
    """What waits has its permit still: it has not begun."""
    create(worker, threads=2)
    waiting = [start(worker, "ask", str(number), concurrent=True) for number in range(5)]
    asked = [worker.next(Ask) for _ in range(2)]
    assert worker.permits.take_up_to(10) == 3
    worker.permits.post(3)
    for _ in range(3):
        first = asked.pop(0)
        worker.link.send([Answer(first.number, first.verb)])
        assert worker.next(Done).id == first.id
        asked.append(worker.next(Ask))
    for ask in asked:
        worker.link.send([Answer(ask.number, ask.verb)])
    assert {worker.next(Done).id for _ in asked} == {ask.id for ask in asked}
    assert {ask.id for ask in worker.seen if isinstance(ask, Ask)} == set(waiting)


def test_a_call_that_is_not_concurrent_waits_for_all_before_it(worker: Controller) -> None:
    """And those after it for itself; it runs on the main thread."""
    create(worker, threads=4)
    first = start(worker, "ask", "a", concurrent=True)
    second = start(worker, "say_and_wait_for", "b", concurrent=True)
    alone = start(worker, "on_main")
    after = start(worker, "let", "c", concurrent=True)
    began = {ask.id: ask for ask in (worker.next(Ask), worker.next(Ask))}
    assert set(began) == {first, second}
    free = worker.permits.take_up_to(10)  # nobody tries to take one before the first two have ended
    assert free == 2
    worker.permits.post(free)
    worker.link.send([Stop(second)])
    assert worker.next(Erred).id == second
    worker.link.send([Answer(began[first].number, None)])
    ends = [worker.next(Done) for _ in range(3)]
    assert [end.id for end in ends] == [first, alone, after]
    assert worker.value(ends[1].result) is True


def test_threads_and_the_loop_take_turns(worker: Controller) -> None:
    """Two hundred concurrent calls of both kinds, among some that are alone: each ends once, and all count."""
    create(worker, threads=3)
    runs = []
    for number in range(200):
        method = "note_later" if number % 3 else "note"
        fields: dict[str, Any] = {"mode": "method", "method": method, "devices": None, "concurrent": number % 10 != 0}
        runs.append(worker.make_run("Counter", **fields))
    worker.send(*runs)
    ends = [worker.next(Done) for _ in runs]
    assert {end.id for end in ends} == {run.id for run in runs}
    assert call(worker, "note") == 201


def test_a_concurrent_async_call_can_be_stopped(worker: Controller) -> None:
    """It is cancelled at its next await; others go on."""
    create(worker, threads=2)
    first = start(worker, "wait_for", "never", concurrent=True)
    assert call(worker, "later", concurrent=True) == 1
    worker.link.send([Stop(first)])
    erred = worker.next(Erred)
    assert (erred.id, erred.failure.type) == (first, "asyncio.exceptions.CancelledError")
    assert call(worker, "add") == 2


def test_calls_that_have_not_begun_can_be_taken_back(worker: Controller) -> None:
    """They stay unrun, and may be sent again."""
    create(worker, threads=1)
    first = start(worker, "ask", "a", concurrent=True)
    asked = worker.next(Ask)
    start(worker, "add", concurrent=True)
    start(worker, "add")
    assert worker.permits.take_up_to(10) == 2
    worker.link.send([Revoke(2)])
    worker.next(Acknowledge)
    worker.link.send([Answer(asked.number, None)])
    assert worker.next(Done).id == first
    assert call(worker, "add") == 1


def test_the_worker_ends_when_its_last_concurrent_call_has(worker: Controller) -> None:
    """Although nothing more will be sent."""
    create(worker, threads=2)
    tasks = [start(worker, "meet", 1, concurrent=True) for _ in range(2)]
    ends = worker.finish()
    assert {end.id for end in ends if isinstance(end, Done)} == set(tasks)
    assert worker.status() == 0


# ---- state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Counter", "Plain", "Slotted", "Checkpointed", "CheckpointedByClass", "Listed"])
def test_an_actor_goes_on_from_its_state(worker: Controller, kind: str) -> None:
    """Whatever way its class is saved; later calls of the old one do not show in the new one."""
    method, args = ("call", ("one",)) if kind == "Plain" else ("add", ())
    create(worker, kind)
    call(worker, method, *args, kind=kind)
    saved = start(worker, method, *args, kind=kind, save_state=True)
    state = worker.until(Done, saved).state
    assert state is not None
    assert state.data is not None
    third = call(worker, method, *args, kind=kind)
    create(worker, kind, state=state.data)
    assert call(worker, method, *args, kind=kind) == third


def test_calls_are_made_again_before_the_actor_is_up(worker: Controller) -> None:
    """On the state that was saved, with inputs; what they return is thrown away."""
    saved = create(worker, "Counter", 10, save_state=True).state
    assert saved is not None
    assert saved.data is not None
    five = encode(5).to_bytes()
    replay = [
        ["add", encode(((Input(),), {})).to_bytes(), [five]],
        ["later", encode(((), {"amount": 2})).to_bytes(), []],
    ]
    create(worker, state=saved.data, replay=replay)
    assert call(worker, "add", 0) == 17


def test_a_call_that_fails_when_it_is_made_again_fails_the_creation(worker: Controller) -> None:
    """The state would not be what it was."""
    replay = [["fail", encode(((), {})).to_bytes(), []]]
    failure = worker.fails("Counter", mode="create", replay=replay).failure
    assert failure.message == "no luck"


def test_a_state_that_can_not_be_saved_fails_the_call(worker: Controller) -> None:
    """By name, although the method itself succeeded."""
    create(worker, "Unsaveable")
    start(worker, "call", kind="Unsaveable", save_state=True)
    failure = worker.next(Erred).failure
    assert failure.kind == "unpicklable"
    assert "the state of Unsaveable" in failure.message


def test_a_large_state_is_written_to_room_of_its_own(worker: Controller) -> None:
    """Beside the call's result."""
    create(worker, "Plain")
    saved = start(worker, "call", "x" * 50_000, kind="Plain", save_state=True)
    done = worker.until(Done, saved)
    assert done.state is not None
    assert done.state.request != done.result.request
    create(worker, "Plain", state=worker.put((9,), worker.value(done.state)))
    assert len(call(worker, "call", "y", kind="Plain")) == 2
