"""The words of the record: frozen facts that storage returns and the workflow layer decides on.

Imports nothing of ours. What is made for each step by the thousand is a NamedTuple: as unchangeable as a frozen
dataclass, and made in a quarter of the time. Times are seconds since the epoch (float); sizes are bytes; digests are
SHA-256 in hex.
A step is addressed by `seq`, its number in its run (0, 1, 2, … in the order of recording), and known to people by `key`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

INLINE_LIMIT = 16 * 1024
"""Bytes. Encoded values up to this size sit in their row, larger ones are artifacts. SQLite reads a row of this
size about as fast as a file is opened; above it, blobs slow the commits of everybody else (design.md, section 4)."""


class RunState(StrEnum):
    """Where a run is. `CRASHED` is never stored: it is how a RUNNING run looks whose owner is dead."""

    PENDING = "pending"  # recorded, no process has begun it
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # drained on request; goes on with resume
    MISMATCH = "mismatch"  # the body called something else than what is recorded
    WAITING = "waiting"  # for a timer, an event or another run: no process holds it until then
    PAUSED = "paused"  # stopped by a person, until a person lets it go on
    CRASHED = "crashed"

    @property
    def ended(self) -> bool:
        return self not in (RunState.PENDING, RunState.RUNNING, RunState.WAITING, RunState.CRASHED)


class StepState(StrEnum):
    """Where a step is. Stored: WAITING and the four ends. The others are how an unfinished step of a live run looks."""

    WAITING = "waiting"  # for its inputs
    READY = "ready"  # for a worker
    RUNNING = "running"
    RETRYING = "retrying"  # for the delay before its next attempt
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # a step it depends on did not succeed
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED)


class StepKind(StrEnum):
    TASK = "task"
    MAP = "map"  # a fan-out over a value that was not known when it was called; its items are steps of their own
    CREATE = "create"  # the making of a stateful object
    METHOD = "method"  # a call on one, which may change its state. The last input of a call is the object's CREATE step
    READONLY = "readonly"  # a call on one, which does not
    TIMER = "timer"  # ends at its time
    EVENT = "event"  # ends when a signal comes
    CHILD = "child"  # ends as the run does that it began
    RECORDED = "recorded"  # a value that the body computed itself: the time, a random number
    UNDO = "undo"  # takes back what another step did in the world

    @property
    def is_call(self) -> bool:
        """Whether it is a call on a stateful object: a step of its chain."""
        return self is StepKind.METHOD or self is StepKind.READONLY

    @property
    def is_outside(self) -> bool:
        """Whether it is ended by the world: it has no attempts."""
        return self is StepKind.TIMER or self is StepKind.EVENT or self is StepKind.CHILD


class Value(NamedTuple):
    """A recorded value: its bytes in the row (`inline`), under its digest among the artifacts, or as a list of steps.

    `items`: for a map over a ref, (first seq, count): the value is the list of these steps' values.
    """

    digest: str
    size: int
    inline: bytes | None = None
    items: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt, a step or a run did not succeed, as text that always can be shown.

    `pickled` is the exception itself where it survives pickling; it is loaded only by workers and by the code that
    asked for the result, never to decide or to list.
    """

    kind: str  # "error", "timeout", "lost", "unknown", "skipped", "cancelled", "mismatch", "internal"
    type: str  # the exception's qualified name
    message: str
    traceback: str = ""
    pickled: bytes | None = None
    retriable: bool = True  # what the task's own predicate said of the exception
    facts: dict[str, Any] = field(
        default_factory=dict
    )  # JSON: {"cause": key of the failed step}, {"signal": "SIGSEGV"} …

    def line(self, characters: int = 500) -> str:
        """The exception's name, and the first line of its text, at most so many characters of it."""
        text = next(iter(self.message.strip().splitlines()), "")
        text = text if len(text) <= characters else text[: characters - 1] + "…"
        return f"{self.type}: {text}" if text else self.type


@dataclass(frozen=True, slots=True)
class Definition:
    """A function and its options as a run's steps refer to them: numbered in the run, recorded once."""

    number: int
    name: str  # the function's name, as in step keys
    reference: dict[str, Any]  # JSON of dagengine.functions.Reference: how any process finds the function
    options: dict[str, Any]  # JSON of dagengine.options.Options without its defaults
    fingerprint: str = ""  # of the code that a call of it runs; "": not known


class StepInput(NamedTuple):
    """The value of step `seq` of the same run."""

    seq: int


class PayloadInput(NamedTuple):
    """A large argument, already durable among the artifacts."""

    digest: str
    size: int


Input = StepInput | PayloadInput


class NewStep(NamedTuple):
    """A step to record. `call` is the encoded ((args), {kwargs}); its placeholder number i stands for `inputs[i]`."""

    seq: int
    key: str
    kind: StepKind
    definition: int
    call: bytes
    inputs: tuple[Input, ...]


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process as the store knows it; what proves that it is alive, or dead, on its own machine."""

    id: str
    host: str
    boot_id: (
        str  # of its kernel and, in a container, "/" and the pid namespace in which its pid is one (dagengine.identity)
    )
    pid: int
    start_time: float  # of the process, in clock ticks after boot (Linux) or seconds since the epoch: only compared
    started_at: float
    leased: bool = field(default=False, compare=False)  # its store has leases, which decide where nothing is proved


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write to a run: its number in the store and the fencing token that every write carries."""

    run_number: int
    run_id: str
    token: int


@dataclass(frozen=True, slots=True)
class NewRun:
    id: str
    workflow: str  # the workflow function's name
    entry: dict[str, Any]  # JSON of dagengine.functions.Reference of the workflow
    call: bytes  # encoded arguments
    inputs: tuple[PayloadInput, ...]  # large ones
    created_at: float
    facts: dict[str, Any] = field(default_factory=dict)  # JSON: version, python, host, cwd; see RunRecord's properties


@dataclass(frozen=True, slots=True)
class Share:
    """What a new run has in common with a recorded one, the `donor` (its number). Seqs and keys are the same in both.

    kept: steps that succeeded, with their values and their places in the order of completion
    reopened: steps that are recorded, but have not ended: some items of maps, and these maps
    values: steps that succeeded with another value than the donor's. In the new run nothing was called for them, which
        `no_call`, an encoded call without arguments, stands for
    chained: (object, call) of kept calls that changed the state of a stateful object. Where the donor's saved state can't
        be shared, because it is of a later call, these are calls that are not saved
    next_seq: of the new run
    token: of the donor: the new run's token begins there, so that its ends come after those that it shares
    """

    donor: int
    kept: tuple[int, ...]
    reopened: tuple[int, ...]
    values: tuple[tuple[int, Value], ...]
    chained: tuple[tuple[int, int], ...]
    next_seq: int
    token: int
    no_call: bytes = b""


@dataclass(frozen=True, slots=True)
class RunRecord:
    number: int
    id: str
    workflow: str
    entry: dict[str, Any]
    state: RunState
    token: int
    owner: ProcessRecord | None
    call: bytes
    inputs: tuple[PayloadInput, ...]
    body_closed: bool  # the body returned: it is never called again
    result_call: bytes | None  # what it returned, encoded, with `result_inputs` for its refs
    result_inputs: tuple[Input, ...]
    failure: Failure | None
    cancel_requested_at: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    steps: int  # recorded steps
    facts: dict[str, Any] = field(default_factory=dict)
    lease_expired: bool = False  # the owner has not said for too long that it lives: anybody may take the run

    @property
    def code(self) -> str | None:
        """Digest of the pack of code that the run was started with."""
        return self.facts.get("code")

    @property
    def parent(self) -> tuple[str, int] | None:
        """The run, and the seq of the step in it, that began this run."""
        found = self.facts.get("parent")
        return None if found is None else (found[0], found[1])

    @property
    def forked_from(self) -> str | None:
        """The id of the run whose results this one shares."""
        return self.facts.get("forked_from")


SHORT_RESULT = 100
"""Bytes. What a body has returned, encoded, that says no more than that its run goes on in another one, is shorter."""


class Standing(NamedTuple):
    """As little of a run as says how it stands, for those who look at many runs again and again.

    returned: what its body returned, encoded, if it is short: whether the run goes on in another one
    """

    id: str
    state: RunState
    owner: ProcessRecord | None
    lease_expired: bool
    returned: bytes | None


class OutsideStep(NamedTuple):
    """As little of an unfinished step that the world ends as says what its run, the one of number `run`, waits for."""

    run: int
    key: str
    kind: StepKind


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step as people and listings see it. Holds no value bytes: ask `Store.values`."""

    seq: int
    key: str
    kind: StepKind
    task: str  # the function's name
    definition: int
    state: StepState
    attempts: int  # attempts that ended
    failure: Failure | None
    value_digest: str | None
    value_size: int | None
    created_at: float
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class PendingStep:
    """An unfinished step, with all that it takes to run it."""

    seq: int
    key: str
    kind: StepKind
    definition: int
    call: bytes
    inputs: tuple[Input, ...]
    attempts: int  # the greatest number of an attempt so far, also of one that vanished: the next is one more
    items: tuple[int, int] | None  # of one that is already expanded, as in ExpandStep

    def reads(self) -> set[int]:
        """Seqs of the steps that it is made from: its inputs, and the items of a map."""
        read = {item.seq for item in self.inputs if isinstance(item, StepInput)}
        if self.items is not None:
            read.update(range(self.items[0], self.items[0] + abs(self.items[1])))
        return read


@dataclass(frozen=True, slots=True)
class SavedState:
    """What rebuilds the state of a stateful object: its creation, or the state saved last; then the calls after it.

    calls: those that changed the state since, in the order of their ends
    after, state: seq of the call whose state was saved, and that state; None: none was saved yet
    """

    create: RecordedCall
    calls: tuple[RecordedCall, ...]
    after: int | None = None
    state: Value | None = None


@dataclass(frozen=True, slots=True)
class Frontier:
    """What is left of a run: its unfinished steps, and the state of each ended step that one of them reads.

    ephemeral: steps that succeeded and whose value was not recorded: those that an unfinished step, or what the body
        returned, is made from, up to recorded values; of a run whose body is to be called again, all of them
    failed: by seq, the steps that failed, and whose failure nobody has handled, in the order of completion: key, failure
    """

    steps: tuple[PendingStep, ...]
    ended_inputs: dict[int, StepState]
    next_seq: int
    definitions: tuple[Definition, ...]
    ephemeral: tuple[PendingStep, ...] = ()
    failed: dict[int, tuple[str, Failure]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded step as replay compares it with a call of the same key."""

    seq: int
    key: str
    kind: StepKind
    definition: int
    call: bytes
    inputs: tuple[Input, ...]
    state: StepState
    handled: bool  # its failure was given to the body, which went on


class AttemptRecord(NamedTuple):
    """One try at a step. `outcome` is None while it runs, and for ever if its process vanished."""

    seq: int
    number: int
    worker: int | None
    pid: int | None
    host: str
    started_at: float
    finished_at: float | None = None
    outcome: str | None = None  # "succeeded", "failed", "timeout", "lost", "cancelled", "unknown"
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something to tell people. Nothing reads it to decide."""

    at: float
    kind: str  # "run.started", "run.resumed", "step.failed", "step.retried", "worker.lost", …
    seq: int | None
    data: dict[str, Any]
