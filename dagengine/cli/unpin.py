"""`dagengine unpin`: let runs be collected again."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.terminal import print_json


@click.command("unpin", short_help="Let pinned runs be collected, as any other.")
@common
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@click.pass_obj
def command(invocation: Invocation, runs: tuple[str, ...]) -> None:
    """Let pinned runs be collected, as any other."""
    from dagengine.storage.lifetime_notes import unpin

    with invocation.reading() as store:
        records = [find_run(store, run) for run in runs]
        for run in records:
            unpin(store, run.number)
    if invocation.json:
        print_json([{"id": run.id, "pinned": False} for run in records])
    else:
        for run in records:
            print(f"run {short(run.id)} is not pinned")
