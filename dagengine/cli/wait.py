"""`dagengine wait`: block until nobody works on the run any more."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.summary import print_end
from dagengine.cli.terminal import note
from dagengine.ending import wait_for_end
from dagengine.model import RunState

TIMED_OUT = 124  # as of timeout(1)


@click.command("wait", short_help="Wait until a run has ended.")
@common
@run_argument
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer; then exit with 124.")
@click.pass_obj
def command(invocation: Invocation, run: str, *, timeout: float | None) -> int:
    """Wait until a run has ended. Exit status 0 if it succeeded, 1 if it did not."""
    settings = invocation.settings()
    with invocation.reading() as store:
        run_id = find_run(store, run).id
        try:
            record = wait_for_end(store, settings, run_id, timeout)
        except TimeoutError:
            note(f"run {short(run_id)} still runs after {timeout:g} s")
            return TIMED_OUT
        print_end(store, settings, record, invocation.json)
    return 0 if record.state is RunState.SUCCEEDED else 1
