"""What the run core keeps of a step, and of a batch of writes that is not durable yet.

May import model and the table of phases.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagengine.core.chain import Place
from dagengine.core.states import Phase
from dagengine.model import NewStep, PendingStep, RunState, StepKind, StepState, Value


class Step:
    """An unfinished step, or one that ended without success. Of one that succeeded, nothing is kept: a seq that is known
    to be recorded, is not among the steps and not in `ended_before`, has succeeded.
    """

    __slots__ = (
        "attempt",
        "call",
        "definition",
        "dependents",
        "end",
        "failures",
        "inputs",
        "items",
        "key",
        "kind",
        "losses",
        "missing",
        "order",
        "phase",
        "place",
        "root",
        "seq",
        "value",
    )

    def __init__(self, recorded: NewStep | PendingStep) -> None:
        seq = recorded.seq
        self.seq = seq
        self.key = recorded.key
        self.definition = recorded.definition
        self.call: bytes | None = recorded.call
        self.inputs = recorded.inputs
        self.kind = recorded.kind
        self.place: Place | None = None  # at a stateful object
        self.phase = Phase.NEW
        self.missing = 0  # inputs (or items) whose end is not durable yet
        self.dependents: int | list[int] | None = None  # a list costs 88 bytes, and most steps have one reader
        self.attempt = 0  # number of the latest attempt
        self.failures = 0  # of the task's own, since the run was started or resumed
        self.losses = 0
        self.items: tuple[int, int] | None = None  # as PendingStep.items
        self.value: Value | None = None  # of one whose value is that of another step, once that has ended
        self.end: StepState | None = None  # asked for, or recorded
        self.order = -1  # place in the run's order of completion
        self.root = seq  # of a skipped step: the step whose failure was the first cause

    def item_seqs(self) -> range:
        """The steps that an expanded one waits for."""
        first, count = self.items or (0, 0)
        return range(first, first + abs(count))

    @property
    def map(self) -> bool:
        return self.kind is StepKind.MAP

    @property
    def readonly(self) -> bool:
        return self.kind is StepKind.READONLY

    def add_dependent(self, seq: int) -> None:
        known = self.dependents
        if known is None:
            self.dependents = seq
        elif isinstance(known, int):
            self.dependents = [known, seq]
        else:
            known.append(seq)

    def readers(self) -> Sequence[int]:
        """The seqs of the steps that wait for this one."""
        known = self.dependents
        return () if known is None else (known,) if isinstance(known, int) else known


class Batch:
    """What a batch of writes makes true once it is durable."""

    __slots__ = ("announced", "ended", "finished", "kept", "new", "remade")

    def __init__(self) -> None:
        self.new: list[int] = []
        self.ended: list[int] = []
        self.remade: list[int] = []  # ephemeral steps whose value is there again
        self.kept: list[int] = []  # ephemeral steps whose value is recorded after all
        self.announced: list[tuple[int, int]] = []  # attempts that go out when their start is durable
        self.finished: RunState | None = None

    def __bool__(self) -> bool:
        return bool(self.new or self.ended or self.finished or self.remade or self.kept or self.announced)
