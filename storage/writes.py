"""What can be written of a run: the store's vocabulary, in which the run core asks for it.

One batch (`Store.write`) is a list of these. Within a batch, what is recorded first is applied first, but for what says
otherwise of itself.

May import nothing of ours but model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from dagengine.model import (
    AttemptRecord,
    Definition,
    EventRecord,
    Failure,
    Input,
    NewStep,
    RunState,
    StepState,
    Value,
)


@dataclass(frozen=True, slots=True)
class RecordSteps:
    """New definitions and steps, at `at`. Steps start as WAITING."""

    definitions: tuple[Definition, ...]
    steps: tuple[NewStep, ...]
    at: float


class RecordAttempt(NamedTuple):
    """An attempt that started or ended: replaces what is there for the same (seq, number)."""

    attempt: AttemptRecord


class StateChange(NamedTuple):
    """A call has changed the state of the stateful object that step `instance` created. `state`: as it is after the
    call, and replaces what was saved before; None: it is not saved, and the call has to be replayed on what was."""

    instance: int
    state: Value | None = None


class FinishStep(NamedTuple):
    """A step's end: recorded once. `order` is its place in the run's order of completion: greater than those of
    all ends before it. `changed`: of a call on a stateful object that succeeded.

    `attempts`: attempts that ended. A step that is not WAITING refuses it: InternalError, because a recorded result
    is never replaced.
    """

    seq: int
    state: StepState
    order: int
    attempts: int
    at: float
    value: Value | None = None
    failure: Failure | None = None
    changed: StateChange | None = None


@dataclass(frozen=True, slots=True)
class ExpandStep:
    """A step's value is the list of the values of the steps first … first + count - 1, for which it waits from now on: a
    map's items, or calls that a task has returned, recorded in the same batch. `count` -1: it is the value of step `first`
    alone, which is written with the step's end.
    """

    seq: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class KeepValue:
    """The value of a step that succeeded without having its value recorded is recorded after all."""

    seq: int
    value: Value


@dataclass(frozen=True, slots=True)
class HandleFailures:
    """The body was given the failures of these ended steps, and went on: they stay as they are on resume.

    `handled` False takes it back: the body let one of these failures end the run after all.
    """

    seqs: tuple[int, ...]
    handled: bool = True


@dataclass(frozen=True, slots=True)
class CloseBody:
    """The body returned `call` (encoded; placeholder i stands for inputs[i]). It is never called again."""

    call: bytes
    inputs: tuple[Input, ...]


@dataclass(frozen=True, slots=True)
class FinishRun:
    """The run's state from now on; its owner lets go of it."""

    state: RunState
    at: float
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class DropSteps:
    """These steps, which have ended, are not recorded any more, nor what they read, nor the states of objects after them.

    Comes before all other writes of its batch. chained: (object, call) of calls that stay, and that changed the state of
    an object: if the state that was saved is dropped, they are calls that are not saved.
    """

    seqs: tuple[int, ...]
    chained: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ReopenSteps:
    """These steps, which ended without success, are WAITING again. Comes before the ends of steps in its batch."""

    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RenameSteps:
    """(seq, key): the keys by which these recorded steps are known from now on."""

    steps: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class AddEvent:
    event: EventRecord


class SideWrite(NamedTuple):
    """Rows of a side table (`side_schema`), in the transaction of the batch, after everything else in it.

    statement: "module:NAME" of a `Query` in dagengine.storage; rows: its parameters by name, without `run`, the number
        of the batch's run, which each is given
    """

    statement: str
    rows: tuple[dict[str, Any], ...]


Write = (
    RecordSteps
    | RecordAttempt
    | FinishStep
    | ExpandStep
    | KeepValue
    | HandleFailures
    | CloseBody
    | FinishRun
    | AddEvent
    | DropSteps
    | RenameSteps
    | ReopenSteps
    | SideWrite
)
