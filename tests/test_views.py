"""States as they look now: from the record, and the proof that an owner lives."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from dagengine.errors import RunNotFound
from dagengine.model import ProcessRecord, RunState, StepKind, StepState
from dagengine.storage.interface import Store
from dagengine.storage.memory import MemoryStore
from dagengine.views import (
    counts_view,
    entry_text,
    find_step,
    resumable,
    run_state,
    run_view,
    seconds_of,
    steps_view,
)
from tests.cli.book import DEAD, ELSEWHERE, HERE, Book, boom, failed_run


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store."""
    opened = MemoryStore()
    yield opened
    opened.close()


def states(book: Book) -> dict[str, str]:
    return {step.key.partition("/")[2]: str(step.state) for step in steps_view(book.store, book.run)}


@pytest.mark.parametrize(
    ("owner", "state"),
    [(HERE, RunState.RUNNING), (DEAD, RunState.CRASHED), (ELSEWHERE, RunState.RUNNING), (None, RunState.PENDING)],
)
def test_a_run_runs_only_while_its_owner_lives(store: Store, owner: ProcessRecord | None, state: RunState) -> None:
    """Of an owner on another machine nothing can be proved, so it counts as alive."""
    assert run_state(Book(store, owner=owner).run) is state


def test_only_what_nobody_works_on_and_has_not_succeeded_is_resumable(store: Store) -> None:
    """A crashed or pending run is; one that runs or has succeeded is not."""
    assert resumable(Book(store, "a", owner=DEAD).run)
    assert resumable(Book(store, "b", owner=None).run)
    running = Book(store, "c")
    assert not resumable(running.run)
    running.end(RunState.INTERRUPTED)
    assert resumable(running.run)
    succeeded = Book(store, "d")
    succeeded.end(RunState.SUCCEEDED)
    assert not resumable(succeeded.run)


def test_an_unfinished_step_of_a_live_run_is_running_ready_retrying_or_waiting(store: Store) -> None:
    """From its last attempt, and whether its inputs have succeeded."""
    book = Book(store)
    for name in ("a[0]", "b[0]", "c[0]"):
        book.step(name)
    book.step("d[0]", "a[0]")
    book.step("e[0]", "a[0]", "b[0]")
    book.succeed("a[0]")
    book.attempt("b[0]")
    book.attempt("c[0]", outcome="failed", failure=boom())
    expected = {"a[0]": "succeeded", "b[0]": "running", "c[0]": "retrying", "d[0]": "ready", "e[0]": "waiting"}
    assert states(book) == expected


def test_an_attempt_that_succeeded_is_running_until_that_is_recorded(store: Store) -> None:
    """Its value may still be on its way to the disk."""
    book = Book(store)
    book.step("a[0]")
    book.attempt("a[0]", outcome="succeeded")
    assert states(book) == {"a[0]": "running"}


def test_nothing_is_running_in_a_crashed_run(store: Store) -> None:
    """An open attempt of a dead process is one that vanished."""
    book = Book(store, owner=DEAD)
    book.step("a[0]")
    book.attempt("a[0]")
    assert states(book) == {"a[0]": "waiting"}


def test_an_attempt_of_the_owner_before_is_not_running(store: Store) -> None:
    """After a takeover an older open attempt stays open for ever; the step is ready again."""
    book = Book(store, owner=DEAD)
    book.step("a[0]")
    book.attempt("a[0]")
    later = ProcessRecord(HERE.id, HERE.host, HERE.boot_id, HERE.pid, HERE.start_time, book.began + 100)
    store.claim(book.run_id, later, lambda process: False)
    [step] = steps_view(store, book.run)
    assert (step.state, step.attempts) == (StepState.READY, 1)


def test_attempts_count_those_that_were_begun(store: Store) -> None:
    """Also one that runs: the step's row counts the ended ones only."""
    book = Book(store)
    book.step("a[0]")
    book.attempt("a[0]", 1, "lost", boom("killed"))
    book.attempt("a[0]", 2)
    [step] = steps_view(store, book.run)
    assert (step.attempts, step.state) == (2, StepState.RUNNING)


def test_the_view_of_a_run_is_one_json_object(store: Store) -> None:
    """With id, workflow, state, and steps, each with key, task, state, attempts."""
    view = json.loads(json.dumps(run_view(store, failed_run(store).run)))
    assert (view["id"], view["workflow"], view["state"]) == ("7f3a", "nightly", "failed")
    assert view["counts"] == {"failed": 1, "skipped": 2, "succeeded": 2}
    assert view["failure"]["facts"]["step"] == "nightly/extract[1]"
    assert [(step["key"], step["task"], step["state"], step["attempts"]) for step in view["steps"]] == [
        ("nightly/extract[0]", "extract", "succeeded", 1),
        ("nightly/extract[1]", "extract", "failed", 2),
        ("nightly/extract[2]", "extract", "succeeded", 1),
        ("nightly/merge[0]", "merge", "skipped", 0),
        ("nightly/publish[0]", "publish", "skipped", 0),
    ]
    assert view["steps"][0]["seconds"] == pytest.approx(0.5)
    assert "pickled" not in json.dumps(view)


def test_the_owner_is_shown_with_whether_it_lives(store: Store) -> None:
    """Who wants to stop or to take over a run needs the pid."""
    owner = run_view(store, Book(store, owner=DEAD).run)["owner"]
    assert (owner["pid"], owner["alive"]) == (DEAD.pid, False)


def test_a_run_takes_as_long_as_it_runs(store: Store) -> None:
    """Until its end, or until now."""
    book = Book(store)
    started = book.run.started_at
    assert started is not None
    assert seconds_of(book.run, started + 5) == pytest.approx(5)
    book.end(RunState.SUCCEEDED)
    ended = book.run.finished_at
    assert ended is not None
    assert seconds_of(book.run, ended + 1000) == pytest.approx(ended - started)
    assert seconds_of(Book(store, "b", owner=None).run, started) is None


def test_the_entry_can_be_typed_again(store: Store) -> None:
    """FILE.py:NAME of a file."""
    assert entry_text(Book(store).run) == "/jobs/nightly.py:nightly"


def test_counts_are_of_stored_states(store: Store) -> None:
    """They come from one question to the store, without reading steps."""
    book = Book(store)
    book.step("a[0]")
    book.attempt("a[0]")
    assert counts_view(store, book.run) == {"waiting": 1}


@pytest.mark.parametrize(
    "name", ["nightly/merge[0]", "merge[0]", "merge", "#3", "3"]
)  # fmt: skip
def test_a_step_is_found_by_what_people_type(store: Store, name: str) -> None:
    """Its key, the key without the workflow, the function that is called once, its number."""
    book = failed_run(store)
    assert find_step(store, book.run, name).key == "nightly/merge[0]"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("extract", "3 steps of run 7f3a are called 'extract': nightly/extract[0]"),
        ("extrct[1]", "Did you mean nightly/extract[1]?"),
        ("zzz", "`dagengine steps 7f3a` lists them"),
        ("#99", "has no step '#99'"),
        ("", "has no step ''"),
    ],
)
def test_a_step_that_is_not_there_is_helped_with(store: Store, name: str, said: str) -> None:
    """Several are named, a typo is corrected, anything else gets the verb that lists them."""
    book = failed_run(store)
    with pytest.raises(RunNotFound) as caught:
        find_step(store, book.run, name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_items_of_a_map_are_found_in_their_scope(store: Store) -> None:
    """By the end of their key."""
    book = Book(store)
    book.step("extract.map[0]", kind=StepKind.MAP)
    book.step("extract.map[0]/extract[1]")
    assert find_step(store, book.run, "extract[1]").seq == 1
