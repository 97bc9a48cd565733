"""`dagengine schedule`: runs that begin by the clock."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.stores import writing
from dagengine.cli.terminal import clean, duration, note, print_json, table
from dagengine.cli.work import load_workflow, prints_aside

if TYPE_CHECKING:
    from dagengine.serving.schedules import Schedule
    from dagengine.storage.schedules import ScheduleRow

_NAME = click.argument("name", metavar="NAME")


@click.group("schedule", short_help="Have runs begin by the clock.")
def command() -> None:
    """Have runs begin by the clock. `dagengine serve` begins them."""


@command.command("create")
@common
@_NAME
@click.argument("workflow", metavar="FILE.py:WORKFLOW")
@click.argument("cron", metavar="CRON")
@click.option("--param", "params", metavar="KEY=VALUE", multiple=True, help="An argument of the workflow.")
@click.option("--tz", metavar="ZONE", default="UTC", show_default=True, help="The time zone, as Europe/Paris.")
@click.option("--jitter", metavar="TIME", default="0s", show_default=True, help="Delay each run by up to so much.")
@click.option(
    "--catch-up",
    type=click.Choice(["none", "latest", "all"]),
    default="latest",
    show_default=True,
    help="What becomes of runs that were due while nothing served.",
)
@click.option("--queue", metavar="NAME", default="default", show_default=True, help="The queue of its runs.")
@click.option("--priority", type=int, default=0, metavar="N", help="The greatest goes first.")
@click.pass_obj
def create(
    invocation: Invocation,
    /,
    name: str,
    workflow: str,
    cron: str,
    *,
    params: tuple[str, ...],
    tz: str,
    jitter: str,
    catch_up: str,
    queue: str,
    priority: int,
) -> None:
    """Have a workflow begun by a cron line: minute hour day-of-month month day-of-week.

    A workflow with a parameter `logical_time` is given the time at which the run was due.

    \b
    dagengine schedule create nightly nightly.py:nightly "30 2 * * *" --tz Europe/Paris --param year=2013
    """
    from dagengine.serving.schedules import When, create_schedule
    from dagengine.units import parse_duration

    try:
        seconds = parse_duration(jitter)
    except ValueError:
        raise click.UsageError(f"--jitter {jitter!r} is not a duration. Say 30s, or 5m.") from None
    when = When(cron, tz, seconds, catch_up, queue, priority)
    with prints_aside(invocation.json):
        found = load_workflow(workflow)
    from dagengine.cli.arguments import bind
    from dagengine.serving.logical import PARAMETER, takes_logical_time

    words = list(params)
    fill = takes_logical_time(found) and not any(word.startswith(f"{PARAMETER}=") for word in words)
    signature = found.signature
    if fill:
        kept = [parameter for parameter in signature.parameters.values() if parameter.name != PARAMETER]
        signature = signature.replace(parameters=kept)
    args, kwargs = bind(found.name, signature, found.function, words)
    if fill:  # by name, because another parameter may stand before it
        kwargs, args = {**dict(zip(signature.parameters, args, strict=False)), **kwargs}, ()
    with writing(invocation.settings(), hints=True) as store:
        schedule = create_schedule(store, name, (found, args, kwargs), when)
    due = schedule.next_after(time.time())
    if invocation.json:
        print_json({**_object(schedule), "next_at": due, "paused": False})
    else:
        print(f"schedule {name}: next at {_moment(due, schedule)}")


@command.command("ls")
@common
@click.pass_obj
def list_them(invocation: Invocation) -> None:
    """List the schedules, with when they are due next."""
    from dagengine.serving.schedules import Schedule
    from dagengine.storage.schedules import all_rows

    with invocation.reading() as store:
        rows = all_rows(store)
    if invocation.json:
        print_json([_row_object(row) for row in rows])
        return
    if not rows:
        note("no schedules yet. `dagengine schedule create` makes one.")
        return
    lines = []
    for row in rows:
        schedule = Schedule.of(row)
        due = "paused" if row.paused else _moment(row.next_at, schedule)
        lines.append((clean(row.name, 40), clean(schedule.workflow, 40), schedule.cron, schedule.tz, due))
    print(table(("schedule", "workflow", "cron", "zone", "next"), lines))


@command.command("show")
@common
@_NAME
@click.pass_obj
def show(invocation: Invocation, name: str) -> None:
    """Show a schedule, and when it is due the next five times."""
    from dagengine.serving.cron import occurrences
    from dagengine.serving.schedules import Schedule, find_schedule

    with invocation.reading() as store:
        row = find_schedule(store, name)
    schedule = Schedule.of(row)
    due = list(itertools.islice(occurrences(schedule.line, schedule.zone, datetime.now(UTC)), 5))
    if invocation.json:
        print_json({**_row_object(row), "due": [moment.timestamp() for moment in due]})
        return
    print(f"schedule {clean(name)}{' (paused)' if row.paused else ''}")
    print(f"  workflow   {clean(schedule.workflow)}")
    print(f"  cron       {schedule.cron} in {schedule.tz}")
    print(f"  jitter     {duration(schedule.jitter) if schedule.jitter else 'none'}")
    print(f"  catch-up   {schedule.catch_up}")
    print(f"  queue      {clean(schedule.queue)}, priority {schedule.priority}")
    for moment in due:
        print(f"  due        {_moment(moment.timestamp(), schedule)}  run {schedule.run_id(moment)}")


@command.command("pause")
@common
@_NAME
@click.pass_obj
def pause(invocation: Invocation, name: str) -> None:
    """Begin nothing any more."""
    _pause(invocation, name, True)


@command.command("resume")
@common
@_NAME
@click.pass_obj
def resume(invocation: Invocation, name: str) -> None:
    """Begin runs again, from now on."""
    _pause(invocation, name, False)


def _pause(invocation: Invocation, name: str, paused: bool) -> None:
    from dagengine.serving.schedules import pause_schedule

    with writing(invocation.settings(), hints=True) as store:
        pause_schedule(store, name, paused)
    if invocation.json:
        print_json({"name": name, "paused": paused})
    else:
        print(f"schedule {clean(name)} is paused" if paused else f"schedule {clean(name)} goes on")


@command.command("trigger")
@common
@_NAME
@click.pass_obj
def trigger_now(invocation: Invocation, name: str) -> None:
    """Begin a run of it now, and print its id."""
    from dagengine.serving.schedules import trigger

    with writing(invocation.settings()) as store:
        run = trigger(store, invocation.settings().control, name)
    if invocation.json:
        print_json({"id": run, "schedule": name})
    else:
        print(short(run))


@command.command("rm")
@common
@_NAME
@click.pass_obj
def remove(invocation: Invocation, name: str) -> None:
    """Remove a schedule. Its runs stay."""
    from dagengine.serving.schedules import remove_schedule

    with writing(invocation.settings()) as store:
        remove_schedule(store, name)
    if invocation.json:
        print_json({"name": name, "removed": True})
    else:
        print(f"schedule {clean(name)} is removed")


def _object(schedule: Schedule) -> dict[str, Any]:
    from dataclasses import asdict

    view = asdict(schedule)
    del view["entry"], view["takes_time"]
    return view


def _row_object(row: ScheduleRow) -> dict[str, Any]:
    from dagengine.serving.schedules import Schedule

    return {**_object(Schedule.of(row)), "next_at": row.next_at, "paused": row.paused}


def _moment(at: float | None, schedule: Schedule) -> str:
    if at is None:
        return "never"
    return f"{datetime.fromtimestamp(at, schedule.zone):%Y-%m-%d %H:%M %Z}"
