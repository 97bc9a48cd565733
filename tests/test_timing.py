"""The critical path, the totals and the pictures: pure functions of steps with times."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dagengine import get, sleep, task, workflow
from dagengine.model import StepState
from dagengine.testing import memory_engine
from dagengine.timing import Timed, chrome_trace, gantt, profile, timed_steps


def step(seq: int, created: float, started: float, ended: float, *reads: int, **more: Any) -> Timed:
    tries = ((started, ended, "host worker 0"),)
    state = StepState.SUCCEEDED
    return Timed(seq, f"w/s[{seq}]", more.pop("task", "s"), state, created, ended, tries, reads, **more)


def path(steps: list[Timed]) -> list[int]:
    return [int(leg.key[4:-1]) for leg in profile(steps).path]


def test_the_path_goes_back_over_the_inputs_that_ended_last() -> None:
    """Not over the other ones; what each waited and ran is told."""
    steps = [step(0, 0, 1, 2), step(1, 0, 1, 5), step(2, 0, 6, 8, 0, 1), step(3, 0, 2, 3)]
    found = profile(steps)
    assert path(steps) == [1, 2]
    assert [(leg.body, leg.waited, leg.ran) for leg in found.path] == [(0, 1, 4), (0, 1, 2)]
    assert found.seconds == 8


def test_a_step_that_was_called_late_comes_after_what_the_body_waited_for() -> None:
    """The time in between is the body's."""
    steps = [step(0, 0, 0, 3), step(1, 0, 0, 2), step(2, 4, 5, 6)]
    found = profile(steps)
    assert path(steps) == [0, 2]
    assert [leg.body for leg in found.path] == [0, 1]


def test_a_map_is_followed_to_its_slowest_item_and_to_what_it_was_made_of() -> None:
    """The map itself is on the path for the making of its items."""
    steps = [
        step(0, 0, 0, 1),
        Timed(1, "w/s[1]", "m", StepState.SUCCEEDED, 0, 9, ((1, 2, "here"),), (0,), (2, 3)),
        step(2, 2, 2, 4, by=1),
        step(3, 2, 3, 9, by=1),
        step(4, 0, 9, 10, 1),
    ]
    assert path(steps) == [0, 1, 3, 4]


def test_retries_are_told_apart_from_running() -> None:
    """The delay between two attempts."""
    one = Timed(0, "w/s[0]", "s", StepState.SUCCEEDED, 0, 9, ((0, 1, "a"), (5, 9, "a")))
    [leg] = profile([one]).path
    assert (leg.ran, leg.retried) == (5, 4)


def test_what_did_not_run_took_no_time() -> None:
    """A shared step is counted, and is on no path."""
    shared = Timed(0, "w/s[0]", "s", StepState.SUCCEEDED, 5, 5)
    found = profile([shared, step(1, 5, 6, 7, 0)])
    assert (found.seconds, [leg.key for leg in found.path]) == (2, ["w/s[1]"])
    [total] = found.totals
    assert (total.steps, total.shared) == (1, 1)
    assert profile([shared]).path == ()


def test_a_picture_has_a_line_for_each_step_or_for_each_task() -> None:
    """Of the width that was asked for."""
    steps = [step(0, 0, 2, 4), step(1, 0, 4, 8, 0, task="t")]
    assert gantt(steps, 8) == [("w/s[0]", "··███   ", 2), ("w/s[1]", "    ████", 4)]
    assert [(name, len(cells)) for name, cells, _ in gantt(steps, 8, rows=1)] == [("s", 8), ("t", 8)]
    assert gantt([], 8) == []


def test_a_trace_has_a_slice_for_each_attempt() -> None:
    """In microseconds, on its worker's row; JSON."""
    trace = json.loads(json.dumps(chrome_trace([step(0, 0, 1.5, 2)])))
    [name, piece] = trace["traceEvents"]
    assert (name["args"]["name"], piece["ts"], piece["dur"]) == ("host worker 0", 1_500_000, 500_000)


@st.composite
def runs(draw: st.DrawFn) -> list[Timed]:
    """Any run of steps whose times are possible."""
    steps: list[Timed] = []
    for seq in range(draw(st.integers(1, 12))):
        reads = tuple(draw(st.sets(st.integers(0, seq - 1), max_size=3))) if seq else ()
        created = draw(st.integers(0, 20))
        ready = max([created, *((steps[read].ended_at or 0) for read in reads)])
        started = ready + draw(st.integers(0, 5))
        steps.append(step(seq, created, started, started + draw(st.integers(0, 9)), *reads))
    return steps


@given(runs())
def test_the_path_of_any_run_fits_into_its_time(steps: list[Timed]) -> None:
    """It ends with the end of the run, its steps do not overlap, and its parts are never longer than the run."""
    found = profile(steps)
    on_path = [steps[seq] for seq in path(steps)]
    assert on_path
    assert on_path[-1].ended_at == max(one.ended_at or 0 for one in steps)
    assert all((a.ended_at or 0) <= (b.started_at or 0) for a, b in itertools.pairwise(on_path))
    parts = sum(leg.body + leg.waited + leg.ran + leg.retried for leg in found.path)
    assert parts <= found.seconds + 1e-9
    assert all(min(leg.body, leg.waited, leg.ran, leg.retried) >= 0 for leg in found.path)


@task
def double(value: int) -> int:
    return 2 * value


@workflow
def child(value: int) -> Any:
    sleep(0.02)
    return double(value)


@workflow
def waits() -> Any:
    get(double(1))
    sleep(0.03)
    return double(child.start(3))  # type: ignore[arg-type]


def test_what_waits_for_the_world_is_on_the_path() -> None:
    """A timer and a child run, for as long as they took; what a fork shares took no time in it."""
    with memory_engine() as engine:
        run = engine.start(waits)
        run.wait()
        record = engine.store.find_run(run.id)
        found = profile(timed_steps(engine.store, record))
        keys = [leg.key for leg in found.path]
        assert keys == ["waits/double[0]", "waits/sleep[0]", "waits/child[0]", "waits/double[1]"]
        assert all(leg.ran > 0 for leg in found.path)
        assert sum(leg.body + leg.waited + leg.ran for leg in found.path) <= found.seconds + 1e-6
        fork = engine.fork(run.id, from_="waits/double[1]")
        fork.wait()
        again = profile(timed_steps(engine.store, engine.store.find_run(fork.id)))
        assert [leg.key for leg in again.path] == ["waits/double[1]"]
