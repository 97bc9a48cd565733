"""What each unfinished step of a live run is said to wait for."""

from __future__ import annotations

from dagengine.core.core import RunCore
from dagengine.core.events import AttemptFailed, Recorded, StepsCalled
from dagengine.model import Definition, Failure, NewStep, StepInput, StepKind
from dagengine.waits import waits_of


def core_of(*inputs: tuple[int, ...], window: int = 512) -> RunCore:
    """A core that was told of steps with these inputs."""
    core = RunCore(window)
    steps = [
        NewStep(seq, f"w/s[{seq}]", StepKind.TASK, 0, b"", tuple(StepInput(other) for other in read))
        for seq, read in enumerate(inputs)
    ]
    core.apply([StepsCalled([Definition(0, "s", {}, {"retries": 1})], steps)], 1.0)
    return core


def reasons(core: RunCore, runtime: dict[tuple[int, ...], str] | None = None) -> list[str]:
    return [f"{wait.state}: {wait.reason}" for wait in waits_of(core, 7, runtime or {})]


def test_each_unfinished_step_has_one_reason() -> None:
    """The store, an input, the runtime, the window."""
    core = core_of((), (0,), (), window=1)
    assert reasons(core) == ["waiting: for the store: its record is being written"] * 3
    core.apply([Recorded()], 2.0)
    assert reasons(core, {(7, 0, 1): "for 2 gpus: 1 is free"}) == [
        "ready: for 2 gpus: 1 is free",
        "waiting: for w/s[0] (ready)",
        "ready: for one of the 1 attempts that are out to end",
    ]


def test_a_step_that_is_retried_waits_for_its_delay() -> None:
    """Said with the attempt that failed."""
    core = core_of(())
    core.apply([Recorded()], 2.0)
    core.apply([AttemptFailed(0, 1, 0, 1.0, 2.0, Failure("error", "E", "no"))], 3.0)
    assert reasons(core) == ["retrying: for the delay after attempt 1"]


def test_many_inputs_are_counted_and_few_are_named() -> None:
    """A person follows one of them."""
    core = core_of(*[()] * 5, (0, 1, 2, 3, 4))
    core.apply([Recorded()], 2.0)
    assert reasons(core)[-1] == "waiting: for w/s[0] (ready), w/s[1] (ready), w/s[2] (ready) and 2 more"
