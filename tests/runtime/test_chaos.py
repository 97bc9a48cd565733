"""Worker processes that are killed, stopped, crashed and overfed under load: results are right, and nothing is left.

Which process is hit when comes from a seed; how the threads of the machine interleave does not, so a failure names the
seed and may need several runs to come back.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dagengine.runtime.core.invariants import check as check_core
from dagengine.runtime.dispatch_invariants import check as check_dispatcher
from dagengine.runtime.protocol import (
    ActorWork,
    Failed,
    Lost,
    ObjectInput,
    Resources,
    Succeeded,
    TaskSpec,
    TimedOut,
)
from dagengine.runtime.shell import Shell
from tests.runtime.harness import Harness, Input
from tests.runtime.left_behind import children_of

Open = Callable[..., Harness]
MB = 1 << 20


@pytest.fixture(autouse=True)
def _checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each turn of the loop core and dispatcher are as they have to be; else the runtime breaks, and the test."""
    turn = Shell._turn

    def checked_turn(self: Shell) -> None:
        turn(self)
        check_core(self.core)
        check_dispatcher(self.agent.dispatcher)

    monkeypatch.setattr(Shell, "_turn", checked_turn)
    # Whoever is hit may be hit before it is up, several times in a row.
    monkeypatch.setattr("dagengine.runtime.dispatch_staff.START_TRIES", 1_000)


def workers_of(harness: Harness) -> list[int]:
    """Process ids of the workers that live now."""
    found = []
    for forker in children_of(os.getpid()):
        for pid in children_of(forker):
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == "dag-worker":
                    found.append(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def strike(chance: random.Random, harness: Harness, number: int) -> None:
    pids = workers_of(harness)
    if pids:
        try:
            os.kill(chance.choice(pids), number)
        except ProcessLookupError:
            return


@pytest.mark.parametrize("seed", [1, 2])
def test_objects_are_right_whoever_is_killed(open_harness: Open, tmp_path: Path, seed: int) -> None:
    """Tasks that read and make objects of several times the memory, tried again by the runtime: all values are right."""
    chance = random.Random(seed)
    harness = open_harness(3, object_memory=8 * MB, spill=(str(tmp_path / "spill"),))
    count = 120
    specs: list[TaskSpec] = []
    for number in range(count):
        inputs = [ObjectInput((chance.randrange(number),)) for _ in range(min(number, 2))]
        specs.append(
            harness.spec(
                "grow",
                number,
                [Input()] * len(inputs),
                300_000,
                inputs=inputs,
                output=(number,),
                losses=50,
            )
        )
    harness.submit(*specs)
    for done in range(10, count, 10):
        harness.wait(lambda done=done: len(harness.ends) >= done)  # type: ignore[misc]
        strike(chance, harness, signal.SIGKILL)
    ends = harness.ends_of([spec.id for spec in specs])
    assert all(isinstance(end, Succeeded) for end in ends), [end for end in ends if not isinstance(end, Succeeded)][:3]
    checks = [
        harness.spec("right", Input(), number, inputs=[ObjectInput((number,))], losses=50) for number in range(count)
    ]
    harness.submit(*checks)
    assert all(harness.result(check.id) for check in checks)
    harness.runtime.free([(number,) for number in range(count)])
    harness.settle(objects=0, object_bytes=0, spill_bytes=0, live=0)


@pytest.mark.parametrize("seed", [3, 4])
def test_every_attempt_ends_as_it_should_among_all_kinds_of_misbehaviour(
    open_harness: Open, tmp_path: Path, seed: int
) -> None:
    """Crashes, exits, unpicklable values, memory, timeouts, stops and kills at the same time: each end is of its kind."""
    chance = random.Random(seed)
    harness = open_harness(3, memory=700 * MB, object_memory=16 * MB, spill=(str(tmp_path / "spill"),))
    kinds = ("fine", "large", "exit", "crash", "unpicklable", "raise", "slow", "hoard")
    chosen = [chance.choices(kinds, (20, 6, 2, 2, 4, 4, 1, 0.5))[0] for _ in range(300)]
    specs = []
    for number, kind in enumerate(chosen):
        match kind:
            case "fine":
                specs.append(harness.spec("same", number))
            case "large":
                specs.append(harness.spec("repeat", "x", 200_000))
            case "exit":
                specs.append(harness.spec("exit_hard", 3))
            case "crash":
                specs.append(harness.spec("crash"))
            case "unpicklable":
                specs.append(harness.spec("unpicklable_result"))
            case "raise":
                specs.append(harness.spec("fail"))
            case "slow":
                specs.append(harness.spec("touch_and_hang", str(tmp_path / f"{number}"), timeout=0.3, grace=0.2))
            case "hoard":
                specs.append(harness.spec("hoard", 1500 * MB))
    harness.submit(*specs)
    stopped = threading.Event()

    def disturb() -> None:
        struck_at = 0
        while not stopped.wait(0.15):
            if len(harness.ends) > struck_at:  # else no worker would ever come up where that takes longer
                struck_at = len(harness.ends)
                strike(chance, harness, chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV]))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        ends = harness.ends_of([spec.id for spec in specs])
    finally:
        stopped.set()
        thread.join()
    for kind, spec, end in zip(chosen, specs, ends, strict=True):
        if isinstance(end, Lost):
            continue  # each of them may have been hit
        match kind:
            case "fine" | "large":
                assert isinstance(end, Succeeded)
            case "exit" | "crash":
                raise AssertionError(f"{spec.id} has not died: {end}")
            case "unpicklable" | "raise":
                assert isinstance(end, Failed)
            case "slow":
                assert isinstance(end, TimedOut)
            case "hoard":
                assert isinstance(end, Failed)
                assert end.failure.kind == "memory"
    for end in ends:
        if isinstance(end, Succeeded) and end.shared is not None:
            end.shared.close()


def test_a_stopped_worker_delays_what_it_runs_and_nothing_else(open_harness: Open) -> None:
    """SIGSTOP: what had been sent to it goes to others, and what it runs ends when it goes on."""
    harness = open_harness(2)
    for _ in range(3):
        harness.run("same", 0)
    specs = [harness.spec("same", number) for number in range(400)]  # few: all are looked at in each turn
    harness.submit(*specs)
    (victim, *_) = workers_of(harness)
    os.kill(victim, signal.SIGSTOP)
    try:
        harness.wait(lambda: len(harness.ends) >= 390)
    finally:
        os.kill(victim, signal.SIGCONT)
    assert [harness.result(spec.id) for spec in specs] == list(range(400))


def test_actors_and_their_calls_end_whoever_is_killed(open_harness: Open) -> None:
    """Each call of an actor that is killed ends once; what had been answered was right."""
    chance = random.Random(5)
    harness = open_harness(2)
    calls: dict[int, list[TaskSpec]] = {}
    for actor in range(4):
        work = ActorWork((actor,))
        harness.submit(harness.spec("Counter", 0, mode="create", actor=work, resources=Resources(0.25)))
        calls[actor] = [
            harness.spec("Counter", 1, mode="method", actor=ActorWork((actor,), "add"), resources=Resources(0.25))
            for _ in range(400)
        ]
        harness.submit(*calls[actor])
    for done in (200, 500, 800):
        harness.wait(lambda done=done: len(harness.ends) >= done)  # type: ignore[misc]
        strike(chance, harness, signal.SIGKILL)
    for specs in calls.values():
        ends = harness.ends_of([spec.id for spec in specs])
        answered = [
            harness.result(spec.id) for spec, end in zip(specs, ends, strict=True) if isinstance(end, Succeeded)
        ]
        assert answered == list(range(1, len(answered) + 1))
        assert all(isinstance(end, Lost) for end in ends[len(answered) :])
