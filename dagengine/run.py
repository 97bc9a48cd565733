"""`Run`: the handle of a run that this process works on. May import graph, model, progress, reading
and results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from dagengine.model import Failure, RunState, StepRecord
from dagengine.progress import Progress, Tally
from dagengine.reading import Reader
from dagengine.results import ended_badly

if TYPE_CHECKING:
    import networkx

    from dagengine.driver import Driver
    from dagengine.engine import Engine
    from dagengine.life import Life

T_co = TypeVar("T_co", covariant=True)


class Run(Generic[T_co]):
    """A run in this process. `id` is what the command line takes, too: any prefix of it that is unique."""

    def __init__(self, engine: Engine, life: Life) -> None:
        self._engine = engine
        self._life = life
        self.id = life.run_id

    @property
    def _driver(self) -> Driver:
        """For tests of ours. A run that waits has none."""
        assert self._life.driver is not None
        return self._life.driver

    @property
    def state(self) -> RunState:
        return self._life.state

    @property
    def failure(self) -> Failure | None:
        """Why the run failed, or stopped in a mismatch."""
        return self._engine.store.find_run(self._life.run_id).failure

    @property
    def error(self) -> BaseException | None:
        """What made this process let go of the run before its end: StoreError, RuntimeStopped."""
        return self._life.error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; of the last run, if it goes on in others. True if it has come.

        Also of a run that waits without a process meanwhile; unless this engine does not wake it any more.
        """
        return self._life.wait(timeout)

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
        if self._life.error is not None:
            raise self._life.error
        if self.state is not RunState.SUCCEEDED:
            failed = self.state in (
                RunState.FAILED,
                RunState.MISMATCH,
            )  # else the store, which may be closed, knows none
            raise ended_badly(self._engine.store, self._life.run_id, self.state, self.failure if failed else None)
        record = self._engine.store.find_run(self._life.run_id)
        assert record.result_call is not None
        reader = Reader(self._engine.store, self._engine.artifacts, self._life.number)
        (value,), _ = reader.call(record.result_call, record.result_inputs)
        return cast(T_co, value)

    def cancel(self, compensate: bool = False) -> None:
        """Ask the run to stop for good: what runs is ended, what waits never runs. `wait` for the end.

        compensate: then undo the steps that succeeded and have an `undo=` task, newest first
        """
        self._engine.cancel(self._life.run_id, compensate)

    def progress(self) -> Progress:
        driver = self._life.driver
        if driver is not None:
            return driver.progress()
        tally = Tally(self._life.notices)
        for (task, state), count in self._engine.store.counts(self._life.number).items():
            tally.take_over(task, state, count)
        return Progress(
            self.id, self._life.workflow, self.state, tally.view(), self._life.started_at, tuple(tally.notices)
        )

    def steps(self) -> list[StepRecord]:
        """The recorded steps, in the order of recording."""
        return self._engine.store.steps(self._life.number)

    def graph(self) -> networkx.DiGraph[Any]:
        """The recorded graph: a node for each step by its seq, with `key`, `task`, `state` and more as attributes; an
        edge from each step to those that read it."""
        from dagengine.graph import graph_of

        return graph_of(self._engine.store, self._engine.store.find_run(self._life.run_id))

    def __repr__(self) -> str:
        return f"<run {self.id[:8]} of {self._life.workflow}: {self.state}>"
