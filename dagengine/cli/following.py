"""Following a run that this process works on: progress until its end, and what a person's Ctrl-C does.

    first SIGINT, SIGTERM or SIGHUP    drain: nothing more is started, what runs is waited for
    second                             what runs is ended, too

Either way the run is INTERRUPTED, and goes on with `resume`. The signal's handler only counts: the engine is told from
the loop below, because a handler runs between any two instructions and must not take a lock.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagengine.cli.lines import Display, Lines, Quiet
from dagengine.cli.terminal import clean, clock, is_terminal, plural
from dagengine.model import RunState

if TYPE_CHECKING:
    from dagengine.engine import Engine
    from dagengine.progress import Progress
    from dagengine.run import Run

TURN = 0.2  # seconds between two looks at the progress and at signals; the run's end is heard at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """How often the process was told to stop, and by what first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: int | None = None

    def _arrived(self, number: int, frame: object) -> None:
        self.count += 1
        if self.first is None:
            self.first = number


@contextmanager
def counted_signals() -> Iterator[Signals]:
    """Signals are counted instead of ending the process, until the block ends."""
    signals = Signals()
    before = {number: signal.signal(number, signals._arrived) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_display(run_id: str, started: float, quiet: bool) -> Display:
    if quiet:
        return Quiet()
    if is_terminal(sys.stderr):
        from dagengine.cli.live import LiveDisplay

        return LiveDisplay(run_id, started)
    return Lines(started)


def follow(engine: Engine, run: Run[Any], display: Display, signals: Signals) -> None:
    """Show the run's progress until it has ended, or this process has let go of it."""
    shown: Display = display
    told = 0
    asleep = False
    try:
        while not run.wait(TURN):
            progress = run.progress()
            if asleep != (progress.state is RunState.WAITING):
                asleep = not asleep
                shown.say(_waiting(engine, run) if asleep else "goes on")
            shown = _update(shown, progress)
            while told < min(2, signals.count):
                told += 1
                shown.say(_stopping(progress, told))
                engine.interrupt(force=told == 2)
        _update(shown, run.progress())
    finally:
        display.close()


def _waiting(engine: Engine, run: Run[Any]) -> str:
    """What a run that has nothing to do waits for."""
    from dagengine.waiting_view import waiting_view

    found = waiting_view(engine.store, engine.store.find_run(run.id))
    if found is None:
        return "waits"
    until = f" until {clock(found.until)}" if found.until else ""
    what = [each for _, each in found.steps if each != "its time"]
    return clean(f"waits{until}{' for ' if what else ''}{', '.join(dict.fromkeys(what))}", 300)


def _update(display: Display, progress: Progress) -> Display:
    try:
        display.update(progress, time.time())
    except OSError:
        return Quiet()  # the terminal is gone; the run goes on without it
    return display


def _stopping(progress: Progress, told: int) -> str:
    if told == 2:
        return "stopping now: running steps are ended"
    running = sum(task.running for task in progress.tasks)
    return f"draining: {plural(running, 'running step')}; press again to stop now"


def exit_status(state: RunState, signals: Signals) -> int:
    """What the command ends with: 0, 1, or of an interrupted run what the signal asks for."""
    if state is RunState.SUCCEEDED:
        return 0
    if state in (RunState.INTERRUPTED, RunState.WAITING) and signals.first is not None:
        return 128 + signals.first
    return 1
