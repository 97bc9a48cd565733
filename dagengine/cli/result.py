"""`dagengine result`: what a run, or one of its steps, returned."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.results import NoJson, as_json, read_result, read_step, shown
from dagengine.cli.summary import failure_lines, go_on
from dagengine.cli.terminal import clean, note
from dagengine.continuing import last_of
from dagengine.errors import RunFailed, StepFailed
from dagengine.model import RunRecord, RunState, StepRecord, StepState
from dagengine.views import find_step, run_state

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store


@click.command("result", short_help="Print the result of a run, or of one step.")
@common
@run_argument
@click.argument("step", metavar="[STEP]", required=False)
@click.option("--full", is_flag=True, help="All of it, however long.")
@click.pass_obj
def command(invocation: Invocation, run: str, step: str | None, *, full: bool) -> int:
    """Print the result of a run, or of one step. With --json as JSON, where it has such a form.

    Exit status 1 if there is none: the run failed, or has not ended.
    """
    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        if step is None:
            value = _of_run(store, settings, last_of(store, record))
        else:
            value = _of_step(store, settings, record, find_step(store, record, step))
        # Printed while the artifacts are mapped: a large array is a view on its file.
        if not invocation.json:
            print(shown(value, None) if full else shown(value))
            return 0
        try:
            print(json.dumps(as_json(value)))
        except NoJson as error:
            raise click.UsageError(f"the result can't be JSON: {error}. Leave --json out to see it as text.") from None
    return 0


def _of_run(store: Store, settings: Settings, run: RunRecord) -> Any:
    state = run_state(run)
    if state is RunState.SUCCEEDED:
        return read_result(store, settings, run)
    name = f"run {short(run.id)}"
    if state is RunState.RUNNING:
        raise RunFailed(
            f"{name} has no result yet: it is running. `dagengine wait {short(run.id)}` waits.", run_id=run.id
        )
    if run.failure is not None:
        for line in failure_lines(run.failure):
            note(f"  {line}")
    advice = go_on(store, settings, run)[0]
    raise RunFailed(f"{name} has no result: it {_is(state)}. {advice[:1].upper()}{advice[1:]}", run_id=run.id)


def _is(state: RunState) -> str:
    return "failed" if state is RunState.FAILED else f"is {state}"


def _of_step(store: Store, settings: Settings, run: RunRecord, step: StepRecord) -> Any:
    if step.state is StepState.SUCCEEDED:
        return read_step(store, settings, run, step)
    if step.failure is not None:
        for line in failure_lines(step.failure):
            note(f"  {line}")
    raise StepFailed(
        f"{clean(step.key)} has no value: it is {step.state}. `dagengine explain {short(run.id)} {clean(step.key)}`"
        " says why.",
        key=step.key,
    )
