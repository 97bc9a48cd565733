"""The cache across runs: what a hit needs, who computes, and what is never kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagengine import Cache, Engine, RunFailed, get, task, workflow
from dagengine.errors import BadOption
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage import caching
from dagengine.storage.interface import Store
from dagengine.storage.origins import origins
from tests.contract.conftest import STORES
from tests.semantics.conftest import Everywhere

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls_yet() -> None:
    CALLS.clear()


@task(cache=True)
def square(x: int) -> int:
    CALLS.append(f"square {x}")
    return x * x


@task(cache=Cache(scope="run"))
def in_run(x: int) -> int:
    CALLS.append(f"in run {x}")
    return x


@task(cache=Cache(env=["DAGENGINE_TEST_DATA"]))
def by_environment() -> str | None:
    CALLS.append("by environment")
    return os.environ.get("DAGENGINE_TEST_DATA")


@task(cache=True)
def fails(x: int) -> int:
    CALLS.append("fails")
    raise ValueError(x)


@task(cache=True)
def large(size: int) -> bytes:
    CALLS.append(f"large {size}")
    return bytes(size)


@task
def length(data: bytes) -> int:
    return len(data)


@task
def two() -> int:
    return 2


@workflow
def squares(x: int) -> int:
    return square(square(x))


@task(cache=True)
def ordered(first: int, /, second: int, *more: int, **named: int) -> list[int]:
    CALLS.append("ordered")
    return [first, second, *more, *named.values()]


@workflow
def in_many_ways() -> list[list[int]]:
    calls = [ordered(1, 2), ordered(1, second=2), ordered(1, 2, first=3), ordered(1, 2, 3), ordered(2, second=1)]
    return [get(call) for call in calls]


@workflow
def of_a_ref() -> int:
    return square(two())


@workflow
def same_twice(x: int) -> list[int]:
    return square.map([x, x, x])


@workflow
def both_in_run() -> list[int]:
    return [get(in_run(1)), get(in_run(1))]


@workflow
def environment() -> str | None:
    return by_environment()


@workflow
def failing() -> int:
    return fails(1)


@workflow
def of_sets(names: set[str]) -> int:
    return count(names)


@task(cache=True)
def count(names: set[str]) -> int:
    CALLS.append("count")
    return len(names)


@workflow
def measured(size: int) -> int:
    return length(large(size))


@workflow
def refreshed(x: int) -> int:
    return square.options(cache=Cache(refresh=True))(x)


@pytest.fixture(params=STORES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """On each store."""
    store: Store = STORES[request.param](tmp_path)
    with Engine(store, home=tmp_path, artifacts=tmp_path / "artifacts", runtime=InlineRuntime()) as opened:
        yield opened


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Engine]:
    with Engine("memory:", home=tmp_path, artifacts=tmp_path / "artifacts", runtime=InlineRuntime()) as opened:
        yield opened


def uses(engine: Engine, run_id: str) -> list[str]:
    run = engine.store.find_run(run_id)
    found = [caching.use(engine.store, run.number, step.seq) for step in engine.store.steps(run.number)]
    return [use.outcome for use in found if use is not None]


def test_a_value_that_another_run_has_computed_is_not_computed_again(engine: Engine) -> None:
    """The second run takes both values, says where they come from, and has no attempts at them."""
    first = engine.start(squares, 3)
    assert first.result() == 81
    second = engine.start(squares, 3)
    assert second.result() == 81
    assert CALLS == ["square 3", "square 9"]
    record = engine.store.find_run(second.id)
    assert origins(engine.store, record.number) == {
        0: {"by": "cache", "run": first.id, "seq": 0},
        1: {"by": "cache", "run": first.id, "seq": 1},
    }
    assert engine.store.attempts(record.number) == []
    assert uses(engine, first.id) == ["miss", "miss"]
    assert uses(engine, second.id) == ["hit", "hit"]


def test_a_ref_counts_by_its_value(memory: Engine) -> None:
    """square(2) of one run answers square(two()) of another, whatever step made the 2."""
    assert memory.start(squares, 2).result() == 16
    CALLS.clear()
    assert memory.start(of_a_ref).result() == 4
    assert CALLS == []


def test_one_key_is_computed_once_at_a_time(engine: Engine) -> None:
    """Three steps with one key, ready at the same time: one runs, the others wait for its value."""
    assert engine.start(same_twice, 5).result() == [25, 25, 25]
    assert CALLS == ["square 5"]


def test_a_key_is_computed_once_over_runs_that_work_at_the_same_time(tmp_path: Path) -> None:
    """Two engines on one store, as two processes: while one computes, the other waits, and takes the value."""
    held, go = threading.Event(), threading.Event()
    CALLS.clear()

    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as one:
        HOLD.update(held=held, go=go)
        first = one.start(slow_run, 1)
        assert held.wait(300)
        with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as other:
            second = other.start(slow_run, 1)
            while not other.caching._waiting:
                assert not second.wait(0)
            go.set()
            assert second.result() == 1
        assert first.result() == 1
    assert CALLS == ["slow"]


HOLD: dict[str, threading.Event] = {}


@task(cache=True)
def slow(x: int) -> int:
    CALLS.append("slow")
    HOLD["held"].set()
    HOLD["go"].wait(300)
    return x


@workflow
def slow_run(x: int) -> int:
    return slow(x)


def test_a_failure_is_not_kept(memory: Engine) -> None:
    """Errors are never cached: the next run tries for itself, and nothing of the claim is left."""
    for _ in range(2):
        with pytest.raises(RunFailed):
            memory.start(failing).result()
    assert CALLS == ["fails", "fails"]
    assert caching.entries(memory.store) == []


def test_a_value_of_scope_run_stays_in_its_run(memory: Engine) -> None:
    """Within a run it is shared; the next run computes its own."""
    for _ in range(2):
        assert memory.start(both_in_run).result() == [1, 1]
    assert CALLS == ["in run 1", "in run 1"]


def test_the_declared_environment_is_a_part_of_the_key(memory: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another value of a named variable is another key, and the miss says that it was this."""
    monkeypatch.setenv("DAGENGINE_TEST_DATA", "one")
    assert memory.start(environment).result() == "one"
    monkeypatch.setenv("DAGENGINE_TEST_DATA", "two")
    second = memory.start(environment)
    assert second.result() == "two"
    monkeypatch.setenv("DAGENGINE_TEST_DATA", "one")
    assert memory.start(environment).result() == "one"
    assert len(CALLS) == 2
    use = caching.use(memory.store, memory.store.find_run(second.id).number, 0)
    assert use is not None
    assert use.why.endswith("which differs in: environment DAGENGINE_TEST_DATA")


def test_arguments_count_by_what_they_are(memory: Engine) -> None:
    """Two sets with the same members, in whatever order they were made, are the same argument."""
    upwards, downwards = {f"name {n}" for n in range(50)}, {f"name {n}" for n in range(49, -1, -1)}
    assert memory.start(of_sets, upwards).result() == 50
    assert memory.start(of_sets, downwards).result() == 50
    assert CALLS == ["count"]


def test_an_argument_counts_however_it_is_given(memory: Engine) -> None:
    """By its place or by its name; one that has no name but its place is another than one of that name."""
    run = memory.start(in_many_ways)
    assert run.result() == [[1, 2], [1, 2], [1, 2, 3], [1, 2, 3], [2, 1]]
    assert len(CALLS) == 4
    memory.start(in_many_ways).result()
    assert len(CALLS) == 4


def test_a_value_that_is_too_old_is_computed_again(memory: Engine) -> None:
    """max_age is held against the time at which the value was computed."""
    assert memory.start(squares, 7).result() == 49 * 49
    entries = caching.entries(memory.store)
    aged = memory.start(aging, 7)
    assert aged.result() == 49
    assert CALLS == ["square 7", "square 49", "square 7"]
    assert len(entries) == len(caching.entries(memory.store))


@workflow
def aging(x: int) -> int:
    return square.options(cache=Cache(max_age=1e-9))(x)


def test_refresh_computes_anew_and_replaces_the_entry(memory: Engine) -> None:
    """Asked by the task's option, or for one run by `refresh`."""
    assert memory.start(squares, 2).result() == 16
    memory.start(refreshed, 2).result()
    run = memory.begin(squares, (2,), {}, refresh=["squares/square[1]"])
    assert run.result() == 16
    assert CALLS == ["square 2", "square 4", "square 2", "square 4"]
    assert uses(memory, run.id) == ["hit", "refresh"]


@pytest.mark.parametrize("damage", ["missing", "short", "other bytes"])
def test_an_entry_whose_bytes_are_damaged_is_a_miss(tmp_path: Path, damage: str) -> None:
    """The value is computed again, and the artifact is whole again."""
    size = 200_000 if damage != "short" else 200_001
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        assert engine.start(measured, size).result() == size
    [artifact] = [file for file in (tmp_path / "artifacts").rglob("*") if file.is_file() and file.stat().st_size > size]
    if damage == "missing":
        artifact.unlink()
    elif damage == "short":
        artifact.write_bytes(b"short")
    else:
        artifact.write_bytes(b"x" * artifact.stat().st_size)
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        assert engine.start(measured, size).result() == size
    assert [f"large {size}"] * 2 == CALLS


def test_cached_runs_survive_every_crash(everywhere: Everywhere) -> None:
    """A claim of a process that died is void, and a value is kept in the commit of its step or not at all."""
    for report in everywhere(same_twice, 4).values():
        assert report.result == [16, 16, 16]
    for report in everywhere(squares, 3, stores=("memory",)).values():
        assert report.result == 81


def test_what_has_no_lasting_hash_is_refused_as_environment() -> None:
    """One line that names the part and says what to give instead."""
    with pytest.raises(BadOption, match=r"cache env: model is of type object, which has no lasting hash\. Give a text"):
        Cache(env={"model": object()})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"scope": "world"}, "cache scope='world' has to be one of run, family, project"),
        ({"max_age": "soon"}, "is no length of time"),
        ({"max_age": 0}, "more than nothing"),
        ({"env": "HOME"}, "has to be a list of names"),
    ],
)
def test_bad_words_about_a_cache_get_one_line(said: dict[str, object], message: str) -> None:
    """Said when the task is defined."""
    with pytest.raises(BadOption, match=message):
        Cache(**said)  # type: ignore[arg-type]


def test_a_cache_and_effects_exclude_each_other() -> None:
    """A value from the cache does nothing."""
    with pytest.raises(BadOption, match="checkpoint=False records none"):
        task(cache=True, checkpoint=False)(two.function)
    with pytest.raises(BadOption, match="at_most_once= says that the task changes something"):
        task(cache=True, at_most_once=True)(two.function)
