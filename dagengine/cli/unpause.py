"""`dagengine unpause`: a paused run goes on."""

from __future__ import annotations

import time
from typing import Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.deciding import note_options
from dagengine.cli.machine import machine_options
from dagengine.cli.resume import find_modules
from dagengine.cli.stores import writing
from dagengine.cli.summary import command as command_line
from dagengine.cli.terminal import note, print_json
from dagengine.cli.work import work_on
from dagengine.errors import RunExists, RunOwned
from dagengine.model import RunState
from dagengine.views import run_state


@click.command("unpause", short_help="Let a paused run go on.")
@common
@run_argument
@note_options
@machine_options
@click.option("--artifacts", metavar="PATH|URL", help="Where large values go, instead of beside the store.")
@click.option("--later", is_flag=True, help="Do not go on here: somebody else resumes it, or `dagengine serve` does.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    run: str,
    *,
    by: str | None,
    why: str,
    artifacts: str | None,
    later: bool,
    quiet: bool,
    **machine: Any,
) -> int:
    """Let a paused run go on: here, if a process had worked on it; where it waited or was queued, as it did before."""
    from dagengine.edits import unpause
    from dagengine.serving.hints import hint

    settings = invocation.settings(artifacts=artifacts, **machine)
    with writing(settings) as store:
        record = find_run(store, run)
        state = unpause(store, record, by=by, why=why)
        told = hint(store, settings.control)
    if later or state is not RunState.INTERRUPTED:
        _print(invocation, record.id, state)
        if state is RunState.WAITING and not told and not invocation.json:
            note(f"it goes on with `dagengine serve`, or here: {command_line(settings, 'resume', short(record.id))}")
        return 0
    find_modules(record)
    try:
        return work_on(
            settings,
            lambda engine: engine.resume(record.id, reopen=False),
            quiet=quiet,
            as_object=invocation.json,
            began=time.time(),
            verb="unpaused",
        )
    except (RunOwned, RunExists):  # somebody who has waited for this was quicker: it goes on there, or has by now
        with invocation.reading() as store:
            _print(invocation, record.id, run_state(store.find_run(record.id)))
        return 0


def _print(invocation: Invocation, run_id: str, state: RunState) -> None:
    if invocation.json:
        print_json({"id": run_id, "state": str(state)})
    else:
        print(f"run {short(run_id)}: {state}")
