"""What a run's attempts ask while they run, answered by the engine (the other side is dagengine/effects.py).

    about      answered when
    find       at once: what an attempt at this step has noted under a name, or nothing
    save       what is to be noted is durable, with its bytes
    open       at once: where the bytes of an artifact lie
    keep       the bytes that came along are durable among the artifacts
    ending     at once: whether the attempt is ended because its run is cancelled
    connection when Airflow has said, in this process, what a connection is (dagengine/connections.py)
    heartbeat  never: it is only told

What is noted goes with the commit that ends its step. Only a step's current attempt is listened to: one that was given up,
and goes on somewhere, changes nothing. A name that is being saved is found when it is durable, and not before.

On the engine's thread; the store and the artifacts are read on others. May import everything of the workflow layer that a
driver may.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from dagengine.core.core import RunCore
from dagengine.core.states import Phase, Stop
from dagengine.errors import DefinitionError, InternalError, RuntimeStopped, StoreError
from dagengine.model import Failure, StepState, Value
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.protocol import Asked, Content, Runtime
from dagengine.runtime.raising import stopped
from dagengine.storage.writes import FinishStep, Write
from dagengine.values import damaged

if TYPE_CHECKING:
    from dagengine.driver import Driver

_OVER = "this attempt was given up: what it asks changes nothing any more"
_STATEFUL = (
    "calls on stateful objects are made again when their state is rebuilt: once, checkpoint, external are of tasks"
)


class Questions:
    """Of one run."""

    def __init__(self, driver: Driver, core: RunCore) -> None:
        self._driver = driver
        self._core = core
        self._open: dict[tuple[int, int], Asked] = {}  # by worker and number: asked, and not answered
        self._noted: set[int] = set()  # steps of which something is noted
        self._saving: dict[tuple[int, str], list[Callable[[], None]]] = {}  # what waits until it is durable
        self._verbs: dict[str, Callable[[Asked], None]] = {
            "find": self._find,
            "save": self._save,
            "open": self._open_artifact,
            "keep": self._keep,
            "ending": self._ending,
            "connection": self._connection,
            "heartbeat": driver.liveness.beat,
        }

    # ---- the driver ---------------------------------------------------------------------------

    def take_over(self) -> None:
        """What earlier owners of the run have noted is there. Before the first turn."""
        from dagengine.storage.memos import noted

        self._noted = noted(self._driver.engine.store, self._driver.claim.run_number)

    def settle(self, writes: list[Write]) -> None:
        """Of steps that succeed with these writes nothing stays noted, here or in the outbox."""
        if not self._noted and not self._core.transactional:
            return
        ended = [write.seq for write in writes if type(write) is FinishStep and write.state is StepState.SUCCEEDED]
        forgotten = [seq for seq in ended if seq in self._noted]
        if forgotten:
            from dagengine.storage.memos import forget

            self._noted.difference_update(forgotten)
            writes.append(forget(forgotten))
        committed = [seq for seq in ended if self._core.steps[seq].definition in self._core.transactional]
        if committed:
            from dagengine.storage.outbox import clear

            writes.append(clear(committed))

    def end(self) -> None:
        """The run is let go of: nobody who waits is left waiting."""
        asked, self._open = self._open, {}
        for event in asked.values():
            unanswered(self._driver.engine.runtime, event)

    def asked(self, event: Asked) -> None:
        if event.number >= 0:
            self._open[event.worker, event.number] = event
        question = event.question
        verb = self._verbs.get(str(question.get("about"))) if isinstance(question, dict) else None
        if verb is None:
            self._refuse(event, describe_failure(InternalError(f"a task asked {question!r}")))
        elif question["about"] == "connection":
            verb(event)  # it changes nothing, so whoever asks may know
        elif not self._is_current(event):
            self._refuse(event, stopped(_OVER))
        elif event.id[2] < 0 or self._core.steps[event.id[1]].place is not None:
            self._refuse(event, replace(describe_failure(DefinitionError(_STATEFUL)), traceback=""))
        else:
            verb(event)

    def _is_current(self, event: Asked) -> bool:
        _, seq, number = event.id
        step = self._core.steps.get(seq)
        return step is not None and step.attempt == number and step.phase in (Phase.SUBMITTED, Phase.RUNNING)

    def _answer(self, event: Asked, answer: Any = None) -> None:
        """From any thread."""
        if self._open.pop((event.worker, event.number), None) is not None:
            self._driver.engine.runtime.reply(event, answer)

    def _refuse(self, event: Asked, failure: Failure) -> None:
        self._free(event)
        if self._open.pop((event.worker, event.number), None) is not None:
            self._driver.engine.runtime.reply(event, None, failure)

    def _free(self, event: Asked) -> None:
        if event.object is not None:
            with suppress(RuntimeStopped):
                self._driver.engine.runtime.free([event.object])

    # ---- what is noted ------------------------------------------------------------------------

    def _find(self, event: Asked) -> None:
        seq, name = event.id[1], event.question["name"]
        if (seq, name) in self._saving:
            self._saving[seq, name].append(partial(self._find, event))
        elif seq in self._noted:
            self._elsewhere(event, lambda: self._found(seq, name))
        else:
            self._answer(event)

    def _found(self, seq: int, name: str) -> Any:
        from dagengine.storage.memos import find

        value = find(self._driver.engine.store, self._driver.claim.run_number, seq, name)
        return None if value is None else [self._packed(value)]

    def _packed(self, value: Value) -> Any:
        """As `owner.open_value` takes it."""
        if value.inline is None:
            return (self._driver.engine.artifacts.local_path(value.digest, value.size), value.size, value.digest, True)
        if sha256(value.inline).hexdigest() != value.digest:
            raise damaged(value.digest)
        return value.inline

    def _save(self, event: Asked) -> None:
        seq, name = event.id[1], event.question["name"]
        if (seq, name) in self._saving:
            self._saving[seq, name].append(partial(self._save, event))
            return
        self._saving[seq, name] = []
        self._with_value(event, partial(self._note, event))

    def _note(self, event: Asked, value: Value) -> None:
        from dagengine.storage.memos import save

        seq, name = event.id[1], event.question["name"]
        if not self._is_current(event):
            self._refuse(event, stopped(_OVER))
            self._saved(event)
            return
        self._noted.add(seq)

        def done(error: StoreError | InternalError | None) -> None:
            self._driver.engine.tell(self._driver, partial(self._saved, event) if error is None else error)

        self._driver.engine.store.write(
            self._driver.claim, [save(seq, name, value, self._driver.engine.clock.now())], done
        )

    def _saved(self, event: Asked) -> None:
        self._answer(event)
        for go_on in self._saving.pop((event.id[1], event.question["name"]), ()):
            go_on()

    # ---- values -------------------------------------------------------------------------------

    def _with_value(self, event: Asked, then: Callable[[Value], None]) -> None:
        """Go on with the value that came with the question, when its bytes are durable."""
        engine, driver = self._driver.engine, self._driver
        if event.object is None:
            data = event.data or b""
            then(Value(sha256(data).hexdigest(), len(data), data))
            return

        def kept(value: Value) -> Callable[[], None]:
            def go_on() -> None:
                self._free(event)
                then(value)

            return go_on

        def told(content: Content | Failure) -> None:
            if isinstance(content, Failure):
                engine.tell(driver, lambda: self._lost(event, content))
            else:
                engine.keeping.keep_content(driver, content, kept)

        engine.runtime.read(event.object, told)

    def _lost(self, event: Asked, failure: Failure) -> None:
        self._refuse(event, failure)
        self._saved(event)

    def _keep(self, event: Asked) -> None:
        self._with_value(event, lambda value: self._answer(event, [value.digest, value.size]))

    def _open_artifact(self, event: Asked) -> None:
        digest, size = event.question["digest"], event.question["size"]
        self._elsewhere(event, lambda: self._packed(Value(digest, size)))

    # ---- the rest -----------------------------------------------------------------------------

    def _ending(self, event: Asked) -> None:
        self._answer(event, self._core.stop == Stop.CANCEL)

    def _connection(self, event: Asked) -> None:
        from dagengine.connections import described_by_airflow

        self._elsewhere(event, lambda: described_by_airflow(str(event.question["conn_id"])))

    def _elsewhere(self, event: Asked, work: Callable[[], Any]) -> None:
        """Answer with what the work returns, which may wait for a disk."""

        def job() -> None:
            try:
                self._answer(event, work())
            except Exception as error:  # the attempt waits for an answer, whatever it is
                self._refuse(event, replace(describe_failure(error), traceback=""))

        self._driver.engine.helpers.submit(job)


def unanswered(runtime: Runtime, event: Asked) -> None:
    """Nobody works on the run any more: the attempt is told so."""
    if event.object is not None:
        with suppress(RuntimeStopped):
            runtime.free([event.object])
    runtime.reply(event, None, stopped("the run is not in the hands of this process any more"))
