"""`dagengine backfill`: the runs that a schedule would have begun in a time that has passed."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import click

from dagengine.cli.app import Invocation, common
from dagengine.cli.stores import writing
from dagengine.cli.terminal import clean, note, number, plural, print_json, table

if TYPE_CHECKING:
    from dagengine.serving.schedules import Schedule


class Day(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """A date, or a date and time; without a zone it is of the schedule's."""

    name = "date"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        if isinstance(value, datetime.datetime):
            return value
        try:
            return datetime.datetime.fromisoformat(str(value).strip())
        except ValueError:
            return self.fail(f"{value!r} is no date. Say 2024-12-31, or 2024-12-31T18:00.", param, ctx)


@click.command("backfill", short_help="Begin the runs that a schedule would have begun in the past.")
@common
@click.argument("name", metavar="SCHEDULE")
@click.option("--from", "first", type=Day(), required=True, help="From this time on: 2024-01-01.")
@click.option("--to", "last", type=Day(), help="And before this one; without it: until now.")
@click.option("--reverse", is_flag=True, help="The latest first.")
@click.option("--limit", type=int, metavar="N", help="Begin at most so many.")
@click.option(
    "--existing",
    type=click.Choice(["none", "failed", "all"]),
    default="none",
    show_default=True,
    help="Which of those that have a run are run again.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be begun.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    name: str,
    *,
    first: datetime.datetime,
    last: datetime.datetime | None,
    reverse: bool,
    limit: int | None,
    existing: str,
    dry_run: bool,
) -> int:
    """Begin the runs that a schedule would have begun in the past: they wait in its queue for `dagengine serve`.

    A run of that time that is there already is left alone, unless --existing says otherwise.
    """
    from dagengine.serving.schedules import Schedule, backfill, find_schedule, plan_backfill

    with writing(invocation.settings()) as store:
        schedule = Schedule.of(find_schedule(store, name))
        begin = _aware(first, schedule)
        end = datetime.datetime.now(datetime.UTC) if last is None else _aware(last, schedule)
        planned = plan_backfill(store, schedule, begin, end, existing=existing, reverse=reverse, limit=limit)
        begun = [] if dry_run else backfill(store, invocation.settings().control, name, planned)
    if invocation.json:
        print_json(
            [
                {
                    "logical_time": one.logical.isoformat(),
                    "id": one.run,
                    "state": None if one.state is None else str(one.state),
                    "begun": one.run in begun,
                }
                for one in planned
            ]
        )
        return 0
    if dry_run:
        rows = [
            (
                f"{one.logical.astimezone(schedule.zone):%Y-%m-%d %H:%M %Z}",
                clean(one.run),
                "to begin" if one.state is None else f"is there: {one.state}",
            )
            for one in planned
        ]
        print(table(("due", "run", ""), rows)) if rows else note("nothing was due in that time.")
        return 0
    skipped = len(planned) - len(begun)
    print(f"{plural(len(begun), 'run')} queued{f', {number(skipped)} left alone' if skipped else ''}")
    return 0


def _aware(moment: datetime.datetime, schedule: Schedule) -> datetime.datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=schedule.zone)
