"""`dagengine profile`: where the time of a run went."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.terminal import clean, duration, number, plural, print_json, table

LEGS = 40  # of a longer path the legs that took longest are shown


@click.command("profile", short_help="Show where the time of a run went.")
@common
@run_argument
@click.pass_obj
def command(invocation: Invocation, /, run: str) -> None:
    """Show where the time of a run went: its critical path, step by step, and the totals of each task.

    Of each step on the path: how long after the one before the body called it, how long it waited (for the commit of what
    it reads, and for a worker), how long it ran, and what its retries took.
    """
    from dagengine.timing import commits_of, profile, timed_steps

    with invocation.reading() as store:
        record = find_run(store, run)
        found = profile(timed_steps(store, record), commits_of(store, record))
    if invocation.json:
        print_json({"id": record.id, **found.to_json()})
        return
    if not found.path:
        print(f"run {short(record.id)} of {clean(record.workflow)}: no step of it has run")
        return
    ran = sum(leg.ran for leg in found.path)
    print(
        f"run {short(record.id)} of {clean(record.workflow)}: {duration(found.seconds)}, of which the"
        f" {plural(len(found.path), 'step')} of the critical path ran {duration(ran)}"
    )
    shown = sorted(found.path, key=lambda leg: -(leg.body + leg.waited + leg.ran + leg.retried))[:LEGS]
    rows = [
        [clean(leg.key, 60), *map(duration, (leg.body, leg.waited, leg.ran, leg.retried))]
        for leg in found.path
        if leg in shown
    ]
    print(table(["critical path", "body", "waited", "ran", "retries"], rows, right=(1, 2, 3, 4)))
    if len(found.path) > len(rows):
        print(f"  … and {plural(len(found.path) - len(rows), 'shorter step')}")
    totals = [
        [clean(total.task, 60), number(total.steps), *map(duration, (total.ran, total.longest, total.waited))]
        for total in found.totals
        if total.steps
    ]
    print(table(["task", "steps", "ran", "longest", "waited"], totals, right=(1, 2, 3, 4)))
    shared = sum(total.shared for total in found.totals)
    if shared:
        print(f"{plural(shared, 'step')} did not run here: their values are another run's, or were known")
    if found.commits:
        mean, longest = found.commits["mean"], found.commits["longest"]
        print(
            f"{number(int(found.commits['count']))} commits, each {duration(mean)} on average, {duration(longest)} at most"
        )
