"""Steps that are started at most once (`at_most_once=True`), in the run core.

The start of such an attempt is durable before the runtime is handed it, so that whoever takes the run over knows that it
may have done something. An attempt whose end is not known (its worker died, it was ended from outside, its owner
vanished) ends the step as FAILED, of kind "unknown". Nothing starts it again by itself, not even a resume: at the next
load its last attempt still says so, and it ends the same way. What its own code raised is known, and an ordinary failure.

    READY ──▶ SUBMITTED, announced ── durable ──▶ handed to the runtime ──▶ …

May import model and the store's vocabulary of writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dagengine.core.actors import Actors
from dagengine.core.states import Phase
from dagengine.core.step import Step
from dagengine.model import AttemptRecord, Definition, Failure, StepKind, StepState
from dagengine.storage.writes import RecordAttempt

KNOWN = ("error", "artifact", "object")
"""Kinds of failures that the task's own code made known, or that came before it had begun."""

UNKNOWN = "unknown"
"""Kind of a failure, and outcome of an attempt: nobody knows what it did."""


class Cautious(Actors):
    """Actors, and steps that are started once."""

    def __init__(self, window: int = 512, host: str = "", token: int = 0) -> None:
        super().__init__(window, host, token)
        self._cautious: set[int] = set()  # definitions
        self.transactional: set[int] = set()  # those whose tasks commit what they return to the store's database

    def _define(self, definitions: Iterable[Definition]) -> None:
        definitions = list(definitions)
        super()._define(definitions)
        self._cautious.update(d.number for d in definitions if self.options[d.number].at_most_once)
        self.transactional.update(d.number for d in definitions if self.options[d.number].transactional is True)

    def is_cautious(self, definition: int, kind: StepKind) -> bool:
        """Whether such steps are started once. To make a map's items is no effect of its task."""
        return definition in self._cautious and kind is not StepKind.MAP

    def _careful(self, step: Step) -> bool:
        return bool(self._cautious) and self.is_cautious(step.definition, step.kind)

    def _announce(self, step: Step, now: float) -> None:
        """The attempt goes out when its start is durable."""
        record = AttemptRecord(step.seq, step.attempt, None, None, self.host, now)
        self._actions.writes.append(RecordAttempt(record))
        self._batch.announced.append((step.seq, step.attempt))

    def _announced(self, announced: list[tuple[int, int]], now: float) -> None:
        for seq, number in announced:
            step = self.steps.get(seq)
            if step is None or step.attempt != number or step.phase is not Phase.SUBMITTED:
                continue
            if self.stop:  # the runtime never had it, and so will not give it back
                self._not_begun(step, now)
            else:
                self._actions.submit.append((seq, number))

    def _not_begun(self, step: Step, now: float) -> None:
        """The current attempt never went out after all."""
        raise NotImplementedError

    def _withdraw(self, step: Step, now: float, failure: Failure | None = None) -> None:
        """No code of the attempt has run. It is on record as started, so it is said there, too."""
        if not self._careful(step):
            step.attempt -= 1  # it never was one
            return
        outcome = "cancelled" if failure is None else "failed"
        record = AttemptRecord(step.seq, step.attempt, None, None, self.host, now, now, outcome, failure)
        self._actions.writes.append(RecordAttempt(record))

    def _end_unknown(self, step: Step, at: float, how: str) -> None:
        self._end(step, StepState.FAILED, at, failure=unknown(step.key, step.attempt, how))

    def _load_vanished(self, vanished: Mapping[int, AttemptRecord], now: float) -> None:
        """These attempts of an earlier owner have no known end."""
        for seq, record in vanished.items():
            step = self.steps[seq]
            if step.end is not None:
                continue
            where = f" in process {record.pid} on {record.host}" if record.pid is not None else f" on {record.host}"
            failure = unknown(step.key, record.number, f"it was started{where}, which is gone")
            ended = record._replace(finished_at=record.finished_at or now, outcome=UNKNOWN, failure=failure)
            self._actions.writes.append(RecordAttempt(ended))
            self._end(step, StepState.FAILED, now, failure=failure)


def unknown(key: str, attempt: int, how: str) -> Failure:
    message = (
        f"nobody knows what attempt {attempt} at {key} has done: {how}. It is at_most_once: look, then "
        "`dagengine mark` it as success or failed, or have it tried again with `dagengine retry`"
    )
    facts = {"attempt": attempt}
    return Failure(UNKNOWN, "dagengine.errors.StepUnknown", message, retriable=False, facts=facts)
