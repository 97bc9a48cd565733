"""`dagengine retry`: failed steps of a run are tried again, and the run goes on."""

from __future__ import annotations

import time
from typing import Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument
from dagengine.cli.deciding import note_options
from dagengine.cli.machine import machine_options
from dagengine.cli.resume import find_modules
from dagengine.cli.terminal import plural
from dagengine.cli.work import work_on


@click.command("retry", short_help="Try failed steps of a run again, and go on.")
@common
@run_argument
@click.argument("steps", metavar="STEP...", nargs=-1, required=True)
@note_options
@machine_options
@click.option("--artifacts", metavar="PATH|URL", help="Where large values go, instead of beside the store.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    run: str,
    steps: tuple[str, ...],
    *,
    by: str | None,
    why: str,
    artifacts: str | None,
    quiet: bool,
    **machine: Any,
) -> int:
    """Try these failed steps of RUN again, with what was skipped because of them. Other failures stay as they are:
    `resume` tries them all.
    """
    settings = invocation.settings(artifacts=artifacts, **machine)
    with invocation.reading() as store:
        record = find_run(store, run)
    find_modules(record)
    return work_on(
        settings,
        lambda engine: engine.retry(record.id, *steps, by=by, why=why),
        quiet=quiet,
        as_object=invocation.json,
        began=time.time(),
        verb=f"goes on with {plural(len(steps), 'step')} to retry",
    )
