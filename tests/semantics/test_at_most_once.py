"""Steps that are started at most once: an attempt that vanishes is not made again, by nobody's own doing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagengine import Engine, RunState, StepState, context, get, task, workflow
from dagengine.errors import BadOption, DefinitionError, RunFailed, StepSkipped, StepUnknown
from tests.semantics.conftest import Everywhere


@task(at_most_once=True)
def launch(folder: str, dies: bool) -> int:
    with Path(folder, "launched").open("a") as log:
        log.write(f"{context().attempt}\n")
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


@workflow
def launching(folder: str, dies: bool) -> int:
    return launch(folder, dies)


@workflow
def catching(folder: str) -> str:
    try:
        return str(get(launch(folder, True)))
    except StepUnknown as error:
        return f"unknown after attempt {error.attempt}"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1) as opened:
        yield opened


def launches(folder: Path) -> list[str]:
    return (folder / "launched").read_text().split()


def test_a_lost_worker_leaves_the_step_unknown_and_a_resume_leaves_it_so(processes: Engine, tmp_path: Path) -> None:
    """The failure says what to do; the resumed run fails of it again, without a second launch."""
    run = processes.start(launching, str(tmp_path), True)
    with pytest.raises(RunFailed) as caught:
        run.result()
    assert isinstance(caught.value.__cause__, StepUnknown)
    assert "dagengine retry" in str(caught.value.__cause__)
    for _ in range(2):
        again = processes.resume(run.id)
        again.wait()
        assert again.state is RunState.FAILED
        assert again.failure is not None
        assert again.failure.kind == "unknown"
    (step,) = again.steps()
    assert step.state is StepState.FAILED
    assert launches(tmp_path) == ["1"]


def test_a_body_can_go_on_without_knowing(processes: Engine, tmp_path: Path) -> None:
    """It is given StepUnknown, like any failure of a step."""
    assert processes.start(catching, str(tmp_path)).result() == "unknown after attempt 1"


@task(at_most_once=True)
def announce(x: int) -> int:
    return x


@task
def plus(x: int) -> int:
    return x + 1


@workflow
def careful() -> bool:
    """Whether it came to one of the ends that it may come to."""
    try:
        return get(plus(announce(1))) == 2
    except StepSkipped:
        return True


def test_a_crash_never_starts_the_step_again(everywhere: Everywhere) -> None:
    """Whatever write the process died at, the step did not run twice."""
    for report in everywhere(careful, once=[announce]).values():
        assert report.result is True


def test_options_that_contradict_it_are_refused() -> None:
    """A retry is another start; a value that is not recorded may be made again; a stateful call is, too."""
    with pytest.raises(BadOption, match="starts a step once"):
        task(at_most_once=True, retries=2)
    with pytest.raises(BadOption, match="starts a step once"):
        announce.options(retries=1)
    with pytest.raises(BadOption, match="needs checkpoint=True"):
        task(at_most_once=True, checkpoint=False)
    with pytest.raises(BadOption, match="True or False"):
        task(at_most_once=1)  # type: ignore[call-overload]
    from dagengine import stateful

    with pytest.raises(DefinitionError, match="is for tasks"):
        stateful(at_most_once=True)
