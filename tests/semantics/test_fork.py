"""Forks: what is shared with the donor, what a change reaches, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import get, readonly, stateful, task, workflow
from dagengine.engine import Engine
from dagengine.errors import BadArguments, RunConflict, RunFailed, RunMismatch, RunNotFound, Unpicklable
from dagengine.model import RunState
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage.interface import RunFilter

SEEN: list[str] = []
"""What ran, in order: tasks run in this process."""

FLAGS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def clean() -> None:
    SEEN.clear()
    FLAGS.clear()


@pytest.fixture(params=["sqlite", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    store = "memory:" if request.param == "memory" else tmp_path / "store.db"
    with Engine(store, home=tmp_path, artifacts=tmp_path / "artifacts", runtime=InlineRuntime()) as opened:
        yield opened


def seen() -> list[str]:
    """What ran since this was asked last."""
    found = list(SEEN)
    SEEN.clear()
    return found


@task
def load(name: str) -> int:
    SEEN.append(f"load {name}")
    return int(FLAGS.get(name, 10))


@task
def double(value: int) -> int:
    SEEN.append(f"double {value}")
    if FLAGS.get("double") == "fail":
        raise ValueError("double")
    return 2 * value


@task
def add(*values: int) -> int:
    SEEN.append(f"add {values}")
    return sum(values)


@task
def numbers(count: int) -> list[int]:
    SEEN.append(f"numbers {count}")
    return list(range(count))


@task
def large(fill: int) -> bytes:
    SEEN.append("large")
    return bytes([fill]) * 100_000


@task
def size(data: bytes) -> int:
    SEEN.append("size")
    return len(data)


@workflow
def diamond(name: str = "a", factor: int = 1) -> int:
    left, right = double(load(name)), load("b")
    return add(left, right, factor)


def test_a_fork_runs_only_what_comes_after_the_step(engine: Engine) -> None:
    """The rest is shared: same steps, same values; the donor stays as it was."""
    donor = engine.start(diamond)
    assert donor.result() == 31
    before = donor.steps()
    seen()
    FLAGS["b"] = 20
    fork = engine.fork(donor.id[:8], from_="load[1]")
    assert fork.result() == 41
    assert seen() == ["load b", "add (20, 20, 1)"]
    assert donor.steps() == before
    record = engine.store.find_run(fork.id)
    assert record.forked_from == donor.id
    assert record.facts["fork"]["from"] == ["diamond/load[1]"]
    assert {step.key for step in fork.steps()} == {step.key for step in before}


def test_a_changed_parameter_runs_what_it_reaches(engine: Engine) -> None:
    """Calls with the same arguments are shared, the others run."""
    donor = engine.start(diamond)
    donor.wait()
    seen()
    assert engine.fork(donor.id, params={"factor": 5}).result() == 35
    assert seen() == ["add (20, 10, 5)"]
    FLAGS["c"] = 1
    assert engine.fork(donor.id, params={"name": "c"}).result() == 13
    assert seen() == ["load c", "double 1", "add (2, 10, 1)"]


def test_a_fork_with_nothing_changed_runs_nothing(engine: Engine) -> None:
    """All of it is shared, and the result is the same."""
    donor = engine.start(diamond)
    donor.wait()
    seen()
    fork = engine.fork(donor.id)
    assert (fork.result(), seen()) == (31, [])
    assert engine.store.attempts(engine.store.find_run(fork.id).number) == []


def test_a_value_that_is_set_stands_in_for_the_step(engine: Engine) -> None:
    """The step does not run; what reads it does. The value that it had already changes nothing."""
    donor = engine.start(diamond)
    donor.wait()
    seen()
    fork = engine.fork(donor.id, set_={"double": 7})
    assert (fork.result(), seen()) == (18, ["add (7, 10, 1)"])
    assert (engine.fork(donor.id, set_={"double": 20}).result(), seen()) == (31, [])
    again = engine.fork(fork.id, params={"factor": 2})
    assert (again.result(), seen()) == (19, ["add (7, 10, 2)"])


def test_a_failed_run_is_forked_with_the_value_that_it_lacked(engine: Engine) -> None:
    """What failed runs again in a fork, unless it is set."""
    FLAGS["double"] = "fail"
    donor = engine.start(diamond)
    with pytest.raises(RunFailed):
        donor.result()
    seen()
    assert engine.fork(donor.id, set_={"double[0]": 1}).result() == 12
    assert seen() == ["add (1, 10, 1)"]
    FLAGS.clear()
    assert engine.fork(donor.id).result() == 31
    assert seen() == ["double 10", "add (20, 10, 1)"]
    assert donor.state is RunState.FAILED


@workflow
def chosen(name: str = "a") -> int:
    found = get(load(name))
    if found > 10:
        return add(double(found), 100)
    return add(found, found)


def test_a_body_that_waited_takes_another_branch(engine: Engine) -> None:
    """What it does not call any more is no step of the fork; a call with other arguments is another one."""
    donor = engine.start(chosen)
    assert donor.result() == 20
    seen()
    fork = engine.fork(donor.id, set_={"load": 50})
    assert fork.result() == 200
    assert seen() == ["double 50", "add (100, 100)"]
    assert [step.key for step in fork.steps()] == ["chosen/load[0]", "chosen/double[0]", "chosen/add[0]"]
    back = engine.fork(fork.id, from_="load")
    assert (back.result(), seen()) == (20, ["load a", "add (10, 10)"])
    assert [step.key for step in back.steps()] == ["chosen/load[0]", "chosen/add[0]"]


@workflow
def fanned(count: int = 4) -> int:
    found = double.map(numbers(count))
    return add(0, total(found))


@task
def total(values: list[int]) -> int:
    SEEN.append(f"total {values}")
    return sum(values)


def test_one_item_of_a_map_runs_alone(engine: Engine) -> None:
    """The others are shared, and the map collects them again; so it is with an item that is set."""
    donor = engine.start(fanned)
    assert donor.result() == 12
    seen()
    fork = engine.fork(donor.id, from_="double.map[0]/double[2]")
    assert (fork.result(), seen()) == (12, ["double 2", "total [0, 2, 4, 6]", "add (0, 12)"])
    fork = engine.fork(donor.id, set_={"double.map[0]/double[3]": 100})
    assert (fork.result(), seen()) == (106, ["total [0, 2, 4, 100]", "add (0, 106)"])
    fork = engine.fork(fork.id, from_="total")
    assert (fork.result(), seen()) == (106, ["total [0, 2, 4, 100]", "add (0, 106)"])


def test_a_map_over_another_list_has_other_items(engine: Engine) -> None:
    """Its items are not the donor's, and none of the donor's is left."""
    donor = engine.start(fanned)
    donor.wait()
    seen()
    fork = engine.fork(donor.id, set_={"numbers": [5]})
    assert (fork.result(), seen()) == (10, ["double 5", "total [10]", "add (0, 10)"])
    assert sum(step.task == "double" for step in fork.steps()) == 2
    fork = engine.fork(donor.id, params={"count": 2})
    assert (fork.result(), seen()) == (2, ["numbers 2", "double 0", "double 1", "total [0, 2]", "add (0, 2)"])
    with pytest.raises(RunConflict, match=r"Set fanned/double\.map"):
        engine.fork(donor.id, from_="numbers", set_={"double.map[0]/double[0]": 1})


@workflow
def two_maps(name: str = "a") -> int:
    first = get(total(double.map(numbers(3))))
    return total(double.map(numbers(first)))


def test_items_of_a_map_that_is_made_of_other_values_now_are_refused(engine: Engine) -> None:
    """The message says what to fork from."""
    FLAGS["numbers"] = 1
    donor = engine.start(two_maps)
    donor.wait()
    fork = engine.fork(donor.id, set_={"double.map[0]/double[0]": 2, "double.map[1]/double[5]": 0})
    with pytest.raises(RunFailed, match="Fork from the map itself"):
        fork.result()


class _Counter:
    def __init__(self, start: int) -> None:
        SEEN.append(f"made {start}")
        self.count = start

    def grow(self, by: int) -> int:
        SEEN.append(f"grow {by}")
        self.count += by
        return self.count

    @readonly
    def read(self) -> int:
        SEEN.append("read")
        return self.count


@stateful
class Saved(_Counter):
    pass


@stateful(checkpoint_every=2)
class Seldom(_Counter):
    pass


@stateful(checkpoint_every=100)
class Never(_Counter):
    pass


KINDS = {"saved": Saved, "seldom": Seldom, "never": Never}


@workflow
def counting(kind: str, start: int = 1, last: int = 3) -> list[int]:
    counter = KINDS[kind](start)
    first = [counter.grow(by) for by in (10, load("c"))]
    return [*first, counter.grow(last), counter.read()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_calls_on_an_object_are_shared_as_a_prefix(engine: Engine, kind: str) -> None:
    """Up to the first one that changes; the state is the one after them, saved or made again."""
    FLAGS["c"] = 100
    donor = engine.start(counting, kind)
    assert donor.result() == [11, 111, 114, 114]
    seen()
    fork = engine.fork(donor.id, params={"last": 5})
    assert fork.result() == [11, 111, 116, 116]
    assert [name for name in seen() if name not in ("made 1", "grow 10", "grow 100")] == ["grow 5", "read"]
    fork = engine.fork(donor.id, set_={"load": 200})
    assert fork.result() == [11, 211, 214, 214]
    assert seen()[-3:] == ["grow 200", "grow 3", "read"]
    fork = engine.fork(donor.id, params={"start": 0})
    assert fork.result() == [10, 110, 113, 113]
    fork = engine.fork(donor.id, from_="read[0]")
    seen()
    assert fork.result()[-1] == 114


@workflow
def measured(fill: int = 1) -> int:
    return size(large(fill))


def test_large_values_are_shared_by_their_digest(engine: Engine) -> None:
    """No bytes are written again; a large value can be set, too."""
    donor = engine.start(measured)
    donor.wait()
    seen()
    fork = engine.fork(donor.id, from_="size")
    assert (fork.result(), seen()) == (100_000, ["size"])
    digests = [{step.key: step.value_digest for step in run.steps()} for run in (donor, fork)]
    assert digests[0] == digests[1]
    assert engine.fork(donor.id, set_={"large": b"x" * 50_000}).result() == 50_000


def test_a_rerun_shares_nothing(engine: Engine) -> None:
    """The same arguments, a new run, everything runs."""
    donor = engine.start(diamond, "b", factor=4)
    assert donor.result() == 34
    seen()
    assert engine.rerun(donor.id).result() == 34
    assert len(seen()) == 4
    assert engine.rerun(donor.id, {"factor": 0}).result() == 30


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"from_": "dobule"}, RunNotFound, "Did you mean diamond/double"),
        ({"set_": {"nothing": 1}}, RunNotFound, "has no step 'nothing'"),
        ({"from_": "load"}, RunNotFound, "2 steps of run"),
        ({"params": {"nmae": 1}}, BadArguments, "Did you mean name"),
        ({"set_": {"double": threading.Lock()}}, Unpicklable, "the value of diamond/double"),
    ],
)
def test_what_can_not_be_forked_is_refused_in_one_line(
    engine: Engine, asked: dict[str, Any], error: type[Exception], says: str
) -> None:
    """And no run is recorded."""
    donor = engine.start(diamond)
    donor.wait()
    with pytest.raises(error, match=says) as raised:
        engine.fork(donor.id, **asked)
    assert "\n" not in str(raised.value)
    assert len(engine.store.runs(RunFilter())) == 1


def test_a_run_that_was_never_begun_can_not_be_forked(engine: Engine) -> None:
    """It says how to begin it; to run it again is allowed."""
    from dagengine.recording import record_run

    pending = record_run(engine.store, engine.artifacts, diamond, (), {})
    with pytest.raises(RunConflict, match="never begun"):
        engine.fork(pending)
    assert engine.rerun(pending).result() == 31


@workflow
def fickle() -> int:
    return add(get(double(load(FLAGS.get("name", "a")))), load("b"))


def test_what_a_fork_has_recorded_itself_is_held_against_its_code(engine: Engine) -> None:
    """A shared step gives way to another call; one of the fork's own does not, and the run stops in a mismatch."""
    donor = engine.start(fickle)
    donor.wait()
    FLAGS.update(double="fail", name="c", c=1)
    fork = engine.fork(donor.id)
    with pytest.raises(RunFailed):
        fork.result()
    FLAGS.update(double="", name="a")
    with pytest.raises(RunMismatch):
        engine.resume(fork.id).result()
    FLAGS.update(name="c")
    assert engine.resume(fork.id).result() == 12


def test_a_run_whose_values_have_expired_is_not_forked(engine: Engine) -> None:
    """What it would share is gone, or may go at any time: it can be begun anew."""
    run = engine.start(diamond)
    run.result()
    [ended] = engine.store.ended_runs(1e12, 0, 10)
    assert engine.store.expire_values(ended, 1.0)
    with pytest.raises(RunConflict, match=r"values of run .* have expired.*dagengine rerun"):
        engine.fork(run.id)
    assert engine.rerun(run.id).result() == run.result()
