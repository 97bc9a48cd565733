"""The last words on a run: how it ended, what it returned or what failed, and what to type next."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from dagengine.advice import for_run
from dagengine.cli.app import short
from dagengine.cli.results import NoJson, as_json, shown
from dagengine.cli.terminal import clean, clean_block, duration, mark, note, paint, plural, print_json
from dagengine.config import without_password
from dagengine.errors import READ_ONLY
from dagengine.failing import is_installed
from dagengine.model import Failure, RunRecord, RunState, StepState
from dagengine.views import counts_view, failure_view, resumable, run_state, seconds_of

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store

TRACE_LINES = 12
"""Of a traceback in a summary: where it was raised, and a little of the way there. `errors` shows all of it."""


def command(settings: Settings, *words: str) -> str:
    """`dagengine …` as it has to be typed here: with the store, where it was given by hand, but not with its password."""
    given = ["--store", without_password(settings.store.value)] if settings.store.origin == "argument" else []
    return shlex.join(["dagengine", *words, *given])


def typed_resume(settings: Settings, run: RunRecord) -> str:
    return command(settings, "resume", short(run.id))


def go_on(store: Store, settings: Settings, run: RunRecord) -> list[str]:
    """What lets this run go on, a line each."""
    lines = [f"{advice.says}: {command(settings, *advice.words)}" for advice in for_run(store, run)]
    if _runs_its_code_again(run) and " resume " in lines[0]:
        lines.append("if you have corrected its code, add: --code current (it goes on with its own)")
    return lines


UNREAD = object()
"""In the place of a result that was not asked for."""


def print_end(store: Store, settings: Settings, run: RunRecord, as_object: bool, value: Any = UNREAD) -> None:
    """`value`: what the run returned, if it succeeded and is to be shown."""
    state = run_state(run)
    if as_object:
        print_json(_object(store, run, state, value))
        return
    steps = counted(store, run)
    seconds = duration(seconds_of(run, time.time()))
    name = clean(run.workflow)
    sign = mark(state, sys.stderr)
    if state is RunState.SUCCEEDED:
        note(f"{sign} run {short(run.id)} of {name} succeeded in {seconds}: {steps}")
        if value is not None and value is not UNREAD:
            print(shown(value))
        return
    note(f"{sign} run {short(run.id)} of {name} {ended(state)} after {seconds}: {steps}")
    if state in (RunState.FAILED, RunState.MISMATCH) and run.failure is not None:
        for line in failure_lines(run.failure):
            note(f"  {line}")
        note(f"  details:    {command(settings, 'errors', short(run.id))}")
    if state is RunState.INTERRUPTED:
        note(f"interrupted. resume with: {typed_resume(settings, run)}")
    elif resumable(run):
        for line in go_on(store, settings, run):
            note(f"  {clean(line, 1000)}")


def _runs_its_code_again(run: RunRecord) -> bool:
    """Whether it failed in code of the user's, of which it has a copy."""
    return run.state is RunState.FAILED and run.failure is not None and run.failure.kind == "error" and bool(run.code)


def ended(state: RunState) -> str:
    return {
        RunState.FAILED: "failed",
        RunState.CANCELLED: "was cancelled",
        RunState.INTERRUPTED: "was interrupted",
        RunState.PAUSED: "was paused",
        RunState.MISMATCH: "stopped: its code calls something else than what is recorded",
        RunState.CRASHED: "crashed",
        RunState.PENDING: "has not begun",
        RunState.WAITING: "waits",
    }.get(state, str(state))


def counted(store: Store, run: RunRecord) -> str:
    counts = counts_view(store, run)
    parts = [f"{count:,} {state}" for state, count in counts.items() if state != "succeeded"]
    done = plural(counts.get(str(StepState.SUCCEEDED), 0), "step") + " done"
    return ", ".join([done, *parts])


def failure_lines(failure: Failure, trace: int | None = TRACE_LINES) -> list[str]:
    """Which step failed, with what, and where in the user's code. `trace`: how many lines of it; None: all."""
    where = failure.facts.get("step")
    lines = [f"{paint(clean(where), 'bold', sys.stderr)} failed: {said(failure)}" if where else said(failure)]
    if failure.facts.get("difference"):
        return [*lines, *clean_block(str(failure.facts["difference"])).splitlines()]
    frames = [line for line in clean_block(failure.traceback).splitlines() if line.startswith("  ")]
    if trace is not None:
        frames = _shortened(frames, trace)
    lines += [paint(frame, "dim", sys.stderr) for frame in frames]
    return [*lines, READ_ONLY] if READ_ONLY in failure.traceback else lines


def _shortened(lines: list[str], limit: int) -> list[str]:
    """The end of a traceback, in at most so many lines; and before it the last frame of the user's, if it is farther up."""
    starts = [at for at, line in enumerate(lines) if line.startswith(_FRAME)]
    own = max((at for at in starts if not is_installed(lines[at])), default=0)
    if len(lines) - own <= limit or not starts:
        return lines[-limit:]
    after = next((at for at in starts if at > own), len(lines))
    last = next((at for at in starts if len(lines) - at < limit - (after - own)), len(lines))
    return [*lines[own:after], *(["    …"] if last > after else []), *lines[last:]]


_FRAME = '  File "'


def said(failure: Failure) -> str:
    """The exception in one line."""
    text = clean(failure.message, 500)
    name = clean(failure.type).rpartition(".")[2]
    return f"{name}: {text}" if text else name


def _object(store: Store, run: RunRecord, state: RunState, value: Any) -> dict[str, Any]:
    result: dict[str, Any] = {
        "id": run.id,
        "workflow": run.workflow,
        "state": str(state),
        "seconds": seconds_of(run, time.time()),
        "counts": counts_view(store, run),
        "failure": failure_view(run.failure),
    }
    if state is RunState.SUCCEEDED and value is not UNREAD:
        try:
            result["result"] = as_json(value)
        except NoJson:
            result["result_text"] = shown(value)
    return result
