"""Values that are not recorded, in the run core: which are held, who makes them again, and when they are of no more use.

The step of an ephemeral value (`checkpoint=False`) stays here after it succeeded, with its call and inputs: it is the
lineage. Its end is on record and stays; its value is held by the runtime as an object, named by the attempt that made it.
When a value is needed that is not held, its step is *remade*: it waits for its inputs, which may have to be remade first,
and is attempted again; recorded values stop the climb. A remade step has no second end: its attempts are recorded, and
those who wait for it go on (docs/decisions/0011).

A value is let go of when nobody can ask for it any more: every step that reads it has ended, and the body has returned, or
has no ref to it left.

May import model, options, errors and the store's vocabulary of writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from dagengine.core.actions import Notice
from dagengine.core.actors import WORKER_LOSSES
from dagengine.core.attempts import Attempts
from dagengine.core.events import InputsLost, RefsDropped, ValueKept, ValueLost, ValueWanted
from dagengine.core.states import BodyPhase, Phase
from dagengine.core.step import Step
from dagengine.model import Definition, Failure, Input, StepInput, StepState, Value
from dagengine.storage.writes import KeepValue, StateChange

MAP = -1
"""In place of the attempt that made it: the value is the list of the items' values."""


class Ephemerals(Attempts):
    """Attempts, of which some make values that can be lost."""

    def __init__(self, window: int = 512, host: str = "", token: int = 0) -> None:
        super().__init__(window, host, token)
        self.held: dict[int, int] = {}  # step -> the attempt that made its object
        self.remaking: set[int] = set()
        self.keeping: set[int] = set()  # what the body returned, to be recorded in full before the run ends
        self.kept: set[int] = set()  # recorded in full after all
        self._ephemeral: set[int] = set()  # definitions
        self._readers: dict[int, int] = {}  # step -> unfinished steps that read it
        self._unreachable: set[int] = set()  # the body has no ref to them left
        self._keep_asked: set[int] = set()

    # ---- what is ephemeral --------------------------------------------------------------------

    def _define(self, definitions: Iterable[Definition]) -> None:
        definitions = list(definitions)
        super()._define(definitions)
        self._ephemeral.update(d.number for d in definitions if not self.options[d.number].checkpoint)

    def is_ephemeral(self, seq: int) -> bool:
        """Whether the step's value is, or is to be, an object of the runtime's and nothing else."""
        step = self.steps.get(seq)
        return step is not None and step.definition in self._ephemeral

    def read_by(self, seq: int) -> int:
        """How many steps that have not ended, or maps that are needed, read this ephemeral value."""
        return self._readers.get(seq, 0)

    def _load_ephemeral(self, step: Step) -> None:
        """A step that succeeded in an earlier process. Nothing is held of its value, and nothing done until it is needed."""
        step.phase = Phase.SUCCEEDED
        step.end = StepState.SUCCEEDED
        self.unfinished -= 1

    def _reads(self, step: Step) -> Iterator[Step]:
        """The ephemeral steps that the step reads, each once."""
        seqs: Iterable[int]
        if step.items is not None:
            seqs = range(step.items[0], step.items[0] + step.items[1])
        else:
            seqs = {item.seq for item in step.inputs if isinstance(item, StepInput)}
        for seq in seqs:
            other = self.steps.get(seq)
            if other is not None and other.definition in self._ephemeral:
                yield other

    def _is_held(self, step: Step) -> bool:
        if step.seq in self.kept:
            return True
        if step.items is None:
            return step.seq in self.held
        return all(item.phase is Phase.SUCCEEDED and self._is_held(item) for item in self._reads(step))

    # ---- readers come and go --------------------------------------------------------------------

    def _link(self, step: Step, now: float) -> None:
        super()._link(step, now)
        if self._ephemeral and step.end is None:
            for other in self._reads(step):
                self._readers[other.seq] = self._readers.get(other.seq, 0) + 1
                if step.items is not None:
                    self._unreachable.add(other.seq)  # nobody but the map names its items

    def _there(self, other: Step) -> bool:
        """Whether the value of a succeeded step can be read now; if not, it is on its way from here on."""
        if other.definition not in self._ephemeral or self._is_held(other):
            return True
        self._remake(other)
        return other.phase is Phase.SUCCEEDED

    def _forget(self, step: Step) -> None:
        """The step's end is recorded: it reads no more, and if its value is ephemeral it is lineage from now on."""
        if not self._ephemeral:
            super()._forget(step)
            return
        stays = step.definition in self._ephemeral and step.end is StepState.SUCCEEDED
        if step.items is None or not stays:  # a map that stays needs its items as long as it is needed itself
            for other in self._reads(step):
                self._let_go(other)
        if stays:
            step.dependents = None
            self._maybe_free(step)
        else:
            super()._forget(step)

    def _done_reading(self, step: Step) -> None:
        for other in self._reads(step):
            self._let_go(other)

    def _let_go(self, other: Step) -> None:
        left = self._readers.get(other.seq, 0) - 1
        if left > 0:
            self._readers[other.seq] = left
            return
        self._readers.pop(other.seq, None)
        self._maybe_free(other)

    def _maybe_free(self, step: Step) -> None:
        asked_for = self.body is BodyPhase.OPEN and step.seq not in self._unreachable
        if step.seq in self._readers or step.seq in self.keeping or asked_for or step.phase is not Phase.SUCCEEDED:
            return
        made = self.held.pop(step.seq, None)
        if made == MAP:
            for item in self._reads(step):
                self._let_go(item)
        elif made is not None:
            self._actions.free.append((step.seq, made))

    def _body_is_closed(self) -> None:
        """The body asks for nothing any more."""
        for seq in list(self.held):
            if seq in self.held:
                self._maybe_free(self.steps[seq])

    def _refs_dropped(self, event: RefsDropped, now: float) -> None:
        for seq in event.seqs:
            step = self.steps.get(seq)
            if step is not None and step.definition in self._ephemeral:
                self._unreachable.add(seq)
                self._maybe_free(step)

    # ---- losses ---------------------------------------------------------------------------------

    def _value_lost(self, event: ValueLost, now: float) -> None:
        for seq, made in event.lost:
            if self.held.get(seq) == made:
                del self.held[seq]
                self._actions.free.append((seq, made))
                self._keep_asked.discard(seq)

    def _value_wanted(self, event: ValueWanted, now: float) -> None:
        step = self.steps.get(event.seq)
        if step is not None and step.phase is Phase.SUCCEEDED and not self.stop:
            self._unreachable.discard(event.seq)
            self._there(step)

    def _inputs_lost(self, event: InputsLost, now: float) -> None:
        """An attempt could not begin, or not go on, because objects that it reads are gone."""
        self._value_lost(ValueLost(event.lost), now)
        step = self._current(event.seq, event.number)
        if step is None:
            return
        started = self._started.pop(step.seq, None)
        self._to_write.pop(step.seq, None)
        if started is None or self._careful(step):
            self._withdraw(step, now)
        step.losses += 1
        if step.losses > WORKER_LOSSES:
            message = f"{step.key} lost its inputs again and again: {event.reason}"
            self._end(step, StepState.FAILED, now, failure=Failure("object", "dagengine.errors.ObjectLost", message))
            return
        self._await_inputs(step)

    def _await_inputs(self, step: Step) -> None:
        """Back to waiting, until what the step reads is held again."""
        self._go(step, Phase.WAITING)
        self._miss(step)
        self._consider(step, 0.0)

    def _miss(self, step: Step) -> None:
        """Count and await what the step reads and is not held."""
        step.missing = 0
        for other in self._reads(step):
            if other.phase is not Phase.SUCCEEDED or not self._there(other):
                step.missing += 1
                other.add_dependent(step.seq)

    def _may_go(self, step: Step) -> bool:
        """Whether a ready step still has all that it reads; if not, it waits again."""
        if not self._ephemeral or all(
            other.phase is Phase.SUCCEEDED and self._is_held(other) for other in self._reads(step)
        ):
            return True
        self._await_inputs(step)
        return False

    # ---- remaking -------------------------------------------------------------------------------

    def _remake(self, wanted: Step) -> None:
        """Have the step's value made again, and first those that it is made from. Iterative: lineages are deep."""
        begun = []
        todo = [wanted]
        while todo:
            step = todo.pop()
            if step.phase is not Phase.SUCCEEDED:
                continue
            self.remaking.add(step.seq)
            self.unfinished += 1
            step.end = None
            step.failures = step.losses = 0
            step.dependents = None
            self._go(step, Phase.WAITING if step.items is None else Phase.EXPANDED)
            begun.append(step)
            todo += [other for other in self._reads(step) if not self._is_held(other)]
        for step in begun:
            step.missing = 0
            counted = self.held.pop(step.seq, None) == MAP
            for other in self._reads(step):
                if not counted:
                    self._readers[other.seq] = self._readers.get(other.seq, 0) + 1
                    if step.items is not None:
                        self._unreachable.add(other.seq)
                if other.phase is not Phase.SUCCEEDED:
                    step.missing += 1
                    other.add_dependent(step.seq)
        for step in begun:
            self._consider(step, 0.0)

    def _end(
        self,
        step: Step,
        state: StepState,
        at: float,
        *,
        value: Value | None = None,
        failure: Failure | None = None,
        changed: StateChange | None = None,
    ) -> None:
        if step.seq in self.remaking:
            if state is StepState.SUCCEEDED:
                self._remade(step)
            else:
                self._not_remade(step, state, at, failure)
            return
        super()._end(step, state, at, value=value, failure=failure, changed=changed)
        if state is StepState.SUCCEEDED and step.definition in self._ephemeral and step.seq not in self.kept:
            self.held[step.seq] = step.attempt if step.items is None else MAP

    def _remade(self, step: Step) -> None:
        """The value is there again. Its readers are told with the next commit, which has the attempt on it."""
        self.remaking.discard(step.seq)
        self.unfinished -= 1
        self._go(step, Phase.ENDING)
        step.end = StepState.SUCCEEDED
        if step.items is None:
            self.held[step.seq] = step.attempt
            self._batch.remade.append(step.seq)
        else:
            self.held[step.seq] = MAP
            self._remade_recorded([step.seq], 0.0)  # there is nothing of it to record

    def _remade_recorded(self, seqs: list[int], now: float) -> None:
        for seq in seqs:
            step = self.steps[seq]
            self._go(step, Phase.SUCCEEDED)
            self._actions.remade.append(seq)
            readers, step.dependents = step.readers(), None
            if step.items is None:
                for other in self._reads(step):
                    self._let_go(other)
            for reader_seq in readers:
                reader = self.steps[reader_seq]
                if reader.end is None:
                    reader.missing -= 1
                    self._consider(reader, now)
            self._maybe_free(step)

    def _not_remade(self, step: Step, state: StepState, at: float, failure: Failure | None) -> None:
        """The value can't be had: the step's end stands, and what waits for the value ends without it."""
        queue = [step]
        while queue:
            cause = queue.pop()
            if cause.seq not in self.remaking:
                continue
            self.remaking.discard(cause.seq)
            self.unfinished -= 1
            self._go(cause, Phase.ENDING)
            self._go(cause, Phase.SUCCEEDED)
            cause.end = StepState.SUCCEEDED
            cause.missing = 0
            readers, cause.dependents = cause.readers(), None
            why = _unmade(step, cause, failure)
            self._actions.unmade.append((cause.seq, why))
            for other in self._reads(cause):
                self._let_go(other)
            if cause.seq in self.keeping:
                self.keeping.discard(cause.seq)
                self.failure = self.failure or why
            for seq in readers:
                reader = self.steps[seq]
                if reader.seq in self.remaking:
                    queue.append(reader)
                elif reader.end is None:
                    ended = state if state is StepState.CANCELLED else StepState.FAILED
                    super()._end(reader, ended, at, failure=replace(why, message=f"{reader.key}: {why.message}"))
        if state is not StepState.CANCELLED:
            self._actions.notices.append(Notice("step.failed", step.seq, step.key, failure))

    # ---- what the body returned -----------------------------------------------------------------

    def _keep_results(self, inputs: Iterable[Input]) -> None:
        """Whatever of this is ephemeral is to be recorded in full."""
        for item in inputs:
            if isinstance(item, StepInput) and self.is_ephemeral(item.seq):
                self.keeping.add(item.seq)

    def _keep(self) -> None:
        """Ask for what is to be kept and is held; have the rest made."""
        for seq in sorted(self.keeping - self._keep_asked):
            step = self.steps[seq]
            if step.phase is not Phase.SUCCEEDED:
                if step.end is not None and step.end is not StepState.SUCCEEDED:
                    self.keeping.discard(seq)  # the run fails without it
            elif step.items is not None:
                self.keeping.discard(seq)
                self.keeping.update(item.seq for item in self._reads(step))
                self._maybe_free(step)
                self._keep()
                return
            elif self._there(step):
                self._keep_asked.add(seq)
                self._actions.keep.append((seq, self.held[seq]))

    def _value_kept(self, event: ValueKept, now: float) -> None:
        """Its bytes are durable: the record gets them."""
        if event.seq in self.keeping:
            self._actions.writes.append(KeepValue(event.seq, event.value))
            self._batch.kept.append(event.seq)

    def _kept_recorded(self, seqs: list[int]) -> None:
        for seq in seqs:
            self.kept.add(seq)
            self.keeping.discard(seq)
            self._keep_asked.discard(seq)
            self._maybe_free(self.steps[seq])


def _unmade(root: Step, step: Step, failure: Failure | None) -> Failure:
    reason = f": {failure.type.rpartition('.')[2]}: {failure.message}" if failure is not None else ""
    made_from = "" if root is step else f", because that of {root.key} could not"
    message = f"the value of {step.key} was lost, and could not be made again{made_from}{reason}"
    facts = {"cause": root.key, "root_seq": root.seq}
    return Failure("object", "dagengine.errors.ObjectLost", message, retriable=False, facts=facts)
