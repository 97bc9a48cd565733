"""`dagengine cancel`: ask runs to stop for good. The request is recorded first, then its owner is told."""

from __future__ import annotations

import contextlib
import platform
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING

import click

from dagengine.children import cancel_below
from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.terminal import print_json
from dagengine.control import NoAnswer, ask
from dagengine.identity import is_alive, this_process
from dagengine.model import RunRecord, RunState
from dagengine.storage.interface import FinishRun
from dagengine.views import run_state

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store


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
        answers = [(record, _cancel(store, settings, record)) for record in records]
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
        state = _cancel(store, settings, record) if works or not undoes else record.state
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


def _cancel(store: Store, settings: Settings, run: RunRecord) -> RunState:
    state = _cancel_one(store, settings, run)
    if state is RunState.CANCELLED and run.state is not RunState.CANCELLED:  # else its owner sees to its children
        for child in cancel_below(store, run, time.time()):
            _cancel_one(store, settings, child)
    return state


def _cancel_one(store: Store, settings: Settings, run: RunRecord) -> RunState:
    state = store.request_cancel(run.id, time.time())
    if state is RunState.CANCELLED:
        from dagengine.serving.submission import dequeue

        dequeue(store, settings.control, run.id)
    if run.state is RunState.WAITING:
        from dagengine.signals import rouse_cancelled

        rouse_cancelled(store, settings.control, run)
    if state is not RunState.RUNNING:
        return state
    if run_state(run) is RunState.CRASHED:
        return _cancel_crashed(store, run)
    if run.owner is not None and run.owner.host == platform.node():
        with contextlib.suppress(NoAnswer, TimeoutError):
            # If nobody answers, the owner is about to end: whoever takes the run next finds the request.
            ask(settings.control, run.owner.id, {"verb": "cancel", "run": run.id})
    return state


def _cancel_crashed(store: Store, run: RunRecord) -> RunState:
    """Nobody is left to be asked: take the run over, and end it."""
    claim = store.claim(run.id, this_process(), is_alive, reopen=False)
    errors: SimpleQueue[Exception | None] = SimpleQueue()
    store.write(claim, [FinishRun(RunState.CANCELLED, time.time())], errors.put)
    error = errors.get()
    if error is not None:
        raise error
    return RunState.CANCELLED


def _outcome(state: RunState) -> str:
    if state is RunState.CANCELLED:
        return "cancelled"
    if state is RunState.RUNNING:
        return "asked to stop"
    return f"has already ended: {state}"
