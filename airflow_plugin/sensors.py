"""`DagengineSensor`: a task that waits for a run, or for a step or group of steps of one, whoever began it.

Which run: an id, or the task of the same DAG run that begins it. That task's XCom is believed only while the task is at
work or has ended: after it was cleared, and before it begins again, what stands there is the run before.

May import Airflow, and our thin modules; the engine only when a store is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import BaseSensorOperator, conf, timezone
from airflow.sdk.bases.sensor import PokeReturnValue
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
)

from dagengine.airflow_plugin.links import RUN_KEY
from dagengine.airflow_plugin.operators import DEFAULT_RETRIES, refuse_to_be_mapped_over
from dagengine.airflow_plugin.outcomes import outcome_of_error, raise_for, reference
from dagengine.airflow_plugin.places import open_client, place_of
from dagengine.airflow_plugin.triggers import REFUSED, DagengineTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dagengine.airflow_plugin.looks import Seen

_BEGUN = frozenset({"running", "deferred", "success", "failed", "up_for_retry", "up_for_reschedule"})
"""States of a task in which its XCom is of its last try."""

_OVER = frozenset({"failed", "upstream_failed", "skipped", "removed"})
"""States in which a task won't begin a run any more, nor go on with one, unless somebody clears it."""


_POKE_SECONDS = 5.0

_RESCHEDULE_SECONDS = 20.0
"""Between two looks of a sensor that gives its worker back. If a task is due again before the scheduler has heard in its
next round that the last look has ended, it takes the task for lost, and fails it; on a busy machine a round takes seconds."""


class _Look(NamedTuple):
    """What there was to see. `ended`: the run, or step, has ended, though it may be opened again; `done`: as of `poke`."""

    run_id: str | None = None
    ended: bool = False
    done: bool | PokeReturnValue = False


class DagengineSensor(BaseSensorOperator):
    """Succeeds when the run, or the step, has; fails or is skipped as it did.

    run_id: the run's id, or its beginning; or run_of: the id of the task of this DAG run that begins it, which is waited
        for as well: while that task may still be retried, the run may go on, and its failure is not this task's
    step: the step's key, `nightly/extract[0]`; all calls of a function, `nightly/extract[*]`; all that is in a scope,
        `nightly/child[0]/*`. None: the run itself. A step that was skipped, cancelled or never made skips this task
    count: as many steps of the group are enough; else the group is whole when the workflow's body has returned
    conn_id, store, python: where the run is, as of `DagengineOperator`
    deferrable: wait in the triggerer, with all others that wait for this store. mode="reschedule" holds no worker, either
    poke_interval: seconds between two looks: 5; 20 where each is a try that the scheduler begins (mode="reschedule", and a
        deferrable one while there is no run yet), which must not come due before the scheduler knows of the last one's end
    retries: of a sensor whose worker died, or whose store was away. That the run or step has failed is not tried again

    Returns a reference to the run's result, which `DagengineHook.read` reads, and an operator's arguments may have in them;
    of steps what was waited for: {"run", "step", "state"}.
    """

    template_fields: Sequence[str] = ("run_id", "run_of", "step", "conn_id", "store")
    ui_color = "#dfe8f7"

    def __init__(
        self,
        *,
        run_id: str | None = None,
        run_of: str | None = None,
        step: str | None = None,
        count: int | None = None,
        conn_id: str | None = None,
        store: str | None = None,
        python: str | None = None,
        deferrable: bool | None = None,
        poke_interval: float | timedelta | None = None,
        retries: int = DEFAULT_RETRIES,
        **kwargs: Any,
    ) -> None:
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        said = poke_interval.total_seconds() if isinstance(poke_interval, timedelta) else poke_interval
        self.reschedule_interval = _RESCHEDULE_SECONDS if said is None else float(said)
        if said is None:
            said = _RESCHEDULE_SECONDS if kwargs.get("mode") == "reschedule" and not deferrable else _POKE_SECONDS
        super().__init__(poke_interval=said, retries=retries, **kwargs)
        self.run_id = run_id
        self.run_of = run_of
        self.step = step
        self.count = count
        self.conn_id = conn_id
        self.store = store
        self.python = python
        self.deferrable = deferrable

    # ---- waiting ------------------------------------------------------------------------------

    def poke(self, context: Context) -> bool | PokeReturnValue:
        return self._look(context).done

    def execute(self, context: Context) -> Any:
        self._check()
        if not self.deferrable:
            return super().execute(context)
        ti: Any = context["ti"]
        first = ti.get_first_reschedule_date(context)
        until = self.timeout + (time.time() if first is None else first.timestamp())
        return self.resume_execution("_go_on", {"until": until}, context)  # what soft_fail means is said there

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the trigger has fired: what the store says is what counts."""
        if event["state"] == REFUSED:
            raise AirflowFailException(f"{self._what(event['run_id'])} can't be waited for: {event['message']}")
        return self._go_on(context, event["deadline"])

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException as skipped:
            # soft_fail takes every exception of Airflow's for a failure, also the one that asks to be called again.
            if isinstance(skipped.__cause__, AirflowRescheduleException):
                raise skipped.__cause__ from None
            raise

    def _go_on(self, context: Context, until: float) -> Any:
        """Return, if the wait is over; else give the worker back. `until`: in seconds since the epoch."""
        look = self._look(context)
        if isinstance(look.done, PokeReturnValue):
            return look.done.xcom_value
        if time.time() >= until:
            raise AirflowSensorTimeout(f"{self._what(look.run_id)} has not ended within {self.timeout:g} s")
        if look.run_id is None or look.ended:
            raise AirflowRescheduleException(timezone.utcnow() + timedelta(seconds=self.reschedule_interval))
        place = place_of(self.conn_id, self.store)
        trigger = DagengineTrigger(
            look.run_id,
            conn_id=place.conn_id,
            store=place.store,
            python=self.python,
            step=self.step,
            count=self.count,
            deadline=until,
            poll_interval=self.poke_interval,
            on_kill="leave",
        )
        return self.defer(trigger=trigger, method_name="execute_complete")

    def _look(self, context: Context) -> _Look:
        """Raises what is a failure to Airflow."""
        from dagengine.airflow_plugin.commands import CommandClient
        from dagengine.awaited import Awaited
        from dagengine.errors import DagengineError

        try:
            run_id = str(self.run_id) if self.run_of is None else self._run_of(context)
            if run_id is None:
                return _Look()
            asked = Awaited(run_id, self.step, self.count)
            with open_client(self.conn_id, self.store, self.python) as client:
                if isinstance(client, CommandClient):
                    seen = client.look(asked, self.run_of is not None)
                else:
                    from dagengine.airflow_plugin.looks import look_at

                    seen = look_at(client, asked, self.run_of is not None)
            return _Look(seen.run_id, seen.end is not None or not seen.recorded, self._over(context, seen))
        except DagengineError as error:
            raise_for(outcome_of_error(error, self.run_id or ""), error)

    # ---- which run ----------------------------------------------------------------------------

    def _check(self) -> None:
        if (self.run_id is None) == (self.run_of is None):
            raise AirflowFailException("say which run: run_id, or run_of, the task that begins it. One of them.")
        if not (self.run_id or self.run_of):
            raise AirflowFailException(
                f"{'run_id' if self.run_of is None else 'run_of'} is empty: what it was templated from names no run."
            )
        if self.conn_id is not None and self.store is not None:
            raise AirflowFailException("say where the run is recorded: conn_id, or store. One of them.")

    def _run_of(self, context: Context) -> str | None:
        """The id that the task `run_of` has said; None while there is none. Raises what it is, if there won't be one."""
        state = self._task_state(context)
        if state in _BEGUN:
            ti: Any = context["ti"]
            for index in dict.fromkeys((ti.map_index, -1)):
                found = ti.xcom_pull(task_ids=self.run_of, key=RUN_KEY, map_indexes=index)
                if found is not None:
                    return str(found)
        if state == "skipped":
            raise AirflowSkipException(f"task {self.run_of} was skipped: it has no run")
        if state in _OVER:
            raise AirflowFailException(f"task {self.run_of} ended as {state} before it had a run: see its log")
        return None

    def _task_state(self, context: Context) -> str | None:
        """Of the task that begins the run: the one of this map index, if it is mapped."""
        ti: Any = context["ti"]
        found = ti.get_task_states(dag_id=ti.dag_id, task_ids=[self.run_of], run_ids=[ti.run_id]).get(ti.run_id, {})
        if not found and self.run_of not in self.dag.task_ids:
            raise AirflowFailException(f"there is no task {self.run_of} in DAG {ti.dag_id}: correct run_of.")
        states = [found[name] for name in (f"{self.run_of}_{ti.map_index}", self.run_of) if name in found]
        return None if not states or states[0] is None else str(states[0])

    # ---- the end ------------------------------------------------------------------------------

    def _over(self, context: Context, seen: Seen) -> bool | PokeReturnValue:
        """What the wait's end is to Airflow; False: it goes on."""
        if seen.end == "succeeded":
            value = self._value(seen)
            refuse_to_be_mapped_over(self, context["ti"], value)
            return PokeReturnValue(True, value)
        if seen.outcome is None or (self.run_of is not None and self._task_state(context) not in {*_OVER, "success"}):
            return False  # the task may be retried, and the run with it
        return raise_for(seen.outcome)

    def _value(self, seen: Seen) -> dict[str, Any]:
        if self.step is not None:
            return {"run": seen.run_id, "step": self.step, "state": "succeeded"}
        conn_id = place_of(self.conn_id, self.store).conn_id
        return reference(seen.run_id, conn_id=conn_id, store=None if conn_id is not None else seen.store)

    def _what(self, run_id: str | None = None) -> str:
        run = f"run {(run_id or self.run_id or '')[:12]}" if run_id or self.run_id else f"the run of task {self.run_of}"
        return run if self.step is None else f"{self.step} of {run}"
