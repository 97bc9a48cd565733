"""When a wait for a run, or for steps of it, is over: what triggers and sensors go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from dagengine import Client, Engine, continue_with, wait_event, workflow
from dagengine.awaited import NONE, Awaited, ends, run_end, steps_end
from dagengine.continuing import successor_id
from dagengine.errors import BadArguments
from dagengine.model import Claim, RunState, StepState
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import Store
from dagengine.storage.postgres import PostgresStore
from dagengine.storage.sqlite import SqliteStore
from dagengine.storage.step_states import StepStates, step_states
from dagengine.storage.writes import CloseBody, FinishRun
from tests.postgres.emptied import emptied_schema
from tests.postgres.server import shared
from tests.storage.kit import DEFINITION, NOW, begin, fail, record, recorded, step, succeed


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that other processes can open, too."""
    opened: Store
    if request.param == "sqlite":
        opened = SqliteStore(str(tmp_path / "store.db"), clock=lambda: NOW)
    else:
        opened = PostgresStore(shared().url(emptied_schema(), lease="3600"), clock=lambda: NOW)
    yield opened
    opened.close()


KEYS = (
    "nightly/extract[0]",
    "nightly/extract[1]",
    "nightly/extract.map[0]",
    "nightly/extract.map[0]/extract[0]",
    "nightly/child[0]/extract[0]",
    "nightly/child[0]/extract[0]/deep[0]",
    "nightly/child[10]/extract[0]",
)


def some_steps(store: Store) -> Claim:
    claim = begin(store)
    recorded(
        store, claim, record(*(step(n)._replace(key=key) for n, key in enumerate(KEYS)), definitions=(DEFINITION,))
    )
    recorded(store, claim, succeed(0, 0))
    recorded(store, claim, fail(1, 1))
    return claim


def counted(store: Store, name: str) -> dict[StepState, int]:
    return step_states(store, [("7f3a", name)])["7f3a", name].counts


WAITING, SUCCEEDED, FAILED = StepState.WAITING, StepState.SUCCEEDED, StepState.FAILED


def test_a_key_names_one_step_and_a_pattern_those_of_a_function_or_a_scope(store: Store) -> None:
    """`[*]` is the calls of a function and nothing below them; `/*` is all that is in a scope, and no other scope."""
    some_steps(store)
    assert counted(store, "nightly/extract[0]") == {SUCCEEDED: 1}
    assert counted(store, "nightly/extract[7]") == {}
    assert counted(store, "nightly/extract[*]") == {SUCCEEDED: 1, FAILED: 1}
    assert counted(store, "nightly/child[0]/*") == {WAITING: 2}
    assert counted(store, "nightly/child[0]/extract[*]") == {WAITING: 1}
    assert counted(store, "nightly/extract.map[0]/extract[*]") == {WAITING: 1}


def test_many_questions_about_several_runs_are_one_transaction(store: Store) -> None:
    """Each has its own answer; what names no run is left out, and an id has to be the whole one."""
    some_steps(store)
    begin(store, "8000")
    asked = [("7f3a", KEYS[0]), ("7f3a", KEYS[1]), ("8000", KEYS[0]), ("7f", KEYS[0]), ("nobody", "nightly/extract[0]")]
    found = step_states(store, asked)
    assert {key: value.counts for key, value in found.items()} == {
        ("7f3a", KEYS[0]): {SUCCEEDED: 1},
        ("7f3a", KEYS[1]): {FAILED: 1},
        ("8000", KEYS[0]): {},
    }


@pytest.mark.parametrize("name", ["*", "nightly/*", "nightly/ex*", "nightly/*[0]", "nightly/a[*]/b[0]"])
def test_a_pattern_that_means_nothing_is_refused(store: Store, name: str) -> None:
    """Else a sensor would wait for ever for steps that can't be."""
    with pytest.raises(BadArguments, match="names no steps"):
        step_states(store, [("7f3a", name)])


def test_a_step_has_ended_when_it_succeeded_or_its_run_is_over(store: Store) -> None:
    """A failed step is waited for while its run is not over: it may be opened again. Afterwards its state is the end."""
    claim = some_steps(store)
    waits = [Awaited("7f3a", key) for key in (*KEYS[:3], "nightly/gone[0]")]

    def states(ids: Iterable[str]) -> dict[str, RunState]:
        return {run_id: store.find_run(run_id).state for run_id in ids}

    assert list(ends(store, states, waits).values()) == ["succeeded", None, None, None]
    assert ends(store, states, [Awaited("7f3a")]) == {Awaited("7f3a"): None}
    recorded(store, claim, FinishRun(RunState.FAILED, NOW))
    assert list(ends(store, states, waits).values()) == ["succeeded", "failed", "failed", NONE]
    assert ends(store, states, [Awaited("7f3a")]) == {Awaited("7f3a"): "failed"}


def test_a_group_is_whole_when_the_body_has_returned_or_enough_have_succeeded(store: Store) -> None:
    """While the body runs, more may be called."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), step(2), definitions=(DEFINITION,)))
    recorded(store, claim, *(succeed(seq, seq) for seq in range(3)))
    group, two, four = (Awaited("7f3a", "nightly/extract[*]", count) for count in (None, 2, 4))
    assert ends(store, lambda ids: {}, [group, two, four]) == {group: None, two: "succeeded", four: None}
    recorded(store, claim, CloseBody(b"", ()))
    assert ends(store, lambda ids: {}, [group, four]) == {group: "succeeded", four: None}


@workflow
def counting(left: int) -> str:
    if left:
        continue_with(left - 1)
    return str(wait_event("go"))


def test_a_run_that_goes_on_in_another_ends_with_that(tmp_path: Path) -> None:
    """The first of them has long succeeded; its result is the last one's."""
    with (
        Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine,
        Client(tmp_path / "store.db", home=tmp_path) as client,
    ):
        first = counting.start(2)
        wait = Awaited(first.id)
        last = successor_id(successor_id(first.id))
        while (record := client.known(last)) is None or record.state is not RunState.WAITING:
            assert client.ends([wait, Awaited("nobody")]) == {wait: None}
        assert client.ends([wait]) == {wait: None}
        engine.signal(last, "go", "gone")
        assert first.result() == "gone"
        assert client.ends([wait]) == {wait: "succeeded"}


def test_waits_that_a_person_or_time_will_end_go_on() -> None:
    """Paused, sleeping, crashed and interrupted runs with a place in a queue are taken up again some day."""
    going_on = {state for state in RunState if run_end(state) is None}
    assert going_on == {RunState.PENDING, RunState.RUNNING, RunState.WAITING, RunState.PAUSED, RunState.CRASHED}
    assert run_end(RunState.INTERRUPTED) == "interrupted"
    assert run_end(RunState.INTERRUPTED, expected=True) is None


@pytest.mark.parametrize(
    ("run", "counts", "count", "end"),
    [
        ("running", {"failed": 1}, 1, None),
        ("failed", {"succeeded": 3, "failed": 1, "skipped": 2}, None, "failed"),
        ("cancelled", {"cancelled": 1, "skipped": 2}, None, "cancelled"),
        ("succeeded", {"skipped": 1}, 1, "skipped"),
        ("succeeded", {}, None, NONE),
        ("succeeded", {"succeeded": 11}, 12, "succeeded"),
        ("failed", {"succeeded": 12, "failed": 1}, 12, "succeeded"),
        ("mismatch", {"succeeded": 1, "waiting": 1}, None, "mismatch"),
        ("interrupted", {"waiting": 1}, 1, "interrupted"),
        ("paused", {"waiting": 1}, 1, None),
    ],
)
def test_a_group_ends_as_the_worst_of_its_steps(run: str, counts: dict[str, int], count: int | None, end: str) -> None:
    """Unless as many have succeeded as were asked for; where steps were left undone, as the run did."""
    found = StepStates(RunState(run), False, {StepState(state): number for state, number in counts.items()})
    assert steps_end(found, count) == end
