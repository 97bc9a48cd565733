"""What of a run goes to the log of its Airflow task: where to look, what went wrong, and how far it is.

A line for each thing that a reader of the log would miss: the run's id and how to see it, each retry, failure and lost
worker (the first 200), each task all of whose steps have ended, a sign of life while nothing else is said, the end of what
a failed step had printed. Never a line for each step: there may be 100,000.

Of ours it may import hints, model and progress; a client is what it is given.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dagengine.airflow_plugin.hints import command
from dagengine.model import RunRecord, RunState, StepState
from dagengine.progress import Progress, TaskProgress

if TYPE_CHECKING:
    from dagengine.client import Client

Say = Callable[[int, str], None]
"""A line for the task's log: its level, as of `logging`, and the text."""

SIGN_OF_LIFE = 30.0
"""Seconds between two lines while nothing else is said, if anything has changed."""

LOOK_AGAIN = 5.0
"""Seconds between two looks at the store, of a run on which somebody else works: its end is heard of at once."""

NOTICES_SHOWN = 200
"""Retries and failures that are said one by one. After that many, more of them are no news."""

TASKS_SHOWN = 6
OUTPUT_LINES = 20
OUTPUT_BYTES = 16 * 1024
NOTICE_LEVELS = {"failed and is tried again": logging.WARNING, "lost its worker": logging.WARNING}


class RunLog:
    """Says what happens, each once. Called by one thread."""

    def __init__(self, say: Say, now: float, store: str = "") -> None:
        """`store`: as of `hints.store_of`."""
        self._say = say
        self._store = store
        self._began = self._last = self._looked = now
        self._notices = 0
        self._complete: dict[str, int] = {}
        self._seen: tuple[int, ...] = ()
        self._state: RunState | None = None

    def update(self, progress: Progress, now: float) -> None:
        """What has happened since the last call, of a run of this process."""
        for notice in progress.notices[self._notices : NOTICES_SHOWN]:
            level = next((level for part, level in NOTICE_LEVELS.items() if part in notice), logging.ERROR)
            self._line(level, clean(notice), now)
        if self._notices < NOTICES_SHOWN <= len(progress.notices):
            see = command("errors", progress.run_id, self._store)
            self._line(logging.WARNING, f"further ones are not shown: {see}", now)
        self._notices = len(progress.notices)
        for task in progress.tasks:
            ended = task.done + task.failed + task.skipped
            if ended == task.total and self._complete.get(task.task, task.before) != ended:
                self._complete[task.task] = ended
                self._line(logging.INFO, f"{clean(task.task)}: {_ended(task)} ({duration(now - self._began)})", now)
        counts = tuple(task.done + task.failed + task.skipped for task in progress.tasks)
        if now - self._last >= SIGN_OF_LIFE and counts != self._seen:
            going = [f"{clean(task.task)} {task.done:,} of {task.total:,}" for task in progress.tasks if _goes_on(task)]
            shown = ", ".join(going[:TASKS_SHOWN]) + (", …" if len(going) > TASKS_SHOWN else "")
            self._line(logging.INFO, f"{shown} done ({duration(now - self._began)})", now)
            self._seen = counts

    def is_due(self, now: float) -> bool:
        """Whether to `look` at the store again: a question to it, which is not asked at every turn."""
        return self._state is None or now - self._looked >= LOOK_AGAIN

    def look(self, client: Client, run: RunRecord, state: RunState, now: float) -> None:
        """The same for a run on which somebody else works: changes of its state, and now and then its counts."""
        self._looked = now
        if state is not self._state:
            self._state = state
            why = _WHY.get(state, "").format(unpause=command("unpause", run.id, self._store))
            self._line(logging.INFO, f"run {run.id[:12]} is {state}{why}", now)
        elif now - self._last >= SIGN_OF_LIFE:
            counts = client.store.counts(run.number)
            ended = (sum(count for (_, state), count in counts.items() if state.ended), sum(counts.values()))
            if ended != self._seen and ended[1]:
                self._line(
                    logging.INFO, f"{ended[0]:,} of {ended[1]:,} steps done ({duration(now - self._began)})", now
                )
            self._last, self._seen = now, ended

    def _line(self, level: int, text: str, now: float) -> None:
        self._say(level, text)
        self._last = now


_WHY = {
    RunState.PENDING: ": it waits for `dagengine serve` to begin it",
    RunState.WAITING: ": for a timer, a signal or another run",
    RunState.PAUSED: ": it goes on when somebody lets it: {unpause}",
}


def say_output(say: Say, client: Client, run: RunRecord) -> None:
    """The end of what the run's failed step had printed, if that is a file of this machine."""
    key = run.failure.facts.get("step") if run.failure is not None else None
    if not isinstance(key, str):
        return
    for step in client.store.steps(run.number, key=key):
        if step.state is StepState.FAILED:
            lines = _tail(client.settings.logs / run.id / f"{step.seq}.{step.attempts}.log")
            if lines:
                say(logging.INFO, f"the last that {clean(key)} printed, in its attempt {step.attempts}:")
            for line in lines:
                say(logging.INFO, f"  {clean(line)}")


def _tail(path: Path) -> list[str]:
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - OUTPUT_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
        return lines[1 if size > OUTPUT_BYTES else 0 :][-OUTPUT_LINES:]
    return []


def _goes_on(task: TaskProgress) -> bool:
    return task.done + task.failed + task.skipped < task.total


def _ended(task: TaskProgress) -> str:
    done = [f"{task.done:,} of {task.total:,} {'step' if task.total == 1 else 'steps'} done"]
    done += [f"{task.failed:,} failed"] if task.failed else []
    done += [f"{task.skipped:,} skipped"] if task.skipped else []
    return ", ".join(done)


def clean(text: str, limit: int = 1_000) -> str:
    """One line of the log: what can't be printed is escaped, so that nothing in it looks like another line."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:limit])
    return shown if len(text) <= limit else f"{shown}…"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
