"""Recorded failures back as exceptions, for the code that asks for a result. `runtime/failures.py` is the way there.

May import errors and model.
"""

from __future__ import annotations

import pickle

from dagengine.errors import (
    DefinitionError,
    EventTimeout,
    StepCancelled,
    StepFailed,
    StepSkipped,
    StepTimeout,
    StepUnknown,
    TooDeep,
    WorkerLost,
)
from dagengine.model import Failure

_BY_KIND = {
    "timeout": StepTimeout,
    "lost": WorkerLost,
    "skipped": StepSkipped,
    "cancelled": StepCancelled,
    "unknown": StepUnknown,
    "depth": TooDeep,
    "definition": DefinitionError,
    "event": EventTimeout,
}


class StepTraceback(Exception):
    """The cause that `get` gives to a step's exception: where it was raised, in the process that ran the step."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


def exception_of(failure: Failure, key: str | None) -> BaseException:
    """The exception to raise for the failure of step `key`, or of a body: its own, where that can be brought back. Runs the user's code."""
    error: BaseException | None = None
    if failure.pickled is not None:
        try:
            error = pickle.loads(failure.pickled)
        except Exception:
            error = None
    if not isinstance(error, BaseException):
        fields = {**failure.facts, "key": key}
        stand_in = _BY_KIND.get(failure.kind, StepFailed)
        text = failure.message if stand_in is not StepFailed else f"{failure.type}: {failure.message}"
        error = stand_in(text, **fields)
    if failure.traceback:
        error.__cause__ = StepTraceback(failure.traceback)
    error.add_note(f"in step {key}" if key else "in the workflow's body")
    return error
