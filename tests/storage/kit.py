"""What tests of stores are written with: short words for facts of the record, and a write that is waited for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dagengine.errors import InternalError, StoreError
from dagengine.model import (
    AttemptRecord,
    Claim,
    Definition,
    EventRecord,
    Failure,
    Input,
    NewRun,
    NewStep,
    PayloadInput,
    ProcessRecord,
    StepInput,
    StepKind,
    StepState,
    Value,
)
from dagengine.storage.interface import Store
from dagengine.storage.writes import AddEvent, FinishStep, RecordAttempt, RecordSteps, StateChange, Write

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds until a test gives up on a callback that never comes: many more than the slowest machine needs for one that comes."""

NOW = 1_000_000.0
"""What the clock of a store under test says."""

DEFINITION = Definition(0, "extract", {"module": "jobs", "qualname": "extract"}, {"retries": 3})


def process(name: str, pid: int = 100) -> ProcessRecord:
    return ProcessRecord(name, "host-a", "boot-a", pid, 5.0, NOW - 10)


ME = process("me")


def dead(_: ProcessRecord) -> bool:
    return False


def alive(_: ProcessRecord) -> bool:
    return True


def new_run(run_id: str = "7f3a", workflow: str = "nightly", created_at: float = NOW) -> NewRun:
    return NewRun(run_id, workflow, {"module": "jobs", "qualname": workflow}, b"call", (), created_at, {"cwd": "/work"})


def begin(store: Store, run_id: str = "7f3a") -> Claim:
    """A run of this process's."""
    claim = store.create_run(new_run(run_id), ME)
    assert claim is not None
    return claim


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def step(seq: int, *inputs: int | Input, kind: StepKind = StepKind.TASK, definition: int = 0) -> NewStep:
    read = tuple(StepInput(part) if isinstance(part, int) else part for part in inputs)
    return NewStep(seq, f"nightly/extract[{seq}]", kind, definition, b"call %d" % seq, read)


def large(name: bytes = b"large") -> PayloadInput:
    return PayloadInput(digest_of(name), 1 << 20)


def record(*steps: NewStep, definitions: tuple[Definition, ...] = (), at: float = NOW) -> RecordSteps:
    return RecordSteps(definitions, steps, at)


def value(data: bytes = b"value") -> Value:
    return Value(digest_of(data), len(data), data)


def failure(message: str = "no such file") -> Failure:
    return Failure("error", "ValueError", message, "Traceback …", b"\x80pickled", False, {"errno": 2})


def succeed(seq: int, order: int, with_value: Value | None = None, attempts: int = 1) -> FinishStep:
    found = value() if with_value is None else with_value
    return FinishStep(seq, StepState.SUCCEEDED, order, attempts, NOW + order, found)


def changed(seq: int, order: int, instance: int, state: Value | None = None) -> FinishStep:
    """The end of a call that changed the state of a stateful object, which is saved with it or not."""
    return succeed(seq, order)._replace(changed=StateChange(instance, state))


def fail(seq: int, order: int, state: StepState = StepState.FAILED, attempts: int = 1) -> FinishStep:
    return FinishStep(seq, state, order, attempts, NOW + order, failure=failure())


def attempt(seq: int, number: int = 1, outcome: str | None = None) -> RecordAttempt:
    began = AttemptRecord(seq, number, 2, 4711, "host-a", NOW)
    if outcome is None:
        return RecordAttempt(began)
    why = failure() if outcome == "failed" else None
    return RecordAttempt(began._replace(finished_at=NOW + 1, outcome=outcome, failure=why))


def event(kind: str, seq: int | None = None) -> AddEvent:
    return AddEvent(EventRecord(NOW, kind, seq, {"why": "test"}))


class Outcome:
    """What a batch's callback was told, and on which thread."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self.error: StoreError | InternalError | None = None
        self.thread: threading.Thread | None = None

    def __call__(self, error: StoreError | InternalError | None) -> None:
        assert not self._told.is_set(), "told twice"
        self.error = error
        self.thread = threading.current_thread()
        self._told.set()

    def wait(self) -> StoreError | InternalError | None:
        assert self._told.wait(PATIENCE), "a callback never came"
        return self.error


def write(store: Store, claim: Claim, *writes: Write) -> StoreError | InternalError | None:
    """Hand over one batch, as engines do not on the main thread, and wait for what becomes of it."""
    outcome = Outcome()
    elsewhere(lambda: store.write(claim, writes, outcome))
    return outcome.wait()


def elsewhere(work: Callable[[], T]) -> T:
    """Do it on a thread of its own: there a small batch is sent off by whoever writes it, if a store can do that."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result(PATIENCE)


def recorded(store: Store, claim: Claim, *writes: Write) -> None:
    """Hand over one batch that has to be recorded."""
    error = write(store, claim, *writes)
    assert error is None, error
