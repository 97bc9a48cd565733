"""Failures of tasks back as exceptions, for whoever asks for a result. `failures.py` is the way there.

May import nothing of ours but errors and model.
"""

from __future__ import annotations

import pickle
from typing import Any, Final

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
    """The cause of an exception that came from a task or a step: where it was raised, in the process that ran it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


def exception_of(failure: Failure, task: str = "") -> BaseException:
    """The exception to raise: the task's own, where it can be brought back. Runs the user's code."""
    return brought_back(failure, _BY_KIND.get(failure.kind, TaskFailed), TaskFailed, {"task": task})


def brought_back(
    failure: Failure, stand_in: type[DagengineError], unknown: type[DagengineError], fields: dict[str, Any]
) -> BaseException:
    """The exception that a failure is of, or else a `stand_in` with the failure's facts and these fields.

    unknown: the stand-in for exceptions that only their name is known of. Runs the user's code.
    """
    error: BaseException | None = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        text = failure.message if stand_in is not unknown else f"{failure.type}: {failure.message}"
        error = stand_in(text, **{**failure.facts, **fields})
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
