"""`dagengine steps`: the steps of a run, in the order of their calls."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument
from dagengine.cli.terminal import clean, clock, duration, mark, note, print_json, size, state_text, table
from dagengine.model import StepState
from dagengine.views import StepView, steps_view


@click.command("steps", short_help="List the steps of a run.")
@common
@run_argument
@click.option(
    "--state",
    "states",
    type=click.Choice([str(state) for state in StepState]),
    multiple=True,
    help="Only in this state.",
)
@click.option("--task", metavar="NAME", help="Only calls of this function.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many.")
@click.pass_obj
def command(invocation: Invocation, run: str, *, states: tuple[str, ...], task: str | None, limit: int | None) -> None:
    """List the steps of a run, in the order of their calls."""
    with invocation.reading() as store:
        found = [
            step
            for step in steps_view(store, find_run(store, run))
            if (not states or str(step.state) in states) and task in (None, step.record.task)
        ]
    shown = found[:limit]
    if invocation.json:
        print_json([step.to_json() for step in shown])
        return
    if not found:
        note("no step fits." if states or task else "the run has no steps.")
        return
    print(table(("step", "state", "attempts", "took", "value", "ended"), map(_row, shown), right=(2, 3, 4)))
    if len(shown) < len(found):
        note(f"{len(found) - len(shown):,} more steps")


def _row(step: StepView) -> tuple[str, ...]:
    ended = clock(step.record.finished_at).partition(" ")[2] if step.record.finished_at else ""
    return (
        clean(step.key),
        f"{mark(step.word)} {state_text(step.word)}",
        str(step.attempts or ""),
        duration(step.seconds) if step.seconds is not None else "",
        size(step.record.value_size) if step.record.value_size is not None else "",
        ended,
    )
