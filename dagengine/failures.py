"""Exceptions as facts that can always be shown, and back again as exceptions.

An exception crosses processes as text, and as itself where it survives pickling. Nothing that an exception does (a
`__str__` that raises, a constructor with other arguments, a gigabyte of message) may become a second failure.

Used next to the exception: in workers, and around a workflow's body. May import errors, functions and model.
"""

from __future__ import annotations

import pickle
import traceback
from types import TracebackType

from dagengine.errors import StepCancelled, StepFailed, StepSkipped, StepTimeout, WorkerLost
from dagengine.model import Failure

MESSAGE_LIMIT = 10_000  # characters
TRACEBACK_LIMIT = 100_000  # characters; of a longer one the end is kept, where the exception is
PICKLE_LIMIT = 64 * 1024  # bytes; a larger exception carries data that belongs into a result

_BY_KIND = {"timeout": StepTimeout, "lost": WorkerLost, "skipped": StepSkipped, "cancelled": StepCancelled}


class StepTraceback(Exception):
    """The cause that `get` gives to a step's exception: where it was raised, in the process that ran the step."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text.rstrip()}"


def failure_of(error: BaseException, skip_frames_of: str | None = None, retriable: bool = True) -> Failure:
    """The failure that `error` is. Frames above the first one that is not of the file `skip_frames_of` are ours: cut."""
    kind = type(error)
    return Failure(
        "error",
        f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        _message(error),
        _traceback(error, skip_frames_of),
        _pickled(error),
        retriable,
    )


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as second:
        text = f"(its text can't be had: __str__ raised {type(second).__name__})"
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}… ({len(text):,} characters)"


def _traceback(error: BaseException, skip: str | None) -> str:
    trace: TracebackType | None = error.__traceback__
    while skip is not None and trace is not None and trace.tb_frame.f_code.co_filename == skip:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))
    except Exception:
        text = "".join(traceback.format_tb(trace)) + f"{type(error).__qualname__}: (its text can't be had)\n"
    return text if len(text) <= TRACEBACK_LIMIT else f"…{text[-TRACEBACK_LIMIT:]}"


def _pickled(error: BaseException) -> bytes | None:
    try:
        data = pickle.dumps(error, 5)
        if len(data) > PICKLE_LIMIT or type(pickle.loads(data)) is not type(error):
            return None
    except BaseException:
        return None
    return data


def exception_of(failure: Failure, key: str) -> BaseException:
    """The exception to raise for a step's failure: its own, where that can be brought back. Runs the user's code."""
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
    error.add_note(f"in step {key}")
    return error
