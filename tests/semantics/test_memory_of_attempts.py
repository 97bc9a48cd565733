"""once, checkpoints and jobs elsewhere: what one attempt at a step has done counts for the next, crash or not."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any, TypeVar

import pytest

from dagengine import Pending, context, get, task, workflow
from dagengine.engine import Engine
from dagengine.errors import BadArguments, DefinitionError, RunFailed, Unpicklable
from dagengine.storage.memos import noted
from tests.semantics.conftest import Everywhere

calls: Counter[str] = Counter()
T = TypeVar("T")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


def counted(name: str, value: T) -> T:
    calls[name] += 1
    return value


@task(retries=3, retry_delay=0.0)
def parts(size: int) -> list[Any]:
    """Fails once after each of its parts."""
    here = context()
    done = []
    for name in ("a", "b"):
        done.append(here.once(name, lambda name=name: counted(name, name * size)))  # type: ignore[misc]
        if here.attempt == len(done):
            raise ValueError("between two parts")
    return done


@workflow
def of_parts(size: int) -> list[Any]:
    return parts(size)


@pytest.mark.parametrize("size", [1, 50_000])
def test_a_part_that_is_done_is_not_done_again(engine: Engine, size: int) -> None:
    """Its result is that of the first time, in the row or as an artifact; nothing is left of it after the step."""
    run = engine.start(of_parts, size)
    assert run.result() == ["a" * size, "b" * size]
    assert calls == {"a": 1, "b": 1}
    assert noted(engine.store, run._driver.claim.run_number) == set()


def test_parts_survive_crashes(everywhere: Everywhere) -> None:
    """Whatever write the process dies at, a part is called at most once more: where it died before it was noted."""
    for report in everywhere(of_parts, 1, before=calls.clear, after=_at_most_twice).values():
        assert report.result == ["a", "b"]


def _at_most_twice() -> None:
    assert all(count <= 2 for count in calls.values()), calls
    assert sum(calls.values()) <= 3, calls


@task(retries=1, retry_delay=0.0)
def raising() -> int:
    return context().once("part", lambda: counted("part", 7) if calls["part"] else 1 // counted("part", 0))


@workflow
def of_raising() -> int:
    return raising()


def test_an_exception_is_not_remembered(engine: Engine) -> None:
    """The next attempt tries the part again."""
    assert engine.start(of_raising).result() == 7
    assert calls["part"] == 2


@task
def unpicklable() -> object:
    return context().once("lock", threading.Lock)


@workflow
def of_unpicklable() -> object:
    return unpicklable()


def test_a_part_whose_result_cant_be_noted_fails_the_step(engine: Engine) -> None:
    """In one line that names the part."""
    with pytest.raises(RunFailed) as caught:
        engine.start(of_unpicklable).result()
    assert isinstance(caught.value.__cause__, Unpicklable)
    assert "what once('lock') is to remember can't be pickled" in str(caught.value.__cause__)


@task(retries=5, retry_delay=0.0)
def counting(to: int) -> list[int]:
    """Counts up, fails at each step, and goes on from where it was."""
    here = context()
    seen: list[int] = here.restored([])
    counted("begun", None)
    if len(seen) < to:
        here.checkpoint([*seen, here.attempt])
        raise ValueError("on the way")
    return seen


@workflow
def of_counting(to: int) -> list[int]:
    return counting(to)


def test_the_next_attempt_goes_on_from_the_checkpoint(engine: Engine) -> None:
    """Each attempt has what the one before has left."""
    assert engine.start(of_counting, 3).result() == [1, 2, 3]
    assert calls["begun"] == 4


def test_checkpoints_survive_a_resume(engine: Engine) -> None:
    """A run that failed and is resumed goes on from its task's checkpoint."""
    run = engine.start(of_counting, 8)
    run.wait()
    again = engine.resume(run.id)
    assert len(again.result()) == 8


@task
def resuming(to: int) -> int:
    here = context()
    reached: int = here.restored(0)
    while reached < to:
        reached += 1
        here.checkpoint(reached)
    return reached


@workflow
def of_resuming(to: int) -> int:
    return resuming(to)


def test_checkpoints_survive_crashes(everywhere: Everywhere) -> None:
    """The result is the same, wherever the process died."""
    for report in everywhere(of_resuming, 3).values():
        assert report.result == 3


# ---- jobs elsewhere ---------------------------------------------------------------------------

service: dict[str, int] = {}  # key -> polls
cancelled: list[str] = []


def submit(key: str) -> str:
    calls["submit"] += 1
    service.setdefault(key, 0)
    return key


def poll(handle: str) -> Any:
    service[handle] += 1
    return Pending if service[handle] < 3 else f"done {handle.rpartition('/')[2]}"


def find(key: str) -> str | None:
    calls["find"] += 1
    return key if key in service else None


@task(retries=3, retry_delay=0.0)
def job(with_find: bool) -> str:
    here = context()
    result: str = here.external(submit, poll, every=0.0, find=find if with_find else None)
    if here.attempt < 2:
        raise ValueError("after the job")
    return result


@workflow
def of_job(with_find: bool) -> str:
    return job(with_find)


def _forget_service() -> None:
    calls.clear()
    service.clear()


def _one_job() -> None:
    assert len(service) == 1


def _one_submission() -> None:
    _one_job()
    assert calls["submit"] == 1


def test_a_job_is_submitted_once_and_polled_to_its_end(engine: Engine) -> None:
    """The second attempt finds it by its handle."""
    _forget_service()
    assert engine.start(of_job, False).result() == "done job[0]"
    assert calls == {"submit": 1}


def test_a_job_is_found_again_after_a_crash(everywhere: Everywhere) -> None:
    """By its handle, or by its key where the handle was not noted yet: never is it submitted twice."""
    reports = everywhere(of_job, True, before=_forget_service, after=_one_submission)
    assert {report.result for report in reports.values()} == {"done job[0]"}


def test_without_find_a_job_is_submitted_again_under_the_same_key(everywhere: Everywhere) -> None:
    """The service counts it once."""
    everywhere(of_job, False, before=_forget_service, after=_one_job, stores=("memory",))


# ---- where it can't be ------------------------------------------------------------------------


def test_outside_of_a_run_nothing_is_remembered() -> None:
    """A task that is called by itself does its work, and no more."""
    _forget_service()
    here = context()
    assert here.once("x", lambda: counted("x", 1)) == 1
    assert here.once("x", lambda: counted("x", 2)) == 2
    here.checkpoint(5)
    assert here.restored("nothing") == "nothing"
    here.heartbeat(0.5)
    assert here.external(submit, poll, every=0.0) == "done outside-of-a-run"
    with pytest.raises(DefinitionError, match="transactional"):
        _ = here.connection


@workflow
def in_body() -> int:
    context().heartbeat("nothing happens")
    return context().once("x", lambda: 1)


def test_a_body_is_told_to_call_a_task(engine: Engine) -> None:
    """What it computes by itself is computed again on replay: that is for tasks."""
    with pytest.raises(RunFailed) as caught:
        engine.start(in_body).result()
    assert "call a task" in str(caught.value.__cause__)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", 7])
def test_a_name_has_to_be_one(name: Any) -> None:
    """It is a part of a row's key."""
    with pytest.raises(BadArguments, match="printable"):
        context().once(name, int)


@pytest.mark.parametrize("progress", [object(), "x" * 5_000])
def test_progress_is_short(engine: Engine, progress: Any) -> None:
    """What a person can look at."""

    @task
    def tells() -> None:
        context().heartbeat(progress)

    @workflow
    def telling() -> None:
        return get(tells())

    with pytest.raises(RunFailed) as caught:
        engine.start(telling).result()
    assert "heartbeat() takes" in str(caught.value.__cause__)


@task(retries=1, retry_delay=0.0)
async def asynchronous() -> int:
    here = context()
    found = await asyncio.to_thread(here.once, "part", lambda: counted("part", 5))
    if here.attempt == 1:
        raise ValueError("after it")
    return found


@workflow
def of_asynchronous() -> int:
    return get(asynchronous())


def test_an_async_task_remembers_by_a_thread(engine: Engine) -> None:
    """A thread that carries its context; an async part is refused with the way to do it."""
    assert engine.start(of_asynchronous).result() == 5
    assert calls["part"] == 1

    async def part() -> int:
        return 1

    function: Any = part
    with pytest.raises(BadArguments, match="to_thread"):
        context().once("x", function)
