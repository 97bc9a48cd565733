"""`dagengine errors`: what failed in a run, each kind once, with the lines of code that it came from."""

from __future__ import annotations

from collections import defaultdict

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.summary import failure_lines, go_on
from dagengine.cli.terminal import clean, mark, note, plural, print_json
from dagengine.model import RunRecord, StepRecord, StepState
from dagengine.views import failure_view, resumable

KEYS_SHOWN = 5


@click.command("errors", short_help="Show what failed in a run, and where.")
@common
@run_argument
@click.pass_obj
def command(invocation: Invocation, run: str) -> None:
    """Show what failed in a run, and where in the code. Steps that failed alike are shown once."""
    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        failed = store.steps(record.number, states=[StepState.FAILED])
        counts = store.counts(record.number)
        advice = go_on(store, settings, record) if resumable(record) else []
    if invocation.json:
        print_json(_object(record, failed))
        return
    for line in _lines(record, failed):
        print(line)
    skipped = sum(count for (_, state), count in counts.items() if state is StepState.SKIPPED)
    if skipped:
        print(f"{mark(StepState.SKIPPED)} {plural(skipped, 'step')} skipped, because of what they depend on")
    if not failed and record.failure is None:
        note(f"nothing has failed in run {short(record.id)}")
    else:
        for line in advice:
            note(line)


def _lines(run: RunRecord, failed: list[StepRecord]) -> list[str]:
    alike: dict[tuple[str, str, str], list[StepRecord]] = defaultdict(list)
    for step in failed:
        failure = step.failure
        alike[step.task, failure.type if failure else "", failure.message if failure else ""].append(step)
    lines = []
    for steps in alike.values():
        first = steps[0]
        attempts = f" ({plural(first.attempts, 'attempt')})" if first.attempts > 1 else ""
        lines.append(f"{mark(StepState.FAILED)} {clean(first.key)}{attempts}")
        if first.failure is not None:
            lines += [f"  {line}" for line in failure_lines(first.failure, trace=None)]
        if len(steps) > 1:
            keys = ", ".join(clean(step.key) for step in steps[1 : 1 + KEYS_SHOWN])
            lines.append(f"  and {len(steps) - 1:,} more alike: {keys}{', …' if len(steps) > 1 + KEYS_SHOWN else ''}")
        lines.append("")
    if run.failure is not None and run.failure.facts.get("step") not in {step.key for step in failed}:
        lines.append(f"{mark(run.state)} the body of {clean(run.workflow)}")
        lines += [*(f"  {line}" for line in failure_lines(run.failure, trace=None)), ""]
    return lines


def _object(run: RunRecord, failed: list[StepRecord]) -> dict[str, object]:
    return {
        "id": run.id,
        "workflow": run.workflow,
        "failure": failure_view(run.failure),
        "steps": [
            {"key": step.key, "task": step.task, "attempts": step.attempts, "failure": failure_view(step.failure)}
            for step in failed
        ],
    }
