"""Why a step ran, waits, or was skipped, in lines that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagengine.explanation import Explanation, explain
from dagengine.model import RunState, StepKind, StepState
from dagengine.storage.interface import Store
from dagengine.storage.memory import MemoryStore
from dagengine.views import find_step
from tests.cli.book import DEAD, Book, boom, failed_run


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store."""
    opened = MemoryStore()
    yield opened
    opened.close()


def explained(book: Book, name: str) -> Explanation:
    return explain(book.store, book.run, find_step(book.store, book.run, name), now=book.began + 3)


def lines(book: Book, name: str) -> str:
    return "\n".join(explained(book, name).lines)


def test_a_skipped_step_names_the_failure_at_the_root_and_the_way_to_it(store: Store) -> None:
    """Not the step before it, which was only skipped, too."""
    book = failed_run(store)
    text = lines(book, "publish")
    assert "nightly/publish[0] was skipped" in text
    assert "nightly/publish[0] ◀ nightly/merge[0] ◀ nightly/extract[1]" in text
    assert "nightly/extract[1] failed: ValueError: bad month 13" in text
    assert "dagengine resume 7f3a" in text
    assert [step.key for step in explained(book, "publish").caused_by] == ["nightly/extract[1]"]


def test_a_long_way_is_shortened_in_the_middle(store: Store) -> None:
    """A chain of a thousand steps is still one line."""
    book = Book(store)
    book.step("link[0]")
    for index in range(1, 50):
        book.step(f"link[{index}]", f"link[{index - 1}]")
    book.fail("link[0]")
    book.skip(*(f"link[{index}]" for index in range(1, 50)), cause="link[0]")
    way = next(line for line in explained(book, "link[49]").lines if "◀" in line)
    assert way.startswith("nightly/link[49] ◀ nightly/link[48]")
    assert "… ◀" in way
    assert way.endswith("nightly/link[0]")


def test_a_call_on_a_stateful_object_says_whose_turn_it_is(store: Store) -> None:
    """One that may change the state waits for all before it, a read-only one for the last that may change it."""
    book = Book(store)
    book.step("Trainer[0]", kind=StepKind.CREATE)
    book.succeed("Trainer[0]")
    book.step("Trainer[0]/epoch[0]", "Trainer[0]", kind=StepKind.METHOD)
    book.step("Trainer[0]/score[0]", "Trainer[0]", kind=StepKind.READONLY)
    book.step("Trainer[0]/score[1]", "Trainer[0]", kind=StepKind.READONLY)
    book.step("Trainer[0]/epoch[1]", "Trainer[0]", kind=StepKind.METHOD)
    book.attempt("Trainer[0]/epoch[0]")
    text = lines(book, "Trainer[0]/score[1]")
    assert "it is a call on nightly/Trainer[0], and waits for its turn:" in text
    assert "  nightly/Trainer[0]/epoch[0] is running" in text
    found = explained(book, "Trainer[0]/epoch[1]")
    assert [step.key.rpartition("/")[2] for step in found.waits_for] == ["score[0]", "score[1]"]
    assert "at the front of them: nightly/Trainer[0]/epoch[0] (running)" in "\n".join(found.lines)
    assert [step.state for step in found.waits_for] == [StepState.WAITING] * 2


def test_a_step_without_an_edge_to_the_cause_names_it_from_its_failure(store: Store) -> None:
    """What the engine recorded as the cause is enough."""
    book = Book(store)
    book.step("a[0]")
    book.step("b[0]")
    book.fail("a[0]")
    book.skip("b[0]", cause="a[0]")
    assert "nightly/a[0] failed" in lines(book, "b[0]")


def test_a_waiting_step_names_its_inputs_and_what_is_at_their_front(store: Store) -> None:
    """Who waits wants to know which step it hangs on."""
    book = Book(store)
    book.step("slow[0]")
    book.step("middle[0]", "slow[0]")
    book.step("last[0]", "middle[0]")
    book.attempt("slow[0]")
    text = lines(book, "last")
    assert "it waits for its one input:" in text
    assert "nightly/middle[0] has not run yet" in text
    assert "at the front of them: nightly/slow[0] (running)" in text
    assert [step.key for step in explained(book, "last").waits_for] == ["nightly/middle[0]"]


def test_many_unfinished_inputs_are_counted(store: Store) -> None:
    """Eight are named."""
    book = Book(store)
    names = [f"part[{index}]" for index in range(20)]
    for name in names:
        book.step(name)
    book.step("merge[0]", *names)
    text = lines(book, "merge")
    assert "it waits for its 20 inputs" in text
    assert "… and 12 more" in text


def test_a_ready_step_says_how_long_it_has_waited_for_a_worker(store: Store) -> None:
    """Its inputs are there, so it is the workers that are busy."""
    book = Book(store)
    book.step("a[0]")
    book.step("b[0]", "a[0]")
    book.succeed("a[0]")
    text = lines(book, "b[0]")
    assert "is ready, and waits for a worker" in text
    assert "its one input, nightly/a[0], succeeded" in text
    assert "it has waited 1.0 s for a worker" in text


def test_a_succeeded_step_names_its_last_input_its_attempts_and_its_value(store: Store) -> None:
    """All that there is to know of a step that ran."""
    book = Book(store)
    book.step("a[0]")
    book.step("b[0]")
    book.step("c[0]", "a[0]", "b[0]")
    book.succeed("b[0]", "a[0]")
    book.attempt("c[0]", 1, "failed", boom("no luck"))
    book.attempt("c[0]", 2, "lost", boom("SIGKILL"))
    book.succeed("c[0]")
    text = lines(book, "c[0]")
    assert "its 2 inputs succeeded; the last was nightly/a[0]" in text
    assert "attempt 2 on worker 3 (pid 4711" in text
    assert "lost after 500 ms: ValueError: SIGKILL" in text
    assert "its value has" in text


def test_a_step_without_inputs_says_so(store: Store) -> None:
    """It needed nothing."""
    book = Book(store)
    book.step("a[0]")
    assert "it reads no other step" in lines(book, "a[0]")


def test_a_failed_step_says_with_what_and_how_to_go_on(store: Store) -> None:
    """Each attempt with its own error."""
    text = lines(failed_run(store), "extract[1]")
    assert "it ended with ValueError: bad month 13" in text
    assert text.count("failed after 500 ms: ValueError: bad month 13") == 2
    assert "dagengine resume 7f3a" in text


def test_a_crashed_run_is_why_nothing_goes_on(store: Store) -> None:
    """The step's attempt vanished with the process that made it."""
    book = Book(store, owner=DEAD)
    book.step("a[0]")
    book.attempt("a[0]")
    text = lines(book, "a[0]")
    assert "the process that worked on the run has died; to go on: dagengine resume 7f3a" in text
    assert "vanished with its process" in text


def test_an_interrupted_run_is_why_nothing_goes_on(store: Store) -> None:
    """The step itself has no fault."""
    book = Book(store)
    book.step("a[0]")
    book.end(RunState.INTERRUPTED)
    assert "the run is interrupted; to go on: dagengine resume 7f3a" in lines(book, "a[0]")


def test_a_running_step_names_its_worker(store: Store) -> None:
    """To look at it with other tools."""
    book = Book(store)
    book.step("a[0]")
    book.attempt("a[0]")
    assert "attempt 1 on worker 3 (pid 4711" in lines(book, "a[0]")
    assert lines(book, "a[0]").endswith(": running")


def test_a_map_waits_for_its_items(store: Store) -> None:
    """It has no attempt of its own to wait for."""
    book = Book(store)
    book.step("extract.map[0]", kind=StepKind.MAP)
    assert "it ends when all its items have" in lines(book, "extract.map[0]")


def test_the_explanation_is_json_too(store: Store) -> None:
    """Causes, what is waited for and each attempt, by name."""
    found = explained(failed_run(store), "publish").to_json()
    assert found["key"] == "nightly/publish[0]"
    assert found["state"] == "skipped"
    assert found["caused_by"] == [{"key": "nightly/extract[1]", "state": "failed"}]
    assert found["because"][0] == "nightly/publish[0] was skipped"
