"""Looking at a record runs nobody's code: a pickle that would leave a trace is in each column, and leaves none."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from dagengine.model import AttemptRecord, Definition, Failure, NewRun, NewStep, RunState, StepKind, StepState, Value
from dagengine.storage.interface import Store
from dagengine.storage.writes import CloseBody, FinishRun, FinishStep, RecordAttempt, RecordSteps
from dagengine.values import MAGIC
from tests.cli.book import HERE
from tests.cli.conftest import Cli
from tests.storage.kit import recorded


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def poisoned(store: Store, trace: Path) -> None:
    """A run whose arguments, calls, values, result and failures are canaries."""
    stream = pickle.dumps(Canary(trace), 5)
    data = struct.pack("<4sIQ", MAGIC, 0, len(stream)) + stream
    failure = Failure("error", "ValueError", "boom", "Traceback …", stream)
    entry = {"module": "nightly", "qualname": "nightly", "pickled": stream.hex()}
    claim = store.create_run(NewRun("7f3a", "nightly", entry, data, (), HERE.started_at), HERE)
    assert claim is not None
    steps = (
        NewStep(0, "nightly/extract[0]", StepKind.TASK, 0, data, ()),
        NewStep(1, "nightly/extract[1]", StepKind.TASK, 0, data, ()),
    )
    value = Value(hashlib.sha256(data).hexdigest(), len(data), data)
    recorded(
        store,
        claim,
        RecordSteps((Definition(0, "extract", entry, {}),), steps, HERE.started_at),
        RecordAttempt(AttemptRecord(1, 1, 0, 1, HERE.host, HERE.started_at, HERE.started_at, "failed", failure)),
        FinishStep(0, StepState.SUCCEEDED, 0, 1, HERE.started_at, value),
        FinishStep(1, StepState.FAILED, 1, 1, HERE.started_at, failure=failure),
        CloseBody(data, ()),
        FinishRun(RunState.FAILED, HERE.started_at, failure),
    )


@pytest.mark.parametrize(
    "words",
    [
        "ls",
        "ls --json",
        "show 7f3a",
        "show 7f3a --json",
        "steps 7f3a",
        "steps 7f3a --json",
        "graph 7f3a",
        "graph 7f3a -f svg",
        "logs 7f3a",
        "errors 7f3a",
        "errors 7f3a --json",
        "explain 7f3a extract[0]",
        "explain 7f3a extract[1] --json",
        "wait 7f3a",
        "cancel 7f3a",
        "result 7f3a",
        "db check",
        "doctor",
    ],
)
def test_no_verb_that_lists_or_shows_unpickles(cli: Cli, store: Store, tmp_path: Path, words: str) -> None:
    """Only `result`, of what succeeded, loads a value."""
    trace = tmp_path / "trace"
    poisoned(store, trace)
    assert cli(*words.split()).status != 70
    assert not trace.exists()


def test_the_canary_sings(cli: Cli, store: Store, tmp_path: Path) -> None:
    """Where a value is asked for, it is loaded: the test above would see it."""
    trace = tmp_path / "trace"
    poisoned(store, trace)
    cli("result", "7f3a", "extract[0]")
    assert trace.exists()
