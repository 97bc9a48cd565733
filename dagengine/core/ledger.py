"""The run core's ledger: the steps, what waits for what, and how a step ends. What follows from events is built on it.

May import model, options, errors and the store's vocabulary of writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from dagengine.core.actions import Actions, Notice
from dagengine.core.chain import Instance, Place
from dagengine.core.states import TRANSITIONS, BodyPhase, Phase, Stop
from dagengine.core.step import Batch, Step
from dagengine.errors import InternalError
from dagengine.model import (
    AttemptRecord,
    Definition,
    Failure,
    NewStep,
    PendingStep,
    StepInput,
    StepKind,
    StepState,
    Value,
)
from dagengine.options import Options
from dagengine.storage.writes import FinishStep, RecordSteps, StateChange


class Ledger:
    """The state of one run in the hands of its owner.

    window: attempts that the runtime may have, and ends that may wait to be recorded, at a time. The other steps stay
        here, where they cost less; and a crash can't cost more than these attempts.
    host: where attempts run, for the record
    token: of the claim. Places in the order of completion are numbered from token × 2^32, so that those of a later
        owner are greater without anybody having to count in the store
    """

    def __init__(self, window: int = 512, host: str = "", token: int = 0) -> None:
        self.window = window
        self.host = host
        self.steps: dict[int, Step] = {}
        self.options: dict[int, Options] = {}
        self.every: dict[int, int] = {}  # by definition: after how many calls a state is saved
        self.instances: dict[int, Instance] = {}  # by the seq of their CREATE step
        self.ended_before: dict[int, StepState] = {}
        self.body = BodyPhase.OPEN
        self.stop = Stop.NO
        self.failure: Failure | None = None  # of the body
        self.finish_asked = False
        self.next_order = token << 32
        self.unfinished = 0  # steps whose end was not asked for
        self.in_flight = 0  # SUBMITTED or RUNNING
        self.unrecorded = 0  # ENDING
        self.unhandled: dict[int, Failure] = {}  # failed steps that nobody has handled, in the order of their ends
        self._failed_before: dict[int, str] = {}  # keys of steps that failed in another process, and stay as they are
        self.world: set[int] = set()  # steps that are, or were, OUTSIDE
        self._ready: deque[int] = deque()
        self._batches: deque[Batch] = deque()
        self._batch = Batch()
        self._started: dict[int, AttemptRecord] = {}  # of the attempts that run
        self._to_write: dict[int, AttemptRecord] = {}  # started, not yet handed to the store
        self._waited: set[tuple[int, int]] = set()  # attempts that waited beside idle objects when that was looked at
        self._unsettled: dict[int, Instance] = {}  # objects that may have no more to do
        self._looked: set[int] = set()  # steps whose value was looked for in the cache
        self._claims: dict[int, tuple[str, str]] = {}  # steps whose value is to be kept: key in the cache, claim
        self._whole: deque[Step] = deque()  # expanded steps whose last item has ended
        self._actions = Actions()

    # ---- steps come -------------------------------------------------------------------------

    def _define(self, definitions: Iterable[Definition]) -> None:
        for definition in definitions:
            options = dict(definition.options)
            self.every[definition.number] = options.pop("checkpoint_every", 1)
            self.options[definition.number] = Options.from_json(options)

    def _define_new(self, definitions: Iterable[Definition]) -> list[Definition]:
        """Take up those that are not known yet, which are to be recorded: the body and a growth may bring the same one."""
        new = [definition for definition in definitions if definition.number not in self.options]
        self._define(new)
        return new

    def _record(self, definitions: Iterable[Definition], steps: list[NewStep], now: float) -> None:
        self._actions.writes.append(RecordSteps(tuple(definitions), tuple(steps), now))
        for step in [self._add(new) for new in steps]:
            self._batch.new.append(step.seq)
            self._link(step, now)

    def _add(self, recorded: NewStep | PendingStep) -> Step:
        if recorded.seq in self.steps:
            raise InternalError(f"step {recorded.seq} ({recorded.key}) was called twice")
        step = self.steps[recorded.seq] = Step(recorded)
        self.unfinished += 1
        if recorded.kind is StepKind.CREATE:
            step.place = Place(self._instance(recorded.seq, recorded.definition))
            self._unsettled[recorded.seq] = step.place.instance
        elif recorded.kind.is_call:
            created = recorded.inputs[-1]
            if not isinstance(created, StepInput):
                raise InternalError(f"{recorded.key} is a call on nothing")
            step.place = Place(self._instance(created.seq, recorded.definition))
            step.place.instance.open += 1
        return step

    def _instance(self, seq: int, definition: int) -> Instance:
        instance = self.instances.get(seq)
        if instance is None:
            instance = self.instances[seq] = Instance(seq, self.every[definition])
        return instance

    def _link(self, step: Step, now: float) -> None:
        """Make the step wait for what it reads; or end it, if that will never be there."""
        if step.items is not None:
            read: Iterable[int] = step.item_seqs()
        elif step.inputs:
            read = {item.seq for item in step.inputs if isinstance(item, StepInput)}
        else:
            return
        for seq in read:
            other = self.steps.get(seq)
            if other is None:
                state = self.ended_before.get(seq, StepState.SUCCEEDED)
                if state is not StepState.SUCCEEDED:
                    self._skip(step, seq, f"step {seq}", now)
                    return
            elif other.phase is Phase.SUCCEEDED and self._there(other):
                continue
            elif other.end not in (None, StepState.SUCCEEDED):
                self._skip(step, other.seq, other.key, now)
                return
            else:
                step.missing += 1
                other.add_dependent(step.seq)
        if step.place is not None and step.kind.is_call:
            step.missing += 1  # its turn
            step.place.instance.join(step)
            self._give_turns(step.place.instance, now)

    def _give_turns(self, instance: Instance, now: float) -> None:
        for call in instance.turns():
            call.missing -= 1
            self._consider(call, now)

    def _there(self, other: Step) -> bool:
        """Whether the value of a succeeded step can be read."""
        return True

    def _forget(self, step: Step) -> None:
        """The step's end is recorded: nothing of it is needed any more, but that it did not succeed."""
        step.dependents = None
        step.call = None
        step.inputs = ()
        if step.end is StepState.SUCCEEDED:
            del self.steps[step.seq]

    def _consider(self, step: Step, now: float) -> None:
        """The last input, or the last item of a map, may have come: go on."""
        if step.missing:
            if step.missing == 1 and step.place is not None and step.kind.is_call:
                self._want(step.place.instance, now)
            return
        if step.phase is Phase.WAITING:
            if step.kind.is_outside:
                self._go(step, Phase.OUTSIDE)
                self._actions.outside.append(step.seq)
                self.world.add(step.seq)
                return
            if step.kind is StepKind.CREATE and step.place is not None and not step.place.instance.wanted:
                return  # an object is made when there is something for it to do: it may hold a device
            self._go(step, Phase.READY)
            self._ready.append(step.seq)
        elif step.phase is Phase.EXPANDED:
            value = step.value if step.items is not None and step.items[1] < 0 else Value("", 0, items=step.items)
            self._end(step, StepState.SUCCEEDED, now, value=value)

    def _tell_expanded(self, item: Step, value: Value | None) -> None:
        """What waits for its items ends in the batch of the last one's end: a deep growth is one commit, not as many."""
        for seq in item.readers():
            reader = self.steps[seq]
            if reader.items is not None:
                reader.missing -= 1
                reader.value = value
                if not reader.missing:
                    self._whole.append(reader)

    def _end_whole(self, now: float) -> None:
        """Iterative: growths may be as deep as their tasks allow."""
        while self._whole:
            step = self._whole.popleft()
            if step.phase is Phase.EXPANDED:
                self._consider(step, now)

    def _want(self, instance: Instance, now: float) -> None:
        """A call waits for no more than its object: this is when the object is made."""
        create = self.steps.get(instance.seq)
        if create is not None and create.end is None and not instance.wanted:
            instance.wanted = True
            self._consider(create, now)

    # ---- steps end --------------------------------------------------------------------------

    def _key_of_failed(self, seq: int) -> str:
        step = self.steps.get(seq)
        return self._failed_before[seq] if step is None else step.key

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
        self._close(step, state)
        self._actions.writes.append(
            FinishStep(step.seq, state, step.order, step.attempt, at, value=value, failure=failure, changed=changed)
        )
        if state is StepState.FAILED and failure is not None:
            self.unhandled[step.seq] = failure
            self._actions.notices.append(Notice("step.failed", step.seq, step.key, failure))
        if state is not StepState.SUCCEEDED:
            self._skip_dependents(step, at)
        else:
            self._tell_expanded(step, value)

    def _skip_dependents(self, step: Step, at: float) -> None:
        """Iterative, by way of the list itself: a chain of 100,000 steps must not be a stack of as many frames."""
        queue = deque([step])
        while queue:
            cause = queue.popleft()
            for seq in cause.readers():
                dependent = self.steps[seq]
                if dependent.end is None:
                    self._skip_one(dependent, cause.seq, cause.key, at)
                    queue.append(dependent)

    def _skip(self, step: Step, seq: int, key: str, at: float) -> None:
        self._skip_one(step, seq, key, at)
        self._skip_dependents(step, at)

    def _skip_one(self, step: Step, seq: int, key: str, at: float) -> None:
        state = StepState.CANCELLED if self.stop == Stop.CANCEL else StepState.SKIPPED
        cause = self.steps.get(seq)
        step.root = cause.root if cause is not None else seq
        failure = Failure(
            "skipped",
            "dagengine.errors.StepSkipped",
            f"{step.key} did not run, because {key} did not succeed",
            facts={"cause": key, "root_seq": step.root},
        )
        self._close(step, state)
        self._actions.writes.append(FinishStep(step.seq, state, step.order, step.attempt, at, failure=failure))

    def _close(self, step: Step, state: StepState) -> None:
        self._go(step, Phase.ENDING)
        step.end = state
        step.order = self.next_order
        self.next_order += 1
        self.unfinished -= 1
        self._batch.ended.append(step.seq)
        if step.place is not None:
            instance = step.place.instance
            instance.open -= step.kind.is_call
            self._unsettled[instance.seq] = instance

    def _go(self, step: Step, phase: Phase) -> None:
        if phase not in TRANSITIONS[step.phase]:
            raise InternalError(f"{step.key} can't go from {step.phase.name} to {phase.name}")
        more = (phase in (Phase.SUBMITTED, Phase.RUNNING)) - (step.phase in (Phase.SUBMITTED, Phase.RUNNING))
        self.in_flight += more
        if more and step.place is not None:
            step.place.instance.out += more
        self.unrecorded += (phase is Phase.ENDING) - (step.phase is Phase.ENDING)
        step.phase = phase


def cancelled(step: Step) -> Failure:
    return Failure("cancelled", "dagengine.errors.StepCancelled", f"the run was cancelled before {step.key} ended")
