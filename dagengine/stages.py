"""What a body asks of whoever has it called. A run that is worked on answers from its record and from its workers
(`run_stage`), a rehearsal from the record alone (`code.rehearsal`), an outline from nothing (`outline`).

May import errors, model and, for types, what they are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dagengine.model import Definition, Failure, Input, NewStep, PayloadInput, RecordedCall, StepState

if TYPE_CHECKING:
    from dagengine.core.events import Event, StepKnown
    from dagengine.definitions import Definitions
    from dagengine.ends import Waiting
    from dagengine.reading import Reader
    from dagengine.shared_steps import SharedSteps
    from dagengine.values import Encoded


class Stage(Protocol):
    """Its methods are called on the body's thread, and may raise BodyStopped: the body is let go of there."""

    workflow_name: str
    run_id: str
    definitions: Definitions
    ephemeral: set[int]
    """Steps that the body called, and whose values are not recorded."""

    def now(self) -> float:
        """The time, in seconds since the epoch."""
        ...

    def read_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the body is called with."""
        ...

    # ---- calls ----------------------------------------------------------------------------------

    def take_seqs(self, count: int = 1) -> int:
        """Set aside `count` seqs, and return the first."""
        ...

    def keep(self, encoded: Encoded) -> None:
        """Make a large argument or result durable."""

    def post_step(self, definition: Definition | None, step: NewStep) -> None:
        """The body has called this step. `definition`: if it is the first of its function. Waits where too much is posted."""

    def post_known(self, event: StepKnown) -> None:
        """The body has computed the value of a step itself. Waits as `post_step`."""

    def post(self, event: Event) -> None:
        """Something else has become of the body, or of what it holds. Waits for nothing."""

    def ended_before(self, recorded: RecordedCall) -> None:
        """The body has called a recorded step, which had ended when it was taken over."""

    def begin_successor(self, call: bytes, inputs: tuple[PayloadInput, ...]) -> None:
        """Record the run that goes on from this one."""

    # ---- values ---------------------------------------------------------------------------------

    def watch(self, seqs: list[int], waiter: Waiting) -> None:
        """Tell the waiter of each step's end, in the order of completion; also of those that have ended."""

    def read_steps(self, seqs: list[int]) -> dict[int, Any]:
        """The values of steps that succeeded."""
        ...

    def read_call(self, call: bytes, inputs: Sequence[Input]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that a call was encoded from, with values for refs."""
        ...

    def failure_of(self, seq: int) -> tuple[StepState, Failure]:
        """How a step ended that did not succeed."""
        ...

    def key_of(self, seq: int) -> str: ...


class ReplayStage(Stage, Protocol):
    """One that has a record, against which the body's calls are held."""

    reader: Reader
    shared: SharedSteps | None
    """What a fork has in common with its donor."""
    replayed_below: int
    """Steps below this seq were recorded when the run was taken over."""

    def leave(self, left: list[RecordedCall]) -> None:
        """The body has returned, and has not asked for these recorded steps."""
