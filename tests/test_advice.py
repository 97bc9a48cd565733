"""What a run, or a step that did not succeed, is said to go on with: never a resume that would change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import get, sleep, task, wait_approval, wait_event, workflow
from dagengine.advice import for_run, for_step
from dagengine.engine import Engine
from dagengine.errors import RunExists, RunFailed
from dagengine.model import Failure, RunRecord, RunState
from dagengine.storage.memory import MemoryStore
from dagengine.testing import memory_engine
from dagengine.views import find_step
from tests.cli.book import Book, boom


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A store in memory, tasks in this process."""
    with memory_engine() as opened:
        yield opened


def said(store: Any, run: RunRecord) -> list[str]:
    return [advice.text for advice in for_run(store, run)]


def said_of(store: Any, run: RunRecord, step: str) -> list[str]:
    return [advice.text for advice in for_step(store, run, find_step(store, run, step))]


answers: dict[str, int] = {}
"""What a wait that is begun now gives when its time is over."""


@workflow
def impatient() -> Any:
    return wait_event("paid", timeout=0.01, **answers)


@workflow
def asking() -> None:
    wait_approval("shipping")


@workflow
def parent() -> Any:
    return get(impatient.start())


@task
def bad() -> int:
    raise ValueError("no")


@workflow
def handles() -> int:
    try:
        get(bad())
    except ValueError:
        sleep(0.001)
    return get(bad())


def test_a_wait_that_is_over_is_begun_anew_in_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume ends at the same moment; the result's error, `explain` and a late signal say what helps instead."""
    with memory_engine() as engine:
        run = engine.start(impatient)
        with pytest.raises(RunFailed, match=f"dagengine fork {run.id[:8]} --from 'impatient/paid.event\\[0\\]'"):
            run.result()
        record = engine.store.find_run(run.id)
        (line,) = said(engine.store, record)
        assert line.endswith(f"dagengine fork {run.id[:8]} --from 'impatient/paid.event[0]'")
        assert said_of(engine.store, record, "paid.event[0]") == [line]
        with pytest.raises(RunExists, match="dagengine fork"):
            engine.signal(run.id, "paid", 1)
        resumed = engine.resume(run.id)
        resumed.wait()
        assert resumed.state is RunState.FAILED
        monkeypatch.setitem(answers, "default", 7)
        assert engine.fork(run.id, from_="impatient/paid.event[0]").result() == 7


def test_a_no_is_asked_again_in_a_fork() -> None:
    """The answer is on record; the run's failure names the step that asked."""
    from dagengine.approvals import answer_of, send_answer

    with memory_engine() as engine:
        run = engine.start(asking)
        send_answer(engine.post, run.id, "shipping", answer_of(False, "ada", "too heavy"))
        run.wait()
        (line,) = said(engine.store, engine.store.find_run(run.id))
    assert line.endswith(f"dagengine fork {run.id[:8]} --from 'asking/shipping.approval[0]'")


def test_a_wait_of_a_child_is_begun_anew_in_a_fork_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """That begins another child; a fork of the child would be no child of its own."""
    with memory_engine() as engine:
        run = engine.start(parent)
        run.wait()
        (line,) = said(engine.store, engine.store.find_run(run.id))
        assert line.endswith(f"dagengine fork {run.id[:8]} --from 'parent/impatient[0]'")
        monkeypatch.setitem(answers, "default", 7)
        assert engine.fork(run.id, from_="parent/impatient[0]").result() == 7


def test_a_handled_failure_is_done_anew_in_a_fork(engine: Engine) -> None:
    """A resume leaves it, and does the other one again."""
    run = engine.start(handles)
    run.wait()
    record = engine.store.find_run(run.id)
    (handled,) = said_of(engine.store, record, "bad[0]")
    assert handled.endswith(f"dagengine fork {run.id[:8]} --from 'handles/bad[0]'")
    assert said_of(engine.store, record, "bad[1]") == [f"correct the cause, then: dagengine resume {run.id[:8]}"]
    assert said(engine.store, record) == [f"to go on: dagengine resume {run.id[:8]}"]


def unknown() -> Failure:
    return Failure("unknown", "dagengine.errors.StepUnknown", "nobody knows", retriable=False)


def test_an_unknown_end_is_looked_at_first() -> None:
    """Then it is marked, or done again; a resume does neither."""
    store = MemoryStore()
    book = Book(store)
    book.step("launch[0]")
    book.fail("launch[0]", unknown())
    book.end(RunState.FAILED, boom(step="nightly/launch[0]", failed=["nightly/launch[0]"]))
    expected = [
        "look what it has done, then say so: dagengine mark 7f3a 'nightly/launch[0]' success --value JSON",
        "or have it done again: dagengine retry 7f3a 'nightly/launch[0]'",
    ]
    assert said(store, book.run) == expected
    assert said_of(store, book.run, "launch[0]") == expected
    store.close()


def test_what_found_no_room_gets_more() -> None:
    """A resume with as little memory for objects as before fails as before."""
    store = MemoryStore()
    book = Book(store)
    book.step("sum[0]")
    book.fail("sum[0]", Failure("objects", "dagengine.errors.ObjectStoreFull", "too much"))
    book.end(RunState.FAILED, boom(step="nightly/sum[0]", failed=["nightly/sum[0]"]))
    assert said(store, book.run) == ["to go on with room for what it reads: dagengine resume 7f3a --object-memory SIZE"]
    store.close()


def test_where_a_resume_changes_something_it_is_what_is_said() -> None:
    """One of two failures is unknown: the other step runs again."""
    store = MemoryStore()
    book = Book(store)
    book.step("launch[0]")
    book.step("extract[0]")
    book.fail("launch[0]", unknown())
    book.fail("extract[0]")
    book.end(RunState.FAILED, boom(step="nightly/launch[0]", failed=["nightly/launch[0]", "nightly/extract[0]"]))
    assert said(store, book.run) == ["to go on: dagengine resume 7f3a"]
    assert said_of(store, book.run, "launch[0]")[0].startswith("look what it has done")
    store.close()


@task
def free(result: str) -> None:
    pass


@task(undo=free)
def book_room() -> str:
    return "room"


@task
def pay(room: str) -> None:
    raise ValueError("no money")


@workflow(compensate=True)
def trip() -> Any:
    return pay(book_room())


def test_a_compensated_run_is_begun_anew(engine: Engine) -> None:
    """Nothing in it goes on any more, whichever step is asked about."""
    run = engine.start(trip)
    run.wait()
    record = engine.store.find_run(run.id)
    expected = [f"what it did is undone; to begin anew: dagengine rerun {run.id[:8]}"]
    assert said(engine.store, record) == expected
    assert said_of(engine.store, record, "pay[0]") == expected


@task
def refused() -> None:
    from dagengine import context

    context().once("", lambda: 1)


@workflow
def refuses() -> Any:
    return get(refused())


def test_a_traceback_ends_where_the_users_code_does(engine: Engine) -> None:
    """Where we refuse what a task asks, and where a body is given a step's error: no line of ours is below."""
    import dagengine

    run = engine.start(refuses)
    run.wait()
    failed = next(step for step in run.steps() if step.task == "refused")
    ours = str(Path(dagengine.__file__).parent)
    for failure, last in ((failed.failure, "context().once("), (run.failure, "return get(refused())")):
        assert failure is not None
        lines = [line for line in failure.traceback.splitlines() if line.startswith("  ")]
        assert ours not in "\n".join(lines)
        assert last in "\n".join(lines[-3:])
