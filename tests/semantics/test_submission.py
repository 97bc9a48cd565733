"""Submitting runs: what is recorded, where it waits, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dagengine import task, workflow
from dagengine.engine import Engine
from dagengine.errors import BadArguments, BadOption, RunExists, RunFailed
from dagengine.model import RunState
from dagengine.runtime import InlineRuntime
from dagengine.serving.submission import Submission, cancel_dropped, is_over
from dagengine.storage import queues
from dagengine.storage.interface import RunFilter
from dagengine.storage.memory import MemoryStore
from dagengine.storage.queue_rules import QueueSettings


@task
def double(x: int) -> int:
    return 2 * x


@workflow
def doubled(x: int) -> int:
    return double(x)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(MemoryStore(), runtime=InlineRuntime(), home=tmp_path)


def test_a_submitted_run_waits_in_its_queue_until_somebody_takes_it_up(engine: Engine) -> None:
    """It is pending, and what takes it up runs it as any other."""
    with engine:
        run_id = engine.submit(doubled, (4,), {}, Submission(priority=3, key="k"))
        assert engine.store.find_run(run_id).state is RunState.PENDING
        entry = queues.entry_of(engine.store, run_id)
        assert entry is not None
        assert (entry.queue, entry.priority, entry.key, entry.state) == ("default", 3, "k", queues.WAITING)
        assert not is_over(engine.store, run_id)
        assert engine.resume(run_id, reopen=False).result() == 8
        assert is_over(engine.store, run_id)


def test_a_workflow_submits_itself_to_the_current_engine(engine: Engine) -> None:
    """`submit` takes the workflow's own arguments; `queued` says where the run waits."""
    with engine:
        queues.save_queue(engine.store, "reports", QueueSettings())
        first = doubled.submit(1)
        second = doubled.queued(queue="reports", delay="1h").submit(x=2)
        assert [entry.id for entry in queues.entries(engine.store, queues.WAITING, "default")] == [first]
        (entry,) = queues.entries(engine.store, queues.WAITING, "reports")
        assert entry.id == second
        assert entry.not_before == pytest.approx(entry.submitted_at + 3600)


def test_a_run_with_the_same_dedup_is_refused_attached_or_replaced(engine: Engine) -> None:
    """As it was asked for; one that was ended by hand stands in nobody's way."""
    with engine:
        first = engine.submit(doubled, (1,), {}, Submission(dedup="D"))
        with pytest.raises(RunExists, match=first):
            engine.submit(doubled, (2,), {}, Submission(dedup="D"))
        assert engine.submit(doubled, (2,), {}, Submission(dedup="D", duplicate="attach")) == first
        second = engine.submit(doubled, (2,), {}, Submission(dedup="D", duplicate="replace"))
        assert second != first
        assert engine.store.find_run(first).state is RunState.CANCELLED
        assert cancel_dropped(engine.store) == 0
        engine.cancel(second)
        third = engine.submit(doubled, (3,), {}, Submission(dedup="D"))
        assert [entry.id for entry in queues.entries(engine.store, queues.WAITING)] == [third]


def test_a_run_that_can_not_be_recorded_leaves_no_place_in_the_queue(engine: Engine) -> None:
    """Neither does one whose id is taken, or whose arguments don't fit."""
    with engine:
        known = engine.submit(doubled, (1,), {}, Submission(run_id="nightly-1"))
        with pytest.raises(RunExists, match="nightly-1"):
            engine.submit(doubled, (1,), {}, Submission(run_id="nightly-1"))
        with pytest.raises(BadArguments):
            engine.submit(doubled, (), {"y": 1})
        with pytest.raises(BadArguments):
            engine.submit(doubled, (1,), {}, Submission(run_id="not an id"))
        assert [entry.id for entry in queues.entries(engine.store, queues.WAITING)] == [known]


def test_a_run_that_is_cancelled_while_it_waits_leaves_its_queue(engine: Engine) -> None:
    """Its place is free at once, and nobody begins it."""
    with engine:
        run_id = engine.submit(doubled, (1,), {}, Submission(dedup="D"))
        engine.cancel(run_id)
        assert queues.counts(engine.store) == {}
        assert engine.submit(doubled, (1,), {}, Submission(dedup="D")) != run_id


def test_a_cancel_is_heard_by_whoever_takes_the_run_up_unasked(engine: Engine) -> None:
    """Between two owners: the request was recorded, and nobody was there to hear it."""
    with engine:
        run_id = engine.submit(doubled, (1,), {})
        claim = engine.store.claim(run_id, engine.process, lambda process: True)
        engine.store.request_cancel(run_id, 1.0)
        run = engine.resume(claim.run_id, reopen=False)
        run.wait()
        assert run.state is RunState.CANCELLED


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"queue": "defualt"}, "Did you mean default?"),
        ({"priority": 1.5}, "priority=1.5"),
        ({"duplicate": "atach"}, "Did you mean attach?"),
        ({"delay": "soon"}, "Say 90s"),
        ({"delay": 5, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "Give one"),
        ({"key": ""}, "key=''"),
        ({"prioritty": 1}, "Did you mean priority?"),
    ],
)
def test_what_can_not_be_meant_is_one_line(engine: Engine, how: dict[str, object], what: str) -> None:
    """It names what was said, and what would do."""
    with engine, pytest.raises(BadOption) as told:
        doubled.queued(**how).submit(1)
    assert what in str(told.value)
    assert "\n" not in str(told.value)


def test_a_body_does_not_submit(engine: Engine) -> None:
    """It would do so again with each replay."""

    @workflow
    def outer() -> str:
        return doubled.submit(1)

    with engine, pytest.raises(RunFailed, match="in the body of outer"):
        outer.start().result()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2])  # the code, the run with its row
def test_a_submission_that_dies_half_way_leaves_a_run_that_waits_or_none(tmp_path: Path, at: int, after: bool) -> None:
    """Killed at each of its writes: what a server finds later is a run in its queue, or nothing that holds a place."""
    from dagengine import config
    from dagengine.serving.serve import Server
    from dagengine.serving.submission import submit
    from dagengine.storage import open_artifacts, open_store
    from dagengine.testing.mortal import Fate, MortalStore, ProcessDied

    settings = config.load(home=tmp_path)
    real = open_store(settings.store.value)
    mortal = MortalStore(real, Fate(at=at, after=after))
    artifacts = open_artifacts(settings.artifacts.value, cache=str(tmp_path / "cache"))
    how = Submission(dedup="D", run_id="r1")
    with pytest.raises(ProcessDied):
        submit(mortal, artifacts, settings.control, (doubled, (1,), {}), how)
    server = Server(settings, clock=lambda: 1e12)
    server._settle(1e12)
    entry = queues.entry_of(real, "r1")
    recorded = [run.id for run in real.runs(RunFilter())]
    if recorded:
        assert entry is not None
        assert entry.state == queues.WAITING
    else:
        assert entry is None
    server._close()
    artifacts.close()
    real.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_server_that_dies_while_it_begins_a_scheduled_run_has_it_begun_once(
    tmp_path: Path, at: int, after: bool
) -> None:
    """Killed at each of its writes: the next server finds the run, or begins it; and the schedule has moved on."""
    from dagengine import config
    from dagengine.serving.schedules import When, create_schedule, find_schedule, fire_due
    from dagengine.serving.serve import Server
    from dagengine.storage import open_store
    from dagengine.testing.mortal import Fate, MortalStore, ProcessDied

    settings = config.load(home=tmp_path)
    real = open_store(settings.store.value)
    create_schedule(real, "daily", (doubled, (1,), {}), When("@daily"), lambda: 0.0)
    mortal = MortalStore(real, Fate(at=at, after=after))  # the code, the run with its row, the schedule
    with pytest.raises(ProcessDied):
        fire_due(mortal, settings.control, lambda: 86_400.0)
    server = Server(settings, clock=lambda: 86_500.0)
    assert fire_due(server.store, settings.control, lambda: 86_500.0) == 2 * 86_400.0
    server._settle(86_500.0)
    assert [run.id for run in real.runs(RunFilter())] == ["daily.19700102T000000Z"]
    assert [entry.id for entry in queues.entries(real, queues.WAITING)] == ["daily.19700102T000000Z"]
    assert find_schedule(real, "daily").next_at == 2 * 86_400.0
    server._close()
    real.close()


def test_a_server_whose_store_fails_looks_again_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not turn in circles until the store answers."""
    from dagengine import config
    from dagengine.errors import StoreUnavailable
    from dagengine.serving.serve import Server

    said: list[str] = []
    server = Server(config.load(home=tmp_path), say=said.append, clock=lambda: 1e9)

    def fails(now: float) -> float:
        raise StoreUnavailable("the disk is gone", store="")

    monkeypatch.setattr(server, "_settle", fails)
    assert server._look() > 0.9
    assert said == ["the store can't be read: the disk is gone"]
    server._close()
