"""Undoing, in the run core: what succeeded and has an undo task is undone, newest first, before the run ends.

A run that is cancelled or fails asks its shell once whether it is to be compensated, and of what (`UndoFound`); only a run
with undo tasks asks. From then on its body is not called again, what has not ended is cancelled, and its end is on record
as it will be. The undo steps are recorded one by one: the next one when the end of the one before is durable, so that a
crash repeats at most the last. An undo that fails ends the run, FAILED; a resume goes on with it, and a run that is
compensating is never anything else again.

    CANCELLED or FAILED ─ ask ─▶ not wanted ───────────────────────────────▶ the run ends
                            └──▶ wanted: UNDO ─ durable ─▶ UNDO ─ … ─▶ none left ─▶ the run ends as it was about to

May import model and the store's vocabulary of writes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from enum import Enum

from dagengine.core.events import UndoFound
from dagengine.core.growing import Growing
from dagengine.core.ledger import cancelled
from dagengine.core.states import BodyPhase, Stop
from dagengine.model import Definition, Failure, NewStep, RunState, StepKind, StepState
from dagengine.storage.writes import SideWrite

Ending = tuple[RunState, Failure | None]
"""How a run ends."""


class Asking(Enum):
    NOT_YET = 0
    ASKED = 1
    ANSWERED = 2
    UNWANTED = 3


class Compensation(Growing):
    """Steps, of which some can be undone. `compensating`: how the run ends when that is done; None: it is not."""

    def __init__(self, window: int = 512, host: str = "", token: int = 0) -> None:
        super().__init__(window, host, token)
        self.undoable: set[int] = set()  # definitions
        self.compensating: Ending | None = None
        self._asking = Asking.NOT_YET
        self._to_undo: deque[NewStep] = deque()
        self._undo_definitions: tuple[Definition, ...] = ()

    def _define(self, definitions: Iterable[Definition]) -> None:
        definitions = list(definitions)
        super()._define(definitions)
        self.undoable.update(d.number for d in definitions if "undo" in d.options)

    def _undo_first(self, state: RunState, now: float) -> bool:
        """Whether there is something to do before the run ends in `state`."""
        if not self.undoable or self._asking is Asking.UNWANTED:
            return False
        if self.compensating is None:
            if state not in (RunState.CANCELLED, RunState.FAILED):
                return False
        elif self.stop or self._undo_failures():
            return False
        if self.unrecorded:
            return True  # an end that is not durable yet may be one to undo
        if self._asking is Asking.NOT_YET:
            self._asking = Asking.ASKED
            self._actions.compensate = state
        elif self._asking is Asking.ANSWERED:
            return self._undo_next(now)
        return True

    def _undo_found(self, event: UndoFound, now: float) -> None:
        if self._asking is not Asking.ASKED or self.finish_asked:
            return
        if not event.wanted:
            self._asking = Asking.UNWANTED
            return
        self._asking = Asking.ANSWERED
        self._to_undo.extend(event.steps)
        self._undo_definitions = event.definitions
        if self.compensating is None:
            state, failure = self._verdict()
            self._begin_compensation((state, failure), now)
            self._actions.writes.append(_note(state, failure, now))

    def _begin_compensation(self, ending: Ending, now: float) -> None:
        """Nothing but undoing is done from here on."""
        self.compensating = ending
        self.stop = Stop.NO
        self.keeping.clear()
        if self.body is BodyPhase.OPEN:
            self.body = BodyPhase.STOPPED
        for step in list(self.steps.values()):
            if step.end is None and step.kind is not StepKind.UNDO:
                self._end(step, StepState.CANCELLED, now, failure=cancelled(step))

    def _undo_next(self, now: float) -> bool:
        if not self._to_undo:
            return False
        definitions, self._undo_definitions = self._undo_definitions, ()
        self._define(definitions)
        self._record(definitions, [self._to_undo.popleft()], now)
        return True

    def _undo_failures(self) -> list[int]:
        return [seq for seq in self.unhandled if self._key_of_failed(seq).endswith("/undo")]

    def _compensated(self, ending: Ending) -> Ending:
        """How the run ends now: as it was to, or because a step could not be undone."""
        failed = self._undo_failures()
        if not failed:
            return ending
        failure, key = self.unhandled[failed[0]], self._key_of_failed(failed[0])
        text = f"{key.removesuffix('/undo')} could not be undone: {failure.type}: {failure.message}"
        facts = {**failure.facts, "step": key, "failed": [key], "count": 1}
        return RunState.FAILED, Failure(failure.kind, failure.type, text, failure.traceback, facts=facts)

    def _verdict(self) -> Ending:
        raise NotImplementedError


def _note(state: RunState, failure: Failure | None, now: float) -> SideWrite:
    text = None
    if failure is not None:
        text = json.dumps({**asdict(failure), "pickled": None}, default=str)
    return SideWrite("compensation:NOTE", ({"at": now, "state": str(state), "failure": text},))
