"""Failures of tasks back as exceptions, for whoever asks for a result. `failures.py` is the way there.

May import nothing of ours but errors and model.
"""

from __future__ import annotations

import pickle
from typing import Final

from dagengine.errors import (
    ActorLost,
    DagengineError,
    Deadlock,
    ObjectLost,
    ObjectStoreFull,
    OutOfMemory,
    RuntimeStopped,
    TaskCancelled,
    TaskFailed,
    TaskTimeout,
    WorkerLost,
)
from dagengine.model import Failure

_BY_KIND: Final[dict[str, type[DagengineError]]] = {
    "timeout": TaskTimeout,
    "lost": WorkerLost,
    "cancelled": TaskCancelled,
    "actor": ActorLost,
    "memory": OutOfMemory,
    "objects": ObjectStoreFull,
    "object": ObjectLost,
    "stopped": RuntimeStopped,
    "deadlock": Deadlock,
}


class RemoteTraceback(Exception):
    """The cause of a task's exception: where it was raised, in the process that ran the task."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


def exception_of(failure: Failure, task: str = "") -> BaseException:
    """The exception to raise: the task's own, where it can be brought back. Runs the user's code."""
    error: BaseException | None = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        stand_in = _BY_KIND.get(failure.kind, TaskFailed)
        text = failure.message if stand_in is not TaskFailed else f"{failure.type}: {failure.message}"
        error = stand_in(text, **{**failure.facts, "task": task})
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def cancelled(task: str) -> Failure:
    return Failure("cancelled", "TaskCancelled", f"{task} was cancelled", retriable=False)


def timed_out(task: str) -> Failure:
    return Failure("timeout", "TaskTimeout", f"{task} ran past its timeout and was ended")


def stopped(reason: str = "the runtime was stopped before the task had ended") -> Failure:
    return Failure("stopped", "RuntimeStopped", reason, retriable=False)


def actor_lost(actor: str, reason: str) -> Failure:
    return Failure("actor", "ActorLost", f"the actor {actor} is gone: {reason}", retriable=False)
