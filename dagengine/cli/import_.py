"""`dagengine import`: a run from a file into the store."""

from __future__ import annotations

from pathlib import Path

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.stores import writing_values
from dagengine.cli.terminal import print_json


@click.command("import", short_help="Bring a run from a file into the store.")
@common
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def command(invocation: Invocation, file: Path) -> None:
    """Bring the run that `dagengine export` wrote to FILE into the store. It can be looked at, forked and resumed.

    To read its values, or to resume it, runs what is in it: import only what you would run.
    """
    from dagengine.transfer import import_run

    settings = invocation.settings()
    with writing_values(settings) as (store, artifacts):
        run_id = import_run(store, artifacts, file)
    if invocation.json:
        print_json({"id": run_id})
    else:
        print(f"run {short(run_id)} imported. To look at it: dagengine show {short(run_id)}")
