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
from dagengine.waiting_view import WaitingView, waiting_views

if TYPE_CHECKING:
    from dagengine.storage.interface import Store

MANY = 100_000
"""Runs looked through for crashed ones: the store can't tell them from those that run."""

LARGE = 100_000
"""Steps of a run from which on they are counted by themselves: a store has noted how many of them there are."""

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
        steps = _steps(store, runs)
        waiting = waiting_views(store, runs)
        places = place_views(store, [run.id for run in runs if run.state is RunState.PENDING])
    if invocation.json:
        print_json(
            [
                {
                    **_object(run, steps[run.number]),
                    "queued": places.get(run.id),
                    "waiting": _waiting(waiting.get(run.number)),
                }
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
                f"{mark(state)} {state_text(state)}{_place(places.get(run.id))}{_until(waiting.get(run.number))}",
                "/".join(map(number, steps[run.number])),
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


def _steps(store: Store, runs: list[RunRecord]) -> dict[int, tuple[int, int]]:
    """By the numbers of the runs: how many steps have succeeded, and how many there are. One question for all of them, but
    for those that are large. (A fork may have given numbers that no step has.)"""
    found = {run.number: (run.steps, run.steps) for run in runs if not run.steps or _is_whole(run)}
    left = [run for run in runs if run.number not in found]
    found |= dict.fromkeys((run.number for run in left), (0, 0))
    found |= store.steps_done([run.number for run in left if run.steps < LARGE])
    for run in left:
        if run.steps >= LARGE:
            counts = store.counts(run.number)
            succeeded = sum(count for (_, state), count in counts.items() if state == "succeeded")
            found[run.number] = succeeded, sum(counts.values())
    return found


def _is_whole(run: RunRecord) -> bool:
    return run.state is RunState.SUCCEEDED and run.forked_from is None


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
