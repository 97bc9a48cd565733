"""A run that is taken to another store takes its children along, theirs, and what each of them goes on in."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import continue_with, get, task, workflow
from dagengine.engine import Engine
from dagengine.errors import RunFailed, RunOwned, StoreUnavailable
from dagengine.families import family_of
from dagengine.identity import this_process
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import RunFilter
from dagengine.transfer import export_run, import_run
from tests.postgres.server import fresh_schema, shared
from tests.storage.kit import new_run

CALLS: Counter[str] = Counter()
FLAGS: dict[str, bool] = {}


@task
def part(number: int) -> bytes:
    CALLS[f"part {number}"] += 1
    return bytes([number]) * 20_000


@task
def last(size: int) -> int:
    CALLS["last"] += 1
    if FLAGS.get("fail"):
        raise ValueError("not today")
    return size


@workflow
def leaf(number: int) -> int:
    return len(get(part(number)))


@workflow
def going_on(round_: int) -> Any:
    get(part(10 + round_))
    if round_ < 2:
        return continue_with(round_ + 1)
    return round_


@workflow
def middle() -> Any:
    return get(leaf.run(1)) + get(leaf.run(2))


@workflow
def top() -> Any:
    leaf.detach(9)
    sizes = get(middle.run()), get(going_on.run(0))
    return last(sum(sizes))


@pytest.fixture(params=["sqlite", "postgres"])
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """Where runs come from: one file; and where they go."""
    CALLS.clear()
    FLAGS.clear()
    other = str(tmp_path / "there.db") if request.param == "sqlite" else shared().url(fresh_schema())
    with Engine(tmp_path / "here.db", home=tmp_path / "here", runtime=InlineRuntime()) as here:
        there = Engine(other, home=tmp_path, artifacts=tmp_path / "there", runtime=InlineRuntime())
        with there:
            yield here, there


def failed(engine: Engine) -> str:
    """A run whose last step has failed; all that it has begun is over."""
    FLAGS["fail"] = True
    run = engine.start(top)
    with pytest.raises(RunFailed):
        run.result()
    FLAGS["fail"] = False
    while engine._by_id:  # the leaf that lives on its own may end last
        threading.Event().wait(0.002)
    return run.id


def test_a_family_is_taken_along_and_goes_on_there(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    """Seven runs in one file; resumed there, only what had failed is done again, and nothing of the children."""
    here, there = engines
    record = here.store.find_run(failed(here))
    family = family_of(here.store, record)
    assert sorted(run.workflow for run in family) == ["going_on"] * 3 + ["leaf", "leaf", "middle", "top"]
    assert family[-1].id == record.id
    export_run(here.store, here.artifacts, record, tmp_path / "runs.tar")
    assert import_run(there.store, there.artifacts, tmp_path / "runs.tar") == record.id
    assert {run.id for run in there.store.runs(RunFilter())} == {run.id for run in family}
    before = Counter(CALLS)
    assert there.resume(record.id).result() == 2 * 20_000 + 2
    assert CALLS - before == {"last": 1}
    for run in family:
        steps = there.store.steps(there.store.find_run(run.id).number)
        assert [step.key for step in steps] == [step.key for step in here.store.steps(run.number)]


def test_a_run_alone_and_children_that_are_there(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    """Without its family if that is asked for; of a family, runs that are there already stay as they are."""
    here, there = engines
    record = here.store.find_run(failed(here))
    export_run(here.store, here.artifacts, record, tmp_path / "one.tar", family=False)
    child = next(run for run in family_of(here.store, record) if run.workflow == "middle")
    export_run(here.store, here.artifacts, child, tmp_path / "middle.tar")
    import_run(there.store, there.artifacts, tmp_path / "middle.tar")
    number = there.store.find_run(child.id).number
    export_run(here.store, here.artifacts, record, tmp_path / "all.tar")
    import_run(there.store, there.artifacts, tmp_path / "all.tar")
    assert there.store.find_run(child.id).number == number
    assert len(there.store.runs(RunFilter())) == 7
    with Engine(tmp_path / "third.db", home=tmp_path / "third", runtime=InlineRuntime()) as third:
        import_run(third.store, third.artifacts, tmp_path / "one.tar")
        assert [run.id for run in third.store.runs(RunFilter())] == [record.id]


def test_a_family_arrives_whole_or_not_at_all(engines: tuple[Engine, Engine], tmp_path: Path) -> None:
    """An archive that was cut off after the children brings none of them; nor is one written while a child is worked on."""
    here, there = engines
    record = here.store.find_run(failed(here))
    size = export_run(here.store, here.artifacts, record, tmp_path / "all.tar")
    for part_of in (0.5, 0.9):
        (tmp_path / "cut.tar").write_bytes((tmp_path / "all.tar").read_bytes()[: int(size * part_of)])
        with pytest.raises(StoreUnavailable, match="can't be imported"):
            import_run(there.store, there.artifacts, tmp_path / "cut.tar")
        assert there.store.runs(RunFilter()) == []
    while there.store.clear_removed():
        pass
    assert there.store.figures().steps == 0
    child = family_of(here.store, record)[0]
    here.store.remove_run(child.id, lambda _: False, 0.0)
    here.store.create_run(new_run(child.id), this_process())
    with pytest.raises(RunOwned, match=child.id):
        export_run(here.store, here.artifacts, record, tmp_path / "live.tar")
    assert not (tmp_path / "live.tar").exists()
