"""`dagengine explain`: why a step ran, waits, or was skipped; and without a step, what a run waits for, or how it ended."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.explain_end import end_lines
from dagengine.cli.summary import said
from dagengine.cli.terminal import clean, mark, plural, print_json
from dagengine.control import NoAnswer, ask
from dagengine.explanation import explain
from dagengine.model import RunState, StepState
from dagengine.run_explanation import ENDED, explain_run
from dagengine.views import find_step, run_state, steps_view
from dagengine.waiting_view import waits_for

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.model import RunRecord
    from dagengine.storage.interface import Store


@click.command("explain", short_help="Say why a step ran, waits, or was skipped.")
@common
@run_argument
@click.argument("step", required=False)
@click.pass_obj
def command(invocation: Invocation, /, run: str, step: str | None) -> None:
    """Say why a step ran, waits, or was skipped. Without STEP: what each unfinished step of the run waits for, or why
    the run has ended as it did.

    STEP is its key, also without the workflow's name: extract[3].
    """
    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        if step is None and run_state(record) in ENDED:
            _explain_end(store, settings, record, invocation.json)
            return
        if step is None:
            _explain_run(store, settings, record, invocation.json)
            return
        found = find_step(store, record, step)
        explanation = explain(store, record, found)
    told = _ask(settings, record, {"verb": "placement", "seq": found.seq}).get("placement") or {}
    if invocation.json:
        print_json({**explanation.to_json(), "placement": told})
        return
    first, *rest = explanation.lines
    print(f"{mark(explanation.step.state)} {clean(first, 500)}")
    for line in [*rest, *_placement_lines(told)]:
        indent = len(line) - len(line.lstrip())
        print(f"  {' ' * indent}{clean(line, 500)}")


def _ask(settings: Settings, run: RunRecord, request: dict[str, Any]) -> dict[str, Any]:
    """What the run's owner says, if it lives on this machine; nothing otherwise, and the record has to do."""
    if run_state(run) is not RunState.RUNNING or run.owner is None or run.owner.host != platform.node():
        return {}
    try:
        return ask(settings.control, run.owner.id, {**request, "run": run.id})
    except (NoAnswer, TimeoutError):
        return {}


def _placement_lines(told: dict[str, Any]) -> list[str]:
    """The runtime's own account, a term of the score to a line."""
    lines = []
    if told.get("waits_for"):
        lines.append(f"now: {told['waits_for']}")
    if told.get("spill_trouble"):
        lines.append(f"spilling: {told['spill_trouble']}")
    terms = told.get("placement")
    if isinstance(terms, dict) and terms:
        lines.append("placed by:")
        lines += [f"  {name}: {value}" for name, value in terms.items()]
    return lines


def _explain_end(store: Store, settings: Settings, run: RunRecord, as_object: bool) -> None:
    found = explain_run(store, run)
    if as_object:
        unfinished, _ = found.left.get(StepState.WAITING, (0, ()))
        print_json(
            {
                "id": run.id,
                "state": str(run.state),
                "total": unfinished,
                "waits": [],
                **found.to_json(),
                "failure": None if run.failure is None else said(run.failure),
            }
        )
        return
    for line in end_lines(store, settings, run, found):
        print(line)


def _explain_run(store: Store, settings: Settings, run: RunRecord, as_object: bool) -> None:
    told = _ask(settings, run, {"verb": "waits"})
    waits = told.get("waits")
    if waits is None:
        unfinished = [view for view in steps_view(store, run) if not view.state.ended]
        waits = [
            {
                "key": view.key,
                "state": str(view.state),
                "reason": f"for {waits_for(view.record)}" if view.record.kind.is_outside else _recorded(run),
            }
            for view in unfinished
        ]
    total = told.get("total", len(waits))
    if as_object:
        print_json({"id": run.id, "state": str(run_state(run)), "total": total, "waits": waits})
        return
    print(f"run {short(run.id)} of {clean(run.workflow)} is {run_state(run)}; {plural(total, 'unfinished step')}")
    for wait in waits:
        print(f"  {mark(wait['state'])} {clean(wait['key'], 200)}  {clean(wait['reason'], 300)}")
    if total > len(waits):
        print(f"  … and {total - len(waits):,} more")


def _recorded(run: RunRecord) -> str:
    state = run_state(run)
    if state is RunState.RUNNING:
        return "its owner is on another machine, or does not answer"
    return f"the run is {state}; to go on: dagengine resume {short(run.id)}"
