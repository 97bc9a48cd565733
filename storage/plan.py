"""A group's writes, sorted by kind: what each store then writes in few statements.

Sorting by kind must not change what the writes mean. `Plan.add` refuses the orders for which it would
(`OutOfOrder`), none of which a sound caller hands over; such a group is applied again batch by batch, write by write,
and so is a group in which a statement did not change the rows that it should have (`Refused`).

May import nothing of ours but errors, model, writes, blocks and what builds rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from dagengine.model import RunState, StepKind, StepState
from dagengine.storage.blocks import dropped as forgotten_blocks
from dagengine.storage.rows import edge_row, failure_text, inputs_text, to_json
from dagengine.storage.writes import (
    AddEvent,
    CloseBody,
    DropSteps,
    ExpandStep,
    FinishRun,
    FinishStep,
    HandleFailures,
    KeepValue,
    RecordAttempt,
    RecordSteps,
    RenameSteps,
    ReopenSteps,
    SideWrite,
    StateChange,
    Write,
)


class Refused(Exception):
    """A write does not fit what is recorded. The text says how."""


class OutOfOrder(Exception):
    """The writes can't be sorted by kind without changing what they mean."""


_PLAIN: dict[str, str] = {word.value: word.value for words in (StepState, StepKind, RunState) for word in words}
"""Members of enumerations as the strings that they are: the driver takes those without asking its adapters."""

_seq = attrgetter("seq")


class Plan:
    """The rows to write, by kind, each in the order of its table's columns. `add` what comes in its order."""

    def __init__(self) -> None:
        self.dropped: list[tuple[int, tuple[int, ...]]] = []  # run, seqs
        self.reopened: list[tuple[int, tuple[int, ...]]] = []  # run, seqs
        self.definitions: list[tuple[Any, ...]] = []
        self.renamed: list[tuple[int, int, str]] = []  # run, seq
        self.steps: list[tuple[Any, ...]] = []
        self.edges: list[tuple[Any, ...]] = []
        self.expanded: list[tuple[Any, ...]] = []
        self.finished: list[tuple[Any, ...]] = []
        self.kept: list[tuple[Any, ...]] = []
        self.handled: list[tuple[int, tuple[int, ...], bool]] = []
        self.attempts: dict[tuple[int, int, int], tuple[Any, ...]] = {}
        self.state_changes: list[tuple[int, int, StateChange]] = []  # run, seq of the call
        self.closed: dict[int, tuple[Any, ...]] = {}  # by run: what its body returned
        self.finished_runs: dict[int, tuple[Any, ...]] = {}  # by run: its end
        self.events: list[tuple[Any, ...]] = []
        self.side: list[tuple[int, SideWrite]] = []
        self.next_seq: dict[int, int] = {}  # by run
        self._touched: dict[int, int] = {}  # run -> the greatest seq that something was done to
        self._ended: set[tuple[int, int]] = set()  # steps that end in this plan
        self._given: set[tuple[int, int]] = set()  # steps that this plan does something to which their end comes before

    def add(self, run: int, writes: Sequence[Write]) -> None:
        """Sort in one batch of the run. Raises OutOfOrder; and TypeError or ValueError for what no column takes."""
        for write in writes:
            match write:
                case FinishStep():
                    self._finish_step(run, write)
                case RecordAttempt():
                    self._record_attempt(run, write)
                case RecordSteps():
                    self._record_steps(run, write)
                case ExpandStep(seq, first, count):
                    if (run, seq) in self._ended:
                        raise OutOfOrder
                    self.expanded.append((run, seq, first, count))
                    self._touch(run, seq)
                case KeepValue(seq, value):
                    self.kept.append((run, seq, value.size, bytes.fromhex(value.digest), value.inline))
                    self._given.add((run, seq))
                    self._touch(run, seq)
                case HandleFailures(seqs, handled):
                    self.handled.append((run, seqs, handled))
                    for seq in seqs:
                        self._given.add((run, seq))
                        self._touch(run, seq)
                case CloseBody(call, inputs):
                    self.closed[run] = (call, inputs_text(inputs))
                case FinishRun(state, at, failure):
                    row = (_PLAIN[state], at, failure_text(failure), failure and failure.pickled)
                    self.finished_runs[run] = row
                case AddEvent(event):
                    self.events.append((run, event.at, event.kind, event.seq, to_json(event.data)))
                case DropSteps():
                    self._drop_steps(run, write)
                case RenameSteps(steps):
                    if self.steps:
                        raise OutOfOrder  # of which one may have such a key
                    self.renamed += [(run, seq, key) for seq, key in steps]
                case ReopenSteps(seqs):
                    if any((run, seq) in self._ended or (run, seq) in self._given for seq in seqs):
                        raise OutOfOrder
                    self.reopened.append((run, seqs))
                case SideWrite():
                    self.side.append((run, write))

    # ---- one kind each ------------------------------------------------------------------

    def _touch(self, run: int, seq: int) -> None:
        if seq > self._touched.get(run, -1):
            self._touched[run] = seq

    def _record_steps(self, run: int, write: RecordSteps) -> None:
        for new in write.definitions:
            texts = (to_json(new.reference), to_json(new.options))
            self.definitions.append((run, new.number, new.name, *texts, new.fingerprint))
        if not write.steps:
            return
        if min(map(_seq, write.steps)) <= self._touched.get(run, -1):
            raise OutOfOrder  # something was done to a step before it was recorded
        at = write.at
        for step in write.steps:
            seq = step.seq
            row = (run, seq, step.key, _PLAIN[step.kind], step.definition, "waiting", 0, 0, at, step.call)
            self.steps.append(row)
            for position, read in enumerate(step.inputs):
                self.edges.append(edge_row(run, seq, position, read))
        next_seq = max(map(_seq, write.steps)) + 1
        self.next_seq[run] = max(next_seq, self.next_seq.get(run, 0))

    def _finish_step(self, run: int, write: FinishStep) -> None:
        seq, state, order, attempts, at, value, failure, changed = write
        if self._given and (run, seq) in self._given:
            raise OutOfOrder
        self._ended.add((run, seq))
        if seq > self._touched.get(run, -1):
            self._touched[run] = seq
        size = digest = inline = first = count = text = pickled = None
        if value is not None:
            size, digest, inline = value.size, bytes.fromhex(value.digest), value.inline
            if value.items is not None:
                first, count = value.items
        if failure is not None:
            text, pickled = failure_text(failure), failure.pickled
        row = (run, seq, _PLAIN[state], attempts, order, at)
        self.finished.append((*row, size, digest, inline, first, count, text, pickled))
        if changed is not None:
            self.state_changes.append((run, seq, changed))

    def _drop_steps(self, run: int, write: DropSteps) -> None:
        if any((run, seq) in self._ended or (run, seq) in self._given for seq in write.seqs):
            raise OutOfOrder
        self.dropped.append((run, write.seqs))
        self.side.append((run, forgotten_blocks(write.seqs)))
        if write.chained:
            rows = tuple({"instance": instance, "seq": seq} for instance, seq in write.chained)
            self.side.append((run, SideWrite("shares:CHAINED", rows)))

    def _record_attempt(self, run: int, write: RecordAttempt) -> None:
        """The last one wins: an attempt that started and ended in one group is written once."""
        attempt = write.attempt
        self.attempts[run, attempt.seq, attempt.number] = (
            *(run, attempt.seq, attempt.number, attempt.worker, attempt.pid, attempt.host),
            *(attempt.started_at, attempt.finished_at, attempt.outcome, failure_text(attempt.failure)),
        )
