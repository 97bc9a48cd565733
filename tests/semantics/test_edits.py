"""Retries of single steps, steps decided by hand, pauses: of runs that nobody works on, and of live ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import edits, get, stateful, task, wait_approval, wait_event, workflow
from dagengine.edits import mark, pause
from dagengine.engine import Engine
from dagengine.errors import RunConflict, RunFailed, RunInterrupted, RunNotFound, RunOwned
from dagengine.forks import keep_value
from dagengine.model import RunState, StepState
from dagengine.recording import record_run
from dagengine.runtime.inline import InlineRuntime

SEEN: list[str] = []
FLAGS: dict[str, Any] = {}
FAILED = threading.Event()
"""Set when a task has failed that is to be tried again much later."""


@pytest.fixture(autouse=True)
def clean() -> None:
    SEEN.clear()
    FLAGS.clear()
    FAILED.clear()


@pytest.fixture(params=["sqlite", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    store = "memory:" if request.param == "memory" else tmp_path / "store.db"
    with Engine(store, home=tmp_path, artifacts=tmp_path / "artifacts", runtime=InlineRuntime()) as opened:
        yield opened


@task
def part(name: str) -> str:
    SEEN.append(name)
    if FLAGS.get(name) == "fail":
        raise ValueError(name)
    return name


@task
def join(*names: str) -> str:
    SEEN.append(f"join {names}")
    return "+".join(names)


@task(retries=3, retry_delay=3000.0, max_delay=3000.0)
def patient(name: str) -> str:
    FAILED.set()
    raise ValueError(name)


@workflow
def two() -> list[str]:
    return [join(part("a"), "1"), join(part("b"), "2")]


@workflow
def waited() -> str:
    try:
        first = get(part("a"))
    except ValueError:
        first = "none"
    return join(first, part("b"))


@workflow
def behind() -> str:
    return join(patient("p"), part("q"))


@workflow
def asleep() -> Any:
    return wait_event("go")


@stateful
class Thing:
    def touch(self) -> int:
        if FLAGS.get("touch") == "fail":
            raise ValueError("touch")
        return 1


@workflow
def touched() -> int:
    return Thing().touch()


@workflow
def careful() -> str:
    return wait_approval("release").by


def failed(engine: Engine, flow: Any, *names: str) -> Any:
    """A run of `flow` in which these parts failed."""
    FLAGS.update(dict.fromkeys(names, "fail"))
    run = engine.start(flow)
    with pytest.raises(RunFailed):
        run.result()
    FLAGS.clear()
    SEEN.clear()
    return run


def states(engine: Engine, run: Any) -> dict[str, str]:
    record = engine.store.find_run(run.id)
    return {step.key.removeprefix(f"{record.workflow}/"): str(step.state) for step in engine.store.steps(record.number)}


def notes(engine: Engine, run: Any, kind: str) -> list[dict[str, Any]]:
    events = engine.store.events(engine.store.find_run(run.id).number)
    return [event.data for event in events if event.kind == kind]


# ---- retry ----------------------------------------------------------------------------------------


def test_a_retry_tries_only_the_steps_that_are_named(engine: Engine) -> None:
    """With what was skipped because of them. Another failure stays, and still fails the run; resume tries it, too."""
    run = failed(engine, two, "a", "b")
    again = engine.retry(run.id, "part[0]", by="ann", why="the disk is back")
    with pytest.raises(RunFailed, match=r"step two/part\[1\]"):
        again.result()
    assert SEEN == ["a", "join ('a', '1')"]
    assert states(engine, run)["join[1]"] == "skipped"
    assert notes(engine, run, "step.retry") == [{"steps": ["two/part[0]"], "by": "ann", "why": "the disk is back"}]
    assert engine.resume(run.id).result() == ["a+1", "b+2"]


def test_a_retry_of_a_step_that_fails_again_fails(engine: Engine) -> None:
    """And can be made again."""
    run = failed(engine, two, "a")
    FLAGS["a"] = "fail"
    with pytest.raises(RunFailed):
        engine.retry(run.id, "part[0]").result()
    FLAGS.clear()
    assert engine.retry(run.id, "part[0]").result() == ["a+1", "b+2"]


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("part[1]", RunConflict, "has succeeded: only a failed step"),
        ("join[0]", RunConflict, "was skipped"),
        ("prat[0]", RunNotFound, r"Did you mean two/part\[0\]"),
    ],
)
def test_only_failed_steps_are_retried(engine: Engine, name: str, error: type[Exception], says: str) -> None:
    """The run stays as it is."""
    run = failed(engine, two, "a")
    with pytest.raises(error, match=says) as raised:
        engine.retry(run.id, name)
    assert "\n" not in str(raised.value)
    assert engine.store.find_run(run.id).state is RunState.FAILED


def test_a_failure_that_the_workflow_has_handled_is_not_retried(engine: Engine) -> None:
    """It went on with it; what to do is said."""
    run = failed(engine, waited, "a", "b")
    with pytest.raises(RunConflict, match="dagengine fork"):
        engine.retry(run.id, "part[0]")


# ---- mark -----------------------------------------------------------------------------------------


def test_a_failed_step_is_marked_a_success(engine: Engine) -> None:
    """What was skipped because of it runs with the value that was given."""
    run = failed(engine, two, "a")
    engine.mark(run.id, "part[0]", "succeeded", "hand", by="ann", why="known")
    assert engine.store.find_run(run.id).state is RunState.INTERRUPTED
    assert notes(engine, run, "step.marked") == [{"state": "succeeded", "by": "ann", "why": "known"}]
    assert engine.resume(run.id).result() == ["hand+1", "b+2"]
    assert SEEN == ["join ('hand', '1')"]


def test_of_two_who_decide_at_once_one_is_refused(engine: Engine) -> None:
    """Both have looked at the run before either has changed it. The story: the second one's claim was granted, its write
    refused as a bug, and the run left as one of a dead process."""
    FLAGS["a"] = "fail"
    run = engine.start(two)
    run.wait()
    store, seen = engine.store, engine.store.find_run(run.id)
    mark(store, seen, "part[0]", StepState.FAILED, by="ada")
    with pytest.raises(RunConflict, match="somebody else at the same moment"):
        mark(store, seen, "part[0]", StepState.SKIPPED, by="bob")
    after = store.find_run(run.id)
    assert (after.state, after.owner, after.token) == (RunState.INTERRUPTED, None, seen.token + 1)


def test_a_large_value_can_be_given(engine: Engine) -> None:
    """It is among the artifacts before the step is marked."""
    run = failed(engine, two, "a")
    engine.mark(run.id, "part[0]", StepState.SUCCEEDED, "x" * 100_000)
    assert engine.resume(run.id).result()[0] == "x" * 100_000 + "+1"


def test_a_step_that_is_marked_skipped_stays_so(engine: Engine) -> None:
    """A resume does not try it, and skips what depends on it; the rest goes on, and the run succeeds without it."""
    run = failed(engine, two, "a")
    engine.mark(run.id, "part[0]", "skipped")
    engine.resume(run.id).wait()
    assert SEEN == []
    assert states(engine, run) == {
        "part[0]": "skipped",
        "join[0]": "skipped",
        "part[1]": "succeeded",
        "join[1]": "succeeded",
    }
    assert engine.store.find_run(run.id).state is RunState.SUCCEEDED


def test_a_step_that_was_not_begun_is_marked_failed(engine: Engine) -> None:
    """Of a run that has stopped; a resume tries it as any other."""
    run = failed(engine, two, "a")
    engine.mark(run.id, "join[0]", "failed", why="not wanted")
    record = engine.store.find_run(run.id)
    [step] = engine.store.steps(record.number, states=(StepState.FAILED,), key="two/join[0]")
    assert step.failure is not None
    assert step.failure.message.endswith("not wanted")
    assert engine.resume(run.id).result() == ["a+1", "b+2"]


@pytest.mark.parametrize(
    ("flow", "name", "state", "says"),
    [
        (two, "part[1]", "succeeded", r"fork .* --set 'two/part\[1\]=VALUE'"),
        (touched, "touch[0]", "succeeded", "stateful object"),
    ],
)
def test_what_can_not_be_marked_is_refused_in_one_line(
    engine: Engine, flow: Any, name: str, state: str, says: str
) -> None:
    """And the run stays as it is."""
    run = failed(engine, flow, "a", "touch")
    with pytest.raises(RunConflict, match=says) as raised:
        engine.mark(run.id, name, state, 1)
    assert "\n" not in str(raised.value)
    assert engine.store.find_run(run.id).state is RunState.FAILED


def test_an_approval_is_given_and_not_marked(engine: Engine) -> None:
    """A value that is no answer would break the body."""
    run = engine.start(careful)
    while not run.steps():
        assert not run.wait(0.002)
    with pytest.raises(RunConflict, match=r"dagengine approve\|reject .* release"):
        engine.mark(run.id, "careful/release.approval[0]", "succeeded", True)
    engine.mark(run.id, "careful/release.approval[0]", "failed", why="nobody is there")
    assert run.wait(300)
    assert run.state is RunState.FAILED


@pytest.mark.parametrize("verb", ["mark", "pause"])
def test_a_run_that_is_let_go_of_while_its_owner_is_asked_is_changed_all_the_same(
    verb: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was that it waits, which was taken for success, and nothing was marked."""
    run = engine.start(careful)
    while not run.steps():
        assert not run.wait(0.002)
    ask_owner = edits._ask_owner

    def late(*asked: Any) -> bool:
        while run.state is not RunState.WAITING:
            assert not run.wait(0.002)
        return ask_owner(*asked)

    monkeypatch.setattr(edits, "_ask_owner", late)
    if verb == "pause":
        assert engine.pause(run.id) is RunState.PAUSED
        return
    engine.mark(run.id, "careful/release.approval[0]", "failed", why="nobody is there")
    assert notes(engine, run, "step.marked")[0]["why"] == "nobody is there"
    assert run.wait(300)
    assert run.state is RunState.FAILED


def test_a_step_of_a_live_run_is_marked_by_its_owner(engine: Engine) -> None:
    """The owner is asked through its socket, and the run goes on with the value at once."""
    run = engine.start(behind)
    assert FAILED.wait(300)
    control = engine._control_folder
    value = keep_value(engine.artifacts, "hand", "p")
    record = engine.store.find_run(run.id)
    with pytest.raises(RunOwned, match="Ask there"):
        mark(engine.store, record, "patient", StepState.SUCCEEDED, value=value)
    mark(engine.store, record, "patient", StepState.SUCCEEDED, value=value, by="ann", control=control)
    assert run.result() == "hand+q"
    assert notes(engine, run, "step.marked") == [{"state": "succeeded", "by": "ann", "why": ""}]
    # It may just not have ended, and then there may be nothing to be seen of it.
    assert {attempt.outcome for attempt in engine.store.attempts(record.number, seq=0)} <= {"failed", "cancelled"}


def test_a_step_of_a_live_run_is_marked_skipped(engine: Engine) -> None:
    """What depends on it is skipped, and the run ends."""
    run = engine.start(behind)
    assert FAILED.wait(300)
    engine.mark(run.id, "patient", "skipped")
    assert run.wait(300)
    assert states(engine, run) == {"patient[0]": "skipped", "part[0]": "succeeded", "join[0]": "skipped"}
    assert run.state is RunState.SUCCEEDED


# ---- pause ----------------------------------------------------------------------------------------


def test_a_live_run_is_paused_until_somebody_lets_it_go_on(engine: Engine) -> None:
    """Nobody else takes it up: resume says what to do. It goes on where it was."""
    run = engine.start(behind)
    assert FAILED.wait(300)
    assert engine.pause(run.id, by="ann", why="lunch") is RunState.RUNNING
    with pytest.raises(RunInterrupted, match="dagengine unpause"):
        run.result()
    assert run.state is RunState.PAUSED
    with pytest.raises(RunConflict, match="is paused"):
        engine.resume(run.id)
    with pytest.raises(RunConflict, match="paused already"):
        engine.pause(run.id)
    assert notes(engine, run, "run.paused") == [{"before": "running", "by": "ann", "why": "lunch"}]
    engine.mark(run.id, "patient", "succeeded", "hand")
    assert engine.store.find_run(run.id).state is RunState.PAUSED
    assert engine.unpause(run.id).result() == "hand+q"


def test_a_run_that_was_not_begun_is_paused_and_is_queued_again(engine: Engine) -> None:
    """It is what it was before: PENDING."""
    run_id = record_run(engine.store, engine.artifacts, two, (), {})
    assert pause(engine.store, engine.store.find_run(run_id)) is RunState.PAUSED
    with pytest.raises(RunConflict, match="is paused"):
        engine.resume(run_id)
    from dagengine.edits import unpause

    assert unpause(engine.store, engine.store.find_run(run_id)) is RunState.PENDING
    assert engine.resume(run_id).result() == ["a+1", "b+2"]


def test_who_waits_for_a_run_that_sleeps_hears_of_its_pause(engine: Engine) -> None:
    """Otherwise nobody would wake it after `unpause`, but somebody would go on to wait for its end."""
    run = engine.start(asleep)
    while run.state is not RunState.WAITING:
        assert not run.wait(0.002)
    assert engine.pause(run.id) is RunState.PAUSED
    with pytest.raises(RunInterrupted, match="dagengine unpause"):
        run.result()
    engine.signal(run.id, "go", 4)
    assert engine.unpause(run.id).result() == 4


@pytest.mark.parametrize("ended", ["succeeded", "failed"])
def test_a_run_that_has_ended_can_not_be_paused(engine: Engine, ended: str) -> None:
    """It says how it has ended; and only a paused run can be unpaused."""
    run = failed(engine, two, "a") if ended == "failed" else engine.start(two)
    run.wait()
    with pytest.raises(RunConflict, match=f"already ended: {ended}"):
        engine.pause(run.id)
    with pytest.raises(RunConflict, match=f"is not paused, but {ended}"):
        engine.unpause(run.id)
