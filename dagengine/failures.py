"""Recorded failures back as exceptions, for the code that asks for a result. `runtime/failures.py` is the way there.

May import errors, model and runtime.raising.
"""

from __future__ import annotations

from typing import Final

from dagengine.errors import (
    DagengineError,
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
from dagengine.runtime.raising import brought_back

_BY_KIND: Final[dict[str, type[DagengineError]]] = {
    "timeout": StepTimeout,
    "lost": WorkerLost,
    "skipped": StepSkipped,
    "cancelled": StepCancelled,
    "unknown": StepUnknown,
    "depth": TooDeep,
    "definition": DefinitionError,
    "event": EventTimeout,
}


def exception_of(failure: Failure, key: str | None) -> BaseException:
    """The exception to raise for the failure of step `key`, or of a body: its own, where that can be brought back.

    Its cause is where it was raised, in the process that ran the step. Runs the user's code.
    """
    error = brought_back(failure, _BY_KIND.get(failure.kind, StepFailed), StepFailed, {"key": key})
    error.add_note(f"in step {key}" if key else "in the workflow's body")
    return error
