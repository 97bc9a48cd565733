"""Forks and edits whose process dies before or after each write: the same end, the donor untouched, nothing shared runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

import pytest

from dagengine import get, stateful, task, workflow
from dagengine.engine import Engine
from dagengine.errors import RunConflict
from dagengine.model import RunState
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import Store
from dagengine.storage.memory import MemoryStore
from dagengine.storage.sqlite import SqliteStore
from dagengine.testing.crashes import RUN_ID, _Case, _Lives
from dagengine.testing.mortal import Fate
from tests.semantics.conftest import emptied_postgres

SEEN: list[str] = []
FLAGS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def clean() -> None:
    SEEN.clear()
    FLAGS.clear()


@task
def number(value: int) -> int:
    SEEN.append(f"number {value}")
    if FLAGS.get("number") == value:
        raise ValueError(f"no {value}")
    return value


@task
def numbers(count: int) -> list[int]:
    SEEN.append("numbers")
    return list(range(count))


@task
def total(*values: Any) -> int:
    SEEN.append("total")
    return sum(sum(value) if isinstance(value, list) else value for value in values)


@stateful(checkpoint_every=2)
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, value: int) -> int:
        self.count += value
        return self.count


@workflow
def everything(last: int = 1) -> int:
    """A map over a ref, a body that waits and branches, a stateful object whose last calls depend on an argument."""
    counter = Counter()
    first = get(total(number.map(numbers(3)), counter.add(5)))
    second = counter.add(7)
    if first > 8:
        return total(number(10), counter.add(last), second)
    return total(number(20), counter.add(last), second, number(first))


class Process(_Lives):
    """What a process does: fork the donor, or go on with the fork."""

    asked: ClassVar[dict[str, Any]] = {}

    def _work(self, engine: Engine) -> None:
        record = self.find()
        if record is not None and record.state is RunState.SUCCEEDED:
            return
        run: Run[Any] = engine.resume(RUN_ID) if record else engine.fork("donor", new_id=RUN_ID, **Process.asked)
        assert run.wait(300)
        if run.error is not None:
            raise run.error


@contextmanager
def opened(store: Store, folder: Path) -> Iterator[Engine]:
    """An engine like that of a process, on a store that outlives it."""
    folder.mkdir(exist_ok=True)
    close, store.close = store.close, lambda: None  # type: ignore[method-assign]
    try:
        with Engine(store, home=folder, artifacts=folder / "artifacts", runtime=InlineRuntime()) as engine:
            yield engine
    finally:
        store.close = close  # type: ignore[method-assign]


ASKED: dict[str, dict[str, Any]] = {
    "an argument": {"params": {"last": 4}},
    "an item of a map": {"from_": "number.map[0]/number[1]"},
    "a list that is mapped over": {"set_": {"numbers": [9]}},
    "a value that turns the body": {"set_": {"total[0]": 9}},
}

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(str(folder / "store.db")),
    "postgres": lambda folder: emptied_postgres()(),
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", ASKED)
def test_a_fork_that_dies_at_any_write_ends_as_if_it_had_not(kind: str, name: str, tmp_path: Path) -> None:
    """Whatever was recorded of it by then; the donor stays as it was."""
    store = STORES[kind](tmp_path)
    with opened(store, tmp_path / "home") as engine:
        engine.begin(everything, (), {}, "donor").result()
        plain = engine.fork("donor", **ASKED[name]).result()
    number_of = store.find_run("donor").number
    before = (store.steps(number_of), store.values(number_of, range(20)))
    Process.asked = ASKED[name]
    writes = 0
    for at in range(1, 40):
        for after in (False, True):
            lives = Process(
                _Case(everything, (), {}, "memory:", None, None, None, None, 300.0, None, {}), store, tmp_path / "home"
            )
            fate = Fate(at, after)
            lives.live(fate)
            if not fate.doomed:
                writes = fate.writes
            lives.live(Fate())
            assert lives.end().value == plain
            store.remove_run(RUN_ID, lambda process: False, 0.0)
        if writes:
            break
    assert (store.steps(number_of), store.values(number_of, range(20))) == before
    store.close()


def editing(edit: Callable[[Engine], object], fate: Fate) -> type[_Lives]:
    """What a process does that changes a run, and may die over it: a store that is dead never answers."""

    class Editing(_Lives):
        def _work(self, engine: Engine) -> None:
            done: SimpleQueue[BaseException | None] = SimpleQueue()

            def work() -> None:
                try:
                    edit(engine)
                    done.put(None)
                except BaseException as error:
                    done.put(error)

            fate.gone.clear()
            threading.Thread(target=work, daemon=True).start()
            while done.empty() and not fate.gone.wait(0.01):
                pass
            if not done.empty() and (error := done.get()) is not None:
                raise error

    return Editing


EDITS: dict[str, Callable[[Engine], object]] = {
    "retry": lambda engine: engine.retry(RUN_ID, "number[0]").wait(300),
    "mark": lambda engine: engine.mark(RUN_ID, "number[0]", "succeeded", 1),
    "pause": lambda engine: engine.pause(RUN_ID),
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("verb", EDITS)
def test_an_edit_that_dies_at_any_write_is_made_or_is_not(kind: str, verb: str, tmp_path: Path) -> None:
    """In between there is nothing: the run can be gone on with, and ends well."""

    died = True
    at = 0
    while died and at < 20:
        at += 1
        for after in (False, True):
            place = tmp_path / f"{at}-{after}"
            place.mkdir()
            store = STORES[kind](place)
            FLAGS["number"] = 1
            with opened(store, tmp_path / "home") as engine:
                if verb == "pause":
                    from dagengine.forks import record_rerun

                    engine.begin(simple, (), {}, "donor").wait(300)
                    record_rerun(engine._place(), store.find_run("donor"), run_id=RUN_ID)
                else:
                    engine.begin(simple, (), {}, RUN_ID).wait(300)
            FLAGS.clear()
            fate = Fate(at, after)
            lives = editing(EDITS[verb], fate)(
                _Case(simple, (), {}, "memory:", None, None, None, None, 300.0, None, {}), store, tmp_path / "home"
            )
            lives.live(fate)
            died = fate.doomed
            with opened(store, tmp_path / "home") as engine:
                record = store.find_run(RUN_ID)
                if record.state is RunState.PAUSED:
                    with pytest.raises(RunConflict):
                        engine.resume(RUN_ID)
                    run: Run[Any] | None = engine.unpause(RUN_ID)
                elif record.state is RunState.SUCCEEDED:
                    run = None
                else:
                    run = engine.resume(RUN_ID)
                assert run is None or run.result() == 3
            store.close()
    assert not died


@workflow
def simple() -> int:
    return total(number(1), number(2))
