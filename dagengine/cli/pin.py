"""`dagengine pin`: keep runs from being collected."""

from __future__ import annotations

import getpass
import time

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.terminal import ago, clean, note, print_json, table
from dagengine.storage.interface import RunFilter


@click.command("pin", short_help="Keep runs, and their values, from being collected.")
@common
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=complete_run)
@click.option("--why", default="", metavar="TEXT", help="For whoever wonders later.")
@click.pass_obj
def command(invocation: Invocation, runs: tuple[str, ...], why: str) -> None:
    """Keep runs, and their values, from being collected by `gc`. Without RUN: list those that are pinned."""
    from dagengine.storage.lifetime_notes import pin, pins

    with invocation.reading() as store:
        if not runs:
            found = pins(store)
            names = {run.number: run for run in store.runs(RunFilter(limit=10**9))} if found else {}
            listed = [(names[number], mark) for number, mark in found.items() if number in names]
            if invocation.json:
                print_json([{"id": run.id, "by": mark.by, "at": mark.at, "why": mark.why} for run, mark in listed])
            elif not listed:
                note("no run is pinned. `dagengine pin RUN` keeps one.")
            else:
                rows = [
                    (short(run.id), clean(run.workflow, 40), clean(mark.by), ago(mark.at), clean(mark.why))
                    for run, mark in listed
                ]
                print(table(("run", "workflow", "by", "since", "why"), rows))
            return
        records = [find_run(store, run) for run in runs]
        for run in records:
            pin(store, run.number, time.time(), getpass.getuser(), why)
    if invocation.json:
        print_json([{"id": run.id, "pinned": True} for run in records])
    else:
        for run in records:
            print(f"run {short(run.id)} is kept until it is unpinned")
