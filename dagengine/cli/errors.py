"""`dagengine errors`: what failed in a run, each kind once, with the lines of code that it came from."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.summary import failure_lines, go_on
from dagengine.cli.terminal import clean, mark, note, plural, print_json_list
from dagengine.failing import Failed, by_kind, failed_steps
from dagengine.model import StepRecord, StepState
from dagengine.views import failure_view, resumable


@click.command("errors", short_help="Show what failed in a run, and where.")
@common
@run_argument
@click.pass_obj
def command(invocation: Invocation, run: str) -> None:
    """Show what failed in a run, and where in the code. Steps that failed alike are shown once."""
    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        steps = failed_steps(store, record)
        if invocation.json:
            head = {"id": record.id, "workflow": record.workflow, "failure": failure_view(record.failure)}
            print_json_list(head, "steps", map(_object, steps))
            return
        failed = by_kind(steps)
        counts = store.counts(record.number)
        named = record.failure.facts.get("step") if record.failure is not None else None
        of_step = named is not None and any(
            step.state is StepState.FAILED for step in store.steps(record.number, key=str(named))
        )
        advice = go_on(store, settings, record) if resumable(record) else []
    for line in _lines(failed):
        print(line)
    if record.failure is not None and not of_step:
        print(f"{mark(record.state)} the body of {clean(record.workflow)}")
        for line in [*(f"  {line}" for line in failure_lines(record.failure, trace=None)), ""]:
            print(line)
    skipped = sum(count for (_, state), count in counts.items() if state is StepState.SKIPPED)
    if skipped:
        print(f"{mark(StepState.SKIPPED)} {plural(skipped, 'step')} skipped, because of what they depend on")
    if not failed.count and record.failure is None:
        note(f"nothing has failed in run {short(record.id)}")
    else:
        for line in advice:
            note(line)


def _lines(failed: Failed) -> list[str]:
    lines = []
    for kind in failed.kinds:
        first = kind.first
        attempts = f" ({plural(first.attempts, 'attempt')})" if first.attempts > 1 else ""
        lines.append(f"{mark(StepState.FAILED)} {clean(first.key)}{attempts}")
        if first.failure is not None:
            lines += [f"  {line}" for line in failure_lines(first.failure, trace=None)]
        if kind.others:
            keys = ", ".join(map(clean, kind.others))
            more = ", …" if kind.count > 1 + len(kind.others) else ""
            lines.append(f"  and {kind.count - 1:,} more alike: {keys}{more}")
        lines.append("")
    for task, count in failed.untold.items():
        lines.append(
            f"{mark(StepState.FAILED)} and {plural(count, 'step')} of {clean(task)} with other messages: --json has all"
        )
    return [*lines, ""] if failed.untold else lines


def _object(step: StepRecord) -> dict[str, object]:
    return {"key": step.key, "task": step.task, "attempts": step.attempts, "failure": failure_view(step.failure)}
