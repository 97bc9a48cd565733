"""Values that are not recorded: held while they are needed, made again when they are lost. SQLite store, inline runtime."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagengine import MiB, as_completed, context, gather, get, task, workflow
from dagengine.engine import Engine, current_engine
from dagengine.errors import ArtifactMissing, RunFailed
from dagengine.model import Failure, RunState
from dagengine.reading import Reader
from dagengine.runtime.inline import InlineRuntime
from dagengine.runtime.protocol import TaskSpec
from tests.engines import opened

SEEN: list[str] = []
"""What ran, in order: tasks run in this process."""

FLAGS: dict[str, Any] = {}

LARGE = 20_000
"""Numbers in an array of 160 kB: not inline."""


@pytest.fixture(autouse=True)
def clean() -> None:
    SEEN.clear()
    FLAGS.clear()


class Forgetful(InlineRuntime):
    """Loses the objects of some steps (by seq) once each, when they are about to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: set[int] = set()

    def submit(self, tasks: Any) -> None:
        for spec in tasks:
            self._forget(spec)
        super().submit(tasks)

    def _forget(self, spec: TaskSpec) -> None:
        for given in spec.inputs:
            object_id = getattr(given, "id", None)
            if object_id is not None and object_id[1] in self.lose:
                self.lose.discard(object_id[1])
                why = Failure("object", "dagengine.errors.ObjectLost", "damaged", facts={"object": list(object_id)})
                self._objects._found[object_id] = why


@task(checkpoint=False)
def numbers(count: int) -> np.ndarray[Any, Any]:
    SEEN.append(f"numbers({count})")
    return np.arange(count)


@task(checkpoint=False)
def doubled(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    SEEN.append("doubled")
    if FLAGS.get("doubled") == "fail":
        raise ValueError("no luck")
    return values * 2


@task
def total(values: np.ndarray[Any, Any]) -> int:
    SEEN.append("total")
    if FLAGS.get("total") == "fail":
        raise ValueError("not yet")
    return int(values.sum())


@workflow
def summed(count: int) -> int:
    return total(doubled(numbers(count)))


def held(engine: Engine) -> int:
    """How many objects the runtime holds."""
    assert isinstance(engine.runtime, InlineRuntime)
    return int(engine.runtime.stats()["objects"])


@pytest.mark.parametrize("count", [10, LARGE])
def test_a_value_that_is_not_recorded_reaches_its_readers_and_leaves_nothing(tmp_path: Path, count: int) -> None:
    """No row and no artifact has its bytes, and no object is left."""
    with opened(tmp_path) as engine:
        run = engine.start(summed, count)
        assert run.result() == count * (count - 1)
        record = engine.store.find_run(run.id)
        values = engine.store.values(record.number, [0, 1, 2])
        assert [value.digest == "" for value in values.values()] == [True, True, False]
        assert held(engine) == 0
        with pytest.raises(ArtifactMissing, match=r"not recorded \(checkpoint=False\)"):
            Reader(engine.store, engine.artifacts, record.number).steps([1])
    assert [file for file in (tmp_path / "artifacts").rglob("*") if file.is_file()] == []


def test_a_lost_value_is_made_again_from_its_lineage(tmp_path: Path) -> None:
    """The step that met the loss waits; what was let go of by then is made again, too."""
    runtime = Forgetful()
    runtime.lose = {1}
    with opened(tmp_path, runtime) as engine:
        run = engine.start(summed, LARGE)
        assert run.result() == LARGE * (LARGE - 1)
    assert [f"numbers({LARGE})", "doubled", f"numbers({LARGE})", "doubled", "total"] == SEEN


def test_what_is_still_held_is_not_made_again(tmp_path: Path) -> None:
    """The body has a ref to it."""

    @workflow
    def holding() -> int:
        values = numbers(10)
        result = get(total(doubled(values)))
        return result + len(get(values))

    runtime = Forgetful()
    runtime.lose = {1}
    with opened(tmp_path, runtime) as engine:
        assert engine.start(holding).result() == 100
    assert SEEN == ["numbers(10)", "doubled", "doubled", "total"]


def test_a_loss_is_made_good_as_far_up_as_it_has_to_be(tmp_path: Path) -> None:
    """After a resume nothing is there: all of it runs again, in order."""
    FLAGS["total"] = "fail"
    with opened(tmp_path) as engine:
        run = engine.start(summed, 10)
        with pytest.raises(RunFailed, match="not yet"):
            run.result()
    FLAGS.clear()
    SEEN.clear()
    with opened(tmp_path) as engine:
        resumed = engine.resume(run.id)
        assert resumed.result() == 90
        assert SEEN == ["numbers(10)", "doubled", "total"]
        attempts = engine.store.attempts(engine.store.find_run(run.id).number)
        assert [(attempt.seq, attempt.number, attempt.outcome) for attempt in attempts] == [
            (0, 1, "succeeded"),
            (0, 2, "succeeded"),
            (1, 1, "succeeded"),
            (1, 2, "succeeded"),
            (2, 1, "failed"),
            (2, 2, "succeeded"),
        ]


def test_a_recorded_value_stops_the_climb(tmp_path: Path) -> None:
    """What is above it does not run again."""

    @workflow
    def chain() -> int:
        return total(doubled(recorded(numbers(10))))

    FLAGS["total"] = "fail"
    with opened(tmp_path) as engine:
        run = engine.start(chain)
        with pytest.raises(RunFailed):
            run.result()
    FLAGS.clear()
    SEEN.clear()
    with opened(tmp_path) as engine:
        assert engine.resume(run.id).result() == 90
    assert SEEN == ["doubled", "total"]


@task
def recorded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    SEEN.append("recorded")
    return values


def test_a_value_that_can_not_be_made_again_fails_its_reader_with_the_reason(tmp_path: Path) -> None:
    """What is on record stays; a resume tries again."""
    FLAGS["total"] = "fail"
    with opened(tmp_path) as engine:
        run = engine.start(summed, 10)
        with pytest.raises(RunFailed):
            run.result()
    FLAGS.update(total="", doubled="fail")
    with opened(tmp_path) as engine:
        resumed = engine.resume(run.id)
        with pytest.raises(RunFailed, match=r"the value of summed/doubled\[0\] was lost, and could not be made again"):
            resumed.result()
    FLAGS.clear()
    with opened(tmp_path) as engine:
        assert engine.resume(run.id).result() == 90


@workflow
def looking() -> list[int]:
    first = numbers(LARGE)
    assert len(get(first)) == LARGE
    small, large = gather([numbers(3), numbers(LARGE)])
    lengths = [len(value) for value in as_completed([numbers(4), numbers(5)])]
    if FLAGS.get("body") == "fail":
        raise ValueError("stop here")
    return [len(small), len(large), *sorted(lengths), total(first)]


def test_a_body_reads_values_that_are_not_recorded(tmp_path: Path) -> None:
    """Small and large, one by one and together, also when its process was another one."""

    FLAGS["body"] = "fail"
    with opened(tmp_path) as engine:
        run = engine.start(looking)
        with pytest.raises(RunFailed, match="stop here"):
            run.result()
        assert held(engine) == 0
    FLAGS.clear()
    SEEN.clear()
    with opened(tmp_path) as engine:
        assert engine.resume(run.id).result() == [3, LARGE, 4, 5, LARGE * (LARGE - 1) // 2]
        assert held(engine) == 0
    assert SEEN.count(f"numbers({LARGE})") == 2  # each once more, and no more than that


def test_what_a_workflow_returns_is_recorded_in_full(tmp_path: Path) -> None:
    """In one process, and when it was lost before that was done."""

    @workflow
    def returning() -> dict[str, Any]:
        return {"values": doubled(numbers(LARGE)), "few": numbers(3)}

    with opened(tmp_path) as engine:
        run = engine.start(returning)
        result = run.result()
        assert result["values"].sum() == LARGE * (LARGE - 1)
        record = engine.store.find_run(run.id)
        assert [bool(value.digest) for value in engine.store.values(record.number, [0, 1, 2]).values()] == [
            False,
            True,
            True,
        ]
    with opened(tmp_path) as engine:
        reader = Reader(engine.store, engine.artifacts, record.number)
        assert list(reader.steps([2])[2]) == [0, 1, 2]


def test_maps_of_values_that_are_not_recorded(tmp_path: Path) -> None:
    """Over a known list and over a ref; lost items are made again, the others are not."""

    @workflow
    def mapping() -> int:
        return added(numbers.map(counts()))

    runtime = Forgetful()
    FLAGS["added"] = "fail"
    with opened(tmp_path, runtime) as engine:
        run = engine.start(mapping)
        with pytest.raises(RunFailed):
            run.result()
    FLAGS.clear()
    SEEN.clear()
    with opened(tmp_path) as engine:
        assert engine.resume(run.id).result() == 3 + 4 + 5
        assert held(engine) == 0
    assert sorted(SEEN) == ["numbers(3)", "numbers(4)", "numbers(5)"]


@task
def counts() -> list[int]:
    return [3, 4, 5]


@task
def added(values: list[np.ndarray[Any, Any]]) -> int:
    if FLAGS.get("added") == "fail":
        raise ValueError("not yet")
    return sum(len(value) for value in values)


@workflow
def looping() -> int:
    sums = 0
    for _ in range(10):
        values = numbers(LARGE)
        sums += get(total(values))
        del values
        gc.collect()
        get(total(numbers(1)))  # by now the engine has been told
        FLAGS["most"] = max(FLAGS.get("most", 0), held(FLAGS["engine"]))
    return sums


def test_a_loop_lets_go_of_the_values_that_it_has_dropped(tmp_path: Path) -> None:
    """A body that runs for days holds what it has refs to, and no more."""
    with opened(tmp_path) as engine:
        FLAGS["engine"] = engine
        assert engine.start(looping).result() == 10 * (LARGE * (LARGE - 1) // 2)
    assert FLAGS["most"] <= 2


@workflow
def cancelled() -> int:
    values = numbers(LARGE)
    get(values)
    current_engine().cancel(str(context().run_id))
    return get(total(values))


def test_a_cancelled_run_lets_go_of_what_it_holds(tmp_path: Path) -> None:
    """As one that ended by itself."""
    with opened(tmp_path) as engine:
        run = engine.start(cancelled)
        run.wait()
        assert run.state is RunState.CANCELLED
        engine.close()
        assert held(engine) == 0


def test_progress_counts_a_step_once_however_often_its_value_is_made(tmp_path: Path) -> None:
    """A value that is made again is no further step."""
    runtime = Forgetful()
    runtime.lose = {0, 1}
    with opened(tmp_path, runtime) as engine:
        run = engine.start(summed, 10)
        run.result()
        assert {task.task: task.done for task in run.progress().tasks} == {"numbers": 1, "doubled": 1, "total": 1}


@task(checkpoint=False)
def block(number: int) -> np.ndarray[Any, Any]:
    return np.full(1 << 20, number)  # 8 MiB


@task
def firsts(blocks: list[np.ndarray[Any, Any]]) -> list[int]:
    return [int(values[0]) for values in blocks]


@workflow
def many_blocks(count: int) -> list[list[int]]:
    blocks = [block(number) for number in range(count)]
    return [firsts(blocks[start : start + 2]) for start in range(0, count, 2)]


def test_values_larger_than_memory_in_all_are_spilled_and_leave_nothing(tmp_path: Path) -> None:
    """On worker processes: twelve blocks in room for four."""
    with Engine(tmp_path / "store.db", home=tmp_path, workers=2, object_memory=4 * 9 * MiB) as engine:
        run = engine.start(many_blocks, 12)
        assert run.result() == [[number, number + 1] for number in range(0, 12, 2)]
        stats = engine.runtime.stats()
        assert stats["spilled_bytes"] > 0
        assert stats["lost"] == 0
