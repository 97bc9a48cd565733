"""Going on with a run: what is kept, what runs again, who may. SQLite store, tasks in this process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagengine import as_completed, get, task, workflow
from dagengine.engine import Engine
from dagengine.errors import (
    ArtifactDamaged,
    ArtifactMissing,
    Fenced,
    RunCancelled,
    RunExists,
    RunFailed,
    RunInterrupted,
    RunMismatch,
    RunNotFound,
    RunOwned,
    StoreFull,
)
from dagengine.identity import this_process
from dagengine.model import RunState, StepState
from dagengine.run import Run
from tests.engines import opened

SEEN: list[str] = []
"""What ran, in order: tasks run in this process."""

FLAGS: dict[str, Any] = {}
"""What changes between a run and its resumption."""


@pytest.fixture(autouse=True)
def clean() -> None:
    SEEN.clear()
    FLAGS.clear()


@task
def step(name: str, value: int = 1) -> int:
    SEEN.append(name)
    if FLAGS.get(name) == "fail":
        raise ValueError(name)
    return value


@task
def add(left: int, right: int) -> int:
    SEEN.append("add")
    return left + right


@task
def large(name: str) -> Any:
    SEEN.append(name)
    return np.ones(10_000)


@task
def size(array: Any) -> int:
    if FLAGS.get("size") == "fail":
        raise ValueError("not today")
    return len(array)


@workflow
def graph() -> int:
    SEEN.append("body")
    a, b = step("a", 1), step("b", 2)
    return add(add(a, b), step("c", 3))


@workflow
def waiting() -> int:
    SEEN.append("body")
    a = get(step("a", 1))
    if FLAGS.get("body") == "raise":
        raise RuntimeError("the body")
    return get(add(a, step("b", 2)))


def first_try(folder: Path, flow: Any) -> str:
    """Run it to its failure; returns the id."""
    with opened(folder) as engine:
        run = engine.start(flow)
        with pytest.raises(RunFailed):
            run.result()
        return run.id


def resumed(folder: Path, run_id: str) -> Any:
    with opened(folder) as engine:
        return engine.resume(run_id).result()


def test_resume_runs_what_failed_and_what_was_skipped_and_nothing_else(tmp_path: Path) -> None:
    """The body had returned, so it is not called either."""
    FLAGS["b"] = "fail"
    run_id = first_try(tmp_path, graph)
    assert sorted(SEEN) == ["a", "b", "body", "c"]
    SEEN.clear()
    FLAGS.clear()
    assert resumed(tmp_path, run_id[:8]) == 6
    assert sorted(SEEN) == ["add", "add", "b"]


def test_a_body_that_waits_is_replayed_and_answered_from_the_record(tmp_path: Path) -> None:
    """The recorded step is not executed again; the body goes past the place where it had stopped."""
    FLAGS["body"] = "raise"
    run_id = first_try(tmp_path, waiting)
    SEEN.clear()
    FLAGS.clear()
    assert resumed(tmp_path, run_id) == 3
    assert SEEN == ["body", "b", "add"]


def test_a_failed_step_gets_a_fresh_budget_and_numbers_its_attempts_on(tmp_path: Path) -> None:
    """Past attempts stay in the record."""
    FLAGS["b"] = "fail"
    run_id = first_try(tmp_path, graph)
    FLAGS.clear()
    with opened(tmp_path) as engine:
        run = engine.resume(run_id)
        run.result()
        attempts = engine.store.attempts(engine.store.find_run(run_id).number, seq=1)
        assert [(attempt.number, attempt.outcome) for attempt in attempts] == [(1, "failed"), (2, "succeeded")]
        assert [event.kind for event in engine.store.events(engine.store.find_run(run_id).number)] == [
            "run.started",
            "step.failed",
            "run.commits",
            "run.resumed",
            "run.commits",
        ]


def change(monkeypatch: pytest.MonkeyPatch, body: Callable[[], int]) -> None:
    """Deploy another body of `waiting`."""
    monkeypatch.setattr(waiting, "function", body)


@pytest.mark.parametrize(
    ("body", "difference"),
    [
        (lambda: get(step("other", 1)), "- step('a', 1)\n+ step('other', 1)"),
        (lambda: get(step("a", value=1)), "- step('a', 1)\n+ step('a', value=1)"),
        (lambda: get(add.options(name="step")(1, 2)), "- step('a', 1)\n+ step(1, 2)"),
    ],
)
def test_another_call_under_a_recorded_key_stops_the_run_in_a_mismatch(
    body: Callable[[], int], difference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs, the record stands, both calls are shown; with the code put back the run goes on."""
    FLAGS["body"] = "raise"
    run_id = first_try(tmp_path, waiting)
    SEEN.clear()
    with monkeypatch.context() as deployed:
        change(deployed, body)
        with opened(tmp_path) as engine:
            run = engine.resume(run_id)
            with pytest.raises(RunMismatch) as caught:
                run.result()
            assert run.state is RunState.MISMATCH
    assert caught.value.key == "waiting/step[0]"
    assert caught.value.difference == difference
    assert SEEN == []
    FLAGS.clear()
    assert resumed(tmp_path, run_id) == 3


def test_calls_that_are_no_longer_made_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded and not asked for is left alone."""
    FLAGS["body"] = "raise"
    run_id = first_try(tmp_path, waiting)
    change(monkeypatch, lambda: 7)
    assert resumed(tmp_path, run_id) == 7


@workflow
def in_order() -> list[int]:
    values = list(as_completed([step("a", 1), step("b", 2), step("c", 3)]))
    if FLAGS.get("body") == "raise":
        raise RuntimeError
    return values


def test_the_order_of_completion_is_the_same_on_replay(tmp_path: Path) -> None:
    """as_completed hands out recorded ends as they came."""
    FLAGS["body"] = "raise"
    run_id = first_try(tmp_path, in_order)
    FLAGS.clear()
    assert resumed(tmp_path, run_id) == [1, 2, 3]


@workflow
def careful() -> int:
    try:
        get(step("a"))
    except ValueError:
        get(add(0, 0))
        if FLAGS.get("body") == "raise again":
            raise
    if FLAGS.get("body") == "raise":
        raise RuntimeError
    return get(step("b", 5))


def test_a_handled_failure_is_a_fact_on_resume(tmp_path: Path) -> None:
    """The body sees the same exception again, and takes the same way."""
    FLAGS.update(a="fail", body="raise")
    run_id = first_try(tmp_path, careful)
    SEEN.clear()
    FLAGS.clear()
    assert resumed(tmp_path, run_id) == 5
    assert SEEN == ["b"]


def test_a_failure_that_the_body_raised_again_is_open_on_resume(tmp_path: Path) -> None:
    """Cleaning up before re-raising does not make it a fact."""
    FLAGS.update(a="fail", body="raise again")
    run_id = first_try(tmp_path, careful)
    SEEN.clear()
    FLAGS.clear()
    assert resumed(tmp_path, run_id) == 5
    assert SEEN == ["a", "b"]


@workflow
def large_values() -> int:
    first = large("first")
    second = large("second")
    return add(size(first), size(second))


def artifact_of(engine: Engine, run_id: str, key: str) -> Path:
    (record,) = engine.store.steps(engine.store.find_run(run_id).number, key=key)
    assert record.value_digest is not None
    assert record.value_size is not None
    return Path(engine.artifacts.local_path(record.value_digest, record.value_size))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.unlink(), ArtifactMissing),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), ArtifactDamaged),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), ArtifactDamaged),
    ],
    ids=["missing", "torn", "a byte changed"],
)
def test_an_artifact_that_is_not_what_was_recorded_is_a_named_error(
    spoil: Callable[[Path], Any], error: type[Exception], tmp_path: Path
) -> None:
    """The step that reads it fails, and says which bytes; nothing is computed from damaged data."""
    FLAGS["size"] = "fail"
    run_id = first_try(tmp_path, large_values)
    FLAGS.clear()
    with opened(tmp_path) as engine:
        path = artifact_of(engine, run_id, "large_values/large[0]")
        path.chmod(0o600)
        spoil(path)
        with pytest.raises(RunFailed) as caught:
            engine.resume(run_id).result()
    assert isinstance(caught.value.__cause__, error)
    assert path.name[:8] in str(caught.value.__cause__)


def test_resume_reads_no_value_that_nobody_needs(tmp_path: Path) -> None:
    """The artifacts of finished steps whose readers are finished may even be gone."""

    FLAGS["b"] = "fail"
    run_id = first_try(tmp_path, spent)
    FLAGS.clear()
    with opened(tmp_path) as engine:
        artifact_of(engine, run_id, "spent/large[0]").unlink()
        assert engine.resume(run_id).result() == 10_002


@workflow
def spent() -> int:
    return add(size(large("first")), add(step("b", 1), 1))


def test_a_run_that_succeeded_is_not_resumed(tmp_path: Path) -> None:
    """Its result stands."""
    with opened(tmp_path) as engine:
        run = engine.start(graph)
        run.result()
        with pytest.raises(RunExists, match="succeeded"):
            engine.resume(run.id)


def test_an_unknown_run_is_said_to_be_unknown(tmp_path: Path) -> None:
    """By the id that was asked for."""
    with opened(tmp_path) as engine, pytest.raises(RunNotFound, match="7f3a"):
        engine.resume("7f3a")


@task
def hold() -> int:
    """Runs until the test lets it go."""
    FLAGS["started"].set()
    FLAGS["go on"].wait()
    return 1


@workflow
def held() -> int:
    return add(hold(), 1)


def start_held(engine: Engine) -> Run[int]:
    import threading

    FLAGS.update({"started": threading.Event(), "go on": threading.Event()})
    run: Run[int] = engine.start(held)
    assert FLAGS["started"].wait(300)
    return run


def test_a_run_in_the_hands_of_a_live_process_is_not_taken(tmp_path: Path) -> None:
    """The other one is told who has it."""
    with opened(tmp_path) as engine:
        run = start_held(engine)
        with opened(tmp_path) as other, pytest.raises(RunOwned, match=f"process {engine.process.pid} on"):
            other.resume(run.id)
        FLAGS["go on"].set()
        assert run.result() == 2


def test_an_owner_that_was_replaced_writes_nothing_more(tmp_path: Path) -> None:
    """Its next write is refused, it says who owns the run, and the new owner's record is untouched."""
    with opened(tmp_path) as engine:
        run = start_held(engine)
        usurper = this_process()
        engine.store.claim(run.id, usurper, lambda process: False)
        FLAGS["go on"].set()
        with pytest.raises(Fenced, match=f"taken over by process {usurper.pid}"):
            run.result()
        record = engine.store.find_run(run.id)
        assert record.state is RunState.RUNNING
        assert record.owner is not None
        assert record.owner.id == usurper.id
        assert {step.state for step in run.steps()} == {StepState.WAITING}


def test_leaving_the_engine_drains_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    """The attempt that runs is waited for and recorded; the next step is not begun."""
    with opened(tmp_path) as engine:
        run = start_held(engine)
        engine.interrupt()
        FLAGS["go on"].set()
        with pytest.raises(RunInterrupted, match=f"dagengine resume {run.id}"):
            run.result()
        assert [step.state for step in run.steps()] == [StepState.SUCCEEDED, StepState.WAITING]
    SEEN.clear()
    assert resumed(tmp_path, run.id) == 2
    assert SEEN == ["add"]


def test_a_cancelled_run_can_be_resumed_too(tmp_path: Path) -> None:
    """What was cancelled opens again."""
    with opened(tmp_path) as engine:
        run = start_held(engine)
        run.cancel()
        FLAGS["go on"].set()
        with pytest.raises(RunCancelled):
            run.result()
        assert run.state is RunState.CANCELLED
    assert resumed(tmp_path, run.id) == 2


def test_a_full_disk_stops_the_run_where_it_is_and_blames_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the store's; with room again, the same process goes on with the run."""
    with opened(tmp_path) as engine:

        def full(digest: str, size: int, source: Any, offset: int = 0) -> None:
            raise StoreFull("no space is left in the folder of artifacts", store=engine.store.url)

        with monkeypatch.context() as disk:
            disk.setattr(engine.artifacts, "put", full)
            run = engine.start(large_values)
            with pytest.raises(StoreFull, match="no space"):
                run.result()
        record = engine.store.find_run(run.id)
        assert record.state is RunState.RUNNING
        assert {step.state for step in run.steps()} == {StepState.WAITING}
        assert engine.resume(run.id).result() == 20_000


def test_a_small_value_that_was_changed_in_the_store_is_a_named_error(tmp_path: Path) -> None:
    """What is read from a row is held against its digest, too."""
    FLAGS["b"] = "fail"
    run_id = first_try(tmp_path, graph)
    FLAGS.clear()
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute("UPDATE step SET value = CAST(value || x'00' AS BLOB) WHERE seq = 0")
    database.close()
    with opened(tmp_path) as engine, pytest.raises(RunFailed, match="damaged") as caught:
        engine.resume(run_id).result()
    assert isinstance(caught.value.__cause__, ArtifactDamaged)


def test_the_graph_of_a_run_is_the_record_as_it_stands(tmp_path: Path) -> None:
    """Nodes are steps, edges go from what is read to who reads it; the state is today's."""
    with opened(tmp_path) as engine:
        run = engine.start(graph)
        run.result()
        drawn = run.graph()
    assert drawn.graph["state"] == "succeeded"
    assert [drawn.nodes[seq]["key"] for seq in drawn] == [
        f"graph/{key}" for key in ("step[0]", "step[1]", "add[0]", "step[2]", "add[1]")
    ]
    assert sorted(drawn.edges) == [(0, 2), (1, 2), (2, 4), (3, 4)]
