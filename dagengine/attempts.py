"""A run's attempts between the run core and the runtime: as task specs on their way out, as events on their way back.

On the engine's thread. Clock and chance enter here. May import everything of the workflow layer that a
driver may.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from dagengine.core.core import RunCore
from dagengine.core.events import (
    AttemptDropped,
    AttemptExpanded,
    AttemptFailed,
    AttemptLost,
    AttemptRefused,
    AttemptStarted,
    AttemptSucceeded,
    Event,
)
from dagengine.definitions import Definitions
from dagengine.errors import DagengineError, RuntimeStopped
from dagengine.functions import Reference
from dagengine.holding import Holding
from dagengine.model import Failure, RunRecord, StepInput, Value
from dagengine.options import Options
from dagengine.progress import Tally
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.protocol import (
    Dropped,
    Failed,
    Lost,
    Resources,
    RuntimeEvent,
    Started,
    Succeeded,
    TaskSpec,
    TimedOut,
)
from dagengine.supply import Found, Supply

if TYPE_CHECKING:
    from dagengine.engine import Engine


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
        take_seqs: Callable[[int], int],
    ) -> None:
        self._engine = engine
        self._index = index
        self._run = run
        self._core = core
        self._definitions = definitions
        self._holding = holding
        self._supply = supply
        self._tally = tally
        self._take_seqs = take_seqs
        self._functions: dict[int, int] = {}

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

    def _spec(self, seq: int, number: int, found: Found) -> TaskSpec:
        step = self._core.steps[seq]
        options = self._core.options[step.definition]
        if step.call is None:
            raise AssertionError(f"{step.key} is run after its end")
        return TaskSpec(
            (self._index, seq, number),
            self._function(step.definition),
            step.call,
            self._supply.of_call(step.inputs, found),
            _resources(options),
            options.timeout,
            {
                "run_id": self._run.id,
                "workflow": self._run.workflow,
                "key": step.key,
                "task": self._definitions[step.definition].name,
                "attempt": number,
                "idempotency_key": f"{self._run.id}/{step.key}",
            },
            f"{self._engine.logs}/{self._run.id}/{seq}.{number}.log" if self._engine.logs else None,
            "expand" if step.map and step.items is None else "call",
        )

    def _function(self, definition: int) -> int:
        number = self._functions.get(definition)
        if number is None:
            number = self._engine.function_number(Reference.from_json(self._definitions[definition].reference))
            self._functions[definition] = number
        return number

    # ---- back -----------------------------------------------------------------------------------

    def convert(self, event: RuntimeEvent) -> Event | None:
        """The core's event for the runtime's; None if its bytes have to be made durable first: then, `kept`."""
        if isinstance(event, Started):
            _, seq, number = event.id
            if seq in self._core.steps:
                self._tally.started(seq, self.task_of(seq))
            return AttemptStarted(seq, number, event.worker, event.pid, event.at)
        if isinstance(event, Succeeded):
            return self._succeeded(event)
        if isinstance(event, Failed):
            _, seq, number = event.id
            self._tally.stopped(seq)
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
            return AttemptDropped(seq, number, event.started, time.time())
        raise AssertionError(event)

    def _succeeded(self, event: Succeeded) -> Event | None:
        _, seq, number = event.id
        if event.calls is not None:
            self._tally.stopped(seq)
            self._tally.of(self.task_of(seq)).total += len(event.calls)
            first = self._take_seqs(len(event.calls))
            return AttemptExpanded(seq, number, event.worker, event.started_at, event.finished_at, event.calls, first)
        if event.shared is not None:
            return None
        self._stopped(seq, event.finished_at - event.started_at)
        value = Value(event.digest, event.size, event.data)
        if event.data is not None:
            self._supply.remember(seq, event.data)
        return AttemptSucceeded(seq, number, event.worker, event.started_at, event.finished_at, value)

    def kept(self, event: Succeeded) -> Event:
        """The artifact of this result is durable."""
        _, seq, number = event.id
        self._stopped(seq, event.finished_at - event.started_at)
        value = Value(event.digest, event.size)
        return AttemptSucceeded(seq, number, event.worker, event.started_at, event.finished_at, value)

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
    return _DEFAULT if options.cpus == 1.0 and not options.memory else Resources(options.cpus, options.memory)


_DEFAULT = Resources()


def _refused(seq: int, number: int, error: DagengineError) -> AttemptRefused:
    return AttemptRefused(seq, number, time.time(), replace(describe_failure(error), retriable=False))
