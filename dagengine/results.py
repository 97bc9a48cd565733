"""How a run ended, for code that did not work on it: what it returned, or the exception that says why there is nothing.

Reading a value runs the code of whoever wrote its class: it is taken from the run's own pack of code, where that can be had.
May import advice, errors, failures, functions, model, pinning, reading and the interfaces of storage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from dagengine.errors import DagengineError, LoadError, RunCancelled, RunError, RunFailed, RunInterrupted, RunMismatch
from dagengine.failures import exception_of
from dagengine.functions import Reference, resolve
from dagengine.model import Failure, RunRecord, RunState, StepRecord
from dagengine.reading import Reader
from dagengine.storage.interface import ArtifactStore, Store


def read_result(store: Store, artifacts: ArtifactStore, run: RunRecord) -> Any:
    """What the run returned. Raises a failed input's own exception, or LoadError if this code can't read it."""
    assert run.result_call is not None
    with readable(f"the result of run {run.id[:8]}"):
        args, _ = _reader(store, artifacts, run).call(run.result_call, run.result_inputs)
        return args[0]


def read_step(store: Store, artifacts: ArtifactStore, run: RunRecord, step: StepRecord) -> Any:
    """The value of a step that succeeded."""
    with readable(f"the value of {step.key}"):
        return _reader(store, artifacts, run).steps([step.seq])[step.seq]


def _reader(store: Store, artifacts: ArtifactStore, run: RunRecord) -> Reader:
    from dagengine.code.pinning import import_from_pack

    with contextlib.suppress(Exception):
        import_from_pack(store, run)
    with contextlib.suppress(Exception):
        # Classes of a workflow's file are found under the file's name once it is loaded. Without it, plain values
        # can still be read; and if they can't, `readable` says what was missing.
        resolve(Reference.from_json(run.entry))
    return Reader(store, artifacts, run.number)


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """What unpickling raises, as a LoadError: the code of whoever reads is not the code of whoever wrote."""
    try:
        yield
    except (DagengineError, OSError):
        raise
    except Exception as error:
        if "in step " in "".join(getattr(error, "__notes__", [])):
            raise  # the step's own exception
        raise LoadError(
            f"{what} can't be read by this code: {type(error).__name__}: {error}. Run the code that wrote it."
        ) from error


def ended_badly(store: Store, run_id: str, state: RunState, failure: Failure | None) -> RunError:
    """What is raised for a run that has ended, or is not worked on, and has not succeeded."""
    short, go_on = run_id[:8], f"Resume with: dagengine resume {run_id}"
    if state is RunState.CANCELLED:
        return RunCancelled(f"run {short} was cancelled. {go_on}", run_id=run_id)
    if state is RunState.PAUSED:
        return RunInterrupted(f"run {short} was paused. Let it go on: dagengine unpause {run_id}", run_id=run_id)
    if state is RunState.WAITING:
        return RunInterrupted(f"run {short} waits, and this engine does not wake it. {go_on}", run_id=run_id)
    if state is RunState.INTERRUPTED or failure is None:
        return RunInterrupted(f"run {short} was interrupted. {go_on}", run_id=run_id)
    if state is RunState.MISMATCH:
        return RunMismatch(
            f"run {short}: {failure.message}\n{failure.facts.get('difference', '')}",
            run_id=run_id,
            key=failure.facts.get("key", ""),
            difference=failure.facts.get("difference", ""),
        )
    from dagengine.advice import for_run, sentence

    go_on = sentence(for_run(store, store.find_run(run_id)))
    where = failure.facts.get("step")
    what = failure.line().removesuffix(".")
    error = RunFailed(
        f"run {short} failed{f' in step {where}' if where else ''}: {what}. {go_on}",
        run_id=run_id,
        failed=tuple(failure.facts.get("failed", ())),
    )
    error.__cause__ = exception_of(failure, where)
    return error
