"""A run in the task's own process: an engine is opened for it, and closed with it.

    the task's process   controller: engine, body of the workflow, store
      └─ forker          in a process group of its own: Airflow ends a task by a signal to the task's group
           └─ workers    each in a group of its own; their tasks see the task's environment

However the task's process ends, nothing of it is left: after `kill -9` the forker sees it gone, and ends the workers with
whatever they have started. The run's owner is then proved dead, on this machine at once, and the next try takes the run over.

What the body prints is the task's output, as everything else in the process; what steps print is in the run's own logs.

Of ours it may import the workflow layer.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dagengine.airflow_plugin.attending import TURN, Attendant
from dagengine.airflow_plugin.decisions import Attach, Begin, Decision, Fork, Resume
from dagengine.airflow_plugin.hints import command, store_of
from dagengine.airflow_plugin.run_log import RunLog
from dagengine.continuing import last_of
from dagengine.errors import BadArguments, Fenced, LoadError, RunConflict, RunOwned
from dagengine.model import RunState

if TYPE_CHECKING:
    from dagengine.client import Client
    from dagengine.engine import Engine
    from dagengine.run import Run

FORCE_AFTER = 3.0
"""Seconds after which a run that was told to stop is stopped by force. Airflow kills a task's process after 5."""

_NO_DATABASE = "airflow-db-not-allowed:"
"""How the URL of Airflow's database begins in the environment of its tasks."""


def let_workers_import_airflow() -> None:
    """Airflow forbids its tasks its database by a URL that no driver knows. A task's process has imported Airflow before
    that; a worker, which has the same environment, could not, unless it says that Airflow is a library to it."""
    if os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "").startswith(_NO_DATABASE):
        os.environ.setdefault("_AIRFLOW__AS_LIBRARY", "1")


class Here(Attendant):
    """Sees to a run by working on it in this process."""

    def _carry_out(self, client: Client, decision: Decision) -> str:
        if isinstance(decision, Attach):
            owner = client.find(decision.run_id).owner
            if owner is not None:
                by = f"process {owner.pid} on {owner.host}"
                self._say(logging.INFO, f"run {decision.run_id[:12]} is worked on by {by}. It is waited for")
            self._wait_for_another(client, decision.run_id)
            return decision.run_id
        run_id, begin = self._beginning(decision)
        self._work_on(client, begin)
        return run_id

    def _wait_for_another(self, client: Client, run_id: str) -> None:
        if not self.await_end(client, run_id) and self._asked in ("cancel", "compensate"):
            client.cancel(run_id, self._asked == "compensate")

    def _beginning(self, decision: Decision) -> tuple[str, Callable[[Engine], Run[Any]]]:
        """The run's id, and how it is taken up."""
        work, new_id = self.work, self._new_id(decision)
        if isinstance(decision, Resume):
            return decision.run_id, lambda engine: self._resume(engine, decision.run_id)
        if isinstance(decision, Fork):
            return new_id, lambda engine: self._fork(engine, decision, new_id)
        assert isinstance(decision, Begin)
        workflow = self.workflow()
        call = (work.args, dict(work.kwargs))
        return new_id, lambda engine: engine.begin(workflow, *call, new_id, facts=self.run_facts())

    def _resume(self, engine: Engine, run_id: str) -> Run[Any]:
        try:
            return engine.resume(run_id)
        except LoadError as error:
            # The DAG's file has imported the workflow's module, which has changed since. A process can't have both.
            self._say(logging.WARNING, f"{error} It goes on with today's code here")
            return engine.resume(run_id, code="current")

    def _fork(self, engine: Engine, decision: Fork, new_id: str) -> Run[Any]:
        work, donor = self.work, decision.donor
        try:
            bound = self.workflow().signature.bind(*work.args, **work.kwargs)
            bound.apply_defaults()
            params = dict(bound.arguments) if decision.rebind else None
            return engine.fork(donor, code="current", params=params, new_id=new_id, facts=self.run_facts())
        except (BadArguments, RunConflict) as error:
            self._say(
                logging.WARNING, f"nothing is shared with run {donor[:12]} of the task before it was cleared: {error}"
            )
            return engine.begin(self.workflow(), work.args, dict(work.kwargs), new_id, facts=self.run_facts())

    def _work_on(self, client: Client, begin: Callable[[Engine], Run[Any]]) -> None:
        """Until the run has ended, or this process has let go of it. Raises RunOwned, StoreError, RuntimeStopped."""
        from dagengine.engine import Engine

        work = self.work
        let_workers_import_airflow()
        engine = Engine(work.store, artifacts=work.artifacts, home=work.home, **work.machine)
        try:
            run = begin(engine)
            self.run_id = run.id
            self._say(logging.INFO, self._begun(client, run))
            self._follow(client, engine, run)
            error = run.error
        finally:
            engine.close(force=self._times_asked > 0)
        if isinstance(error, Fenced):
            raise RunOwned(str(error), run_id=run.id, owner="")
        if error is not None and not self._asked:
            raise error

    def _begun(self, client: Client, run: Run[Any]) -> str:
        done = sum(task.before for task in run.progress().tasks)
        kept = f", {done:,} {'step is' if done == 1 else 'steps are'} done already" if done else ""
        return (
            f"run {run.id} of {run.progress().workflow} begins in this process{kept}. To see it:"
            f" {command('show', run.id, store_of(client))}"
        )

    def _follow(self, client: Client, engine: Engine, run: Run[Any]) -> None:
        log = RunLog(self._say, time.time(), store_of(client))
        told = 0
        force_at: float | None = None
        while not run.wait(TURN):
            log.update(run.progress(), time.time())
            if self._times_asked > told:
                told = self._times_asked
                if told == 1:
                    force_at = self._tell(engine, run)
                else:
                    engine.interrupt(force=True)
            if force_at is not None and time.monotonic() >= force_at:
                force_at = None
                engine.interrupt(force=True)
        log.update(run.progress(), time.time())

    def _tell(self, engine: Engine, run: Run[Any]) -> float | None:
        """Tell the engine how the run is to end; and when that is to be by force."""
        self._say(logging.WARNING, f"the task is to end: run {run.id[:12]} {_TOLD[self._asked or 'leave']}")
        if self._asked == "leave":
            engine.interrupt()
        else:
            last = last_of(engine.store, engine.store.find_run(run.id))  # a run may have gone on in another
            engine.cancel(last.id, compensate=self._asked == "compensate")
        return None if self._asked == "compensate" else time.monotonic() + FORCE_AFTER

    def _is_mine_now(self, attached: bool, state: RunState) -> bool:
        # Whoever had the run was another process of this very task, which Airflow has given up and ended. So was its
        # cancelling: this try has the task now.
        return attached and state in (RunState.INTERRUPTED, RunState.CANCELLED)


_TOLD = {
    "cancel": "is cancelled",
    "compensate": "is cancelled, and what it did is undone",
    "leave": "is left as it is, to be resumed",
}
