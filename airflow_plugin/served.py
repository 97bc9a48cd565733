"""A run that is left to `dagengine serve`: the task submits it, and waits for its end, or lets its trigger wait.

The run and its place in a queue are one transaction, under an id that follows from the task: there is no moment in which a
dying task has submitted a run that the next try would not find.

Of ours it may import the workflow layer.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dagengine.airflow_plugin.attending import TURN, Attendant, Work
from dagengine.airflow_plugin.decisions import Attach, Begin, Decision, Fork, Resume
from dagengine.airflow_plugin.hints import command, store_of
from dagengine.airflow_plugin.run_log import Say
from dagengine.errors import BadArguments, RunConflict
from dagengine.model import RunState

if TYPE_CHECKING:
    from dagengine.client import Client
    from dagengine.serving.submission import Submission

ENDING_SECONDS = 3.0
"""For a run to hear that it is to end, before the task says so itself. Airflow kills a task's process after 5."""


class Served(Attendant):
    """Sees to a run that a server works on."""

    _asked_before = False  # to cancel it: by a former try of this task, whose process was ended

    def _carry_out(self, client: Client, decision: Decision) -> str:
        run_id = self.run_id = self._leave(client, decision)
        see = command("show", run_id, store_of(client))
        self._say(logging.INFO, f"run {run_id} {_LEFT[type(decision)]}, queue {self.work.queue}. To see it: {see}")
        if not self.work.wait:
            self.left_waiting = True
            return run_id
        defer_after = self.work.defer_after
        until = None if defer_after is None else time.monotonic() + defer_after
        if not self.await_end(client, run_id, until):
            if self._asked:
                self._end(client, run_id)
            else:
                self.left_waiting = True
        return run_id

    def _leave(self, client: Client, decision: Decision) -> str:
        work = self.work
        if isinstance(decision, Attach):
            self._asked_before = client.find(decision.run_id).cancel_requested_at is not None
            return decision.run_id
        if isinstance(decision, Resume):
            client.resume(decision.run_id, work.queue, work.priority)
            return decision.run_id
        how = self._submission(self._new_id(decision))
        if isinstance(decision, Fork):
            return self._fork(client, decision, how)
        assert isinstance(decision, Begin)
        return client.submit(self.workflow(), work.args, dict(work.kwargs), how=how, facts=self.run_facts())

    def _submission(self, run_id: str) -> Submission:
        from dagengine.serving.submission import Submission

        return Submission(queue=self.work.queue, priority=self.work.priority, run_id=run_id)

    def _fork(self, client: Client, decision: Fork, how: Submission) -> str:
        work, donor = self.work, decision.donor
        bound = self.workflow().signature.bind(*work.args, **work.kwargs)
        bound.apply_defaults()
        params: dict[str, Any] | None = dict(bound.arguments) if decision.rebind else None
        try:
            return client.fork(donor, code="current", params=params, how=how, facts=self.run_facts())
        except (BadArguments, RunConflict) as error:
            self._say(
                logging.WARNING, f"nothing is shared with run {donor[:12]} of the task before it was cleared: {error}"
            )
            return client.submit(self.workflow(), work.args, dict(work.kwargs), how=how, facts=self.run_facts())

    def _end(self, client: Client, run_id: str) -> None:
        """The task is to end, and the run with it, unless it is to be left alone."""
        if self._asked == "leave":
            return
        client.cancel(run_id, self._asked == "compensate")
        until = time.monotonic() + ENDING_SECONDS
        while time.monotonic() < until and client.state(run_id) in (RunState.RUNNING, RunState.WAITING):
            time.sleep(TURN)

    def _is_mine_now(self, attached: bool, state: RunState) -> bool:
        return attached and self._asked_before and state is RunState.CANCELLED


_LEFT = {
    Attach: "is under way",
    Begin: "is left to `dagengine serve`",
    Fork: "is left to `dagengine serve`, and shares what the task had done before it was cleared",
    Resume: "goes on with `dagengine serve`",
}


class Collecting(Served):
    """Hears of the end of a run for which a trigger has waited."""

    def __init__(self, work: Work, say: Say, run_id: str) -> None:
        # It has ended, as the trigger says: there is nothing to defer for. With a deadline of its own, a first look that comes
        # late would send the task back to the trigger, which fires at once, and so on without end.
        super().__init__(replace(work, defer_after=None), say)
        self.run_id = run_id

    def _decide(self, client: Client) -> Decision:
        assert self.run_id is not None
        return Attach(self.run_id)
