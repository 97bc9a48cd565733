"""`dagengine recompute`: values whose bytes are gone or damaged, made again from what is recorded."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.resume import find_modules
from dagengine.cli.terminal import clean, mark, plural, print_json, size

READERS_SHOWN = 3


@click.command("recompute", short_help="Make values again whose bytes are missing or damaged.")
@common
@run_argument
@click.argument("steps", metavar="[STEP]...", nargs=-1)
@click.option("-n", "--dry-run", is_flag=True, help="Only say which are missing or damaged, and who needs them.")
@click.pass_obj
def command(invocation: Invocation, run: str, steps: tuple[str, ...], dry_run: bool) -> int:
    """Make values of a run again whose bytes are missing or damaged: of all its steps, or of each STEP.

    Their tasks are called once more, here, with their recorded inputs and the run's code; what a task does in the world, it
    does again. A value counts only if it is the recorded one, to the byte. Exit status 1 if one can't be had back.
    """
    from dagengine.code.packing import Shelf
    from dagengine.forks import Place
    from dagengine.recomputing import gaps, recompute
    from dagengine.storage import open_artifacts
    from dagengine.views import find_step

    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        keys = [find_step(store, record, step).key for step in steps]
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        place = Place(store, artifacts, Shelf(store, settings.folder / "cache" / "code"))
        found = gaps(place, record, keys)
        if not dry_run and found:
            find_modules(record)
            found = list(recompute(place, record, found))
    whole = all(gap.outcome == "made again" for gap in found)
    if invocation.json:
        print_json([gap.to_json() for gap in found])
    elif not found:
        print(f"all large values of run {short(record.id)} are there, as they were recorded")
    else:
        for gap in found:
            name = "a large argument" if gap.step is None else clean(gap.step.key, 500)
            more = ", …" if len(gap.readers) > READERS_SHOWN else ""
            needed = f", needed by {clean(', '.join(gap.readers[:READERS_SHOWN]), 500)}{more}" if gap.readers else ""
            print(
                f"{mark('succeeded' if gap.outcome == 'made again' else 'failed')} {name} ({size(gap.size)}) is {gap.what}{needed}"
            )
            if gap.outcome:
                print(f"  {clean(gap.outcome, 500)}")
        if dry_run:
            print(f"{plural(len(found), 'value')} to make again: dagengine recompute {short(record.id)}")
    return 0 if whole else 1
