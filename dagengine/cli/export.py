"""`dagengine export`: a run with its values in a file."""

from __future__ import annotations

from pathlib import Path

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.terminal import print_json, size


@click.command("export", short_help="Write a run with its values to a file.")
@common
@run_argument
@click.option("--alone", is_flag=True, help="Without its child runs, and what it goes on in.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def command(invocation: Invocation, run: str, file: Path, alone: bool) -> None:
    """Write a run with its values to FILE, a tar archive that `dagengine import` brings into another store.

    Its child runs, and what it goes on in, are written with it.
    """
    from dagengine.storage import open_artifacts
    from dagengine.transfer import export_run

    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        try:
            written = export_run(store, artifacts, record, file, family=not alone)
        finally:
            artifacts.close()
    if invocation.json:
        print_json({"id": record.id, "file": str(file), "bytes": written})
    else:
        print(f"run {short(record.id)} of {record.workflow} written to {file}: {size(written)}")
