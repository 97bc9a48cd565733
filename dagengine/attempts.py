"""A run's attempts between the run core and the runtime: as task specs on their way out, as events on their way back.

On the engine's thread. Clock and chance enter here. May import everything of the workflow layer that a
driver may.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dagengine.core.core import RunCore
from dagengine.core.events import (
    ActorBuilt,
    ActorGone,
    ActorNotBuilt,
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptLost,
    AttemptRefused,
    AttemptStarted,
    AttemptSucceeded,
    Event,
    ValueLost,
)
from dagengine.definitions import Definitions
from dagengine.errors import DagengineError, RuntimeStopped, StoreUnavailable
from dagengine.functions import Reference
from dagengine.growing import growth_of
from dagengine.holding import Holding
from dagengine.liveness import Liveness
from dagengine.model import Definition, Failure, RunRecord, SavedState, StepInput, StepKind, Value
from dagengine.options import Options
from dagengine.progress import Tally
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.protocol import (
    ActorLost,
    ActorWork,
    Asked,
    Dropped,
    Failed,
    Lost,
    ObjectLost,
    Placement,
    Replayed,
    Resources,
    SharedObject,
    Started,
    Succeeded,
    TaskSpec,
    TimedOut,
    Yielded,
)
from dagengine.supply import Found, Supply
from dagengine.transactions import facts_of

if TYPE_CHECKING:
    from dagengine.engine import Engine


RuntimeNews = Started | Yielded | Asked | Succeeded | Failed | TimedOut | Lost | Dropped | ActorLost | ObjectLost
"""Events of the runtime that are of one run."""

READERS = 16
"""Read-only calls that run side by side in one object's process, on as many threads."""

_MODES = {
    StepKind.MAP: "expand",
    StepKind.CREATE: "create",
    StepKind.METHOD: "method",
    StepKind.READONLY: "method",
    StepKind.UNDO: "undo",
}


class Attempts:
    """Of one run. `index`: of the run, in TaskIds. `take_seqs`: sets aside seqs for the items of a map."""

    def __init__(
        self,
        engine: Engine,
        index: int,
        run: RunRecord,
        *,
        core: RunCore,
        definitions: Definitions,
        holding: Holding,
        supply: Supply,
        tally: Tally,
        liveness: Liveness,
        take_seqs: Callable[[int], int],
    ) -> None:
        self._engine = engine
        self._index = index
        self._run = run
        self._run_number = run.number
        self._core = core
        self._definitions = definitions
        self._holding = holding
        self._supply = supply
        self._tally = tally
        self._liveness = liveness
        self._take_seqs = take_seqs
        self._functions: dict[int, int] = {}
        self._unsaved: dict[tuple[int, int], int] = {}  # calls that are replayed while an object is made anew

    # ---- out ------------------------------------------------------------------------------------

    def submit(self, attempts: list[tuple[int, int]]) -> list[Event]:
        """Hand these to the runtime; returns what is to be told of those that it can't take. Raises RuntimeStopped."""
        steps = self._core.steps
        read = {item.seq for seq, _ in attempts for item in steps[seq].inputs if isinstance(item, StepInput)}
        found = self._holding.of_steps(read)
        specs = []
        refused: list[Event] = []
        for seq, number in attempts:
            self._tally.submitted(seq)
            try:
                specs.append(self._spec(seq, number, found))
            except DagengineError as error:
                refused.append(_refused(seq, number, error))
        try:
            self._engine.runtime.submit(specs)
        except RuntimeStopped:
            raise
        except DagengineError:
            for spec in specs:  # one of them can't be had: find out which
                try:
                    self._engine.runtime.submit([spec])
                except DagengineError as error:
                    refused.append(_refused(spec.id[1], spec.id[2], error))
        return refused

    def rebuild(self, actors: list[tuple[int, int]]) -> list[Event]:
        """Have stateful objects made again from what is recorded; as `submit`."""
        refused: list[Event] = []
        for seq, incarnation in actors:
            try:
                saved = self._engine.store.saved_state(self._run_number, seq)
                spec = self._rebuilding(saved, seq, incarnation)
                self._unsaved[seq, incarnation] = len(saved.calls)
                self._engine.runtime.submit([spec])
            except (RuntimeStopped, StoreUnavailable):
                raise
            except DagengineError as error:
                failure = replace(describe_failure(error), traceback="", retriable=False)
                refused.append(ActorNotBuilt(seq, incarnation, failure, False, time.time()))
        return refused

    def release(self, actors: list[tuple[int, int, bool]]) -> None:
        """End actors. With force, also those that are only being rebuilt."""
        forced = [(self._index, seq, incarnation) for seq, incarnation, force in actors if force]
        polite = [(self._index, seq, incarnation) for seq, incarnation, force in actors if not force]
        with suppress(RuntimeStopped):  # then they are gone
            if forced:
                self._engine.runtime.cancel([(index, seq, -number) for index, seq, number in forced], force=True)
                self._engine.runtime.release(forced, force=True)
            if polite:
                self._engine.runtime.release(polite)

    def _spec(self, seq: int, number: int, found: Found) -> TaskSpec:
        step = self._core.steps[seq]
        options = self._core.options[step.definition]
        if step.call is None:
            raise AssertionError(f"{step.key} is run after its end")
        work = None
        inputs, resources = step.inputs, _resources(options)
        if step.place is not None:
            work = ActorWork((self._index, step.place.instance.seq, step.place.incarnation), threads=READERS)
            if step.kind.is_call:
                inputs, resources = inputs[:-1], _NONE  # the last input is the object, which has the resources
                work.method = _method_of(self._definitions[step.definition])
                work.concurrent = step.readonly
                work.save_state = self._core.saves(step)
        return TaskSpec(
            (self._index, seq, number),
            self._function(step.definition),
            step.call,
            self._supply.of_call(inputs, found),
            resources,
            options.timeout,
            self._with_effects(self._context(step.key, step.definition, number), seq, options),
            f"{self._engine.logs}/{self._run.id}/{seq}.{number}.log" if self._engine.logs else None,
            _MODES.get(step.kind, "call") if step.items is None else "call",
            _placement(options),
            (self._index, seq, number) if self._makes_object(seq) else None,
            options.checkpoint,
            actor=work,
            grace=options.grace,
        )

    def _makes_object(self, seq: int) -> bool:
        step = self._core.steps[seq]
        return self._core.is_ephemeral(seq) and (step.kind is not StepKind.MAP or step.items is not None)

    def _context(self, key: str, definition: int, attempt: int) -> dict[str, Any]:
        return {
            "run_id": self._run.id,
            "workflow": self._run.workflow,
            "key": key,
            "task": self._definitions[definition].name,
            "attempt": attempt,
            "idempotency_key": f"{self._run.id}/{key}",
        }

    def _with_effects(self, context: dict[str, Any], seq: int, options: Options) -> dict[str, Any]:
        """What the task's own effects need to know (effects, transactions). Raises BadOption."""
        if options.heartbeat_timeout is not None:
            context["heartbeat_timeout"] = options.heartbeat_timeout
        if options.transactional is True:
            context["transaction"] = facts_of(self._engine.store, self._run, seq)
        return context

    def _rebuilding(self, saved: SavedState, seq: int, incarnation: int) -> TaskSpec:
        """What makes the object anew: the creation with its arguments, or the saved state; then the calls since."""
        create, calls = saved.create, saved.calls
        options = self._core.options[create.definition]
        made = () if saved.state is not None else create.inputs
        read = {item.seq for call in calls for item in call.inputs[:-1] if isinstance(item, StepInput)}
        found = self._supply.of_steps(read | {item.seq for item in made if isinstance(item, StepInput)})
        replay = tuple(
            Replayed(
                _method_of(self._definitions[call.definition]), call.call, self._supply.of_call(call.inputs[:-1], found)
            )
            for call in calls
        )
        state = None if saved.state is None else self._supply.of_state(saved.state)
        return TaskSpec(
            (self._index, seq, -incarnation),
            self._function(create.definition),
            create.call,
            self._supply.of_call(made, found),
            _resources(options),
            None if options.timeout is None else options.timeout * (1 + len(calls)),
            self._context(create.key, create.definition, 1),
            None,
            "create",
            _placement(options),
            actor=ActorWork((self._index, seq, incarnation), threads=READERS, state=state, replay=replay),
            grace=options.grace,
        )

    def _function(self, definition: int) -> int:
        number = self._functions.get(definition)
        if number is None:
            reference = Reference.from_json(self._definitions[definition].reference)
            number = self._engine.function_number(reference, self._run.code)
            self._functions[definition] = number
        return number

    # ---- back -----------------------------------------------------------------------------------

    def convert(self, event: RuntimeNews) -> Event | None:
        """The core's event for the runtime's; None if there is none, or if bytes have to be made durable first: then,
        `kept`."""
        if isinstance(event, ActorLost):
            return ActorGone(event.actor[1], event.actor[2], event.failure, time.time())
        if isinstance(event, ObjectLost):
            _, seq, made, *further = event.object
            if further:
                return None  # what came with a question
            return ValueLost(((seq, made),))
        if isinstance(event, Yielded | Asked):
            raise AssertionError(event)  # no task of a run is a stream; questions go to `Questions`
        if event.id[2] < 0:
            return self._rebuilt(event)
        if isinstance(event, Started):
            _, seq, number = event.id
            self._liveness.started(event)
            if seq in self._core.steps:
                self._tally.started(seq, self.task_of(seq))
            return AttemptStarted(seq, number, event.worker, event.pid, event.at)
        if isinstance(event, Succeeded):
            return self._succeeded(event)
        if isinstance(event, Failed):
            _, seq, number = event.id
            self._tally.stopped(seq)
            lost = self._holding.lost(event)
            if lost is not None:
                return lost
            return AttemptFailed(
                seq, number, event.worker, event.started_at, event.finished_at, event.failure, random.random()
            )
        if isinstance(event, TimedOut):
            return self._timed_out(event)
        if isinstance(event, Lost):
            _, seq, number = event.id
            self._tally.stopped(seq)
            return AttemptLost(
                seq, number, event.worker, event.started_at, event.finished_at, event.failure, random.random()
            )
        if isinstance(event, Dropped):
            _, seq, number = event.id
            self._tally.stopped(seq)
            silenced = self._liveness.silenced((seq, number))
            if silenced is not None:
                began, failure = silenced
                return AttemptFailed(seq, number, began.worker, began.at, time.time(), failure, random.random())
            return AttemptDropped(seq, number, event.started, time.time())
        raise AssertionError(event)

    def _succeeded(self, event: Succeeded) -> Event | None:
        _, seq, number = event.id
        if event.grown is not None:
            grown = growth_of(event, self._definitions, self._take_seqs)
            self._stopped(seq, event.finished_at - event.started_at)
            for call in grown.calls:
                self._tally.of(call.name).total += 1
            return grown
        if event.calls is not None:
            self._tally.stopped(seq)
            self._tally.of(self.task_of(seq)).total += len(event.calls)
            first = self._take_seqs(len(event.calls))
            return AttemptExpanded(seq, number, event.worker, event.started_at, event.finished_at, event.calls, first)
        if event.shared is not None or (event.state is not None and event.state.shared is not None):
            return None
        self._stopped(seq, event.finished_at - event.started_at)
        if self._core.is_ephemeral(seq):
            value = Value("", event.size)
        else:
            value = Value(event.digest, event.size, event.data)
            if event.data is not None:
                self._supply.remember(seq, event.data)
        return AttemptSucceeded(seq, number, event.worker, event.started_at, event.finished_at, value, _state_of(event))

    def kept(self, event: Succeeded) -> Event:
        """What is large of this result, or of the state with it, is durable among the artifacts."""
        _, seq, number = event.id
        self._stopped(seq, event.finished_at - event.started_at)
        value = Value(event.digest, event.size, event.data)
        return AttemptSucceeded(seq, number, event.worker, event.started_at, event.finished_at, value, _state_of(event))

    def _rebuilt(self, event: Started | Succeeded | Failed | TimedOut | Lost | Dropped) -> Event | None:
        """News of an object that is made anew: no attempt at a step, and so not on record."""
        _, seq, number = event.id
        incarnation = -number
        if isinstance(event, Started):
            return None
        unsaved = self._unsaved.pop((seq, incarnation), 0)
        if isinstance(event, Succeeded):
            return ActorBuilt(seq, incarnation, unsaved)
        if isinstance(event, Failed | Lost):
            lost = isinstance(event, Lost)
            return ActorNotBuilt(seq, incarnation, event.failure, lost, event.finished_at, random.random())
        what = "took longer than its timeout" if isinstance(event, TimedOut) else "was dropped"
        failure = Failure("timeout", "dagengine.errors.StepTimeout", f"making the object again {what}")
        return ActorNotBuilt(seq, incarnation, failure, False, time.time(), random.random())

    def _timed_out(self, event: TimedOut) -> Event:
        _, seq, number = event.id
        self._tally.stopped(seq)
        step = self._core.steps[seq]
        timeout = self._core.options[step.definition].timeout or 0.0
        message = f"{step.key} ran longer than its timeout of {timeout:g} s, and was ended"
        failure = Failure("timeout", "dagengine.errors.StepTimeout", message, facts={"timeout": timeout})
        return AttemptFailed(seq, number, event.worker, event.started_at, event.finished_at, failure, random.random())

    def task_of(self, seq: int) -> str:
        return self._definitions[self._core.steps[seq].definition].name

    def _stopped(self, seq: int, seconds: float) -> None:
        """An attempt has succeeded."""
        self._tally.stopped(seq)
        if seq in self._core.steps:
            self._tally.timed(self.task_of(seq), seconds)


def _resources(options: Options) -> Resources:
    if options.cpus == 1.0 and not (options.memory or options.gpus or options.resources):
        return _DEFAULT
    custom = tuple(dict(options.resources).items())
    return Resources(options.cpus, options.memory, options.gpus, options.gpu_memory, custom)


_DEFAULT = Resources()
_NONE = Resources(0.0)
_ANYWHERE = Placement()


def _placement(options: Options) -> Placement:
    return _ANYWHERE if not options.priority and options.node is None else Placement(options.priority, options.node)


def _method_of(definition: Definition) -> str:
    return definition.name.rpartition(".")[2]


def run_of(event: RuntimeNews) -> int:
    """The index of the run that the event is news of."""
    if isinstance(event, ActorLost):
        return event.actor[0]
    return event.object[0] if isinstance(event, ObjectLost) else event.id[0]


def shared_parts(event: Succeeded) -> list[tuple[str, int, SharedObject]]:
    """(digest, size, bytes) of what is large: it is made durable before the result is recorded, and then closed."""
    parts = [] if event.shared is None else [(event.digest, event.size, event.shared)]
    if event.state is not None and event.state.shared is not None:
        parts.append((event.state.digest, event.state.size, event.state.shared))
    return parts


def _state_of(event: Succeeded) -> Value | None:
    state = event.state
    return None if state is None else Value(state.digest, state.size, state.data)


def _refused(seq: int, number: int, error: DagengineError) -> AttemptRefused:
    return AttemptRefused(seq, number, time.time(), replace(describe_failure(error), traceback="", retriable=False))
