"""`dagengine mark`: a person decides how a step ends."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.deciding import note_options
from dagengine.cli.stores import writing
from dagengine.cli.terminal import clean, print_json
from dagengine.model import StepState

STATES = {"success": StepState.SUCCEEDED, "failed": StepState.FAILED, "skipped": StepState.SKIPPED}


@click.command("mark", short_help="Decide how a step ends that has not succeeded.")
@common
@run_argument
@click.argument("step")
@click.argument("state", type=click.Choice(list(STATES)))
@click.option("--value", metavar="JSON|@FILE", help="What the step returns, with success; null, if it is not given.")
@note_options
@click.pass_obj
def command(
    invocation: Invocation, /, run: str, step: str, state: str, *, value: str | None, by: str | None, why: str
) -> None:
    """Decide how a step of RUN ends that has failed, or has not ended: of a run that goes on, or of one that has stopped.

    A step that is marked failed is tried again by `resume`; one that is marked skipped is not, and what depends on it is
    skipped, too. A step that has succeeded stays: `fork --set` has another value in a new run.
    """
    from dagengine.edits import mark
    from dagengine.forks import keep_value, parse_text
    from dagengine.storage import open_artifacts

    settings = invocation.settings()
    if value is not None and state != "success":
        raise click.UsageError(f"--value goes with success: a step that is {state} returns nothing.")
    with invocation.reading() as store:
        record = find_run(store, run)
    given = None
    if state == "success":
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        try:
            found = None if value is None else parse_text(value, f"the value of {step}")
            given = keep_value(artifacts, found, step)
        finally:
            artifacts.close()
    with writing(settings) as store:
        marked = mark(store, record, step, STATES[state], value=given, by=by, why=why, control=settings.control)
        after = store.find_run(record.id)
    if invocation.json:
        print_json({"id": record.id, "step": marked.key, "state": str(STATES[state]), "run": str(after.state)})
        return
    print(f"{clean(marked.key, 500)} is marked {STATES[state]}")
    if after.owner is None:
        print(f"to go on: dagengine resume {short(record.id)}")
