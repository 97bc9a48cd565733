"""`dagengine timeline`: when the steps of a run ran, as a picture or as a trace."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.terminal import clean, duration, print_json, width


@click.command("timeline", short_help="Draw when the steps of a run ran.")
@common
@run_argument
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["text", "chrome"]),
    default="text",
    help="text (the default), or chrome: a trace for Perfetto and chrome://tracing.",
)
@click.option("--rows", type=click.IntRange(1, 10_000), default=40, show_default=True, help="Steps; more go by task.")
@click.pass_obj
def command(invocation: Invocation, /, run: str, *, form: str, rows: int) -> None:
    """Draw when the steps of a run waited (·) and ran (█). With more steps than ROWS: when those of each task ran.

    \b
    dagengine timeline 7f3a --format chrome > trace.json
    """
    from dagengine.timing import chrome_trace, gantt, timed_steps

    with invocation.reading() as store:
        record = find_run(store, run)
        steps = timed_steps(store, record)
    if form == "chrome" or invocation.json:
        print_json(chrome_trace(steps))
        return
    names = max([8, *(min(40, len(step.key)) for step in steps)])
    lines = gantt(steps, max(20, width() - names - 12), rows)
    if not lines:
        print(f"run {short(record.id)} of {clean(record.workflow)}: no step of it has run")
    for name, cells, seconds in lines:
        print(f"{clean(name, names).ljust(names)} |{cells}| {duration(seconds)}")
