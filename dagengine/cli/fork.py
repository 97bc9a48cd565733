"""`dagengine fork`: a new run that shares the results of another one, and runs only what a change reaches."""

from __future__ import annotations

from typing import Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.forking import begin_new, new_run_options, parameters


@click.command("fork", short_help="Begin a new run that shares what a change does not reach.")
@common
@run_argument
@click.option("--from", "from_", metavar="STEP", multiple=True, help="Run this step again, and what comes after it.")
@click.option("--param", "params", metavar="KEY=VALUE", multiple=True, help="Change an argument of the workflow.")
@click.option("--set", "set_", metavar="STEP=VALUE", multiple=True, help="Have the step return this: JSON, or @FILE.")
@click.option("--code", type=click.Choice(["current"]), help="Use the code as it is now: what has changed runs again.")
@click.option("--run-id", metavar="ID", help="The new run's id, instead of one that is made up.")
@new_run_options
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    run: str,
    *,
    from_: tuple[str, ...],
    params: tuple[str, ...],
    set_: tuple[str, ...],
    code: str | None,
    run_id: str | None,
    artifacts: str | None,
    detach: bool,
    quiet: bool,
    **machine: Any,
) -> int:
    """Begin a new run that shares the results of RUN, and runs only what a change reaches.

    Steps are named by their keys, also without the workflow's name. RUN stays as it is. Without an option, what has failed
    runs again, in a new run.

    \b
    dagengine fork 7f3a --from train
    dagengine fork 7f3a --param lr=0.2 --set 'extract[3]=[1, 2]'
    """
    from dagengine.forks import parse_values, record_fork

    settings = invocation.settings(artifacts=artifacts, **machine)
    values = parse_values(set_)
    with invocation.reading() as store:
        donor = find_run(store, run)
        changed = parameters(invocation, store, donor, params, code)
    return begin_new(
        invocation,
        settings,
        donor,
        record=lambda place: record_fork(
            place, donor, from_=from_, params=changed, set_=values, code=code, run_id=run_id
        ),
        detach=detach,
        quiet=quiet,
        verb=f"forked from {short(donor.id)}",
    )
