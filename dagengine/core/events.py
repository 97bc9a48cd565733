"""What is told to the run core. `at` is wall-clock time; `chance` a random number in [0, 1) drawn by the shell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dagengine.model import Definition, EventRecord, Failure, Input, NewStep, StepState, Value
from dagengine.storage.writes import Write


@dataclass(slots=True)
class StepsCalled:
    """The body called these."""

    definitions: list[Definition]
    steps: list[NewStep]


@dataclass(slots=True)
class StepKnown:
    """The body called something whose value is known: its record and its end are one batch, with what is written `also`."""

    definition: Definition | None  # if it is a new one
    step: NewStep
    value: Value
    also: tuple[Write, ...] = ()


@dataclass(slots=True)
class OutsideEnded:
    """What a step waited for outside of the run has come, or never will. `also` is written with the step's end."""

    seq: int
    state: StepState
    at: float
    value: Value | None = None
    failure: Failure | None = None
    also: tuple[Write, ...] = ()


@dataclass(slots=True)
class LetGo:
    """The body waits, and nothing is to be done for a while: the run may wait without a process. `also`: written with that."""

    also: tuple[Write, ...] = ()


@dataclass(slots=True)
class Recorded:
    """The oldest batch of writes that was not yet answered is durable."""


@dataclass(slots=True)
class AttemptStarted:
    seq: int
    number: int
    worker: int
    pid: int
    at: float


@dataclass(slots=True)
class AttemptSucceeded:
    """Large values are durable among the artifacts by now."""

    seq: int
    number: int
    worker: int
    started_at: float
    at: float
    value: Value
    state: Value | None = None  # of the stateful object, if it was to be saved


@dataclass(slots=True)
class AttemptExpanded:
    """A map's items are known: one encoded call each. Their placeholder i stands for the map's input i + 1.

    `first`: the seq of the first item; the shell has set aside as many as there are calls.
    """

    seq: int
    number: int
    worker: int
    started_at: float
    at: float
    calls: list[bytes]
    first: int


class GrownCall(NamedTuple):
    """`key`: in place of the ordinal. `reads`: the calls of the same growth that its inputs are, by their places."""

    name: str
    key: str | None
    definition: int
    call: bytes
    reads: tuple[int, ...]


@dataclass(slots=True)
class AttemptGrown:
    """The attempt has returned calls to be made after it: the steps from `first` on, which the shell has set aside.

    The step's value is that of the last of them; or, with `count`, the list of those of the last `count`.
    `definitions`: what the core may not know yet.
    """

    seq: int
    number: int
    worker: int
    started_at: float
    at: float
    definitions: list[Definition]
    calls: list[GrownCall]
    first: int
    count: int | None


@dataclass(slots=True)
class AttemptFailed:
    """The task raised, or ran out of time."""

    seq: int
    number: int
    worker: int
    started_at: float
    at: float
    failure: Failure
    chance: float = 0.5


@dataclass(slots=True)
class AttemptLost:
    """The worker died."""

    seq: int
    number: int
    worker: int
    started_at: float
    at: float
    failure: Failure
    chance: float = 0.5


@dataclass(slots=True)
class AttemptDropped:
    """The runtime gave the attempt back, as it was told to."""

    seq: int
    number: int
    started: bool
    at: float


@dataclass(slots=True)
class AttemptRefused:
    """The runtime can never run it: it asks for more than there is."""

    seq: int
    number: int
    at: float
    failure: Failure


@dataclass(slots=True)
class InputsLost:
    """The attempt failed because ephemeral values that it reads are gone. `lost`: (seq, the attempt that made it)."""

    seq: int
    number: int
    lost: tuple[tuple[int, int], ...]
    reason: str = ""


@dataclass(slots=True)
class ValueLost:
    """The runtime does not have these any more: (seq, the attempt that made it)."""

    lost: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class ValueWanted:
    """The body asks for the value of this ephemeral step: it has to be held."""

    seq: int


@dataclass(slots=True)
class RefsDropped:
    """The body has no ref to these steps any more."""

    seqs: tuple[int, ...]


@dataclass(slots=True)
class ValueKept:
    """Answers `keep`: the value's bytes are durable, inline or among the artifacts."""

    seq: int
    value: Value


@dataclass(slots=True)
class ActorBuilt:
    """The state of the object that step `seq` created is rebuilt, with `unsaved` calls after the saved one."""

    seq: int
    incarnation: int
    unsaved: int


@dataclass(slots=True)
class ActorNotBuilt:
    """It could not be rebuilt: a worker was `lost`, or what the state is made of raises."""

    seq: int
    incarnation: int
    failure: Failure
    lost: bool
    at: float
    chance: float = 0.5


@dataclass(slots=True)
class ActorGone:
    """The process that held the object ended while it had nothing to do."""

    seq: int
    incarnation: int
    failure: Failure
    at: float


@dataclass(slots=True)
class InstanceLetGo:
    """The body will not call the object that step `seq` created any more."""

    seq: int


@dataclass(slots=True)
class PatienceOver:
    """Attempts have waited for a while beside objects that have nothing to do. `others`: attempts of other runs."""

    others: bool = False


@dataclass(slots=True)
class DelayOver:
    """The delay before an attempt is over. `number`: of the attempt that failed."""

    seq: int
    number: int


@dataclass(slots=True)
class FailuresHandled:
    """The body was given these failures, and went on."""

    seqs: list[int]


@dataclass(slots=True)
class SharedDropped:
    """The body did not call these steps, which the run shares with another one, as they are recorded. `tasks`: their
    functions; `chained`: as in `storage.writes.DropSteps`."""

    seqs: tuple[int, ...]
    tasks: tuple[str, ...]
    chained: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class BodyReturned:
    call: bytes
    inputs: tuple[Input, ...]


@dataclass(slots=True)
class BodyRaised:
    """`seqs`: the steps whose failure the body let through, with the root of it; if it came from steps."""

    failure: Failure
    seqs: tuple[int, ...] = ()


@dataclass(slots=True)
class BodyMismatched:
    failure: Failure


@dataclass(slots=True)
class InterruptRequested:
    """Drain. With `force`, end what runs. With `pause`, nobody goes on before a person says so."""

    force: bool = False
    pause: bool = False


@dataclass(slots=True)
class StepMarked:
    """A person has decided how an unfinished step ends. `note`: who, and why."""

    seq: int
    state: StepState
    at: float
    note: EventRecord
    value: Value | None = None
    failure: Failure | None = None


@dataclass(slots=True)
class CancelRequested:
    pass


@dataclass(slots=True)
class TimeIsUp:
    """The run has worked for as long as it may: `seconds` since it was started or resumed."""

    seconds: float


@dataclass(slots=True)
class CacheHit:
    """The value of a step is known. `also`: is written with its end."""

    seq: int
    value: Value
    also: tuple[Write, ...] = ()


@dataclass(slots=True)
class CacheMissed:
    """The step has to run. `key`: under which its value is to be kept, by virtue of `claim`; "": it is not kept."""

    seq: int
    key: str = ""
    claim: str = ""
    also: tuple[Write, ...] = ()


@dataclass(slots=True)
class UndoFound:
    """Answers `compensate`: whether the run is to be compensated, and the undo steps that are left, newest first."""

    wanted: bool
    definitions: tuple[Definition, ...]
    steps: tuple[NewStep, ...]


@dataclass(slots=True)
class FlushAttempts:
    """Attempts have waited long enough for a commit to share."""


Event = (
    StepsCalled
    | StepKnown
    | OutsideEnded
    | LetGo
    | Recorded
    | AttemptStarted
    | AttemptSucceeded
    | AttemptExpanded
    | AttemptGrown
    | AttemptFailed
    | AttemptLost
    | AttemptDropped
    | AttemptRefused
    | InputsLost
    | ValueLost
    | ValueWanted
    | RefsDropped
    | ValueKept
    | ActorBuilt
    | ActorNotBuilt
    | ActorGone
    | InstanceLetGo
    | PatienceOver
    | DelayOver
    | FailuresHandled
    | SharedDropped
    | BodyReturned
    | BodyRaised
    | BodyMismatched
    | InterruptRequested
    | StepMarked
    | CancelRequested
    | TimeIsUp
    | UndoFound
    | FlushAttempts
    | CacheHit
    | CacheMissed
)
