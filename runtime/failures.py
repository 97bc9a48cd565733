"""What became of an exception: text that can always be shown, and the exception itself where it survives pickling.

Runs next to the exception, in the worker, because the controller never unpickles. Whatever the exception does to us
(a `__str__` that raises, a `__reduce__` that exits), a Failure comes out. May import nothing of ours but errors, model, raising.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from dagengine.errors import (
    READ_ONLY,
    ArtifactDamaged,
    ArtifactMissing,
    DagengineError,
    ObjectLost,
    ObjectStoreFull,
    Unpicklable,
)
from dagengine.model import Failure
from dagengine.runtime.raising import RemoteTraceback

MESSAGE_LIMIT: Final = 10_000
TRACEBACK_LIMIT: Final = 100_000
PICKLE_LIMIT: Final = 64 * 1024

_OURS = (str(Path(__file__).parent) + "/", str(Path(pickle.__file__).with_name("asyncio")) + "/")
"""Frames that lead from the worker's loop to the user's function; asyncio's are part of that way for async ones."""

_PACKAGE = str(Path(__file__).parent.parent) + "/"
_PICKLER = "/cloudpickle/"


def describe_failure(error: BaseException, is_retriable: Callable[[BaseException], bool] | None = None) -> Failure:
    """The failure of a task that raised `error`. `is_retriable`: the task's own predicate."""
    retriable, note = True, ""
    if isinstance(error, ValueError) and "read-only" in _text(error):
        error.add_note(READ_ONLY)
    if isinstance(error, Unpicklable):
        retriable = False
    elif is_retriable is not None:
        try:
            retriable = bool(is_retriable(error))
        except BaseException as broken:
            retriable = False
            note = f"\nThe task's retry_on raised {_name(broken)}: {_text(broken)}. So this is not retried.\n"
    kind = "error"
    facts: dict[str, Any] = {}
    if isinstance(error, (ArtifactDamaged, ArtifactMissing)):
        kind = "artifact"
    elif isinstance(error, Unpicklable):
        kind = "unpicklable"
    elif isinstance(error, ObjectStoreFull):
        kind = "objects"
    elif isinstance(error, ObjectLost):
        kind, facts = "object", _lost_objects(error)
    return Failure(
        kind=kind,
        type=_name(error),
        message=_shorten(_text(error), MESSAGE_LIMIT),
        traceback=_shorten(_traceback(error), TRACEBACK_LIMIT) + note,
        pickled=_pickled(error),
        retriable=retriable,
        facts=facts,
    )


def _lost_objects(error: ObjectLost) -> dict[str, Any]:
    """What was found to be damaged here. Anybody may raise such an error, with anything in it."""
    found = error.__dict__.get("objects")
    try:
        return {"objects": [[int(part) for part in number] for number in found]} if found else {}
    except BaseException:
        return {}


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"<{type(error).__qualname__} whose text can't be made: {type(broken).__qualname__}>"


def _shorten(text: str, limit: int) -> str:
    """The beginning and, of what is longer, the end: of a traceback both matter."""
    text = text.encode("utf-8", "backslashreplace").decode()  # lone surrogates can't be stored
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def _traceback(error: BaseException) -> str:
    """The traceback without our own frames at its top; and without those at its end, where what failed is not there."""
    try:
        shown = traceback.TracebackException(type(error), error, _users_part(error.__traceback__), compact=True)
        if isinstance(error, Unpicklable):
            _leave_pickling_out(shown)
        elif _is_told_by_us(error):
            _leave_our_end_out(shown.stack)
        return "".join(shown.format())
    except BaseException as broken:
        return f"{_name(error)}: {_text(error)}\n(its traceback can't be shown: {type(broken).__qualname__})\n"


def _users_part(frames: TracebackType | None) -> TracebackType | None:
    found = frames
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_OURS):
        found = found.tb_next
    # All ours: the user's code was not reached, and our frames are the only ones that say where it ended.
    return found or frames


def _is_told_by_us(error: BaseException) -> bool:
    """Whether the line of ours that raised it says nothing: we tell the user something, or pass another step's error on."""
    return isinstance(error, DagengineError) or isinstance(error.__cause__, RemoteTraceback)


def _leave_our_end_out(stack: traceback.StackSummary) -> None:
    users = len(stack)
    while users and stack[users - 1].filename.startswith(_PACKAGE):
        users -= 1
    if users:
        del stack[users:]


def _leave_pickling_out(shown: traceback.TracebackException | None) -> None:
    """Only what the user's own code did while it was pickled says more than the error does."""
    while shown is not None:
        frames = [one for one in shown.stack if not one.filename.startswith(_PACKAGE) and _PICKLER not in one.filename]
        shown.stack[:] = frames
        shown.__context__ = None  # the same, as another pickler met it
        shown = shown.__cause__


def _pickled(error: BaseException) -> bytes | None:
    """The exception, if what comes back is of the same type."""
    try:
        try:
            data = pickle.dumps(error, 5)
        except Exception:
            # Its class may belong to a script, and travel by value.
            import cloudpickle

            data = cloudpickle.dumps(error, 5)
        if len(data) <= PICKLE_LIMIT and type(pickle.loads(data)) is type(error):
            return bytes(data)
    except BaseException:
        return None
    return None
