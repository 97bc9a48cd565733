"""What stores tell of a run that can't be found, begun, taken or written to: said alike by all of them.

May import nothing of ours but errors and model.
"""

from __future__ import annotations

from collections.abc import Sequence

from dagengine.errors import Fenced, RunConflict, RunExists, RunNotFound, RunOwned
from dagengine.model import ProcessRecord, RunRecord, RunState

AMBIGUOUS_SHOWN = 5
"""Ids that are named when a prefix fits several. A store looks for one more, to know whether there are others."""


def the_one_run(found: Sequence[RunRecord], prefix: str, url: str) -> RunRecord:
    """The only one of `found`, whose ids begin with `prefix`. Raises RunNotFound."""
    if len(found) == 1:
        return found[0]
    if not found:
        raise no_run(prefix, url)
    ids = ", ".join(run.id for run in found[:AMBIGUOUS_SHOWN]) + (", …" if len(found) > AMBIGUOUS_SHOWN else "")
    raise RunNotFound(f"several runs begin with {prefix!r}: {ids}. Give more of the id", run_id=prefix)


def no_run(run_id: str, url: str) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id} in {url}: see `dagengine ls`", run_id=run_id)


def no_step(run_number: int, seq: int, url: str) -> RunNotFound:
    return RunNotFound(f"run number {run_number} has no step {seq} in {url}", run_id="")


def run_exists(run_id: str) -> RunExists:
    return RunExists(f"there is a run {run_id} already: choose another id, or resume it", run_id=run_id)


def run_succeeded(run_id: str) -> RunExists:
    return RunExists(f"run {run_id} has succeeded: there is nothing left to do", run_id=run_id)


def run_owned(run_id: str, owner: ProcessRecord) -> RunOwned:
    """Another process works on it, or nobody can say that it does not."""
    who = f"process {owner.pid} on {owner.host}"
    return RunOwned(f"run {run_id} is being worked on by {who}: wait for it, or cancel it", run_id=run_id, owner=who)


def run_expired(run_id: str) -> RunConflict:
    return RunConflict(
        f"the values of run {run_id} have expired, so it can't go on. Begin it anew: dagengine rerun {run_id[:12]}",
        run_id=run_id,
    )


def donor_gone() -> RunConflict:
    return RunConflict(
        "the run that was to be forked has been removed meanwhile, or its values have expired: begin it anew", run_id=""
    )


def run_changed(run_id: str) -> RunConflict:
    return RunConflict(f"run {run_id} was pinned, or somebody has worked on it, meanwhile: it is kept", run_id=run_id)


def fenced(
    run_id: str, url: str, host: str | None = None, pid: int | None = None, state: RunState | str = RunState.RUNNING
) -> Fenced:
    """`host` and `pid` of the run's owner, if it has one; `state`: the run's now."""
    state = RunState(state)
    who = f"process {pid} on {host}" if pid is not None else "another process"
    if state is not RunState.RUNNING:
        who += f", and has ended since ({state})" if state.ended else f", which has let go of it since ({state})"
    return Fenced(f"run {run_id} was taken over by {who}: this process writes no more to it", store=url)


def fenced_now(run: RunRecord, url: str) -> Fenced:
    """As `fenced`, of the run as it is."""
    owner = run.owner
    if owner is None:
        return fenced(run.id, url, state=run.state)
    return fenced(run.id, url, owner.host, owner.pid, run.state)
