"""What the run core asks its shell to do, collected over one call of `RunCore.apply`.

The shell carries them out in the order of the fields. `writes` are one batch, which the shell answers with `Recorded`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dagengine.model import Failure, RunState, StepState
from dagengine.storage.writes import Write


@dataclass(slots=True)
class Notice:
    """Something to tell people. `kind`: as in the table of events, docs/events.md."""

    kind: str
    seq: int
    key: str
    failure: Failure | None = None
    delay: float | None = None


@dataclass(slots=True)
class Actions:
    """
    writes: to be committed as one batch
    submit: (seq, attempt number) to hand to the runtime
    drop: (seq, attempt number) to take back from it
    force_drop: the same, ending the workers that run them
    rebuild: (seq of the CREATE step, incarnation) of stateful objects whose state is to be rebuilt in an actor
    release: (seq of the CREATE step, incarnation, force) of actors that are to end
    outside: seqs of steps that wait for the world from now on: to be answered with OutsideEnded
    lookup: seqs of steps whose value may be in the cache: to be answered with CacheHit or CacheMissed
    timers: (seconds from now, seq, number) after which to send DelayOver
    ended: (seq, state, definition) of steps whose end is durable now, in the order of completion
    free: (seq, the attempt that made it) of ephemeral values that nobody needs any more, or that are gone
    keep: (seq, the attempt that made it) of ephemeral values to make durable, and to answer with ValueKept or ValueLost
    remade: seqs of ephemeral steps whose value is there again
    unmade: (seq, why) of those whose value can't be made again
    patience: whether to send PatienceOver after a while
    flush: whether to send FlushAttempts after a while
    compensate: the run is about to end in this state: whether it is to be compensated, and of what, is to be told with
        UndoFound
    stop_body: whether to let go of the body
    finished: the run's state, once it is durable
    """

    writes: list[Write] = field(default_factory=list)
    submit: list[tuple[int, int]] = field(default_factory=list)
    drop: list[tuple[int, int]] = field(default_factory=list)
    force_drop: list[tuple[int, int]] = field(default_factory=list)
    rebuild: list[tuple[int, int]] = field(default_factory=list)
    release: list[tuple[int, int, bool]] = field(default_factory=list)
    outside: list[int] = field(default_factory=list)
    lookup: list[int] = field(default_factory=list)
    timers: list[tuple[float, int, int]] = field(default_factory=list)
    ended: list[tuple[int, StepState, int]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    free: list[tuple[int, int]] = field(default_factory=list)
    keep: list[tuple[int, int]] = field(default_factory=list)
    remade: list[int] = field(default_factory=list)
    unmade: list[tuple[int, Failure]] = field(default_factory=list)
    patience: bool = False
    flush: bool = False
    compensate: RunState | None = None
    stop_body: bool = False
    finished: RunState | None = None
