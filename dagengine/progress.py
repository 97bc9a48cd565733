"""How far a run is, per task, for whoever watches. Kept by the engine's thread, read from any. May import model."""

from __future__ import annotations

from dataclasses import dataclass

from dagengine.model import RunState, StepState

NOTICES_MAX = 1_000
"""Notices kept for whoever watches; the store has all of them as events."""


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
