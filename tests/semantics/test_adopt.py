"""A body that calls something else than is recorded, and the ways on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dagengine import gather, get, stateful, taking_up, task, workflow
from dagengine.driver import Driver
from dagengine.engine import Engine
from dagengine.errors import RunFailed, RunMismatch
from dagengine.model import RunState, StepState
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import Store
from dagengine.storage.memory import MemoryStore
from dagengine.storage.sqlite import SqliteStore
from dagengine.testing.crashes import RUN_ID, _Case, _Lives
from dagengine.testing.mortal import Fate
from tests.engines import opened
from tests.semantics.conftest import emptied_postgres

SEEN: list[Any] = []
FLAGS: dict[str, Any] = {}


def clear() -> None:
    SEEN.clear()
    FLAGS.clear()


@pytest.fixture(autouse=True)
def clean() -> None:
    clear()


@contextmanager
def kept_open(store: Store) -> Iterator[None]:
    """An engine does not close it."""
    close, store.close = store.close, lambda: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        store.close = close  # type: ignore[method-assign]


@task
def step(name: str, value: int = 1) -> int:
    SEEN.append(name)
    if FLAGS.get("fail") == name:
        raise ValueError(f"{name} fails")
    return value


@task
def grows(value: int) -> int:
    return step.defer("grown", value)


@stateful
class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, value: int) -> int:
        self.total += value
        return self.total


@workflow
def changing() -> Any:
    first = get(step("first"))
    second = get(grows(FLAGS.get("second", 2)))
    third = step.map([second, FLAGS.get("third", 3)])
    return first, second, gather(third), get(step("last"))


@workflow
def again_after_failure() -> Any:
    try:
        return get(step("risky"))
    except ValueError:
        get(step("clean up"))
        raise


@workflow
def goes_on_otherwise() -> Any:
    try:
        get(step("risky"))
    except ValueError:
        get(step("clean up"))
        raise
    return get(step("next"))


@workflow
def counting() -> Any:
    counter = Counter()
    get(step(FLAGS.get("name", "before")))
    get(counter.add(2))
    return get(step("last"))


def failed(folder: Path, flow: Any, name: str) -> str:
    FLAGS["fail"] = name
    with opened(folder) as engine:
        run = engine.start(flow)
        with pytest.raises(RunFailed):
            run.result()
    FLAGS.clear()
    SEEN.clear()
    return str(run.id)


def mismatched(folder: Path, run_id: str) -> str:
    """What the mismatch says."""
    with opened(folder) as engine, pytest.raises(RunMismatch) as raised:
        engine.resume(run_id).result()
    return str(raised.value)


def test_a_mismatch_says_what_can_be_done(tmp_path: Path) -> None:
    """The three ways on, and the one to avoid it."""
    run_id = failed(tmp_path, changing, "last")
    FLAGS["second"] = 20
    said = mismatched(tmp_path, run_id)
    assert "changing/grows[0]" in said
    for way in ("Put the code back", "fork the run", f"dagengine resume {run_id[:8]} --adopt", "options(key=...)"):
        assert way in said


def test_adopted_calls_replace_what_was_recorded_from_there_on(tmp_path: Path) -> None:
    """What came before stays; what is superseded stays on record under another key."""
    run_id = failed(tmp_path, changing, "last")
    FLAGS["second"] = 20
    mismatched(tmp_path, run_id)
    with opened(tmp_path) as engine:
        run = engine.resume(run_id, adopt=True)
        assert run.result() == (1, 20, [1, 1], 1)
        keys = {found.key: found.state for found in run.steps()}
    assert "first" not in SEEN
    assert keys["changing/grows[0]~1"] is StepState.SUCCEEDED
    assert keys["changing/grows[0]~1/step[0]"] is StepState.SUCCEEDED
    assert keys["changing/grows[0]/step[0]"] is StepState.SUCCEEDED
    assert keys["changing/step[1]~1"] is StepState.SUCCEEDED
    assert keys["changing/step[3]~1"].ended
    assert keys["changing/step[3]"] is StepState.SUCCEEDED


def test_adopting_goes_on_over_further_mismatches(tmp_path: Path) -> None:
    """One asks for it once; and again, another time, when the code has changed again."""
    run_id = failed(tmp_path, changing, "last")
    with opened(tmp_path) as engine:
        FLAGS["third"] = 30
        assert engine.resume(run_id, adopt=True).result()[:2] == (1, 2)
    run_id = failed(tmp_path, changing, "last")
    FLAGS.update(second=20, fail="last")
    with opened(tmp_path) as engine, pytest.raises(RunFailed):
        engine.resume(run_id, adopt=True).result()
    FLAGS.clear()
    FLAGS["second"] = 200
    with opened(tmp_path) as engine:
        run = engine.resume(run_id, adopt=True)
        assert run.result()[:2] == (1, 200)
        assert {"changing/grows[0]~1", "changing/grows[0]~2"} <= {found.key for found in run.steps()}


def test_adopting_goes_on_although_the_first_resumption_has_not_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the run had come to its mismatch before the thread that took it up had gone on; the next life was
    refused, as the run was still "being taken up by this process"."""
    run_id = failed(tmp_path, changing, "last")
    FLAGS["second"] = 20
    hear = taking_up._hear

    def hear_late(engine: Engine, drivers: Sequence[Driver]) -> None:
        monkeypatch.setattr(taking_up, "_hear", hear)
        assert drivers[0].life.wait(300)
        hear(engine, drivers)

    monkeypatch.setattr(taking_up, "_hear", hear_late)
    with opened(tmp_path) as engine:
        assert engine.resume(run_id, adopt=True).result() == (1, 20, [1, 1], 1)


def test_what_is_never_asked_for_again_is_noted(tmp_path: Path) -> None:
    """The retried step succeeds, the call of the failure's own branch is never asked for, and stays as an orphan."""
    run_id = failed(tmp_path, again_after_failure, "risky")
    with opened(tmp_path) as engine:
        run = engine.resume(run_id)
        assert run.result() == 1
        noted = [
            event for event in engine.store.events(engine.store.find_run(run_id).number) if event.kind == "run.orphans"
        ]
    assert [event.data["keys"] for event in noted] == [["again_after_failure/step[1]"]]


def test_ordinals_that_clash_after_a_failure_can_be_adopted(tmp_path: Path) -> None:
    """What a body calls after a failure has the ordinal of what it calls after a success; the latter takes its place."""
    run_id = failed(tmp_path, goes_on_otherwise, "risky")
    mismatched(tmp_path, run_id)
    with opened(tmp_path) as engine:
        run = engine.resume(run_id, adopt=True)
        assert run.result() == 1
        assert "goes_on_otherwise/step[1]~1" in {found.key for found in run.steps()}


def test_a_changed_state_can_not_be_taken_back(tmp_path: Path) -> None:
    """A call that has changed a stateful object's state stands in the way, and says so."""
    run_id = failed(tmp_path, counting, "last")
    FLAGS["name"] = "another"
    mismatched(tmp_path, run_id)
    with opened(tmp_path) as engine:
        with pytest.raises(
            RunMismatch, match=r"counting/Counter\[0\]/add\[0\] has changed the state of counting/Counter\[0\]"
        ):
            engine.resume(run_id, adopt=True)
        assert engine.store.find_run(run_id).state is RunState.MISMATCH


class Adopting(_Lives):
    """What a process does that goes on with a failed run, and adopts what its body calls by now."""

    def _work(self, engine: Engine) -> None:
        if self.store.find_run(RUN_ID).state is RunState.SUCCEEDED:
            return
        run = engine.resume(RUN_ID, adopt=True)
        assert run.wait(300)
        if run._driver.error is not None:
            raise run._driver.error


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_an_adoption_that_dies_at_any_write_is_gone_on_with(kind: str, tmp_path: Path) -> None:
    """It comes to the same end; what came before the first other call stays, and nothing is superseded twice."""
    empty = emptied_postgres() if kind == "postgres" else None
    case = _Case(changing, (), {}, "memory:", None, None, None, None, 300.0, None, {})
    plain: tuple[Any, set[str]] | None = None
    for at in range(200):
        for after in (False, True):
            folder = tmp_path / f"{at}-{after}"
            folder.mkdir()
            store: Store = (
                empty() if empty else MemoryStore() if kind == "memory" else SqliteStore(f"{folder}/store.db")
            )
            with kept_open(store), Engine(store, home=folder, runtime=InlineRuntime()) as engine:
                FLAGS["fail"] = "last"
                engine.begin(changing, (), {}, RUN_ID).wait(300)
            clear()
            FLAGS["second"] = 20
            lives = Adopting(case, store, folder)
            fate = Fate(at or None, after)
            lives.live(fate)
            if fate.doomed:
                lives.live(Fate())
            found = (lives.end().value, {step.key for step in store.steps(store.find_run(RUN_ID).number)})
            plain = plain or found
            assert found == plain
            assert "first" not in SEEN
            clear()
            store.close()
        if at and not fate.doomed:
            break
    assert plain is not None
    assert plain[0] == (1, 20, [1, 1], 1)
    assert "changing/grows[0]~1" in plain[1]
    assert at > 5
