"""Child runs: attached ones, and ones that live on their own; and runs that go on in another run."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagengine import continue_with, get, sleep, task, wait_event, workflow
from dagengine.cancelling import cancel_run
from dagengine.children import child_id
from dagengine.clocks import Clock
from dagengine.continuing import left_to_begin, successor_id
from dagengine.core.events import TimeIsUp
from dagengine.engine import Engine
from dagengine.errors import (
    BadArguments,
    DefinitionError,
    RunCancelled,
    RunConflict,
    RunFailed,
    RuntimeStopped,
    StoreUnavailable,
)
from dagengine.model import RunState, StepKind
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from dagengine.storage import open_store
from dagengine.storage.interface import RunFilter
from tests.semantics.conftest import Everywhere

FLAGS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def clean() -> None:
    FLAGS.clear()


@task
def add(left: int, right: int) -> int:
    if FLAGS.get("fail") == (left, right):
        raise ValueError("not today")
    return left + right


@task
def large(size: int) -> Any:
    return np.ones(size)


@workflow
def child(left: int, right: int) -> int:
    return add(left, right)


@workflow
def computing_child(left: int, right: int) -> dict[str, int]:
    return {"sum": get(add(left, right))}


@workflow
def parent(left: int) -> Any:
    first = child.start(left, 1)
    second = child.start(first, add(left, left))  # type: ignore[arg-type]
    return add(second, 100), computing_child.run(left, 0)  # type: ignore[arg-type]


@workflow
def catching(left: int) -> Any:
    try:
        return get(child.run(left, 1))
    except ValueError as error:
        return f"caught {error}"


@workflow
def big_child(size: int) -> Any:
    return large(size)


@workflow
def big_parent(size: int) -> Any:
    return big_child.start(size)


@workflow
def on_its_own(left: int) -> Any:
    return child.detach(left, 1)


@task
def begin() -> None:
    FLAGS["began"].set()


@workflow
def patient_child() -> Any:
    get(begin())
    return wait_event("go")


@workflow
def patient_parent() -> Any:
    return patient_child.start()


@workflow
def late_child() -> int:
    sleep(3_000)
    return 3


@workflow
def late_parent() -> Any:
    return late_child.start()


@workflow
def hasty_parent() -> Any:
    return patient_child.start(), wait_event("also")


class Later(Clock):
    """An hour later."""

    def now(self) -> float:
        return super().now() + 3_600


@workflow
def grandparent(left: int) -> Any:
    return parent.start(left)


@workflow
def countdown(left: int, total: int = 0) -> int:
    if left > 0:
        continue_with(left - 1, total=add(total, left))
    return total


@workflow
def counting_parent(left: int) -> Any:
    return add(countdown.run(left), 0)


@workflow
def misfit() -> Any:
    return child.start(1)  # type: ignore[call-arg]


class Shy:
    """An argument that can be written down, and not read again."""

    def __init__(self) -> None:
        self.name = "a"

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise LookupError("not in front of others")


@workflow
def shown(shy: Any) -> int:
    return 1


@workflow
def shows() -> Any:
    return shown.start(Shy())


@workflow
def inner() -> Any:
    continue_with()


@workflow
def nested() -> Any:
    return inner()


@workflow
def continues_with_too_much(left: int) -> Any:
    continue_with(left, 1, 2)


@workflow
def fails_and_continues(left: int) -> int:
    if left > 0:
        add(left, left)
        continue_with(left - 1)
    return 0


def test_a_child_is_a_run_of_its_own_whose_result_is_its_steps_value(engine: Engine) -> None:
    """Its refs are as those of tasks; its run names its parent."""
    run = engine.start(parent, 5)
    assert run.result() == (116, {"sum": 5})
    children = [step for step in run.steps() if step.kind is StepKind.CHILD]
    assert [step.key for step in children] == ["parent/child[0]", "parent/child[1]", "parent/computing_child[0]"]
    record = engine.store.find_run(child_id(run.id, children[0].seq))
    assert (record.workflow, record.state, record.parent) == ("child", RunState.SUCCEEDED, (run.id, children[0].seq))


def test_a_childs_failure_is_that_of_its_step_and_both_are_resumed(tmp_path: Path) -> None:
    """The parent raises what the child raised; resuming the parent resumes the child."""
    FLAGS["fail"] = (5, 1)
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(grandparent, 5)
        with pytest.raises(RunFailed, match="not today") as failed:
            run.result()
        assert isinstance(failed.value.__cause__, ValueError)
        assert engine.start(catching, 5).result() == "caught not today"
    FLAGS.clear()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        assert engine.resume(run.id).result() == (116, {"sum": 5})


def test_a_child_whose_arguments_cannot_be_read_fails_as_a_step_of_its_parent(engine: Engine) -> None:
    """Reading them runs the user's code, which may raise anything: nobody is left waiting."""
    with pytest.raises(RunFailed, match="not in front of others") as failed:
        engine.start(shows).result()
    assert isinstance(failed.value.__cause__, LookupError)


def test_a_store_that_fails_while_a_child_is_begun_leaves_the_parent_to_be_resumed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the child is there is not known then: that is no failure of the step."""

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise StoreUnavailable("the store is gone", store="")

    begin = engine.begin
    with monkeypatch.context() as outage:
        outage.setattr(engine, "begin", unreachable)
        run = begin(parent, (5,), {})
        with pytest.raises(StoreUnavailable, match="the store is gone"):
            run.result()
    assert engine.resume(run.id, takeover=True).result() == (116, {"sum": 5})


def test_a_child_that_somebody_else_has_just_begun_is_the_same_child(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner of the parent that does not know yet that it was taken over may begin it at the same moment."""
    begin = engine.begin

    def second(workflow: Any, args: Any, kwargs: Any, run_id: Any = None, **options: Any) -> Any:
        if run_id is not None:
            begin(workflow, args, kwargs, run_id, **options).wait()
        return begin(workflow, args, kwargs, run_id, **options)

    monkeypatch.setattr(engine, "begin", second)
    assert engine.start(parent, 5).result() == (116, {"sum": 5})


def test_a_large_result_is_shared_by_child_and_parent(engine: Engine) -> None:
    """A step's value that a child returns is named by both, and read by neither."""
    run = engine.start(big_parent, 100_000)
    assert len(run.result()) == 100_000
    (step,) = run.steps()
    below = engine.store.steps(engine.store.find_run(child_id(run.id, step.seq)).number)
    assert step.value_digest == below[0].value_digest


def test_a_cancelled_parent_cancels_its_children(tmp_path: Path) -> None:
    """An attached child does not outlive its parent; a resumed parent has it again."""
    FLAGS["began"] = threading.Event()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(patient_parent)
        FLAGS["began"].wait()
        below = engine.store.find_run(child_id(run.id, 0)).id
        run.cancel()
        with pytest.raises(RunCancelled):
            run.result()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        assert engine.store.find_run(below).state is RunState.CANCELLED
        engine.resume(below)  # the parent finds it at work
        again = engine.resume(run.id)
        engine.signal(below, "go", 5)
        assert again.result() == 5


def until(state: RunState, run: Any) -> None:
    while run.state is not state:
        assert not run.wait(0.002), run.state


def asleep(engine: Engine) -> tuple[Run[Any], str]:
    """A parent that was let go of, and the id of its child, which was, too."""
    run = engine.start(patient_parent)
    until(RunState.WAITING, run)
    below = child_id(run.id, 0)
    while engine.store.find_run(below).state is not RunState.WAITING:
        assert not run.wait(0.002)
    return run, below


def test_a_parent_that_waits_for_a_child_is_let_go_of_and_woken_by_its_end(tmp_path: Path) -> None:
    """Neither holds a thread while the child waits for the world; the child's end wakes the parent."""
    FLAGS["began"] = threading.Event()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run, below = asleep(engine)
        assert engine.driver_of(run.id) is None
        engine.signal(below, "go", 7)
        assert run.result() == 7


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_child_that_is_cancelled_in_its_sleep_wakes_its_parent(tmp_path: Path, elsewhere: bool) -> None:
    """By this process or another one: the parent's step fails, as with any end of a child."""
    FLAGS["began"] = threading.Event()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run, below = asleep(engine)
        if elsewhere:
            with closing(open_store(str(tmp_path / "store.db"))) as store:
                assert cancel_run(store, engine.post.control, store.find_run(below)) is RunState.CANCELLED
        else:
            engine.cancel(below)
        with pytest.raises(RunFailed, match="was cancelled"):
            run.result()


def test_a_parent_that_was_let_go_of_cancels_its_children(tmp_path: Path) -> None:
    """Whoever cancels a run that nobody works on cancels what it has begun."""
    FLAGS["began"] = threading.Event()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(patient_parent)
        until(RunState.WAITING, run)
        run.cancel()
        with pytest.raises(RunCancelled):
            run.result()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        assert engine.store.find_run(child_id(run.id, 0)).state is RunState.CANCELLED


def test_a_detached_child_is_worth_its_id(engine: Engine) -> None:
    """It is a run as any other."""
    run = engine.start(on_its_own, 3)
    child_run = run.result()
    assert engine.store.find_run(child_run).workflow == "child"
    assert engine.store.find_run(child_run).parent == (run.id, 0)


def test_outside_of_a_body_start_and_detach_begin_a_run(engine: Engine) -> None:
    """As ever."""
    assert child.start(1, 2).result() == 3
    assert engine.store.find_run(child.detach(1, 2)).workflow == "child"


def test_a_run_goes_on_in_another_run(engine: Engine) -> None:
    """Each run is short, and the handle of the first gives the result of the last."""
    run = engine.start(countdown, 20)
    assert run.result() == 210
    runs = engine.store.runs(RunFilter(limit=100))
    assert len(runs) == 21
    assert {found.state for found in runs} == {RunState.SUCCEEDED}
    assert engine.store.find_run(successor_id(run.id)).facts["continued_from"] == run.id


def test_a_child_may_go_on_in_another_run(engine: Engine) -> None:
    """Its step has the result of the last one."""
    assert engine.start(counting_parent, 4).result() == 10


def test_a_resumed_parent_wakes_children_that_a_process_left_waiting(tmp_path: Path) -> None:
    """Whoever let go of them is gone: their times come all the same."""
    FLAGS["began"] = threading.Event()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(late_parent)
        until(RunState.WAITING, run)
        below = child_id(run.id, 0)
        while engine.store.find_run(below).state is not RunState.WAITING:
            assert not run.wait(0.002)
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime(), clock=Later()) as engine:
        assert engine.store.find_run(below).state is RunState.WAITING
        assert engine.resume(run.id).result() == 3


def test_a_parent_whose_time_is_up_cancels_its_children(tmp_path: Path) -> None:
    """What it began does not outlive it; resumed, it has them again."""
    FLAGS["began"] = threading.Event()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(hasty_parent)
        FLAGS["began"].wait()
        driver = engine.driver_of(run.id)
        assert driver is not None
        engine.tell(driver, [TimeIsUp(3.0)])
        with pytest.raises(RunFailed, match="which is its timeout"):
            run.result()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        below = engine.store.find_run(child_id(run.id, 0))
        assert below.state is RunState.CANCELLED
        again = engine.resume(run.id)
        while engine.store.find_run(below.id).state is RunState.CANCELLED:
            assert not again.wait(0.002)
        engine.signal(below.id, "go", 5)
        engine.signal(run.id, "also", 6)
        assert again.result() == (5, 6)


def test_what_goes_on_from_a_failed_run_is_not_begun_before_it(tmp_path: Path) -> None:
    """The run that was asked for, and the one to resume, are named."""
    FLAGS["fail"] = (3, 3)
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(fails_and_continues, 3)
        with pytest.raises(RunFailed, match="not today"):
            run.result()
        after = successor_id(run.id)
        with pytest.raises(RunConflict, match=f"goes on from run {run.id[:8]}, which has not succeeded"):
            engine.resume(after)
        assert engine.store.find_run(after).state is RunState.PENDING
        FLAGS.clear()
        assert engine.resume(run.id).result() == 0


def test_a_run_that_nobody_has_begun_after_its_predecessors_success_is_found(tmp_path: Path) -> None:
    """Not one whose predecessor has not succeeded, and not before somebody has had the time to begin it."""
    FLAGS["fail"] = (3, 3)
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(fails_and_continues, 3)
        run.wait()
        late = engine.clock.now() + 100
        assert left_to_begin(engine.store, late) == []
        FLAGS.clear()
        FLAGS["died"] = engine.resume  # as if the process had died before it began the next one
        engine.resume = refusing()  # type: ignore[method-assign]
        FLAGS["died"](run.id).wait()
        (left,) = left_to_begin(engine.store, late)
        assert left.id == successor_id(run.id)
        assert left_to_begin(engine.store, 1.0) == []
        assert FLAGS["died"](left.id, reopen=False).wait()
        assert left_to_begin(engine.store, late) != [left]


def refusing() -> Any:
    def refuse(run_id: str, **how: Any) -> Any:
        raise RuntimeStopped("dead")

    return refuse


def test_outside_of_a_run_continuing_is_a_loop() -> None:
    """The plain function goes on with itself."""
    assert countdown(20) == 210


def test_a_run_with_a_failed_step_is_continued_when_it_is_resumed(tmp_path: Path) -> None:
    """A failure that nobody handled ends the run; what goes on waits until it has succeeded."""
    FLAGS["fail"] = (2, 2)
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        run = engine.start(fails_and_continues, 3)
        with pytest.raises(RunFailed, match="not today"):
            run.result()
    FLAGS.clear()
    with Engine(tmp_path / "store.db", home=tmp_path, runtime=InlineRuntime()) as engine:
        assert engine.resume(run.id).result() == 0


@pytest.mark.parametrize(
    ("function", "arguments", "error", "words"),
    [
        (misfit, (), BadArguments, "missing a required argument: 'right'"),
        (nested, (), DefinitionError, r"continue_with\(\) in nested/inner\[0\].*Call it in the body of nested"),
        (continues_with_too_much, (1,), BadArguments, "too many positional arguments"),
    ],
)
def test_misuse_says_what_to_do(
    engine: Engine, function: Any, arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    """One line each."""
    with pytest.raises(RunFailed, match=words) as failed:
        engine.start(function, *arguments).result()
    assert isinstance(failed.value.__cause__, error)


def test_children_survive_every_crash(everywhere: Everywhere) -> None:
    """Each child is begun once, whatever dies when."""
    reports = everywhere(parent, 5)
    assert all(report.result == (116, {"sum": 5}) for report in reports.values())


def test_continuing_survives_every_crash(everywhere: Everywhere) -> None:
    """No link of the chain is lost or made twice."""
    reports = everywhere(countdown, 2)
    assert all(report.result == 3 for report in reports.values())
