"""What an engine does to recorded runs for people: forks, retries, marks, pauses. `Engine` has these as methods.

Also the owner's side of what other processes ask of a run that this one works on. May import everything of the workflow
layer; of the engine, what is passed in.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from dagengine.core.events import InterruptRequested, StepMarked
from dagengine.ends import End
from dagengine.errors import RunConflict
from dagengine.model import EventRecord, ProcessRecord, RunRecord, RunState, StepRecord, StepState
from dagengine.storage.interface import ArtifactStore, Store
from dagengine.storage.writes import AddEvent

if TYPE_CHECKING:
    from pathlib import Path

    from dagengine.code.packing import Shelf
    from dagengine.driver import Driver
    from dagengine.engine import Engine
    from dagengine.forks import Place
    from dagengine.run import Run

RECORDED_SECONDS = 50.0
"""For a decision to be recorded: less than who asks for it waits."""


LET_GO = {"let_go": True}
"""The answer of a process that had the run a moment ago, and has it no more: the record says what can be done."""


class Changes:
    """The part of an engine by which people change runs."""

    store: Store
    artifacts: ArtifactStore
    _control_folder: Path
    _shelf: Shelf
    process: ProcessRecord

    def fork(
        self,
        run_id: str,
        *,
        from_: str | Iterable[str] = (),
        params: Mapping[str, Any] | None = None,
        set_: Mapping[str, Any] | None = None,
        code: str | None = None,
        new_id: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Run[Any]:
        """Begin a new run that shares the results of another one, and runs only what a change reaches.

        from_: keys of steps to run again, with everything after them; params: arguments of the workflow to change; set_:
        values in the place of what steps returned; code="current": run again, too, the steps whose code has changed
        since. new_id, facts: as of `begin`. The other run stays as it is. Raises RunNotFound, RunConflict, BadArguments.
        """
        from dagengine.forks import record_fork

        names = [from_] if isinstance(from_, str) else list(from_)
        asked: dict[str, Any] = {"from_": names, "params": params, "set_": set_, "code": code, "run_id": new_id}
        asked["facts"] = facts
        donor = self.store.find_run(run_id)
        return self._go_on(record_fork(self._place(), donor, **asked))

    def rerun(self, run_id: str, params: Mapping[str, Any] | None = None, code: str | None = None) -> Run[Any]:
        """Begin a new run with the arguments of another one, some of them changed, that shares nothing of it."""
        from dagengine.forks import record_rerun

        donor = self.store.find_run(run_id)
        recorded = record_rerun(self._place(), donor, params=params, code=code)
        return self._go_on(recorded)

    def retry(self, run_id: str, *steps: str, by: str | None = None, why: str = "") -> Run[Any]:
        """Go on with a run that has ended, and try these failed steps again; other failures stay as they are.

        Raises RunNotFound, RunConflict for a step that has not failed, RunOwned.
        """
        from dagengine.edits import retry

        run = self.store.find_run(run_id)
        retry(self.store, run, steps, by=by, why=why, process=self.process)
        return self._go_on(run.id, reopen=False)

    def mark(
        self, run_id: str, step: str, state: StepState | str, value: Any = None, *, by: str | None = None, why: str = ""
    ) -> StepRecord:
        """Decide how a step ends that has not succeeded: "succeeded" with a value, "failed" or "skipped".

        Raises RunNotFound; RunConflict for a step that can't be marked so; RunOwned if the run's owner can't be asked.
        """
        from dagengine.edits import mark
        from dagengine.forks import keep_value

        given = keep_value(self.artifacts, value, step) if StepState(state) is StepState.SUCCEEDED else None
        run, control = self.store.find_run(run_id), self._control_folder
        return mark(
            self.store, run, step, StepState(state), value=given, by=by, why=why, control=control, process=self.process
        )

    def pause(self, run_id: str, *, by: str | None = None, why: str = "", force: bool = False) -> RunState:
        """Stop the run until `unpause`: what runs ends, or with `force` is ended. Raises RunConflict, RunOwned."""
        from dagengine.edits import pause

        run = self.store.find_run(run_id)
        return pause(self.store, run, by=by, why=why, force=force, control=self._control_folder, process=self.process)

    def unpause(self, run_id: str, *, by: str | None = None, why: str = "") -> Run[Any]:
        """Go on with a paused run. Raises RunConflict if it is none."""
        from dagengine.edits import unpause

        run = self.store.find_run(run_id)
        unpause(self.store, run, by=by, why=why, process=self.process)
        return self._go_on(run.id, reopen=False)

    def _place(self) -> Place:
        from dagengine.forks import Place

        return Place(self.store, self.artifacts, self._shelf)

    def _go_on(self, run_id: str, reopen: bool = True) -> Run[Any]:
        return cast("Engine", self).resume(run_id, reopen=reopen)


def refuse_paused(run: RunRecord) -> None:
    """Nobody goes on with a paused run by the way."""
    if run.state is RunState.PAUSED:
        short = run.id[:8]
        raise RunConflict(f"run {short} is paused. Let it go on: dagengine unpause {short}", run_id=run.id)


def answer_change(engine: Engine, driver: Driver, request: dict[str, Any]) -> dict[str, Any]:
    """A change that another process asks for of a run that this one works on. Answered when it is recorded."""
    try:
        return _answer_change(engine, driver, request)
    except Exception:
        if not driver.ended.is_set():
            raise
        return LET_GO  # of a run that waits without a process, the driver has no parts any more


def _answer_change(engine: Engine, driver: Driver, request: dict[str, Any]) -> dict[str, Any]:
    note = {"by": str(request.get("by")), "why": str(request.get("why"))}
    if request["verb"] == "pause":
        if engine.look_into(lambda: driver._core.asleep):  # it is about to wait, and would hear of nothing more
            driver.ended.wait(RECORDED_SECONDS)
            return LET_GO
        data = {"before": "running", **note}
        driver.record_beside([AddEvent(EventRecord(time.time(), "run.paused", None, data))])
        engine.tell(driver, [InterruptRequested(bool(request.get("force")), pause=True)])
        return {"state": str(driver.state)}
    return _answer_mark(engine, driver, request, note)


def _answer_mark(engine: Engine, driver: Driver, request: dict[str, Any], note: dict[str, str]) -> dict[str, Any]:
    from dagengine.edits import decided, value_of_json

    seq, state = int(request["seq"]), StepState(request["state"])
    key = driver.stage.key_of(seq)
    reason = engine.look_into(lambda: driver._core.unmarkable(seq))
    if reason is not None:
        return {"error": f"{key} can't be marked: {reason}."}
    now = time.time()
    marked = StepMarked(
        seq,
        state,
        now,
        EventRecord(now, "step.marked", seq, {"state": str(state), **note}),
        value_of_json(request.get("value")),
        decided(key, seq, state, note),
    )
    end = End()
    engine.tell(driver, [marked])
    driver.stage.watch_core([seq], end)
    ended = end.wait(RECORDED_SECONDS)
    if ended is None and driver.ended.is_set():
        return LET_GO
    if ended is not state:
        return {"error": f"{key} ended by itself before it could be marked: {ended or 'the run stops'}."}
    return {"state": str(driver.state)}
