"""`dagengine rerun`: a new run with the arguments of another one, which shares nothing of it."""

from __future__ import annotations

from typing import Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.forking import begin_new, new_run_options, parameters


@click.command("rerun", short_help="Begin a new run with the arguments of another one.")
@common
@run_argument
@click.option("--param", "params", metavar="KEY=VALUE", multiple=True, help="Change an argument of the workflow.")
@click.option(
    "--code", type=click.Choice(["current"]), help="Use the code as it is now, not the one that RUN has kept."
)
@click.option("--run-id", metavar="ID", help="The new run's id, instead of one that is made up.")
@new_run_options
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    run: str,
    *,
    params: tuple[str, ...],
    code: str | None,
    run_id: str | None,
    artifacts: str | None,
    detach: bool,
    quiet: bool,
    **machine: Any,
) -> int:
    """Begin a new run with the arguments of RUN. Every step runs: `fork` shares what need not run again."""
    from dagengine.forks import record_rerun

    settings = invocation.settings(artifacts=artifacts, **machine)
    with invocation.reading() as store:
        donor = find_run(store, run)
        changed = parameters(invocation, store, donor, params, code)
    return begin_new(
        invocation,
        settings,
        donor,
        record=lambda place: record_rerun(place, donor, params=changed, code=code, run_id=run_id),
        detach=detach,
        quiet=quiet,
        verb=f"rerun of {short(donor.id)}",
    )
