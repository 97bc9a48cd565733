"""`DagengineOperator`: an Airflow task that is a run of a dagengine workflow.

Every try of the task finds the same run (`identity`), and what it does about it follows from a table (`decisions`). The try
itself goes on in `attending`, off the main thread; here is only what Airflow has to do with it: arguments from templates and
XComs, the connection, XCom keys, `on_kill`, deferral, and Airflow's exceptions.

Imports Airflow's SDK. Of ours, when a DAG is parsed, no more than pure modules; what runs is imported when a task runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from dagengine.airflow_plugin.decisions import ON_CLEAR, ON_KILL, ON_RETRY, WHERE, OnClear, OnKill, OnRetry, Where
from dagengine.airflow_plugin.identity import TaskKey
from dagengine.airflow_plugin.lineage import Traced, note_run
from dagengine.airflow_plugin.links import RUN_KEY, URL_KEY, run_links, run_url
from dagengine.airflow_plugin.outcomes import XCOM_LIMIT, Kind, Outcome, is_reference, outcome_of_error, raise_for
from dagengine.airflow_plugin.places import Place, open_client, place_of
from dagengine.errors import BadArguments, BadOption, DagengineError

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from dagengine.airflow_plugin.attending import Attendant, Work
    from dagengine.workflows import Workflow

RETRIES = 2
"""Of a task whose DAG and whose Airflow say nothing: a retry goes on with the run, and repeats nothing that has finished."""

DEFAULT_RETRIES = conf.getint("core", "default_task_retries", fallback=0) or RETRIES

DEFER_AFTER = 10.0
"""Seconds: going to the triggerer and back takes about 5, and a slot of a worker for as long. Short runs end before."""

_TURN = 0.1
_ENDING_SECONDS = 30.0
"""For a run to be ended after Airflow has raised its time limit in the main thread."""


class DagengineOperator(Traced, BaseOperator):
    """A run of a workflow, as an Airflow task. A retry, a restarted worker and a cleared task find the task's run again.

    workflow: "package.module:NAME" or "FILE.py:NAME", the file beside the DAG's file or by its whole path; or the workflow
        itself, if it can be imported (templated)
    arguments: of the workflow, by name (templated; XComs of other tasks, also references to large values, are the values).
        Without it, they are the `params=` of this very task
    conn_id, store: where the runs are: a connection of type `dagengine`, or a path or URL. Neither: "dagengine_default", if
        there is such a connection, else the store that dagengine is set to
    where: "here": an engine in the task's own process works on the run. "serve": it is left to `dagengine serve`
    workers, memory, gpus, machine: of the engine here; machine: further ones by name, as of `dagengine.Engine`
    run_queue, run_priority: of a run that is left to a server
    wait: False: the task has succeeded when the server has the run; its XCom is the run's id
    deferrable, defer_after: after so many seconds give the worker slot back, and let a trigger wait; None: Airflow's setting
        `[operators] default_deferrable`. Of a run that is left to a server
    poll_interval: seconds between two looks of the trigger
    on_kill: what becomes of the run when its task is marked, cleared, timed out or its worker stopped: "cancel", "leave", or
        "compensate": cancel, and undo what it did
    on_retry: "resume" the run, or "restart": begin another one
    on_clear: "auto": share what a failed run has finished, unless its code has changed; "new": share nothing; "reuse": as for a
        retry
    python: the interpreter of another environment that has dagengine and the workflow, where Airflow's own can't: all that
        touches an engine or a store is done there. The connection may say so, too. Arguments and results are JSON then
    xcom_limit: bytes of JSON up to which the result goes to XCom itself
    """

    template_fields: Sequence[str] = ("workflow", "arguments", "store", "conn_id", "run_queue")
    template_fields_renderers: ClassVar[dict[str, str]] = {"arguments": "json"}
    ui_color = "#dfe8f7"
    operator_extra_links = run_links()

    _attendant: Attendant | None = None
    _killed = False

    def __init__(
        self,
        *,
        workflow: str | Workflow[..., Any],
        arguments: Mapping[str, Any] | None = None,
        conn_id: str | None = None,
        store: str | Path | None = None,
        where: Where = "here",
        workers: int | None = None,
        memory: int | str | None = None,
        gpus: int | None = None,
        machine: Mapping[str, Any] | None = None,
        run_queue: str = "default",
        run_priority: int = 0,
        wait: bool = True,
        deferrable: bool | None = None,
        defer_after: float | timedelta = DEFER_AFTER,
        poll_interval: float = 1.0,
        on_kill: OnKill = "cancel",
        on_retry: OnRetry = "resume",
        on_clear: OnClear = "auto",
        python: str | None = None,
        xcom_limit: int = XCOM_LIMIT,
        retries: int = DEFAULT_RETRIES,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, **kwargs)
        for name, value, choices in (
            ("where", where, WHERE), ("on_kill", on_kill, ON_KILL), ("on_retry", on_retry, ON_RETRY),
            ("on_clear", on_clear, ON_CLEAR),
        ):  # fmt: skip
            if value not in choices:
                raise BadOption(f"{self.task_id}: {name}={value!r} is not known. There is: {', '.join(choices)}.")
        if conn_id is not None and store is not None:
            raise BadOption(f"{self.task_id}: both conn_id and store are given. A run is in one of them: give that.")
        if where == "here" and (deferrable or not wait):
            said = "deferrable=True" if deferrable else "wait=False"
            raise BadOption(
                f'{self.task_id}: {said} is of runs that a server works on. Say where="serve", or leave it out: a run in'
                " the task's own process needs that process."
            )
        if deferrable is None:
            deferrable = where == "serve" and conf.getboolean("operators", "default_deferrable", fallback=False)
        self.workflow = workflow if isinstance(workflow, str) else entry_text(workflow)
        self.arguments = arguments
        self.conn_id = conn_id
        self.store = None if store is None else str(store)
        self.where = where
        self.machine = {"workers": workers, "memory": memory, "gpus": gpus, **(machine or {})}
        self.run_queue = run_queue
        self.run_priority = run_priority
        self.wait = wait
        self.deferrable = deferrable
        self.defer_after = defer_after.total_seconds() if isinstance(defer_after, timedelta) else float(defer_after)
        self.poll_interval = poll_interval
        self.kill_policy: OnKill = on_kill
        self.on_retry = on_retry
        self.on_clear = on_clear
        self.python = python
        self.xcom_limit = xcom_limit
        params = kwargs.get("params")
        own = ParamsDict.filter_params_by_source(params, "task") if isinstance(params, ParamsDict) else {}
        self.own_params = tuple(own)

    # ---- Airflow's side -----------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        try:
            attendant = self._attending(self._work(context, *self._call(context)))
        except DagengineError as error:
            raise_for(outcome_of_error(error), error.__cause__)
        return self._finished(context, attendant, self._attend(context, attendant))

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """The trigger has heard of the run's end, or has given up."""
        run_id, state = str(event.get("run_id", "")), str(event.get("state"))
        if state == "timeout":
            self._cancel(run_id)
            raise AirflowException(
                f"run {run_id[:12]} was still working when the task's execution_timeout was over:"
                f" it {_ENDED[self.kill_policy]}. A retry goes on with it."
            )
        if state in ("missing", "refused"):
            message = event.get("message") or f"run {run_id[:12]} is not in its store any more"
            raise AirflowFailException(message)
        try:
            attendant = self._attending(self._work(context, self.workflow, (), {}), run_id)
        except DagengineError as error:
            raise_for(outcome_of_error(error), error.__cause__)
        return self._finished(context, attendant, self._attend(context, attendant))

    def on_kill(self) -> None:
        """Airflow ends the task. Called by a signal's handler, too: what is to be done is left to the attendant."""
        self._killed = True
        if self._attendant is not None:
            self._attendant.stop(self.kill_policy)

    # ---- a try --------------------------------------------------------------------------------

    def _attending(self, work: Work, collect: str | None = None) -> Attendant:
        """Who sees the try through. `collect`: the run whose end is only to be heard of."""
        python = self._python()
        if python is not None:
            from dagengine.airflow_plugin.commands import Elsewhere

            return Elsewhere(python, work, self._say, collect)
        from dagengine.airflow_plugin.here import Here
        from dagengine.airflow_plugin.served import Collecting, Served

        if collect is not None:
            return Collecting(work, self._say, collect)
        return (Here if self.where == "here" else Served)(work, self._say)

    def _attend(self, context: Context, attendant: Attendant) -> Outcome:
        """See the try through. Raises what Airflow raises here meanwhile, when the run is ended as `on_kill` says."""
        if self._killed:  # before there was anything to be ended
            raise AirflowException("the task was ended before its run was begun")
        pushed = False
        self._attendant = attendant
        try:
            attendant.start()
            while not attendant.wait(_TURN):
                pushed = pushed or self._push(context, attendant.run_id)
        except BaseException:
            attendant.stop(self.kill_policy)
            if not attendant.wait(None if self.kill_policy == "compensate" else _ENDING_SECONDS):
                self.log.error("run %s could not be ended in time", attendant.run_id)
            raise
        finally:
            self._attendant = None
        if not pushed:
            self._push(context, attendant.run_id)
        return attendant.outcome()

    def _finished(self, context: Context, attendant: Attendant, outcome: Outcome) -> Any:
        if attendant.left_waiting:
            if not self.wait:
                return attendant.run_id
            return self._defer(context, str(attendant.run_id))
        if outcome.kind is Kind.SUCCEEDED:
            if self.outlets and attendant.run_id is not None:
                note_run(self.outlets, context["outlet_events"], attendant.run_id)
            refuse_to_be_mapped_over(self, context["ti"], outcome.value)
            return outcome.value
        cause = attendant.cause
        return raise_for(outcome, cause if cause is None or cause.__cause__ is None else cause.__cause__)

    def _push(self, context: Context, run_id: str | None) -> bool:
        if run_id is None:
            return False
        self.traced_run = run_id
        context["ti"].xcom_push(key=RUN_KEY, value=run_id)
        url = run_url(run_id)
        if url is not None:
            context["ti"].xcom_push(key=URL_KEY, value=url)
        return True

    def _defer(self, context: Context, run_id: str) -> Any:
        from dagengine.airflow_plugin.triggers import DagengineTrigger

        deadline = None
        start = getattr(context["ti"], "start_date", None)
        if self.execution_timeout is not None and start is not None:
            deadline = (start + self.execution_timeout).timestamp()
        place = self._place()
        trigger = DagengineTrigger(
            run_id,
            conn_id=place.conn_id,
            store=place.store,
            python=self.python,
            deadline=deadline,
            poll_interval=self.poll_interval,
            on_kill=self.kill_policy,
        )
        return self.defer(trigger=trigger, method_name="execute_complete")

    def _cancel(self, run_id: str) -> None:
        if self.kill_policy != "leave":
            with open_client(self.conn_id, self.store, self.python) as client:
                client.cancel(run_id, self.kill_policy == "compensate")

    def _say(self, level: int, text: str) -> None:
        self.log.log(level, "%s", text)

    # ---- what is asked for --------------------------------------------------------------------

    def _call(self, context: Context) -> tuple[str | Workflow[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The workflow and its arguments. Raises BadArguments, LoadError."""
        arguments: Any = self.arguments
        if arguments is None:
            params = context["params"]
            arguments = {name: self.render_template(params[name], context) for name in self.own_params}
        if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
            raise BadArguments(
                f"arguments of {self.workflow} is a {type(arguments).__name__}: {arguments!r:.60}. Give a dict of its"
                " parameters by name."
            )
        return self._entry(), (), {name: self._resolved(value) for name, value in arguments.items()}

    def _entry(self) -> str:
        """`workflow`, with the file by its whole path. A relative one lies beside the DAG's file, wherever that is now."""
        place, _, name = self.workflow.rpartition(":") if ":" in self.workflow else (self.workflow, "", "")
        if not place.endswith(".py") or Path(place).is_absolute():
            return self.workflow
        folder = Path(self.dag.fileloc).parent if self.dag is not None else Path.cwd()
        return f"{folder / place}:{name}" if name else str(folder / place)

    def _work(
        self, context: Context, workflow: str | Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Work:
        from dagengine.airflow_plugin.attending import Work

        ti, place = context["ti"], self._place()
        begun = getattr(context.get("dag_run"), "start_date", None)
        machine = {name: value for name, value in self.machine.items() if value is not None}
        return Work(
            TaskKey.of(ti),
            int(ti.try_number),
            workflow,
            args,
            kwargs,
            **place.address.options,
            conn_id=place.conn_id,
            where=self.where,
            on_retry=self.on_retry,
            on_clear=self.on_clear,
            machine=machine,
            queue=self.run_queue,
            priority=self.run_priority,
            wait=self.wait,
            defer_after=self.defer_after if self.deferrable else None,
            xcom_limit=self.xcom_limit,
            instance=str(ti.id),
            not_before=None if begun is None else begun.timestamp(),
            facts={"log_url": getattr(ti, "log_url", None)},
        )

    def _place(self) -> Place:
        return place_of(self.conn_id, self.store)

    def _resolved(self, value: Any) -> Any:
        """The value, with those of other runs in the places of references to them."""
        if is_reference(value):
            return self._read(value)
        if isinstance(value, dict):
            return {key: self._resolved(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._resolved(part) for part in value) if type(value) in (list, tuple) else value
        if type(value).__module__.startswith("airflow.") and isinstance(value, Sequence):
            return [self._resolved(part) for part in value]  # what the tasks of a mapped one have returned
        return value

    def _read(self, value: dict[str, Any]) -> Any:
        """What the reference stands for; for another environment, how it is read there."""
        from dagengine.airflow_plugin.hook import DagengineHook

        if self._python() is None:
            with DagengineHook(store=_NOWHERE) as hook:
                return hook.read(value)
        from dagengine.airflow_plugin.elsewhere import READ_KEY

        conn_id = value.get("conn_id")
        place = DagengineHook(conn_id).store_options() if conn_id is not None else {"store": value.get("store")}
        return {READ_KEY: {"run": value["run"], "place": place}}

    def _python(self) -> str | None:
        """The interpreter of the environment in which the run goes on, if that is another one."""
        return self.python or self._place().address.python


_NOWHERE = "/"
"""The store of a hook that only reads references to others."""

_ENDED = {"cancel": "was cancelled", "leave": "goes on", "compensate": "was cancelled, and what it did is undone"}


def refuse_to_be_mapped_over(task: Any, ti: Any, value: Any) -> None:
    """Raises AirflowFailException, if `value` is a reference and a task is mapped over it: Airflow would take its keys."""
    if not is_reference(value) or ti.is_mapped:
        return  # over all results of a mapped task, references among them, others can be mapped
    mapped = next(task.iter_mapped_dependants(), None)
    if mapped is not None:
        raise AirflowFailException(
            f"{mapped.node_id} is mapped over what {task.task_id} returns, and that is a reference: the value is no JSON, or has"
            " more bytes than xcom_limit. Return a list of plain values, or say a larger xcom_limit; then clear the task (with"
            ' on_clear="reuse" its run is not repeated).'
        )


def entry_text(workflow: Workflow[..., Any]) -> str:
    """How a task's process finds the workflow. Raises BadArguments for what is none."""
    function = getattr(workflow, "function", None)
    if function is None or not hasattr(workflow, "check_arguments"):
        raise BadArguments(
            f"workflow={workflow!r:.80} is no workflow. Decorate the function with @workflow, or name one."
        )
    module, name = workflow.__module__, workflow.__qualname__
    if "<locals>" in name:
        raise BadArguments(
            f"workflow {name} is defined in a function, where no other process finds it. Move it to a module."
        )
    if module.startswith("unusual_prefix_") or module == "__main__":  # as Airflow names the modules of DAG files
        return f"{function.__code__.co_filename}:{name}"
    return f"{module}:{name}"
