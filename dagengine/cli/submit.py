"""`dagengine submit`: record a run, put it into a queue, and leave it to `dagengine serve`."""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.stores import writing_values
from dagengine.cli.terminal import print_json
from dagengine.cli.work import load_workflow, prints_aside
from dagengine.tags import given

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.serving.submission import Submission
    from dagengine.workflows import Workflow


class Moment(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """A date and time, as 2030-12-31T18:00 or 18:00, of local time if it names no zone."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        if isinstance(value, datetime.datetime):
            return value
        text = str(value).strip()
        try:
            if len(text) <= 8 and ":" in text:
                now = datetime.datetime.now().astimezone()
                found = datetime.datetime.combine(now.date(), datetime.time.fromisoformat(text)).astimezone()
                return found if found > now else found + datetime.timedelta(days=1)
            return datetime.datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError, OSError):
            return self.fail(f"{text!r} is no time. Say 18:00, 2030-12-31 or 2030-12-31T18:00+01:00.", param, ctx)


@click.command("submit", short_help="Leave a run to `dagengine serve`.")
@common
@click.argument("workflow", metavar="FILE.py:WORKFLOW")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--queue", metavar="NAME", default="default", show_default=True, help="The queue in which it waits.")
@click.option("--priority", type=int, default=0, metavar="N", help="The greatest goes first.")
@click.option("--key", metavar="TEXT", help="What the queue's limit per key counts by.")
@click.option("--dedup", metavar="TEXT", help="Only one run with it waits or is under way in the queue.")
@click.option(
    "--duplicate",
    type=click.Choice(["reject", "attach", "replace"]),
    default="reject",
    help="What becomes of a second one with the same --dedup.  [default: reject]",
)
@click.option("--at", type=Moment(), metavar="TIME", help="Not to begin before: 18:00, 2030-12-31T18:00.")
@click.option("--in", "delay", metavar="TIME", help="Not to begin before so long from now: 90s, 30m, 2d.")
@click.option(
    "--tag", "tags", metavar="NAME=TEXT", multiple=True, help="A tag of the run, by which it is found and kept."
)
@click.option("--run-id", metavar="ID", help="The run's id, instead of one that is made up.")
@click.option("--artifacts", metavar="PATH|URL", help="Where large values go, instead of beside the store.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    workflow: str,
    arguments: tuple[str, ...],
    *,
    queue: str,
    priority: int,
    key: str | None,
    dedup: str | None,
    duplicate: str,
    at: datetime.datetime | None,
    delay: str | None,
    tags: tuple[str, ...],
    run_id: str | None,
    artifacts: str | None,
) -> int:
    """Leave a run to `dagengine serve`: it is recorded, waits in a queue, and its id is printed.

    \b
    dagengine submit nightly.py:nightly year=2013 --queue reports --in 10m
    """
    from dagengine.serving.submission import Submission

    settings = invocation.settings(artifacts=artifacts)
    how = Submission(queue, priority, key, dedup, duplicate, at, delay, run_id)
    with prints_aside(invocation.json):
        found = load_workflow(workflow).tagged(given(tags))
    from dagengine.cli.arguments import bind

    args, kwargs = bind(found.name, found.signature, found.function, arguments)
    submitted, new = _submit(settings, (found, args, kwargs), how)
    if invocation.json:
        print_json({"id": submitted, "workflow": found.name, "queue": queue, "new": new})
        return 0
    print(submitted)
    said = f"it waits in queue {queue}" if new else "it was submitted before, and has not ended"
    print(f"{said}. To see how it goes: dagengine show {short(submitted)}", file=sys.stderr)
    return 0


def _submit(
    settings: Settings, call: tuple[Workflow[..., object], tuple[object, ...], dict[str, object]], how: Submission
) -> tuple[str, bool]:
    from dagengine.serving.submission import submit

    with writing_values(settings) as (store, artifacts):
        return submit(store, artifacts, settings.control, call, how)
