"""Runs that wait: what ten thousand of them cost while they sleep, and how fast what is due at once is there.

    python -m benchmarks.waiting [RUNS]

Three figures, of one engine on SQLite in a temporary folder, tasks in this process:

- RUNS runs that sleep for a day: runs begun in a second; memory and threads of the process when all of them sleep
- they are due at once: seconds until all have ended
- one run with as many timers, due at once: seconds from when they are due to the run's end
"""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import dagengine
from dagengine.clocks import Clock
from dagengine.engine import Engine
from dagengine.model import RunState
from dagengine.runtime.inline import InlineRuntime

DAY = 86_400.0


class Leap(Clock):
    """A clock that can be put forward."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


@dagengine.workflow
def sleeps() -> str:
    dagengine.sleep(DAY)
    return "woke"


@dagengine.workflow
def timers(count: int) -> int:
    return len(dagengine.gather([dagengine.timer(DAY) for _ in range(count)]))


def memory() -> float:
    """MB of this process that are in memory now."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() / 1e6


def forward(engine: Engine, clock: Leap) -> float:
    """It is two days later; returns when."""
    clock.ahead += 2 * DAY
    engine.do(lambda: None)
    return time.monotonic()


def many_runs(engine: Engine, clock: Leap, count: int) -> None:
    before = memory()
    began = time.monotonic()
    runs = [engine.start(sleeps) for _ in range(count)]
    started = time.monotonic() - began
    for run in runs:
        while run.state is not RunState.WAITING:
            run.wait(0.01)
    asleep = time.monotonic() - began
    print(f"{count:,} runs begun in {started:.1f} s ({count / started:,.0f}/s), all asleep after {asleep:.1f} s")
    print(f"memory {memory():.0f} MB ({before:.0f} before the first), {threading.active_count()} threads")
    due = forward(engine, clock)
    for run in runs:
        assert run.result() == "woke"
    print(f"due at once: all ended after {time.monotonic() - due:.1f} s")


def many_timers(engine: Engine, clock: Leap, count: int) -> None:
    run = engine.start(timers, count)
    while run.state is not RunState.WAITING:
        run.wait(0.01)
    due = forward(engine, clock)
    assert run.result() == count
    print(f"{count:,} timers of one run, which sleeps: ended {time.monotonic() - due:.2f} s after they were due")
    run = engine.start(timers, count)
    while run._life.driver is None or len(run._driver.outside.waits) < count:
        run.wait(0.01)
    due = forward(engine, clock)
    assert run.result() == count
    print(f"{count:,} timers of one run, which is loaded: ended {time.monotonic() - due:.2f} s after they were due")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    clock = Leap()
    with (
        tempfile.TemporaryDirectory(prefix="dagengine-") as folder,
        Engine(f"{folder}/store.db", home=folder, runtime=InlineRuntime(), clock=clock) as engine,
    ):
        many_runs(engine, clock, count)
        many_timers(engine, clock, count)


if __name__ == "__main__":
    main()
