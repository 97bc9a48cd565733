"""`dagengine explain`: why a step ran, waits, or was skipped."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument
from dagengine.cli.terminal import clean, mark, print_json
from dagengine.explanation import explain
from dagengine.views import find_step


@click.command("explain", short_help="Say why a step ran, waits, or was skipped.")
@common
@run_argument
@click.argument("step")
@click.pass_obj
def command(invocation: Invocation, run: str, step: str) -> None:
    """Say why a step ran, waits, or was skipped.

    STEP is its key, also without the workflow's name: extract[3].
    """
    with invocation.reading() as store:
        record = find_run(store, run)
        explanation = explain(store, record, find_step(store, record, step))
    if invocation.json:
        print_json(explanation.to_json())
        return
    first, *rest = explanation.lines
    print(f"{mark(explanation.step.state)} {clean(first, 500)}")
    for line in rest:
        indent = len(line) - len(line.lstrip())
        print(f"  {' ' * indent}{clean(line, 500)}")
