"""A run in memory: what is recorded of it, and what each write changes, or refuses to.

Every change is noted with the step back from it, so that a batch that is refused half-way leaves nothing behind.
May import nothing of ours but errors, model, writes and what stores say alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from dagengine.model import (
    AttemptRecord,
    Claim,
    Definition,
    EventRecord,
    Failure,
    NewRun,
    NewStep,
    PayloadInput,
    PendingStep,
    ProcessRecord,
    RecordedCall,
    RunRecord,
    RunState,
    SavedState,
    Share,
    StepInput,
    StepKind,
    StepRecord,
    StepState,
    Value,
)
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
    StateChange,
    Write,
)

EXPANDABLE = (StepKind.MAP, StepKind.TASK)
UNSUCCESSFUL = (StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED)

Undo = list[Callable[[], object]]


class Misfit(Exception):
    """A write does not fit what is recorded. The text says how."""


@dataclass(slots=True)
class Step:
    new: NewStep
    created_at: float
    state: StepState = StepState.WAITING
    handled: bool = False
    attempts: int = 0  # that had ended when the step ended
    order: int | None = None
    finished_at: float | None = None
    value: Value | None = None
    items: tuple[int, int] | None = None
    failure: Failure | None = None

    @property
    def unrecorded(self) -> bool:
        """Whether it succeeded, and no bytes of its value are recorded (a map has none of its own)."""
        return self.state is StepState.SUCCEEDED and self.value is not None and not self.value.digest


class Run:
    """`record` is the run's row, replaced as a whole. `apply` is called with the store's lock held."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.definitions: dict[int, Definition] = {}
        self.steps: dict[int, Step] = {}
        self.keys: dict[str, int] = {}
        self.attempts: dict[int, dict[int, AttemptRecord]] = {}  # by seq and number
        self.events: list[EventRecord] = []
        self.states: dict[int, tuple[int, Value]] = {}  # by instance: the call after which it was saved, the state
        self.unsaved: dict[int, tuple[int, ...]] = {}  # by instance: calls that changed it since

    def claim(self) -> Claim:
        """The claim that may write."""
        return Claim(self.record.number, self.record.id, self.record.token)

    def reopen(self) -> None:
        """What did not succeed, and was not handled, is to be done again."""
        for step in self.steps.values():
            if step.state in UNSUCCESSFUL and not step.handled:
                step.state, step.order, step.finished_at, step.failure = StepState.WAITING, None, None, None

    def share(self, donor: Run, share: Share) -> None:
        """Take over what the donor has in common with this run, which is new."""
        at = self.record.created_at
        self.record = replace(self.record, steps=share.next_seq, token=share.token)
        self.definitions = dict(donor.definitions)
        for seq in share.kept:
            self.steps[seq] = replace(donor.steps[seq], created_at=at, finished_at=at, handled=False, attempts=0)
        for seq in share.reopened:
            self.steps[seq] = Step(donor.steps[seq].new, at, items=donor.steps[seq].items)
        for place, (seq, value) in enumerate(share.values):
            new = donor.steps[seq].new._replace(call=share.no_call, inputs=())
            order = ((share.token + 1) << 32) - len(share.values) + place
            self.steps[seq] = Step(new, at, StepState.SUCCEEDED, order=order, finished_at=at, value=value)
        self.keys = {step.new.key: seq for seq, step in self.steps.items()}
        kept = set(share.kept)
        self.states = {made: saved for made, saved in donor.states.items() if saved[0] in kept}
        for made, calls in donor.unsaved.items():
            self.unsaved[made] = tuple(call for call in calls if call in kept)
        self._chain(share.chained, [])

    def _chain(self, chained: Iterable[tuple[int, int]], undo: Undo) -> None:
        """These calls are not saved, where the state after them is not."""
        for made, call in chained:
            unsaved = self.unsaved.get(made, ())
            if made not in self.states and call not in unsaved:
                _put(self.unsaved, made, (*unsaved, call), undo)

    # ---- writes -------------------------------------------------------------------------

    def apply(self, write: Write, undo: Undo) -> None:
        """Raises Misfit where the write may not be; what it had changed by then is in `undo`."""
        match write:
            case RecordSteps():
                self._record_steps(write, undo)
            case RecordAttempt(attempt):
                if attempt.failure is not None:
                    attempt = attempt._replace(failure=replace(attempt.failure, pickled=None))
                _put(self.attempts.setdefault(attempt.seq, {}), attempt.number, attempt, undo)
            case FinishStep():
                self._finish_step(write, undo)
            case ExpandStep(seq, first, count):
                step = self.steps.get(seq)
                if step is None or step.state is not StepState.WAITING or step.new.kind not in EXPANDABLE:
                    raise Misfit("it expands a step that is not a waiting map or task")
                _change(step, undo, items=(first, count))
            case KeepValue(seq, value):
                step = self.steps.get(seq)
                if step is None or not step.unrecorded or step.items is not None:
                    raise Misfit("it keeps the value of a step that has one; what is recorded is never replaced")
                bytes.fromhex(value.digest)
                _change(step, undo, value=value)
            case HandleFailures(seqs, handled):
                for seq in seqs:
                    step = self.steps.get(seq)
                    if step is None or step.state not in UNSUCCESSFUL:
                        raise Misfit("it handles the failure of a step that did not fail")
                    _change(step, undo, handled=handled)
            case CloseBody(call, inputs):
                self._change_record(undo, body_closed=True, result_call=call, result_inputs=inputs)
            case FinishRun(state, at, failure):
                self._change_record(undo, state=state, finished_at=at, failure=failure, owner=None)
            case DropSteps(seqs, chained):
                self._drop_steps(set(seqs), undo)
                self._chain(chained, undo)
            case RenameSteps(steps):
                for seq, key in steps:
                    step = self.steps.get(seq)
                    if step is None or key in self.keys:
                        raise Misfit("it gives a step that is not there another key, or one that is taken")
                    _take(self.keys, step.new.key, undo)
                    _put(self.keys, key, seq, undo)
                    _change(step, undo, new=step.new._replace(key=key))
            case ReopenSteps(seqs):
                for seq in seqs:
                    step = self.steps.get(seq)
                    if step is None or step.state not in UNSUCCESSFUL:
                        raise Misfit("it opens a step again that did not end without success")
                    _change(
                        step,
                        undo,
                        state=StepState.WAITING,
                        handled=False,
                        order=None,
                        finished_at=None,
                        failure=None,
                    )
            case AddEvent(event):
                self.events.append(event)
                undo.append(self.events.pop)

    def _record_steps(self, write: RecordSteps, undo: Undo) -> None:
        for definition in write.definitions:
            if definition.number in self.definitions:
                raise Misfit(f"definition {definition.number} is there already")
            _put(self.definitions, definition.number, definition, undo)
        for new in write.steps:
            if new.seq in self.steps or new.key in self.keys:
                raise Misfit(f"step {new.seq} ({new.key}) is there already")
            _put(self.steps, new.seq, Step(new, write.at), undo)
            _put(self.keys, new.key, new.seq, undo)
            if new.seq >= self.record.steps:
                self._change_record(undo, steps=new.seq + 1)

    def _finish_step(self, write: FinishStep, undo: Undo) -> None:
        step = self.steps.get(write.seq)
        if step is None or step.state is not StepState.WAITING:
            raise Misfit("it ends a step that is not waiting; what is recorded is never replaced")
        value, items = write.value, step.items
        if value is not None:
            bytes.fromhex(value.digest)  # raises ValueError for what is no digest
            items = value.items or items
            value = value._replace(items=items if items is not None and items[1] >= 0 else None)
        _change(
            step,
            undo,
            state=write.state,
            attempts=write.attempts,
            order=write.order,
            finished_at=write.at,
            value=value,
            items=items,
            failure=write.failure,
        )
        if write.changed is not None:
            self._change_state(write.seq, write.changed, undo)

    def _change_state(self, seq: int, changed: StateChange, undo: Undo) -> None:
        instance, state = changed
        if state is None:
            _put(self.unsaved, instance, (*self.unsaved.get(instance, ()), seq), undo)
            return
        bytes.fromhex(state.digest)
        _put(self.states, instance, (seq, state), undo)
        _put(self.unsaved, instance, (), undo)

    def _drop_steps(self, seqs: set[int], undo: Undo) -> None:
        for seq in seqs & self.steps.keys():
            _take(self.keys, self.steps[seq].new.key, undo)
            _take(self.steps, seq, undo)
        for made in [made for made, (after, _) in self.states.items() if after in seqs]:
            _take(self.states, made, undo)
        for made, calls in list(self.unsaved.items()):
            _put(self.unsaved, made, tuple(call for call in calls if call not in seqs), undo)

    def _change_record(self, undo: Undo, **fields: Any) -> None:
        before = self.record
        undo.append(lambda: setattr(self, "record", before))
        self.record = replace(before, **fields)

    # ---- as it is read ------------------------------------------------------------------

    def in_order(self) -> Iterable[Step]:
        return (self.steps[seq] for seq in sorted(self.steps))

    def artifacts(self) -> Iterable[tuple[str, int]]:
        """Digests and sizes of the artifacts that steps, calls and states name."""
        for step in self.steps.values():
            if step.value is not None and step.value.inline is None and step.value.digest:
                yield step.value.digest, step.value.size
            yield from ((part.digest, part.size) for part in step.new.inputs if isinstance(part, PayloadInput))
        yield from ((state.digest, state.size) for _, state in self.states.values())

    def definitions_in_order(self) -> tuple[Definition, ...]:
        return tuple(definition for _, definition in sorted(self.definitions.items()))

    def unhandled(self) -> dict[int, tuple[str, Failure]]:
        """The failures that nobody has handled, in the order of completion."""
        failed = [step for step in self.steps.values() if step.state is StepState.FAILED and not step.handled]
        failed.sort(key=lambda step: step.order or 0)
        return {step.new.seq: (step.new.key, step.failure) for step in failed if step.failure is not None}

    def tried(self, seq: int) -> list[AttemptRecord]:
        """The step's attempts, by their numbers."""
        return [attempt for _, attempt in sorted(self.attempts.get(seq, {}).items())]

    def task_of(self, step: Step) -> str:
        definition = self.definitions.get(step.new.definition)
        return "" if definition is None else definition.name

    def pending(self, step: Step) -> PendingStep:
        new = step.new
        numbers = [attempt.number for attempt in self.tried(new.seq)]
        attempts = max([step.attempts, *numbers])
        return PendingStep(new.seq, new.key, new.kind, new.definition, new.call, new.inputs, attempts, step.items)

    def lineage(self, unfinished: Iterable[Step]) -> tuple[PendingStep, ...]:
        """The ephemeral steps that the frontier promises for these unfinished steps."""
        numbers = {number for number, found in self.definitions.items() if found.options.get("checkpoint") is False}

        def ephemeral(step: Step) -> bool:
            return step.unrecorded and step.new.definition in numbers

        if not self.record.body_closed:
            return tuple(self.pending(step) for step in self.in_order() if ephemeral(step))
        wanted = {seq for step in unfinished for seq in self.pending(step).reads()}
        wanted |= {read.seq for read in self.record.result_inputs if isinstance(read, StepInput)}
        found: dict[int, PendingStep] = {}
        while wanted:
            level = [
                self.pending(self.steps[seq]) for seq in wanted if seq in self.steps and ephemeral(self.steps[seq])
            ]
            found.update((step.seq, step) for step in level)
            wanted = {seq for step in level for seq in step.reads()} - found.keys()
        return tuple(found[seq] for seq in sorted(found))

    def recorded_call(self, step: Step) -> RecordedCall:
        new = step.new
        return RecordedCall(new.seq, new.key, new.kind, new.definition, new.call, new.inputs, step.state, step.handled)

    def saved_state(self, instance: Step) -> SavedState:
        seq = instance.new.seq
        after, state = self.states.get(seq, (None, None))
        unsaved = sorted((self.steps[call] for call in self.unsaved.get(seq, ())), key=lambda step: step.order or 0)
        calls = tuple(map(self.recorded_call, unsaved))
        return SavedState(self.recorded_call(instance), calls, after, state)

    def listed(self, step: Step) -> StepRecord:
        new, attempts = step.new, step.attempts
        if step.state is StepState.WAITING:
            attempts = max(attempts, sum(attempt.outcome is not None for attempt in self.tried(new.seq)))
        return StepRecord(
            seq=new.seq,
            key=new.key,
            kind=new.kind,
            task=self.task_of(step),
            definition=new.definition,
            state=step.state,
            attempts=attempts,
            failure=None if step.failure is None else replace(step.failure, pickled=None),
            value_digest=None if step.value is None else step.value.digest,
            value_size=None if step.value is None else step.value.size,
            created_at=step.created_at,
            finished_at=step.finished_at,
        )


def new_record(number: int, run: NewRun, process: ProcessRecord | None) -> RunRecord:
    """The row of a run that is just being recorded."""
    inputs: tuple[PayloadInput, ...] = tuple(run.inputs)
    return RunRecord(
        number=number,
        id=run.id,
        workflow=run.workflow,
        entry=run.entry,
        state=RunState.PENDING if process is None else RunState.RUNNING,
        token=0 if process is None else 1,
        owner=process,
        call=run.call,
        inputs=inputs,
        body_closed=False,
        result_call=None,
        result_inputs=(),
        failure=None,
        cancel_requested_at=None,
        created_at=run.created_at,
        started_at=None if process is None else run.created_at,
        finished_at=None,
        steps=0,
        facts=run.facts,
    )


def _put(where: dict[Any, Any], key: Any, thing: Any, undo: Undo) -> None:
    if key in where:
        before = where[key]
        undo.append(lambda: where.__setitem__(key, before))
    else:
        undo.append(lambda: where.pop(key))
    where[key] = thing


def _take(where: dict[Any, Any], key: Any, undo: Undo) -> None:
    before = where.pop(key)
    undo.append(lambda: where.__setitem__(key, before))


def _change(step: Step, undo: Undo, **fields: Any) -> None:
    for name, value in fields.items():
        before = getattr(step, name)
        undo.append(lambda name=name, before=before: setattr(step, name, before))  # type: ignore[misc]
        setattr(step, name, value)
