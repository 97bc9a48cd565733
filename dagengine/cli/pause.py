"""`dagengine pause`: a run stops until a person lets it go on."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.deciding import note_options
from dagengine.cli.stores import writing
from dagengine.cli.terminal import print_json
from dagengine.model import RunState


@click.command("pause", short_help="Stop a run until `unpause`.")
@common
@run_argument
@click.option("--now", "force", is_flag=True, help="End the steps that run, instead of waiting for them.")
@note_options
@click.pass_obj
def command(invocation: Invocation, /, run: str, *, force: bool, by: str | None, why: str) -> None:
    """Stop RUN until `unpause`: steps that run end, others do not begin. Works on runs that are worked on, wait, or are
    queued; nobody goes on with a paused run.
    """
    from dagengine.edits import pause

    settings = invocation.settings()
    with writing(settings) as store:
        record = find_run(store, run)
        state = pause(store, record, by=by, why=why, force=force, control=settings.control)
    if invocation.json:
        print_json({"id": record.id, "state": str(state)})
    elif state is RunState.PAUSED:
        print(f"run {short(record.id)}: paused")
    else:
        print(f"run {short(record.id)}: asked to pause; what runs ends first")
