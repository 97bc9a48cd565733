"""Progress as plain lines, for logs and pipes: what happened, each once, and a sign of life every ten seconds."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Protocol

from dagengine.cli.terminal import clean, duration, plural
from dagengine.progress import Progress, TaskProgress

SIGN_OF_LIFE = 10.0  # seconds between two lines while nothing ends


class Display(Protocol):
    """Who shows a run while it goes on. Called by one thread."""

    def update(self, progress: Progress, now: float) -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """Leave the terminal as a place to write to. Harmless when closed."""


class Quiet:
    """Shows nothing but what has to be said."""

    def update(self, progress: Progress, now: float) -> None:
        pass

    def say(self, text: str) -> None:
        _print(text)

    def close(self) -> None:
        pass


class Lines:
    def __init__(self, started: float, write: Callable[[str], None] | None = None) -> None:
        self._write = write or _print
        self._started = started
        self._last = started
        self._notices = 0
        self._complete: dict[str, int] = {}
        self._seen: tuple[int, ...] = ()

    def update(self, progress: Progress, now: float) -> None:
        for notice in progress.notices[self._notices :]:
            self.say(f"  {clean(notice)}")
            self._last = now
        self._notices = len(progress.notices)
        for task in progress.tasks:
            ended = task.done + task.failed + task.skipped
            if ended == task.total and self._complete.get(task.task, task.before) != ended:
                self._complete[task.task] = ended
                self.say(f"  {clean(task.task)}: {_ended(task)} ({duration(now - self._started)})")
                self._last = now
        counts = tuple(task.done + task.failed + task.skipped for task in progress.tasks)
        if now - self._last >= SIGN_OF_LIFE and counts != self._seen:
            going = [f"{clean(task.task)} {task.done:,}/{task.total:,}" for task in progress.tasks if _goes_on(task)]
            self.say(f"  {', '.join(going[:6])} ({duration(now - self._started)})")
            self._last, self._seen = now, counts

    def say(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        pass


def _goes_on(task: TaskProgress) -> bool:
    return task.done + task.failed + task.skipped < task.total


def _ended(task: TaskProgress) -> str:
    parts = [f"{plural(task.done, 'step')} done"] if task.done or not task.total else []
    parts += [f"{task.failed:,} failed"] if task.failed else []
    parts += [f"{task.skipped:,} skipped"] if task.skipped else []
    return ", ".join(parts)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever read this has gone; the run goes on
        print(text, file=sys.stderr, flush=True)
