"""`dagengine show`: one run at a glance."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.summary import command as typed
from dagengine.cli.summary import failure_lines, go_on
from dagengine.cli.terminal import ago, clean, clock, duration, mark, number, paint, print_json, state_text, table
from dagengine.continuing import continued_as
from dagengine.identity import is_alive
from dagengine.liveness import shown
from dagengine.model import AttemptRecord, RunRecord, RunState, StepState
from dagengine.serving.queues import place_view
from dagengine.storage.beats import Beat, beats
from dagengine.tags import tags_of
from dagengine.views import entry_text, resumable, run_state, run_view, seconds_of
from dagengine.waiting_view import waiting_view

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store

RUNNING_SHOWN = 10


@click.command("show", short_help="Show a run: its state, tasks, failures.")
@common
@run_argument
@click.pass_obj
def command(invocation: Invocation, run: str) -> None:
    """Show a run: its state, tasks, what runs now, what failed. With --json all its steps, too."""
    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        if invocation.json:
            print_json(run_view(store, record))
            return
        for line in _lines(store, settings, record):
            print(line)


def _lines(store: Store, settings: Settings, run: RunRecord) -> list[str]:
    now = time.time()
    state = run_state(run)
    lines = [f"{mark(state)} {paint(clean(run.workflow), 'bold')}  {clean(run.id)}  {state_text(state)}", ""]
    facts = {
        "workflow": clean(entry_text(run), 500),
        "tags": clean(", ".join(f"{name}={text}" for name, text in tags_of(run).items()), 500),
        "begun": f"{clock(run.created_at)} ({ago(run.created_at, now)})",
        "took": duration(seconds_of(run, now)) if state is not RunState.CRASHED else "",
        "owner": _owner(run, state),
        "queue": _queue(store, run, now),
        "waits": _waits(store, run, now),
        **_relatives(store, run),
        "cancel": f"asked for at {clock(run.cancel_requested_at)}" if run.cancel_requested_at else "",
        "store": clean(store.url, 500),
    }
    lines += [f"  {name:<10}{value}" for name, value in facts.items() if value]
    lines += ["", *_tasks(store, run), *_running(store, run, state, now)]
    if run.failure is not None and state in (RunState.FAILED, RunState.MISMATCH):
        lines += ["", *(f"  {line}" for line in failure_lines(run.failure))]
        lines += [f"  details:  {typed(settings, 'errors', short(run.id))}"]
    if resumable(run):
        lines += ["", *(f"  {line}" for line in go_on(store, settings, run))]
    return lines


def _queue(store: Store, run: RunRecord, now: float) -> str:
    place = place_view(store, run.id) if run.state is RunState.PENDING else None
    if place is None:
        return ""
    when = _left(place["not_before"] - now) if place["not_before"] > now else f"{place['before']:,} before it"
    return f"waits in {clean(place['queue'])}, {when}"


def _waits(store: Store, run: RunRecord, now: float) -> str:
    found = waiting_view(store, run)
    if found is None:
        return ""
    until = f"until {clock(found.until)} ({_left(found.until - now)})" if found.until else ""
    what = dict.fromkeys(what for _, what in found.steps)
    return clean(
        ", ".join([until] * bool(until) + [f"for {each}" for each in what if each != "its time" or not until]), 500
    )


def _relatives(store: Store, run: RunRecord) -> dict[str, str]:
    """The runs that this one belongs to, and what it has left unasked."""
    parent = f"step {run.parent[1]} of run {run.parent[0]}" if run.parent is not None else ""
    orphans = next((event for event in reversed(store.events(run.number)) if event.kind == "run.orphans"), None)
    keys = "" if orphans is None else ", ".join(orphans.data["keys"])
    return {
        "child of": clean(parent),
        "after": clean(str(run.facts.get("continued_from", ""))),
        "goes on": clean(continued_as(run) or ""),
        "orphans": clean(f"{orphans.data['count']} recorded and not asked for: {keys}", 500) if orphans else "",
    }


def _left(seconds: float) -> str:
    return f"in {duration(seconds)}" if seconds > 0 else "now"


def _owner(run: RunRecord, state: RunState) -> str:
    if run.owner is None or state not in (RunState.RUNNING, RunState.CRASHED):
        return ""
    dead = ""
    if state is RunState.CRASHED:  # of another machine's process only the end of its lease is seen
        dead = ", which is silent" if is_alive(run.owner) else ", which is dead"
    return f"process {run.owner.pid} on {clean(run.owner.host)}{dead}"


def _tasks(store: Store, run: RunRecord) -> list[str]:
    # In the order in which the body first called them, which is the order in which they are known.
    counts: dict[str, dict[StepState, int]] = {definition.name: {} for definition in store.definitions(run.number)}
    for (task, state), count in store.counts(run.number).items():
        counts.setdefault(task, {})[state] = count
    if not counts:
        return ["  no steps yet"]
    others = [
        s for s in (StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED, StepState.WAITING) if _any(counts, s)
    ]
    names = {StepState.WAITING: "unfinished"}
    rows = []
    for task, of in counts.items():
        total, done = sum(of.values()), of.get(StepState.SUCCEEDED, 0)
        row = [f"  {clean(task, 40)}", number(total), number(done)]
        rows.append(row + [number(of[state]) if state in of else "" for state in others])
    header = ("  task", "steps", "done", *(names.get(state, str(state)) for state in others))
    return table(header, rows, right=range(1, len(header))).splitlines()


def _any(counts: dict[str, dict[StepState, int]], state: StepState) -> bool:
    return any(state in of for of in counts.values())


def _running(store: Store, run: RunRecord, state: RunState, now: float) -> list[str]:
    if state is not RunState.RUNNING or run.owner is None:
        return []
    since = run.owner.started_at
    newest: dict[int, AttemptRecord] = {}  # an earlier one is open if its owner had to let go of the run
    for attempt in store.attempts(run.number, open_only=True):
        if attempt.started_at >= since and (attempt.seq not in newest or attempt.number > newest[attempt.seq].number):
            newest[attempt.seq] = attempt
    attempts = list(newest.values())
    keys = {step.seq: step.key for step in store.steps(run.number, seqs=[a.seq for a in attempts[:RUNNING_SHOWN]])}
    said = beats(store, run.number)
    lines = [
        f"  {mark(StepState.RUNNING)} {clean(keys.get(attempt.seq, '?'))} for {duration(now - attempt.started_at)}"
        + (f", attempt {attempt.number}" if attempt.number > 1 else "")
        + _heartbeat(said.get(attempt.seq), attempt.number, now)
        for attempt in attempts[:RUNNING_SHOWN]
    ]
    if len(attempts) > RUNNING_SHOWN:
        lines.append(f"  … and {len(attempts) - RUNNING_SHOWN} more")
    return ["", *lines] if lines else []


def _heartbeat(beat: Beat | None, attempt: int, now: float) -> str:
    """What the attempt has said of its progress, and how long ago."""
    if beat is None or beat.attempt != attempt:
        return ""
    words = clean(shown(beat.progress))
    return f", {words}{' ' * bool(words)}({duration(max(0.0, now - beat.at))} ago)"
