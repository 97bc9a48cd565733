"""What `explain` says of a run that has ended: what failed, where, what never ran because of it, and what to type next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dagengine.cli.app import short
from dagengine.cli.summary import command, counted, ended, go_on, said
from dagengine.cli.terminal import clean, clean_block, duration, mark, plural
from dagengine.failing import Kind, raised_at
from dagengine.model import Failure, RunState, StepState
from dagengine.views import resumable, seconds_of

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.model import RunRecord
    from dagengine.run_explanation import RunExplanation
    from dagengine.storage.interface import Store

KINDS_SHOWN = 5


def end_lines(store: Store, settings: Settings, run: RunRecord, found: RunExplanation) -> list[str]:
    how = "succeeded" if run.state is RunState.SUCCEEDED else ended(run.state)
    took = duration(seconds_of(run, time.time()))
    lines = [
        f"{mark(run.state)} run {short(run.id)} of {clean(run.workflow)} {how} after {took}: {counted(store, run)}"
    ]
    if run.cancel_requested_at is not None and run.state is RunState.CANCELLED:
        asked = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.cancel_requested_at))
        lines.append(f"  it was asked to stop at {asked}")
    for kind in found.failed.kinds[:KINDS_SHOWN]:
        lines += _kind(settings, kind)
    others = len(found.failed.kinds) - KINDS_SHOWN + sum(found.failed.untold.values())
    if others > 0:
        lines.append(f"  … and {others:,} more that failed otherwise")
    if found.handled:
        few = "this failure" if found.failed.count == 1 else f"{found.handled:,} of these failures"
        lines.append(f"  the workflow has handled {few}, and went on")
    if found.body and run.failure is not None:
        lines.append(f"{mark(run.state)} the body of {clean(run.workflow)}: {said(run.failure)}")
        lines += _where(run.failure)
    lines += _left(found)
    return lines + [f"  {clean(line, 1000)}" for line in _next(store, settings, run, found)]


def _kind(settings: Settings, kind: Kind) -> list[str]:
    step = kind.first
    tries = f" ({plural(step.attempts, 'attempt')})" if step.attempts > 1 else ""
    if step.failure is None:
        return [f"{mark(step.state)} {clean(step.key, 200)} failed{tries}"]
    lines = [f"{mark(step.state)} {clean(step.key, 200)} failed{tries}: {said(step.failure)}", *_where(step.failure)]
    if step.failure.facts.get("child"):
        lines.append(f"    in its run: {command(settings, 'explain', short(str(step.failure.facts['child'])))}")
    if kind.others:
        more = ", …" if kind.count > 1 + len(kind.others) else ""
        lines.append(
            f"    and {kind.count - 1:,} more alike: {', '.join(clean(key, 200) for key in kind.others)}{more}"
        )
    return lines


def _where(failure: Failure) -> list[str]:
    difference = failure.facts.get("difference")
    if difference:
        return [f"    {line}" for line in clean_block(str(difference)).splitlines()]
    at = raised_at(failure)
    return [] if at is None else [f"    at {clean(at, 500)}"]


def _left(found: RunExplanation) -> list[str]:
    words = {
        StepState.SKIPPED: "never ran, because of what came before",
        StepState.CANCELLED: "did not run to the end",
        StepState.WAITING: "without an end",
    }
    lines = []
    for state, (count, keys) in found.left.items():
        names = ", ".join(clean(key, 200) for key in keys) + (", …" if count > len(keys) else "")
        lines.append(f"{mark(state)} {plural(count, 'step')} {words[state]}: {names}")
    return lines


def _next(store: Store, settings: Settings, run: RunRecord, found: RunExplanation) -> list[str]:
    """Commands, each with what it is for."""
    if run.state is RunState.SUCCEEDED:
        return [f"its result: {command(settings, 'result', short(run.id))}"]
    lines = go_on(store, settings, run) if resumable(run) else []
    if found.failed.kinds or found.body:
        lines.insert(0, f"tracebacks: {command(settings, 'errors', short(run.id))}")
    if found.failed.kinds and not found.handled and any(" resume " in line for line in lines):
        key = found.failed.kinds[0].first.key
        lines.append(f"or from there, in a new run: {command(settings, 'fork', short(run.id), '--from', key)}")
    return lines
