"""Undo tasks: what a run did is undone, newest first, when it fails or is cancelled, whatever dies meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dagengine import RunState, context, gather, get, sleep, task, workflow
from dagengine.core.events import CancelRequested
from dagengine.engine import Engine
from dagengine.errors import BadOption, DefinitionError, RunConflict, RunExists
from dagengine.storage.compensation import request
from tests.semantics.conftest import Everywhere

rooms: dict[str, str] = {}
undone: list[str] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    _forget()


def _forget() -> None:
    rooms.clear()
    undone.clear()
    broken.clear()


@task(retries=1, retry_delay=0.0)
def free(result: str, name: str, *, floor: int = 0) -> None:
    if name in broken:
        raise OSError(f"{name} does not answer")
    assert result == f"{name}{floor}"
    rooms.pop(name, None)
    undone.append(name)


@task(undo=free)
def book(name: str, *, floor: int = 0) -> str:
    rooms[name] = "booked"
    return f"{name}{floor}"


@task
def pay(rooms: list[str]) -> str:
    raise ValueError("no money")


@workflow(compensate=True)
def travel() -> Any:
    return pay([book(name, floor=floor) for floor, name in enumerate("abc")])


@workflow
def stay() -> Any:
    return pay([book("a"), book("b")])


def _all_freed() -> None:
    assert rooms == {}
    assert sorted(set(undone)) == ["a", "b", "c"]
    assert [name for index, name in enumerate(undone) if undone[index - 1 : index] != [name]] == ["c", "b", "a"]


def test_a_run_that_fails_undoes_what_it_did(engine: Engine) -> None:
    """Newest first, as steps of the same run, with the step's result and its arguments; the failure is the run's."""
    run = engine.start(travel)
    run.wait()
    assert run.state is RunState.FAILED
    _all_freed()
    keys = [step.key for step in run.steps() if step.kind == "undo"]
    assert keys == ["travel/book[2]/undo", "travel/book[1]/undo", "travel/book[0]/undo"]
    assert run.failure is not None
    assert run.failure.message == "no money"


def test_what_was_undone_stays_undone(engine: Engine) -> None:
    """A resume changes nothing of it, retry and mark are refused with what to do, and a fork does it anew."""
    run = engine.start(travel)
    run.wait()
    before = [(step.key, step.state) for step in run.steps()]
    more = engine.resume(run.id)
    more.wait()
    assert (more.state, [(step.key, step.state) for step in more.steps()]) == (RunState.FAILED, before)
    assert more.failure is not None
    assert more.failure.message == "no money"
    for change in (
        lambda: engine.retry(run.id, "travel/pay[0]"),
        lambda: engine.mark(run.id, "travel/pay[0]", "failed"),
    ):
        with pytest.raises(RunConflict, match=f"Begin a new one: dagengine rerun {run.id[:8]}"):
            change()
    _forget()
    engine.fork(run.id, from_=["travel/pay[0]"]).wait()
    _all_freed()


def test_undoing_survives_crashes(everywhere: Everywhere) -> None:
    """Each room is freed, newest first, wherever the process died; an undo is repeated only right after a crash."""
    for report in everywhere(travel, before=_forget, after=_all_freed).values():
        assert report.state is RunState.FAILED
        assert report.result == "ValueError: no money"


def test_without_being_asked_nothing_is_undone(engine: Engine) -> None:
    """A run of a plain workflow fails as ever."""
    engine.start(stay).wait()
    assert set(rooms) == {"a", "b"}


def test_a_run_that_failed_can_be_compensated_later(engine: Engine) -> None:
    """The engine that is asked takes it up for that; it is cancelled then, and stays so."""
    run = engine.start(stay)
    run.wait()
    engine.cancel(run.id, compensate=True)
    while engine.store.find_run(run.id).state is not RunState.CANCELLED or engine.driver_of(run.id) is not None:
        threading.Event().wait(0.002)
    assert undone == ["b", "a"]
    more = engine.resume(run.id)
    more.wait()
    assert more.state is RunState.CANCELLED
    assert undone == ["b", "a"]


reached = threading.Event()
go_on = threading.Event()


@task
def wait_here(rooms: list[str]) -> None:
    reached.set()
    assert go_on.wait(300)


@workflow
def waiting() -> None:
    return get(wait_here([book("a"), book("b"), book("c")]))


def test_a_cancelled_run_undoes_what_it_did(engine: Engine) -> None:
    """When all that runs has ended; then it is cancelled."""
    reached.clear()
    go_on.clear()
    run = engine.start(waiting)
    assert reached.wait(300)
    run.cancel(compensate=True)
    go_on.set()
    run.wait()
    assert run.state is RunState.CANCELLED
    _all_freed()


@task
def tick() -> None:
    reached.set()


@workflow
def ticking() -> None:
    gather([book("a"), book("b", floor=1), book("c", floor=2)])
    while True:
        get(tick())


def test_a_compensated_cancel_survives_crashes(everywhere: Everywhere) -> None:
    """Also when the process died between the request and the first undo: the request stays with the run."""

    def world(engine: Engine, run_id: str) -> None:
        record = engine.store.find_run(run_id)
        while not reached.wait(0.005):
            engine.store.find_run(run_id)  # ends this thread with the process
        request(engine.store, record.number, 0.0)
        driver = engine._by_id.get(run_id)
        if driver is not None:
            engine.tell(driver, [CancelRequested()])

    def before() -> None:
        _forget()
        reached.clear()

    reports = everywhere(
        ticking,
        world=world,
        before=before,
        after=_all_freed,
        limit=60,  # it ticks for as long as a busy machine lets it
    )
    assert {report.state for report in reports.values()} == {RunState.CANCELLED}


def test_an_undo_that_fails_stops_the_run_which_goes_on_with_it(engine: Engine) -> None:
    """Older steps are not undone before; the run names the step, and a resume tries again."""
    broken.add("b")
    run = engine.start(travel)
    run.wait()
    assert run.state is RunState.FAILED
    assert undone == ["c"]
    assert run.failure is not None
    assert run.failure.message == "travel/book[1] could not be undone: OSError: b does not answer"
    broken.clear()
    again = engine.resume(run.id)
    again.wait()
    assert again.state is RunState.FAILED
    assert again.failure is not None
    assert again.failure.message == "no money"
    _all_freed()


@workflow(compensate=True)
def good() -> list[str]:
    return [book("a"), book("b")]


def test_what_succeeded_as_a_whole_stays(engine: Engine) -> None:
    """There is nothing to cancel of it."""
    run = engine.start(good)
    assert run.result() == ["a0", "b0"]
    assert undone == []
    with pytest.raises(RunExists, match="has succeeded"):
        run.cancel(compensate=True)


@task(undo=free)
def book_item(name: str) -> str:
    rooms[name] = "booked"
    return f"{name}0"


@task
def names() -> list[str]:
    return ["a", "b", "c"]


@workflow(compensate=True)
def mapped() -> Any:
    return pay(book_item.map(names()))


def test_items_of_a_map_are_undone(engine: Engine) -> None:
    """Each with its own argument."""
    engine.start(mapped).wait()
    assert rooms == {}
    assert sorted(undone) == ["a", "b", "c"]


def test_an_undo_is_a_task() -> None:
    """A plain function has no name of its own in the record, and no options."""
    with pytest.raises(BadOption, match="is not a task"):
        task(undo=print)  # type: ignore[call-overload]

    with pytest.raises(BadOption, match="needs checkpoint=True"):
        book.options(checkpoint=False)
    from dagengine import stateful

    with pytest.raises(DefinitionError, match="is for tasks"):
        stateful(undo=free)


@workflow
def sleeping() -> None:
    gather([book("a"), book("b", floor=1), book("c", floor=2)])
    sleep(3600)


def test_a_run_that_is_unloaded_is_taken_up_to_be_undone(engine: Engine) -> None:
    """It waits without a process; to be compensated it gets one."""
    run = engine.start(sleeping)
    while run.state is not RunState.WAITING:
        assert not run.wait(0.005)
    run.cancel(compensate=True)
    assert run.wait(300)
    assert str(run.state) == "cancelled"
    _all_freed()


@task(undo=free)
def reserve(name: str, *, floor: int = 0) -> str:
    keys.append(context().idempotency_key or "")
    rooms[name] = "reserved"
    return f"{name}{floor}"


keys: list[str] = []


@workflow(compensate=True)
def stay_or_not(name: str, fails: bool) -> Any:
    first = get(reserve("a"))
    second = get(reserve(name, floor=1))
    return pay([first, second]) if fails else [first, second]


def test_a_fork_undoes_what_it_did_itself(engine: Engine) -> None:
    """What it shares with its donor is the donor's, whose steps had other idempotency keys."""
    keys.clear()
    donor = engine.start(stay_or_not, "b", False)
    donor.wait()
    fork = engine.fork(donor.id, params={"name": "c", "fails": True})
    fork.wait()
    assert fork.state is RunState.FAILED
    assert undone == ["c"]
    assert set(rooms) == {"a", "b"}
    assert keys == [
        f"{donor.id}/stay_or_not/reserve[0]",
        f"{donor.id}/stay_or_not/reserve[1]",
        f"{fork.id}/stay_or_not/reserve[1]",
    ]
