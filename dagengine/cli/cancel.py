"""`dagengine cancel`: ask runs to stop for good. The request is recorded first, then its owner is told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from dagengine.cancelling import cancel_run
from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.terminal import print_json
from dagengine.model import RunState
from dagengine.views import run_state

if TYPE_CHECKING:
    from dagengine.config import Settings


@click.command("cancel", short_help="Ask runs to stop.")
@common
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@click.option("--compensate", is_flag=True, help="Undo what the run did first: its undo= tasks, newest step first.")
@click.pass_obj
def command(invocation: Invocation, /, runs: tuple[str, ...], *, compensate: bool) -> int:
    """Ask runs to stop: what runs is ended, what waits does not run. Finished steps stay, and `resume` goes on.

    With --compensate a run that no process works on is taken up here until it is undone, also one that has failed or was
    cancelled. Exit status 4 if a run had already ended.
    """
    settings = invocation.settings()
    if compensate:
        return _compensate(invocation, settings, runs)
    with invocation.reading() as store:
        records = [find_run(store, run) for run in runs]  # a wrong name must not leave half of them cancelled
        answers = [(record, cancel_run(store, settings.control, record)) for record in records]
    if invocation.json:
        objects = [{"id": record.id, "state": str(state)} for record, state in answers]
        print_json(objects[0] if len(objects) == 1 else objects)
    else:
        for record, state in answers:
            print(f"run {short(record.id)}: {_outcome(state)}")
    stopped = (RunState.CANCELLED, RunState.RUNNING)
    return 0 if all(state in stopped for _, state in answers) else 4


def _compensate(invocation: Invocation, settings: Settings, runs: tuple[str, ...]) -> int:
    from dagengine.compensating import note

    if len(runs) > 1:
        raise click.UsageError("--compensate takes one run at a time.")
    with invocation.reading() as store:
        record = find_run(store, runs[0])
        works = run_state(record) is RunState.RUNNING
        undoes = note(store, record, time.time())
        state = cancel_run(store, settings.control, record) if works or not undoes else record.state
    if works or not undoes:
        if invocation.json:
            print_json({"id": record.id, "state": str(state)})
        else:
            print(f"run {short(record.id)}: {_outcome(state)}{', and to undo what it did' if works else ''}")
        return 0 if state in (RunState.CANCELLED, RunState.RUNNING) else 4
    from dagengine.cli.resume import find_modules
    from dagengine.cli.work import work_on

    find_modules(record)
    began = time.time()
    return work_on(
        settings,
        lambda engine: engine.resume(record.id),
        quiet=False,
        as_object=invocation.json,
        began=began,
        verb="taken up to undo what it did",
    )


def _outcome(state: RunState) -> str:
    if state is RunState.CANCELLED:
        return "cancelled"
    if state is RunState.RUNNING:
        return "asked to stop"
    return f"has already ended: {state}"
