"""Calling a run's body against its record, with nothing run and nothing written: would today's code go on with it?

The body is called as on resume; its calls find recorded steps by key. It is let go of at the first value that is not
recorded: what comes after that is for the run itself to find out. Calls that are not recorded are only counted. The body's
own code runs, with whatever it does outside of tasks.

May import everything of the workflow layer but the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from dagengine.adopting import orphans
from dagengine.body import Body
from dagengine.clocks import Clock
from dagengine.core.events import BodyMismatched, BodyRaised, BodyReturned, Event, StepKnown
from dagengine.definitions import Definitions
from dagengine.ends import BodyStopped, Waiting
from dagengine.errors import ArtifactMissing
from dagengine.model import (
    Definition,
    Failure,
    Input,
    NewStep,
    PayloadInput,
    RecordedCall,
    RunRecord,
    RunState,
    StepState,
)
from dagengine.reading import Reader
from dagengine.replaying import Replay
from dagengine.storage.interface import ArtifactStore, Store
from dagengine.values import Encoded

if TYPE_CHECKING:
    from dagengine.shared_steps import SharedSteps
    from dagengine.workflows import Workflow

PATIENCE_SECONDS = 60.0
"""For a body between two calls that are recorded. One that takes longer is left to its thread, and said to be endless."""

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What became of the body.

    end: "returned"; "waits" for a value that is not recorded; "mismatch": it calls something else than what is recorded;
        "raises" something that the run had not failed with; "endless"
    text: of a mismatch or exception; key: of the step that does not match, difference: the two calls
    asked: recorded steps that it called; new: keys of calls that are not recorded (the first ones), how many
    unasked: keys of recorded steps that a body that has returned did not call (the first ones)
    """

    end: str
    text: str = ""
    key: str = ""
    difference: str = ""
    asked: int = 0
    new: tuple[str, ...] = ()
    new_count: int = 0
    unasked: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the run would go on."""
        return self.end in ("returned", "waits")


def rehearse(
    store: Store,
    artifacts: ArtifactStore,
    run: RunRecord,
    workflow: Workflow[..., Any],
    patience: float = PATIENCE_SECONDS,
) -> Rehearsal:
    """Call the body of `workflow`, as this process has it loaded, against the record of the run."""
    stage = _Stage(store, artifacts, run)
    body = Body(stage, workflow, Replay(stage, store.recorded_calls(run.number)))
    body.start()
    if not body.join(patience):
        body.stop()
        return Rehearsal("endless", f"the body has called nothing new for {patience:g} s", asked=stage.asked)
    return stage.told()


class _Stage:
    """A `ReplayStage` that answers from the record."""

    def __init__(self, store: Store, artifacts: ArtifactStore, run: RunRecord) -> None:
        self.record = run
        self.run_id = run.id
        self.workflow_name = run.workflow
        self.now = Clock().now
        self.definitions = Definitions()
        for definition in store.definitions(run.number):
            self.definitions.learn(definition)
        self.reader = Reader(store, artifacts, run.number)
        self.shared: SharedSteps | None = None
        self.replayed_below = run.steps
        self.ephemeral: set[int] = set()
        self.asked = 0
        self._unasked: tuple[str, ...] = ()
        self._store = store
        self._ended: dict[int, StepState] = {}
        self._next_seq = run.steps
        self._new: list[str] = []
        self._new_count = 0
        self._end: Event | None = None

    # ---- calls --------------------------------------------------------------------------------

    def take_seqs(self, count: int = 1) -> int:
        first = self._next_seq
        self._next_seq += count
        return first

    def post_step(self, definition: Definition | None, step: NewStep) -> None:
        self._count(definition, step)

    def post_known(self, event: StepKnown) -> None:
        self._count(event.definition, event.step)

    def _count(self, definition: Definition | None, step: NewStep) -> None:
        if definition is not None:
            self.definitions.recording(definition)
        self._new_count += 1
        if len(self._new) < SHOWN:
            self._new.append(step.key)

    def ended_before(self, recorded: RecordedCall) -> None:
        self.asked += 1
        # A failure that the body has not handled is no end: on resume the step gets new attempts.
        if recorded.state is StepState.SUCCEEDED or recorded.handled:
            self._ended[recorded.seq] = recorded.state

    def keep(self, encoded: Encoded) -> None:
        """Nothing is written."""

    def begin_successor(self, call: bytes, inputs: tuple[PayloadInput, ...]) -> NoReturn:
        """A body that would record the run that goes on from it has come to its end here."""
        raise BodyStopped

    def leave(self, left: list[RecordedCall]) -> None:
        self._unasked = tuple(orphans(self._store, self.record.number, left)[:SHOWN])

    def post(self, event: Event) -> None:
        if isinstance(event, (BodyReturned, BodyMismatched, BodyRaised)):
            self._end = event

    # ---- values -------------------------------------------------------------------------------

    def read_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.reader.call(self.record.call, self.record.inputs)

    def read_call(self, call: bytes, inputs: Sequence[Input]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.reader.call(call, inputs)

    def read_steps(self, seqs: list[int]) -> dict[int, Any]:
        try:
            return self.reader.steps(seqs)
        except ArtifactMissing:  # checkpoint=False, or expired
            raise BodyStopped from None

    def watch(self, seqs: list[int], waiter: Waiting) -> None:
        ended = [seq for seq in seqs if seq in self._ended]
        order = self._store.finish_order(self.record.number, ended) if len(ended) > 1 else {}
        for seq in sorted(ended, key=lambda seq: order.get(seq, 0)):
            waiter.tell(seq, self._ended[seq])
        if len(ended) < len(seqs):
            waiter.stop()

    def failure_of(self, seq: int) -> tuple[StepState, Failure]:
        return self._store.failures(self.record.number, [seq])[seq]

    def key_of(self, seq: int) -> str:
        found = self._store.steps(self.record.number, seqs=[seq])
        return found[0].key if found else f"step {seq}"

    # ---- the end ------------------------------------------------------------------------------

    def told(self) -> Rehearsal:
        end, text, key, difference = "waits", "", "", ""
        unasked: tuple[str, ...] = ()
        event = self._end
        if isinstance(event, BodyMismatched):
            end, text = "mismatch", event.failure.message
            key, difference = event.failure.facts["key"], event.failure.facts["difference"]
        elif isinstance(event, BodyRaised) and self.record.state is not RunState.FAILED:
            first = event.failure.message.splitlines()[0] if event.failure.message else ""
            end, text = "raises", f"{event.failure.type}: {first}"
        elif isinstance(event, (BodyReturned, BodyRaised)):
            end = "returned"
            unasked = self._unasked
        return Rehearsal(end, text, key, difference, self.asked, tuple(self._new), self._new_count, unasked)
