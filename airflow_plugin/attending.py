"""One try of an Airflow task: it finds the task's run, sees to it, and hears of its end. Knows nothing of Airflow.

    main thread (Airflow's)                      the attendant's thread
    ───────────────────────                      ──────────────────────
    start() ───────────────────────────────────▶ what is there of this task's?  ──▶ decisions.decide
    wait() … AirflowTaskTimeout, SIGTERM         begin, attach, resume, fork, return       (`here`, `served`)
    stop("cancel")  ── a flag, no more ────────▶ looks at the flag several times a second
    outcome() ◀───────────────────────────────── how the run has ended

Everything that touches a store or an engine is done on the second thread. Airflow interrupts the main thread between any two
instructions: its time limit raises there, and SIGTERM calls `on_kill` there. Neither may come upon a lock that is held.

Of ours it may import the workflow layer.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagengine.airflow_plugin.decisions import (
    Attach,
    Begin,
    Decision,
    Found,
    OnClear,
    OnKill,
    OnRetry,
    Refuse,
    Return,
    Where,
    decide,
)
from dagengine.airflow_plugin.hints import command, store_of
from dagengine.airflow_plugin.identity import FACT, TaskKey
from dagengine.airflow_plugin.outcomes import (
    XCOM_LIMIT,
    Kind,
    Outcome,
    failure_of,
    for_xcom,
    outcome_of_error,
    reference,
)
from dagengine.airflow_plugin.run_log import RunLog, Say, duration, say_output
from dagengine.errors import DagengineError, LoadError, RunConflict, RunExists, RunOwned
from dagengine.model import PayloadInput, RunRecord, RunState, StepInput
from dagengine.views import run_state

if TYPE_CHECKING:
    from dagengine.client import Client
    from dagengine.workflows import Workflow

TURN = 0.2
"""Seconds between two looks at the flags, of a thread that waits for something else."""

PAUSED_TURN = 2.0
"""Seconds between two looks at a paused run: a person lets it go on, and nothing here hears of that."""

DECISIONS = 20
"""Times that a try looks anew at what there is, because somebody else was quicker: two that take a run from each other end."""

CLOCKS_DIFFER = 300.0
"""Seconds by which the clocks of Airflow's database and of the machines that run tasks may differ, for a run to be taken for
its task's own: a run that is taken for another one's is begun twice."""

READ_LIMIT = 1024 * 1024
"""Encoded bytes of a result above which nobody looks whether it is small as JSON."""


@dataclass(frozen=True)
class Work:
    """What a try is to see to.

    workflow: or "FILE.py:NAME", "package.module:NAME"; a file by its whole path
    store, artifacts, home: as of `Client`; conn_id: the Airflow connection that they come from
    machine: of an engine in this process, as of `Engine`; queue, priority: where a server's runs wait
    defer_after: seconds after which a try does not wait any longer for a server's run; None: waits
    instance: Airflow's own id of this try; not_before: when its DAG run was begun, in seconds since the epoch
    """

    key: TaskKey
    try_number: int
    workflow: Workflow[..., Any] | str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    store: str | None = None
    artifacts: str | None = None
    home: str | None = None
    conn_id: str | None = None
    where: Where = "here"
    on_retry: OnRetry = "resume"
    on_clear: OnClear = "auto"
    machine: Mapping[str, Any] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 0
    wait: bool = True
    defer_after: float | None = None
    xcom_limit: int = XCOM_LIMIT
    instance: str | None = None
    not_before: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Attendant:
    """Sees to the run of one try. `start` it once; `stop` may be called from a signal's handler, and more than once.

    run_id: of the run, as soon as it is recorded, before anything is waited for
    left_waiting: the try was not to wait any longer: the run goes on without it
    """

    def __init__(self, work: Work, say: Say) -> None:
        self.work = work
        self.run_id: str | None = None
        self.left_waiting = False
        self.cause: BaseException | None = None
        self._key = work.key  # of the run that is to be begun, or was found
        self._say = say
        self._asked: OnKill | None = None
        self._times_asked = 0
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None
        # No join: Python takes a thread for ended whose join is interrupted by what a signal's handler raises.
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, name="dagengine-airflow", daemon=True)

    # ---- the main thread ----------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Until the try is over, at most so long; whether it is."""
        return self._over.wait(seconds)

    def stop(self, how: OnKill) -> None:
        """End the try, and with it the run, or not, as `how` says; asked a second time: whatever is still running."""
        # Assignments only: a signal's handler runs between any two instructions of the thread that waits.
        self._asked = self._asked or how
        self._times_asked += 1

    def outcome(self) -> Outcome:
        """Of a try that is over. Raises what is no error of ours or of the run's: a fault."""
        if self._error is not None:
            raise self._error
        assert self._outcome is not None
        return self._outcome

    # ---- the attendant's thread ---------------------------------------------------------------

    def _go(self) -> None:
        try:
            self._main()
        finally:
            self._over.set()

    def _main(self) -> None:
        from dagengine.client import Client

        work = self.work
        try:
            with Client(work.store, artifacts=work.artifacts, home=work.home) as client:
                self._outcome = self._see_to(client)
        except DagengineError as error:
            self._outcome, self.cause = outcome_of_error(error, self.run_id or ""), error
        except BaseException as error:
            self._error = error

    def _see_to(self, client: Client) -> Outcome:
        for _ in range(DECISIONS):
            if self._asked:
                return self._ended_by_airflow(self.run_id)
            decision = self._decide(client)
            if isinstance(decision, Refuse):
                return Outcome(Kind.FAILED_FOR_GOOD, _refusal(decision, store_of(client)))
            try:
                run_id = decision.run_id if isinstance(decision, Return) else self._carry_out(client, decision)
            except (RunOwned, RunExists):
                continue  # somebody was quicker
            outcome = self._conclude(client, run_id, isinstance(decision, Attach))
            if outcome is not None:
                return outcome
        see = command("show", self.run_id or "", store_of(client))
        raise RunConflict(
            f"run {(self.run_id or '')[:12]} is taken up again and again by somebody else. See who: {see}",
            run_id=self.run_id,
        )

    def _carry_out(self, client: Client, decision: Decision) -> str:
        """Do what was decided, and wait until nobody works on the run any more. The run's id. Raises RunOwned, RunExists."""
        raise NotImplementedError

    # ---- what is there ------------------------------------------------------------------------

    def _decide(self, client: Client) -> Decision:
        work = self.work
        own = {key.engine_id: key for key in work.key.same_generation(work.try_number)}
        # At the first try nothing was cleared yet.
        looks_back = work.on_clear != "new" and work.try_number > 1
        before = [key.engine_id for key in work.key.earlier_generations()] if looks_back else []
        states = client.states([*own, *before])
        current = next((run_id for run_id in own if run_id in states), None)
        if current is not None and self._is_of_another(client.find(current)):
            self._say(
                logging.WARNING, f"run {current[:12]} is of another DAG run of this id, which is gone: it is left alone"
            )
            self._key, current = own[current].next_edition(), None
        elif current is not None:
            self._key = own[current]
        former = next((run_id for run_id in before if run_id in states), None)
        found = None if current is None else self._found(client, current, states, work.on_retry == "restart")
        previous = None
        if found is None and former is not None:
            previous = self._found(client, former, states, work.on_clear != "reuse")
        decision = decide(found, previous, where=work.where, on_retry=work.on_retry, on_clear=work.on_clear)
        self.run_id = getattr(decision, "run_id", None)
        return decision

    def _is_of_another(self, record: RunRecord) -> bool:
        """Whether the run was begun for a DAG run of the same id that was deleted since, or that another Airflow has.

        At its first try a task can only have begun a run itself. Later its run is at least as young as its DAG run.
        """
        begun_by = record.facts.get(FACT, {}).get("instance")
        if self.work.try_number == 1 and begun_by is not None and self.work.instance is not None:
            return bool(begun_by != self.work.instance)
        return self.work.not_before is not None and record.created_at < self.work.not_before - CLOCKS_DIFFER

    def _new_id(self, decision: Decision) -> str:
        anew = isinstance(decision, Begin) and decision.anew
        self._key = self._key.restarted(self.work.try_number) if anew else replace(self._key, restart=0)
        return self._key.engine_id

    def _found(self, client: Client, run_id: str, states: Mapping[str, RunState], today: bool) -> Found:
        from dagengine import compensating
        from dagengine.continuing import last_of
        from dagengine.serving.submission import is_expected

        record = client.find(run_id)
        same_workflow, same_arguments = self._compare(client, record, today)
        return Found(
            run_id,
            states[run_id],
            expected=is_expected(client.store, run_id),
            same_workflow=same_workflow,
            same_arguments=same_arguments,
            begun=bool(record.steps) or record.state is not RunState.PENDING,
            undone=compensating.over(client.store, last_of(client.store, record)),
        )

    def _compare(self, client: Client, record: RunRecord, today: bool) -> tuple[bool, bool]:
        """Whether the run's workflow, and whether its arguments, are those of this try. Raises BadArguments, LoadError.

        today: by today's signature; else by that of the run's own code, which is to go on, and of which a process can have
            only one version
        """
        from dagengine.recording import entry_of

        workflow = self.work.workflow
        if isinstance(workflow, str):
            workflow = (None if today else self._pinned(client, record)) or self.workflow()
        given = entry_of(workflow)
        if (record.entry.get("module"), record.entry.get("qualname")) != (given.module, given.qualname):
            return False, False
        return True, client.same_call(record.id, workflow, self.work.args, dict(self.work.kwargs))

    def _pinned(self, client: Client, record: RunRecord) -> Workflow[..., Any] | None:
        """The run's workflow as it was when the run began; None if it is another one, or can't be had here."""
        from dagengine.code.packing import Shelf
        from dagengine.code.pinning import PINNED, pin

        place, _, name = str(self.work.workflow).rpartition(":")
        module = Path(place).stem if place.endswith(".py") else place
        if (record.entry.get("module"), record.entry.get("qualname")) != (module, name):
            return None
        shelf = Shelf(client.store, client.settings.folder / "cache" / "code")
        with contextlib.suppress(LoadError):
            return pin(client.store, record, PINNED, shelf).workflow()
        return None

    def workflow(self) -> Workflow[..., Any]:
        """As it is today. Raises LoadError."""
        from dagengine.workflows import load

        if not isinstance(self.work.workflow, str):
            return self.work.workflow
        try:
            return load(self.work.workflow)
        except SystemExit as error:
            raise LoadError(
                f"{self.work.workflow} ends the process while it is loaded (exit status {error.code}). Put what it does"
                ' when it is run as a script under `if __name__ == "__main__":`.'
            ) from None

    def run_facts(self) -> dict[str, Any]:
        """What is recorded of the task with a new run."""
        return self._key.facts(self.work.try_number, instance=self.work.instance, **self.work.facts)

    # ---- the end ------------------------------------------------------------------------------

    def await_end(self, client: Client, run_id: str, until: float | None = None) -> bool:
        """Until nobody works on the run, or is to; a paused one is waited for. False: told to stop, or `until` has come.

        until: of `time.monotonic`
        """
        from dagengine.ending import ending

        log = RunLog(self._say, time.time(), store_of(client))
        paused = False
        over = ending(client.store, client.settings, run_id)
        while not self._asked:
            turn = TURN if until is None else max(0.0, min(TURN, until - time.monotonic()))
            if over.wait(turn):
                state = client.state(run_id)
                if state is not RunState.PAUSED and not paused:
                    return True
                log.look(client, client.find(run_id), state, time.time())
                self._sleep(PAUSED_TURN, until)  # whoever lets it go on is about to take it up
                paused = state is RunState.PAUSED
                over = ending(client.store, client.settings, run_id)
            elif log.is_due(time.time()):
                log.look(client, client.find(run_id), client.state(run_id), time.time())
            if until is not None and time.monotonic() >= until:
                return False
        return False

    def _sleep(self, seconds: float, until: float | None) -> None:
        end = time.monotonic() + seconds if until is None else min(until, time.monotonic() + seconds)
        while not self._asked and time.monotonic() < end:
            time.sleep(min(TURN, max(0.0, end - time.monotonic())))

    def _conclude(self, client: Client, run_id: str, attached: bool) -> Outcome | None:
        """What the run's end is to the task; None: that is to be decided anew, because the run is not at its end."""
        from dagengine.continuing import last_of

        if self.left_waiting:
            return Outcome(Kind.SUCCEEDED)
        record = last_of(client.store, client.find(run_id))
        state = run_state(record)
        if state is RunState.SUCCEEDED:
            return self._succeeded(client, record, run_id)
        if self._asked:
            return self._ended_by_airflow(run_id)
        if not state.ended or state is RunState.PAUSED or self._is_mine_now(attached, state):
            return None
        if record.failure is not None:
            say_output(self._say, client, record)
        self.cause = client.failure(run_id)
        return failure_of(record.id, record.workflow, state, record.failure, store_of(client))

    def _is_mine_now(self, attached: bool, state: RunState) -> bool:
        """Whether this try is to go on with a run that somebody else has let go of."""
        return False

    def _succeeded(self, client: Client, record: RunRecord, run_id: str) -> Outcome:
        work = self.work
        said = {"conn_id": work.conn_id, "store": None if work.conn_id is not None else client.store.url}
        try:
            if _bytes_of_result(client, record) > max(READ_LIMIT, work.xcom_limit):
                value = reference(run_id, **said)
            else:
                value = for_xcom(client.result(run_id), run_id, limit=work.xcom_limit, **said)
        except LoadError as error:
            self._say(logging.WARNING, f"{error} So a reference goes to XCom.")
            value = reference(run_id, **said)
        except DagengineError:
            raise
        except (
            Exception
        ) as error:  # the exception of a step that the workflow returned, and whose failure it had handled
            self.cause = error
            return outcome_of_error(error, run_id)
        self._say(logging.INFO, f"run {run_id[:12]} succeeded{_took(record)}")
        return Outcome(Kind.SUCCEEDED, value=value)

    def _ended_by_airflow(self, run_id: str | None) -> Outcome:
        what = {
            "cancel": "was cancelled",
            "compensate": "was cancelled, and what it did is undone",
            "leave": "was left",
        }
        run = f"run {run_id[:12]} {what[self._asked or 'leave']}" if run_id else "nothing was begun"
        return Outcome(Kind.FAILED, f"the task was ended: {run}")


def _refusal(decision: Refuse, store: str) -> str:
    if decision.cancel is None:
        return decision.reason
    return f"{decision.reason}. End it first: {command('cancel', decision.cancel, store)}"


def _took(record: RunRecord) -> str:
    if record.finished_at is None or record.started_at is None:
        return ""
    return f" in {duration(record.finished_at - record.started_at)}"


def _bytes_of_result(client: Client, record: RunRecord) -> int:
    """Encoded, of what the run returned: at least."""
    assert record.result_call is not None
    sizes = [item.size for item in record.result_inputs if isinstance(item, PayloadInput)]
    seqs = [item.seq for item in record.result_inputs if isinstance(item, StepInput)]
    return len(record.result_call) + sum(sizes) + _bytes_of(client, record.number, seqs)


def _bytes_of(client: Client, run_number: int, seqs: Iterable[int]) -> int:
    total, left = 0, list(seqs)
    while left and total <= READ_LIMIT:
        part, left = left[:1_000], left[1_000:]
        for value in client.store.values(run_number, part).values():
            total += value.size
            if value.items is not None:
                first, count = value.items
                left += range(first, first + min(abs(count), READ_LIMIT))
                total += abs(count)
    return total
