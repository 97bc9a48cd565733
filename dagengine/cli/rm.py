"""`dagengine rm`: remove runs, with all that is recorded of them."""

from __future__ import annotations

import time

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.terminal import print_json
from dagengine.errors import RunPinned
from dagengine.model import RunState
from dagengine.views import run_state


@click.command("rm", short_help="Remove runs, with all that is recorded of them.")
@common
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@click.option(
    "-f", "--force", is_flag=True, help="Also pinned runs, and those that have not ended but are not worked on."
)
@click.pass_obj
def command(invocation: Invocation, runs: tuple[str, ...], force: bool) -> None:
    """Remove runs, with all that is recorded of them. Their artifacts go with the next `dagengine gc`.

    A run that is being worked on is not removed: cancel it first.
    """
    from dagengine.collecting import remove
    from dagengine.errors import RunOwned
    from dagengine.serving.submission import dequeue
    from dagengine.storage.lifetime_notes import pins

    settings = invocation.settings()
    with invocation.reading() as store:
        records = [find_run(store, run) for run in runs]  # a wrong name must not leave half of them removed
        pinned = pins(store)
        for run in records:
            if run.number in pinned and not force:
                raise RunPinned(f"run {short(run.id)} is pinned by {pinned[run.number].by}: unpin it, or say --force")
            if not run_state(run).ended and run_state(run) is not RunState.CRASHED and not force:
                raise RunOwned(f"run {short(run.id)} is {run_state(run)}: cancel it first", run_id=run.id)
        for run in records:
            remove(store, settings.logs, run.id, time.time())
            dequeue(store, settings.control, run.id)
        while store.clear_removed():
            pass
    if invocation.json:
        print_json([{"id": run.id, "removed": True} for run in records])
    else:
        for run in records:
            print(f"run {short(run.id)} of {run.workflow} removed")
