"""Runs that are taken up together: what is in the way of one of them holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from dagengine import task, workflow
from dagengine.engine import Engine
from dagengine.errors import LoadError, RunConflict, RunExists, RunOwned
from dagengine.identity import this_process
from dagengine.life import Life
from dagengine.model import NewRun, ProcessRecord, RunState
from dagengine.recording import record_run
from dagengine.run import Run
from dagengine.taking_up import take_up_all


@task
def double(number: int) -> int:
    return 2 * number


@workflow
def doubled(number: int) -> int:
    return double(number)


def _recorded(engine: Engine, numbers: Iterable[int]) -> list[str]:
    return [record_run(engine.store, engine.artifacts, doubled, (number,), {}) for number in numbers]


def _take_up(engine: Engine, run_ids: list[str]) -> tuple[dict[str, BaseException | None], dict[str, Life]]:
    """What was told, and the lives of the runs that were begun."""
    begun: dict[str, Life] = {}
    add = engine._add

    def noted(driver: Any) -> Run[Any]:
        begun[driver.run_id] = driver.life
        return add(driver)

    engine._add = noted  # type: ignore[method-assign]
    runs = engine.store.find_runs(run_ids)
    return take_up_all(engine, [runs[run_id] for run_id in run_ids]), begun


def test_runs_that_were_taken_up_together_end_each_for_itself(engine: Engine) -> None:
    """Each with its own arguments and its own result; a run that nobody has had before is started, not resumed."""
    run_ids = _recorded(engine, range(5))
    told, begun = _take_up(engine, run_ids)
    assert told == dict.fromkeys(run_ids)
    for number, run_id in enumerate(run_ids):
        assert Run[int](engine, begun[run_id]).result() == 2 * number
        assert engine.store.events(begun[run_id].number)[0].kind == "run.started"


def test_what_is_in_the_way_of_one_run_is_told_of_it_alone(engine: Engine) -> None:
    """Code that is gone, a living owner, a pause, a success: the others are worked on all the same."""
    good, paused, owned, done, last = _recorded(engine, range(5))
    gone = "gone"
    entry = {"module": "gone", "qualname": "gone", "file": "/nowhere/gone.py"}
    engine.store.create_run(NewRun(gone, "gone", entry, b"", (), 1.0), None)
    assert engine.resume(done).result() == 6
    engine.pause(paused)
    other = replace(this_process(), id="other")
    engine.store.claim(owned, other, lambda owner: False)
    told, begun = _take_up(engine, [good, paused, owned, done, gone, last])
    assert {run_id: type(error) for run_id, error in told.items()} == {
        good: type(None),
        paused: RunConflict,
        owned: RunOwned,
        done: RunExists,
        gone: LoadError,
        last: type(None),
    }
    for run_id, result in ((good, 0), (last, 8)):
        assert Run[int](engine, begun[run_id]).result() == result
    assert engine.store.find_run(gone).state is RunState.PENDING


def test_a_cancel_that_came_before_is_heard(engine: Engine) -> None:
    """Nobody has asked for the run to go on: it is taken up, and ends as it was asked to."""
    (run_id,) = _recorded(engine, [1])
    dead = ProcessRecord("dead", "elsewhere", "boot", 1, -1.0, 1.0)
    engine.store.claim(run_id, dead, lambda owner: False)
    engine.store.request_cancel(run_id, 2.0)
    is_dead: Callable[[str, ProcessRecord], bool] = lambda run_id, owner: owner.id != "dead"  # noqa: E731
    engine._works = is_dead  # type: ignore[method-assign,assignment]
    told, begun = _take_up(engine, [run_id])
    assert told == {run_id: None}
    assert begun[run_id].wait(300)
    assert engine.store.find_run(run_id).state is RunState.CANCELLED
