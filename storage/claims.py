"""Claiming several runs at once: which of them may be claimed at all, and what is said of each. Alike in all stores.

May import nothing of ours but errors and model, and what is said of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dagengine.errors import RunError, StoreError
from dagengine.model import Claim, ProcessRecord, RunRecord, RunState
from dagengine.storage.lookup import no_run, run_owned, run_succeeded

Claimed = dict[str, Claim | StoreError | RunError]
"""By the run's id: its claim, or why there is none."""


def may_be_claimed(
    run_ids: Sequence[str], records: Mapping[str, RunRecord], alive: Callable[[str, ProcessRecord], bool], url: str
) -> tuple[list[RunRecord], Claimed]:
    """Those that nobody works on, and why the others can't be claimed. `alive`: as of `Store.claim_all`."""
    free: list[RunRecord] = []
    refused: Claimed = {}
    for run_id in dict.fromkeys(run_ids):
        run = records.get(run_id)
        if run is None:
            refused[run_id] = no_run(run_id, url)
        elif run.state is RunState.SUCCEEDED:
            refused[run_id] = run_succeeded(run_id)
        elif run.owner is not None and not run.lease_expired and alive(run_id, run.owner):
            refused[run_id] = run_owned(run_id, run.owner)
        else:
            free.append(run)
    return free, refused


def claimed_each(run_ids: Iterable[str], claim: Callable[[str], Claim]) -> Claimed:
    """One after the other."""
    found: Claimed = {}
    for run_id in run_ids:
        try:
            found[run_id] = claim(run_id)
        except (StoreError, RunError) as error:
            found[run_id] = error
    return found
