"""What a workflow would call, without running or recording anything: its steps, as far as they don't depend on values.

The body is called with the arguments that are known; for others it gets stand-ins, which are refs like those of steps. Each
call becomes a step of the outline. At the first value that only a run can know, the body is let go of: `end` says so. What
the body does outside of tasks, it does.

A run's record gives the same, with what only that run knew.

    parameters  0 … k-1      stand-ins for arguments, numbered like steps that nobody calls
    steps       k, k+1, …    in the order of the calls

May import everything of the workflow layer but the engine.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from dagengine.body import Body
from dagengine.clocks import Clock
from dagengine.core.events import BodyRaised, Event, StepKnown
from dagengine.definitions import Definitions
from dagengine.ends import BodyStopped, Waiting
from dagengine.errors import BadArguments, DefinitionError, InternalError
from dagengine.model import (
    Definition,
    Input,
    NewStep,
    PayloadInput,
    RecordedCall,
    RunRecord,
    StepInput,
    StepKind,
    StepState,
)
from dagengine.refs import Ref
from dagengine.storage.interface import Store
from dagengine.values import Encoded

if TYPE_CHECKING:
    from dagengine.workflows import Workflow

PATIENCE_SECONDS = 60.0
"""For a body to return, or to ask for a value."""

STEPS_MAX = 20_000
"""A body that calls more is let go of: its graph is for no page, and it may have no end."""

CONTINUED = "continue_with"


@dataclass(frozen=True, slots=True)
class OutlinedStep:
    """One step. `call`: encoded, its placeholder i stands for inputs[i], a step or a parameter (`Outline.parameters`);
    of a step of a run it is left out, as there may be millions."""

    number: int
    key: str
    kind: StepKind
    definition: Definition
    call: bytes
    inputs: tuple[Input, ...]

    @property
    def reads(self) -> tuple[int, ...]:
        """Numbers of the steps and parameters that it reads, each once."""
        return tuple(dict.fromkeys(item.seq for item in self.inputs if isinstance(item, StepInput)))


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a workflow's steps.

    parameters: those that have stand-ins, under their numbers (0, 1, …); steps of a record read none
    end: "" (that is all of it); the key of the step for whose value the body waits; `CONTINUED`; "…" (more than STEPS_MAX)
    """

    workflow: str
    parameters: tuple[str, ...]
    steps: tuple[OutlinedStep, ...]
    end: str

    def same_graph(self, other: Outline) -> bool:
        """Whether both call the same functions in the same order, each with the values of the same steps."""
        return self.end == other.end and self._shape() == other._shape()

    def _shape(self) -> list[Any]:
        first = len(self.parameters)
        return [
            (step.key, step.kind, step.definition.reference, [seq - first for seq in step.reads if seq >= first])
            for step in self.steps
        ]


def outline(workflow: Workflow[..., Any], known: Mapping[str, Any], patience: float = PATIENCE_SECONDS) -> Outline:
    """The steps that the workflow calls with these arguments, by name. Its other parameters have stand-ins.

    Raises BadArguments if the body needs the value of such a parameter (field `parameter`); DefinitionError if it raises something
    else, or has not come to an end after `patience` seconds.
    """
    stage = _Stage(workflow, known)
    stage.body.start()
    if not stage.body.join(patience):
        stage.body.stop()
        raise DefinitionError(
            f"{workflow.name}: its body has come to no end in {patience:g} s. Let tasks do what takes long."
        )
    return stage.told()


def outline_of_run(store: Store, run: RunRecord) -> Outline:
    """The steps that are recorded of the run. Those that a map or a task has made are a part of it, and not told of."""
    definitions = {definition.number: definition for definition in store.definitions(run.number)}
    wholes: set[str] = set()
    steps = []
    for step in store.recorded_calls(run.number):
        if any(above in wholes for above in _above(step.key)):
            continue
        if step.kind in (StepKind.MAP, StepKind.TASK):
            wholes.add(step.key)
        defined = definitions[step.definition]
        steps.append(OutlinedStep(step.seq, step.key, step.kind, defined, b"", step.inputs))
    return Outline(run.workflow, (), tuple(steps), "" if run.body_closed else "…")


def _above(key: str) -> Iterator[str]:
    """The scopes that the step is in, the nearest first."""
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


class _Parameter(Ref):
    """Stands for an argument whose value is not known."""

    __slots__ = ()

    def _hint(self, what: str) -> str:
        cast(_Stage, self._body.stage).asked_for(self._seq)
        return f"the body needs the value of {self._key} (to {what.replace(' it', '', 1)})"


class _Stage:
    """A `Stage` that has no record, and values of nothing but what it is given."""

    def __init__(self, workflow: Workflow[..., Any], known: Mapping[str, Any]) -> None:
        signature = workflow.signature
        self.workflow_name = workflow.name
        self.run_id = "outline"
        self.now = Clock().now
        self.definitions = Definitions()
        self.ephemeral: set[int] = set()
        self.names = tuple(
            name for name in signature.parameters if name not in known and _can_stand_in(signature, name)
        )
        self._known = known
        self._signature = signature
        self._needed: list[str] = []
        self._steps: list[OutlinedStep] = []
        self._kinds: dict[int, StepKind] = {}
        self._next = len(self.names)
        self.end = ""
        self._raised: BodyRaised | None = None
        self._lock = threading.Lock()
        self.body = Body(self, workflow, None)

    def asked_for(self, seq: int) -> None:
        """The body uses a stand-in as the value. Whatever it makes of the exception, the outline would be a guess."""
        self._needed.append(self.names[seq])

    # ---- calls --------------------------------------------------------------------------------

    def take_seqs(self, count: int = 1) -> int:
        with self._lock:
            first = self._next
            self._next += count
        if first - len(self.names) >= STEPS_MAX:
            self.end = "…"
            raise BodyStopped
        return first

    def post_step(self, definition: Definition | None, step: NewStep) -> None:
        if definition is not None:
            self.definitions.recording(definition)
        self._kinds[step.seq] = step.kind
        defined = self.definitions[step.definition]
        self._steps.append(OutlinedStep(step.seq, step.key, step.kind, defined, step.call, step.inputs))

    def post_known(self, event: StepKnown) -> None:
        self.post_step(event.definition, event.step)

    def keep(self, encoded: Encoded) -> None:
        """Nothing is written."""

    def ended_before(self, recorded: RecordedCall) -> None:
        """Nothing is recorded."""

    def begin_successor(self, call: bytes, inputs: tuple[PayloadInput, ...]) -> NoReturn:
        """A body that would record the run that goes on from it has come to its end here."""
        self.end = CONTINUED
        raise BodyStopped

    def post(self, event: Event) -> None:
        if isinstance(event, BodyRaised):
            self._raised = event

    # ---- values -------------------------------------------------------------------------------

    def read_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = {**self._known, **{name: _Parameter(self.body, seq, name) for seq, name in enumerate(self.names)}}
        bound = self._signature.bind_partial()
        for name, parameter in self._signature.parameters.items():
            if name in values and parameter.kind is not parameter.VAR_KEYWORD:
                bound.arguments[name] = values[name]
        further = {name: value for name, value in values.items() if name not in self._signature.parameters}
        return bound.args, {**bound.kwargs, **further}

    def watch(self, seqs: list[int], waiter: Waiting) -> None:
        """Of the world only time is sure to do what is waited for."""
        for seq in seqs:
            if seq < len(self.names):
                self.asked_for(seq)
            if self._kinds.get(seq) is not StepKind.TIMER:
                if not self.end:
                    self.end = self.key_of(seq)
                waiter.stop()
                return
        for seq in seqs:
            waiter.tell(seq, StepState.SUCCEEDED)

    def read_steps(self, seqs: list[int]) -> dict[int, Any]:
        return dict.fromkeys(seqs)

    def read_call(self, call: bytes, inputs: Sequence[Input]) -> NoReturn:
        """Only asked for by a body that would go on in another run."""
        self.end = CONTINUED
        raise BodyStopped

    def failure_of(self, seq: int) -> NoReturn:
        """Nothing fails here."""
        raise InternalError(f"an outline has no failure of {self.key_of(seq)}")

    def key_of(self, seq: int) -> str:
        if seq < len(self.names):
            return self.names[seq]
        return self._steps[seq - len(self.names)].key

    # ---- the end ------------------------------------------------------------------------------

    def told(self) -> Outline:
        if self._needed:
            name = self._needed[0]
            raise BadArguments(
                f"which steps {self.workflow_name} has depends on {name}. Say which value it is to have: {name}=…",
                parameter=name,
            )
        if self._raised is not None:
            failure = self._raised.failure
            first = failure.message.splitlines()[0] if failure.message else ""
            raise DefinitionError(f"{self.workflow_name}: its body raises {failure.type}: {first:.500}")
        return Outline(self.workflow_name, self.names, tuple(self._steps), self.end)


def _can_stand_in(signature: inspect.Signature, name: str) -> bool:
    """Whether the body has to be given something for it."""
    return signature.parameters[name].kind not in (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    )
