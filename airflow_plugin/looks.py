"""One look at what a sensor waits for: which run it is, whether the wait is over, and what that end is to the task.

Taken where the store is: in this process, or through `commands` in another environment. Knows nothing of Airflow.

Of ours it may import the workflow layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dagengine.airflow_plugin.hints import command, store_of
from dagengine.airflow_plugin.outcomes import Kind, Outcome, failure_of, first_line

if TYPE_CHECKING:
    from dagengine.awaited import Awaited
    from dagengine.client import Client


@dataclass(frozen=True, slots=True)
class Seen:
    """run_id: whole; store: its URL, without a password

    recorded: whether there is such a run yet
    end: how the wait has ended: "succeeded", or anything else; None: it goes on
    outcome: of a wait that has ended without success: what it is to a task that is not to try it again
    """

    run_id: str
    store: str
    recorded: bool = True
    end: str | None = None
    outcome: Outcome | None = None


def look_at(client: Client, asked: Awaited, begun: bool) -> Seen:
    """begun: the id is a whole one, which a task has pushed, perhaps before the run was recorded; else it may be a prefix of
    the id of a run that there has to be. Raises RunNotFound.
    """
    if not begun:
        asked = replace(asked, run_id=client.find(asked.run_id).id)
    found = client.ends([asked])
    seen = Seen(asked.run_id, client.store.url, asked in found, found.get(asked))
    if seen.end in (None, "succeeded"):
        return seen
    outcome = _of_run(client, asked.run_id) if asked.step is None else _of_step(client, asked, str(seen.end))
    return replace(seen, outcome=outcome)


def _of_run(client: Client, run_id: str) -> Outcome:
    record = client.find(run_id)
    outcome = failure_of(record.id, record.workflow, client.state(run_id), record.failure, store_of(client))
    return replace(outcome, kind=Kind.FAILED_FOR_GOOD) if outcome.kind is Kind.FAILED else outcome


def _of_step(client: Client, asked: Awaited, end: str) -> Outcome:
    what = f"{asked.step} of run {asked.run_id[:12]}"
    look = f"To see it: {command('steps', asked.run_id, store_of(client))}"
    if end == "none":
        return Outcome(Kind.SKIPPED, f"{what} was never made. {look}")
    if end in ("skipped", "cancelled"):
        return Outcome(Kind.SKIPPED, f"{what} was {end}. {look}")
    if end != "failed":
        return Outcome(Kind.FAILED_FOR_GOOD, f"{what} was not run to its end: the run is {end}. {look}")
    failure = None if "*" in str(asked.step) else client.step(asked.run_id, str(asked.step)).failure
    why = "" if failure is None else f": {failure.type.rpartition('.')[2]}: {first_line(failure.message)}"
    return Outcome(Kind.FAILED_FOR_GOOD, f"{what} failed{why}. {look}")
