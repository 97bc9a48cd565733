"""Heartbeats of a run's attempts: the last of each, for people; and the end of those that are silent for too long.

    Started ──▶ watched, if the task has a heartbeat_timeout ─ a heartbeat ─▶ watched for as long again
                    └ silent for that long ─▶ ended by force ─ Dropped ─▶ a failure of kind "timeout"

What is recorded of heartbeats is at most RECORD_SECONDS old while they come. On the engine's thread. May import
everything of the workflow layer that a driver may.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dagengine.core.core import RunCore
from dagengine.core.states import Phase
from dagengine.model import Failure
from dagengine.runtime.protocol import Asked, Started
from dagengine.storage.writes import FinishStep, Write

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.storage.beats import Beat

RECORD_SECONDS: Final = 1.0
"""Between two writes of heartbeats: each is one for all attempts of the run."""

Attempt = tuple[int, int]


class Liveness:
    """Of one run."""

    def __init__(self, driver: Driver, core: RunCore) -> None:
        self._driver = driver
        self._core = core
        self._heard: dict[Attempt, float] = {}  # of attempts that are watched: when they were heard of last
        self._silent: dict[Attempt, Started] = {}  # ended for their silence, and not yet given back
        self._began: dict[Attempt, Started] = {}
        self._to_record: dict[int, Beat] = {}
        self._recorded: set[int] = set()  # steps with a row
        self._recorded_at = 0.0

    def started(self, event: Started) -> None:
        _, seq, number = event.id
        step = self._core.steps.get(seq)
        timeout = None if step is None else self._core.options[step.definition].heartbeat_timeout
        if timeout is not None:
            self._heard[seq, number] = self._driver.engine.clock.monotonic()
            self._began[seq, number] = event
            self._driver.engine.after(timeout, self._driver, partial(self._look, (seq, number), timeout))

    def _look(self, attempt: Attempt, timeout: float) -> None:
        heard, began = self._heard.get(attempt), self._began.get(attempt)
        step = self._core.steps.get(attempt[0])
        out = step is not None and step.attempt == attempt[1] and step.phase in (Phase.SUBMITTED, Phase.RUNNING)
        if heard is None or began is None or not out:
            self._heard.pop(attempt, None)
            self._began.pop(attempt, None)
            return
        left = heard + timeout - self._driver.engine.clock.monotonic()
        if left > 0:
            self._driver.engine.after(left, self._driver, partial(self._look, attempt, timeout))
            return
        self._silent[attempt] = began
        self._driver.engine.runtime.cancel([(self._driver.index, *attempt)], force=True)

    def silenced(self, attempt: Attempt) -> tuple[Started, Failure] | None:
        """Of an attempt that was given back: how it had begun and why it was ended, if that was for its silence."""
        began = self._silent.pop(attempt, None)
        if began is None:
            return None
        step = self._core.steps[attempt[0]]
        timeout = self._core.options[step.definition].heartbeat_timeout or 0.0
        message = f"{step.key} sent no heartbeat for {timeout:g} s, which is its heartbeat_timeout, and was ended"
        return began, Failure("timeout", "dagengine.errors.StepTimeout", message, facts={"heartbeat_timeout": timeout})

    def beat(self, event: Asked) -> None:
        from dagengine.storage.beats import Beat, save

        _, seq, number = event.id
        if (seq, number) in self._heard:
            self._heard[seq, number] = self._driver.engine.clock.monotonic()
        self._to_record[seq] = Beat(seq, number, self._driver.engine.clock.now(), event.question.get("progress"))
        now = self._driver.engine.clock.monotonic()
        if now - self._recorded_at >= RECORD_SECONDS:
            self._recorded_at = now
            self._recorded.update(self._to_record)
            self._driver.record_beside([save(self._to_record.values())])
            self._to_record.clear()

    def settle(self, writes: list[Write]) -> None:
        """Steps that end with these writes have no heartbeat any more."""
        if not self._recorded and not self._to_record:
            return
        ended = [write.seq for write in writes if type(write) is FinishStep]
        gone: list[int] = []
        for seq in ended:
            self._to_record.pop(seq, None)
            if seq in self._recorded:
                self._recorded.discard(seq)
                gone.append(seq)
        if gone:
            from dagengine.storage.beats import clear

            writes.append(clear(gone))


def shown(progress: Any) -> str:
    """What a task said of its progress, in a few words: a share as per cent."""
    if isinstance(progress, float) and 0 <= progress <= 1:
        return f"{progress:.0%}"
    if isinstance(progress, dict):
        return ", ".join(f"{key} {value}" for key, value in progress.items())
    return "" if progress is None else str(progress)
