"""What the end of a run is to an Airflow task: a value for XCom, or a failure that says where it happened.

    succeeded                  the value, if JSON gives back the same one and it is small; else a reference to it
    … with a skipped value     skipped; and so is a step or body that raised AirflowSkipException
    failed, interrupted, …     failed, and Airflow may retry it, which resumes the run
    failed for good, mismatch, failed, and no retry would help: arguments that don't fit, code that can't be loaded, an
    cancelled by a person      error that the task's own `retry_on` says is not worth a retry

Pure, but for `raise_for`, which is given Airflow's exceptions by importing them. Of ours it may import errors, hints and model.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from dagengine import errors
from dagengine.airflow_plugin.hints import command
from dagengine.model import Failure, RunState

REFERENCE_KEY = "__dagengine__"
"""In an XCom value: what is meant is the result of a run. The number says how the reference is written."""

XCOM_LIMIT = 48 * 1024
"""Bytes of a value's JSON that go to XCom as they are: XComs are rows of Airflow's own database, read by its pages."""

DEPTH_LIMIT = 50

_RESERVED = frozenset({REFERENCE_KEY, "__classname__", "__id__", "__version__", "__data__", "__type", "__var"})
"""Keys of dictionaries that Airflow, or we, would take for something else."""

_TEXT_LIMIT = 500

FOR_GOOD = frozenset({"unpicklable", "definition", "depth", "unknown", "mismatch"})
"""Kinds of failures that another try would meet again."""

_FOR_GOOD = (errors.DefinitionError, errors.Infeasible, errors.Rejected, errors.RunMismatch, errors.RunNotFound)


class Kind(StrEnum):
    """What becomes of the task."""

    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"  # Airflow may retry it
    FAILED_FOR_GOOD = "failed for good"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`value`: for XCom, of a task that succeeded. `text`: one line, of one that did not."""

    kind: Kind
    text: str = ""
    value: Any = None


# ---- values -----------------------------------------------------------------------------------


def for_xcom(
    value: Any, run_id: str, *, conn_id: str | None = None, store: str | None = None, limit: int = XCOM_LIMIT
) -> Any:
    """The value itself, if it is JSON of at most `limit` bytes that is read as the same value; else a reference."""
    if _is_json(value) and len(json.dumps(value).encode()) <= limit:
        return value
    return reference(run_id, conn_id=conn_id, store=store, type_name=type(value).__qualname__)


def reference(
    run_id: str, *, conn_id: str | None = None, store: str | None = None, type_name: str | None = None
) -> dict[str, Any]:
    """What stands for the run's result. `store`: without secrets; `type_name`: for people."""
    place = {"conn_id": conn_id} if conn_id is not None else {"store": store}
    return {REFERENCE_KEY: 1, "run": run_id, **place, **({} if type_name is None else {"type": type_name})}


def is_reference(value: Any) -> bool:
    return isinstance(value, dict) and REFERENCE_KEY in value and isinstance(value.get("run"), str)


def _is_json(value: Any, depth: int = 0) -> bool:
    """Whether JSON, Airflow and its database give back an equal value, of the same types."""
    kind = type(value)
    if kind in (bool, int) or value is None:
        return True
    if kind is float:
        return math.isfinite(value)
    if kind is str:
        return _is_text(value)
    if depth >= DEPTH_LIMIT:
        return False
    if kind is list:
        return all(_is_json(item, depth + 1) for item in value)
    if kind is dict:
        return all(
            type(key) is str and _is_text(key) and key not in _RESERVED and _is_json(item, depth + 1)
            for key, item in value.items()
        )
    return False


def _is_text(text: str) -> bool:
    """PostgreSQL's JSON has no NUL, and nobody's UTF-8 has half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


# ---- failures ---------------------------------------------------------------------------------


def failure_of(run_id: str, workflow: str, state: RunState, failure: Failure | None, store: str = "") -> Outcome:
    """The outcome of a run that has ended in `state` without success. `store`: as of `hints.store_of`."""
    name = f"run {run_id[:12]} of {_line(workflow, 100)}"
    look = command("show", run_id, store)
    if state is RunState.CANCELLED:
        return Outcome(Kind.FAILED_FOR_GOOD, f"{name} was cancelled. To see it: {look}")
    if state in (RunState.INTERRUPTED, RunState.CRASHED):
        return Outcome(Kind.FAILED, f"{name} was {_STOPPED[state]}. A retry goes on with it. To see it: {look}")
    if failure is None:
        return Outcome(Kind.FAILED, f"{name} is {state}. To see it: {look}")
    where = failure.facts.get("step")
    said = f"{failure.type.rpartition('.')[2]}: {first_line(failure.message)}"
    if _is_called(failure.type, "AirflowSkipException"):
        return Outcome(Kind.SKIPPED, first_line(failure.message) or f"{name} asked to be skipped")
    text = f"{name} failed{f' in step {_line(str(where), 200)}' if where else ''}: {said}. To see it: {look}"
    for_good = state is RunState.MISMATCH or is_for_good(failure)
    return Outcome(Kind.FAILED_FOR_GOOD if for_good else Kind.FAILED, text)


_STOPPED = {RunState.INTERRUPTED: "interrupted", RunState.CRASHED: "left by its process, which died"}


def is_for_good(failure: Failure) -> bool:
    """Whether a retry would only meet the same failure."""
    if failure.kind in FOR_GOOD or _is_called(failure.type, "AirflowFailException"):
        return True
    module, _, name = failure.type.rpartition(".")
    known = getattr(errors, name, None) if module == "dagengine.errors" else None
    if isinstance(known, type) and issubclass(known, _FOR_GOOD):
        return True
    return not failure.retriable and "child" not in failure.facts  # of a child's failure that is always said


def outcome_of_error(error: BaseException, run_id: str = "") -> Outcome:
    """The outcome of a try that ended with an error of ours, before or instead of an end of the run."""
    if isinstance(error, errors.StepSkipped):
        return Outcome(Kind.SKIPPED, f"what run {run_id[:12]} returned was skipped: {first_line(str(error))}")
    if _is_called(f"{type(error).__module__}.{type(error).__qualname__}", "AirflowSkipException"):
        return Outcome(Kind.SKIPPED, first_line(str(error)))
    text = first_line(str(error)) or type(error).__name__
    if not isinstance(error, errors.DagengineError):
        text = f"{type(error).__name__}: {text}"
    for_good = (
        *_FOR_GOOD,
        errors.RunExists,
        errors.StoreUnsupported,
        errors.StoreForeign,
        errors.StoreNewer,
        errors.StoreOutdated,
    )
    return Outcome(Kind.FAILED_FOR_GOOD if isinstance(error, for_good) else Kind.FAILED, text)


def raise_for(outcome: Outcome, cause: BaseException | None = None) -> NoReturn:
    """Raise what tells Airflow of an outcome that is no success."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

    if outcome.kind is Kind.SKIPPED:
        raise AirflowSkipException(outcome.text)
    if outcome.kind is Kind.FAILED_FOR_GOOD:
        raise AirflowFailException(outcome.text) from cause
    raise AirflowException(outcome.text) from cause


def _is_called(type_name: str, name: str) -> bool:
    """Whether the failure's type is Airflow's of that name, wherever this version of Airflow defines it."""
    module, _, found = type_name.rpartition(".")
    return found == name and module.partition(".")[0] == "airflow"


def first_line(text: str) -> str:
    """For a log: cut, and without the full stop at its end."""
    lines = text.strip().splitlines()
    return _line(lines[0], _TEXT_LIMIT).rstrip(". ") if lines else ""


def _line(text: str, limit: int) -> str:
    """Shown in logs: what can't be printed is escaped, and what is too long is cut."""
    clean = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    return clean if len(clean) <= limit else f"{clean[:limit]}…"
