"""How far a run is, per task, for whoever watches. Kept by the engine's thread, read from any. May import model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dagengine.model import RunState, StepState

NOTICES_MAX = 1_000
"""Notices kept for whoever watches; the store has all of them as events."""

NOTICE_LENGTH = 500
"""Characters of a notice: a line for people; `dagengine errors` has the whole."""


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """Steps of one function.

    mean_seconds: of the attempts that succeeded in this process
    before: steps that had ended when this process took the run over
    """

    task: str
    total: int
    done: int
    running: int
    failed: int
    skipped: int  # and cancelled
    retrying: int
    mean_seconds: float | None
    before: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """notices: one line each for a retry, a failure, a lost worker; only ever added to."""

    run_id: str
    workflow: str
    state: RunState
    tasks: tuple[TaskProgress, ...]
    started_at: float
    notices: tuple[str, ...]


class Tally:
    """What is counted of a run while it goes on: written on the engine's thread, read from any."""

    def __init__(self, notices: list[str] | None = None) -> None:
        self.notices = [] if notices is None else notices
        self._counts: dict[str, TaskCount] = {}
        self._running: dict[int, TaskCount] = {}  # by seq
        self._retrying: dict[int, TaskCount] = {}  # steps that wait for their next attempt

    def view(self) -> tuple[TaskProgress, ...]:
        return tuple(count.view(name) for name, count in list(self._counts.items()))

    def of(self, task: str) -> TaskCount:
        count = self._counts.get(task)
        if count is None:
            count = self._counts[task] = TaskCount()
        return count

    def take_over(self, task: str, state: StepState, count: int) -> None:
        """Steps that were recorded before this process took the run over."""
        known = self.of(task)
        known.total += count
        if state.ended:
            known.end(state, count)
            known.before += count

    def dropped(self, tasks: Iterable[str]) -> None:
        """Steps of these functions, which had succeeded before, are none of the run's any more."""
        for task in tasks:
            count = self.of(task)
            count.total, count.done, count.before = count.total - 1, count.done - 1, count.before - 1

    def started(self, seq: int, task: str) -> None:
        if seq not in self._running:
            count = self._running[seq] = self.of(task)
            count.running += 1

    def stopped(self, seq: int) -> None:
        """The attempt has ended, in whatever way; it need not have been told as started."""
        if (count := self._running.pop(seq, None)) is not None:
            count.running -= 1

    def timed(self, task: str, seconds: float) -> None:
        """An attempt has succeeded after that long."""
        count = self.of(task)
        count.timed += 1
        count.seconds += seconds

    def ended(self, seq: int, task: str, state: StepState) -> None:
        self.submitted(seq)
        self._counts[task].end(state)

    def retried(self, seq: int, task: str) -> None:
        """The step waits for its next attempt, until it is `submitted` or has `ended`."""
        if seq not in self._retrying:
            count = self._retrying[seq] = self.of(task)
            count.retrying += 1

    def submitted(self, seq: int) -> None:
        if self._retrying and (count := self._retrying.pop(seq, None)) is not None:
            count.retrying -= 1

    def notice(self, line: str) -> None:
        if len(self.notices) < NOTICES_MAX:
            self.notices.append(line[:NOTICE_LENGTH])


class TaskCount:
    """The counts of one function's steps."""

    __slots__ = ("before", "done", "failed", "retrying", "running", "seconds", "skipped", "timed", "total")

    def __init__(self) -> None:
        self.total = self.done = self.running = self.failed = self.skipped = self.retrying = 0
        self.before = self.timed = 0
        self.seconds = 0.0

    def end(self, state: StepState, count: int = 1) -> None:
        if state is StepState.SUCCEEDED:
            self.done += count
        elif state is StepState.FAILED:
            self.failed += count
        else:
            self.skipped += count

    def view(self, task: str) -> TaskProgress:
        mean = self.seconds / self.timed if self.timed else None
        return TaskProgress(
            task, self.total, self.done, self.running, self.failed, self.skipped, self.retrying, mean, self.before
        )
