"""`Run`: the handle of a run that this process works on. May import errors, model, progress and reading."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from dagengine.continuing import successor_of
from dagengine.errors import RunCancelled, RunFailed, RunInterrupted, RunMismatch
from dagengine.failures import exception_of
from dagengine.model import Failure, RunRecord, RunState, StepRecord
from dagengine.progress import Progress
from dagengine.reading import Reader

if TYPE_CHECKING:
    import networkx

    from dagengine.driver import Driver
    from dagengine.engine import Engine

T_co = TypeVar("T_co", covariant=True)


class Run(Generic[T_co]):
    """A run in this process. `id` is what the command line takes, too: any prefix of it that is unique."""

    def __init__(self, engine: Engine, driver: Driver) -> None:
        self._engine = engine
        self._driver = driver  # of the run, or of the one that it goes on in
        self._found: RunRecord | None = None  # of a run that it went on in, and that this process does not work on
        self.id = driver.run_id

    @property
    def state(self) -> RunState:
        return self._driver.state if self._found is None else self._found.state

    @property
    def failure(self) -> Failure | None:
        """Why the run failed, or stopped in a mismatch."""
        return self._record().failure

    def _record(self) -> RunRecord:
        return self._engine.store.find_run(self._driver.run_id) if self._found is None else self._found

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; also of what the run was continued as. True if it has come."""
        until = None if timeout is None else time.monotonic() + timeout
        while self._found is None:
            if not self._driver.ended.wait(None if until is None else max(0.0, until - time.monotonic())):
                return False
            if not (self._driver.continued and self._driver.state is RunState.SUCCEEDED):
                return True
            after = successor_of(self._engine, self._driver)
            if isinstance(after, RunRecord):
                self._found = after
            else:
                self._driver = after
        return True

    def result(self) -> T_co:
        """Wait for the end and return what the workflow returned, with values in the places of refs.

        Raises RunFailed with the first failed step's exception as its cause; RunCancelled; RunInterrupted;
        RunMismatch; or what made this process let go of the run (StoreError, RuntimeStopped).
        """
        try:
            self.wait()
        except KeyboardInterrupt as stop:
            stop.add_note(f"The run goes on with: dagengine resume {self.id}")
            raise
        if self._driver.error is not None:
            raise self._driver.error
        if self.state is not RunState.SUCCEEDED:
            raise self._ended_badly()
        record = self._record()
        assert record.result_call is not None
        reader = Reader(self._engine.store, self._engine.artifacts, record.number)
        (value,), _ = reader.call(record.result_call, record.result_inputs)
        return cast(T_co, value)

    def _ended_badly(self) -> BaseException:
        run_id = self._record().id
        short, go_on = run_id[:8], f"Resume with: dagengine resume {run_id}"
        if self.state is RunState.CANCELLED:
            return RunCancelled(f"run {short} was cancelled. {go_on}", run_id=run_id)
        failure = self.failure
        if self.state is RunState.INTERRUPTED or failure is None:
            return RunInterrupted(f"run {short} was interrupted. {go_on}", run_id=run_id)
        if self.state is RunState.MISMATCH:
            return RunMismatch(
                f"run {short}: {failure.message}\n{failure.facts.get('difference', '')}",
                run_id=run_id,
                key=failure.facts.get("key", ""),
                difference=failure.facts.get("difference", ""),
            )
        where = failure.facts.get("step")
        text = failure.message.splitlines()[0] if failure.message else ""
        error = RunFailed(
            f"run {short} failed{f' in step {where}' if where else ''}: {failure.type}: {text}. {go_on}",
            run_id=run_id,
            failed=tuple(failure.facts.get("failed", ())),
        )
        error.__cause__ = exception_of(failure, where)
        return error

    def cancel(self, compensate: bool = False) -> None:
        """Ask the run to stop for good: what runs is ended, what waits never runs. `wait` for the end.

        compensate: then undo the steps that succeeded and have an `undo=` task, newest first
        """
        self._engine.cancel(self.id, compensate)

    def progress(self) -> Progress:
        return self._driver.progress()

    def steps(self) -> list[StepRecord]:
        """The recorded steps, in the order of recording."""
        return self._engine.store.steps(self._driver.claim.run_number)

    def graph(self) -> networkx.DiGraph[Any]:
        """The recorded graph: a node for each step by its seq, with `key`, `task`, `state` and more as attributes; an
        edge from each step to those that read it."""
        from dagengine.graph import graph_of

        return graph_of(self._engine.store, self._engine.store.find_run(self.id))

    def __repr__(self) -> str:
        return f"<run {self.id[:8]} of {self._driver.workflow_name}: {self.state}>"
