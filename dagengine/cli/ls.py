"""`dagengine ls`: the runs of the store."""

from __future__ import annotations

import datetime
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.terminal import ago, clean, duration, mark, note, number, print_json, state_text, table
from dagengine.model import RunRecord, RunState
from dagengine.serving.queues import place_views
from dagengine.storage.interface import RunFilter
from dagengine.tags import tags_of, wanted
from dagengine.views import run_state, seconds_of
from dagengine.waiting_view import WaitingView, waiting_view

if TYPE_CHECKING:
    from dagengine.storage.interface import Store

MANY = 100_000
"""Runs looked through for crashed ones: the store can't tell them from those that run."""

_AGE = re.compile(r"(\d{1,9})\s*(s|min|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


class Age(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """A time before now, as 90s, 30m, 12h, 2d or 1w, or a date."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        age = _AGE.fullmatch(text)
        if age is not None:
            return time.time() - int(age[1]) * _SECONDS[age[2]]
        try:
            return datetime.datetime.fromisoformat(text).astimezone().timestamp()
        except (ValueError, OverflowError, OSError):
            return self.fail(f"{text!r} is no age. Say 30m, 12h, 2d, or a date as 2024-12-31.", param, ctx)


@click.command("ls", short_help="List runs, the newest first.")
@common
@click.option(
    "--state",
    "states",
    type=click.Choice([str(state) for state in RunState]),
    multiple=True,
    help="Only in this state.",
)
@click.option("--name", metavar="WORKFLOW", help="Only of this workflow.")
@click.option(
    "--tag", "tags", metavar="NAME[=TEXT]", multiple=True, help="Only with this tag; several: with all of them."
)
@click.option("--since", type=Age(), metavar="AGE|DATE", help="Only begun since: 30m, 12h, 2d, 2024-12-31.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    states: tuple[str, ...],
    name: str | None,
    tags: tuple[str, ...],
    since: float | None,
    limit: int,
) -> None:
    """List runs, the newest first."""
    with invocation.reading() as store:
        which = RunFilter(tuple(RunState(state) for state in states), name, since, limit + 1, tags=wanted(tags))
        runs = _matching(store, which)
        more, runs = len(runs) > limit, runs[:limit]
        steps = {run.id: _steps(store, run) for run in runs}
        waiting = {run.id: found for run in runs if (found := waiting_view(store, run)) is not None}
        places = place_views(store, [run.id for run in runs if run.state is RunState.PENDING])
    if invocation.json:
        print_json(
            [
                {**_object(run, steps[run.id]), "queued": places.get(run.id), "waiting": _waiting(waiting.get(run.id))}
                for run in runs
            ]
        )
        return
    if not runs:
        filtered = bool(states or name or since or tags)
        note("no run fits." if filtered else "no runs yet. `dagengine run FILE.py:WORKFLOW` makes one.")
        return
    related = any(run.parent is not None for run in runs)
    rows = []
    for run in runs:
        state = run_state(run)
        rows.append(
            (
                short(run.id),
                clean(run.workflow, 40),
                f"{mark(state)} {state_text(state)}{_place(places.get(run.id))}{_until(waiting.get(run.id))}",
                "/".join(map(number, steps[run.id])),
                ago(run.created_at),
                duration(seconds_of(run, time.time())) if state is not RunState.CRASHED else "–",
                *([short(run.parent[0]) if run.parent is not None else ""] if related else []),
            )
        )
    header = ("run", "workflow", "state", "steps", "begun", "took", *(["child of"] if related else []))
    print(table(header, rows, right=(3, 5)))
    if more:
        note(
            f"there are more. To see them: --limit {limit * 5}, --since 2d, --state failed, --name {clean(runs[0].workflow)}"
        )


def _until(found: WaitingView | None) -> str:
    """Until when a run waits without a process."""
    if found is None or found.until is None:
        return ""
    left = found.until - time.time()
    return f", {duration(left)} more" if left > 0 else ", due"


def _waiting(found: WaitingView | None) -> dict[str, Any] | None:
    return None if found is None else found.to_json()


def _place(place: dict[str, Any] | None) -> str:
    """Where a run that nobody works on yet waits."""
    if place is None:
        return ""
    left = place["not_before"] - time.time()
    when = f"in {duration(left)}" if left > 0 else f"{number(place['before'])} before it"
    return f" in {clean(place['queue'], 20)}, {when}"


def _matching(store: Store, which: RunFilter) -> list[RunRecord]:
    states = which.states
    stored = tuple({RunState.RUNNING if state is RunState.CRASHED else state for state in states})
    derived = bool({RunState.RUNNING, RunState.CRASHED} & set(states))
    runs = store.runs(replace(which, states=stored, limit=MANY if derived else which.limit))
    return [run for run in runs if not states or run_state(run) in states][: which.limit]


def _steps(store: Store, run: RunRecord) -> tuple[int, int]:
    """How many steps have succeeded, and how many there are. (A fork may have given numbers that no step has.)"""
    if run.state is RunState.SUCCEEDED and run.forked_from is None:
        return run.steps, run.steps
    counts = store.counts(run.number)
    return sum(count for (_, state), count in counts.items() if state == "succeeded"), sum(counts.values())


def _object(run: RunRecord, steps: tuple[int, int]) -> dict[str, object]:
    return {
        "id": run.id,
        "workflow": run.workflow,
        "state": str(run_state(run)),
        "tags": tags_of(run),
        "parent": None if run.parent is None else {"run": run.parent[0], "step": run.parent[1]},
        "steps": steps[1],
        "steps_succeeded": steps[0],
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "seconds": seconds_of(run, time.time()),
    }
