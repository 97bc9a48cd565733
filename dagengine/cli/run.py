"""`dagengine run`: record a run, work on it, and show how it goes. `--detach` leaves the work to a process of its own."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
from click.shell_completion import CompletionItem

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.machine import machine_options
from dagengine.cli.terminal import print_json
from dagengine.cli.work import load_workflow, prints_aside, work_on
from dagengine.tags import given
from dagengine.units import parse_duration


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _seconds(timeout: str | None) -> float | None:
    try:
        seconds = None if timeout is None else parse_duration(timeout)
    except ValueError:
        seconds = 0
    if seconds == 0:
        raise click.UsageError(f"--timeout is {timeout!r}. Give a time: 90s, 5m, 1h30m.")
    return seconds


@click.command("run", short_help="Run a workflow, and follow it to its end.")
@common
@click.argument("workflow", metavar="FILE.py:WORKFLOW", shell_complete=_complete)
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run-id", metavar="ID", help="The run's id, instead of one that is made up.")
@click.option(
    "--tag", "tags", metavar="NAME=TEXT", multiple=True, help="A tag of the run, by which it is found and kept."
)
@click.option("--timeout", metavar="TIME", help="Let it fail, to be resumed, after so long: 90s, 1h30m.")
@machine_options
@click.option("--artifacts", metavar="PATH|URL", help="Where large values go, instead of beside the store.")
@click.option("--refresh", metavar="STEP|TASK|all", multiple=True, help="Compute this, whatever the cache has.")
@click.option("--detach", is_flag=True, help="Print the run's id, and let it run in the background.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    workflow: str,
    arguments: tuple[str, ...],
    *,
    run_id: str | None,
    tags: tuple[str, ...],
    timeout: str | None,
    artifacts: str | None,
    refresh: tuple[str, ...],
    detach: bool,
    quiet: bool,
    **machine: Any,
) -> int:
    """Run a workflow, and follow it to its end.

    The workflow is FILE.py:NAME or package.module:NAME. Its arguments are KEY=VALUE, typed by its signature; lists and
    objects are JSON; @FILE.json takes a value, or all of them, from a file.

    Ctrl-C lets running steps end, and stops; a second one stops at once. Nothing that has ended is lost: go on with
    `dagengine resume`.

    \b
    dagengine run nightly.py:nightly year=2013
    dagengine run reports.weekly:weekly days='[1,2,3]' config=@config.json
    """
    if run_id is not None and not run_id.strip():
        raise click.UsageError("--run-id is empty. Leave it out, or give an id.")
    settings = invocation.settings(artifacts=artifacts, **machine)
    seconds = _seconds(timeout)
    with prints_aside(invocation.json):
        found = load_workflow(workflow)
        if seconds is not None:
            found = found.limited(seconds)
    if tags:
        found = found.tagged(given(tags))
    from dagengine.cli.arguments import bind

    args, kwargs = bind(found.name, found.signature, found.function, arguments)
    if detach:
        from dagengine.cli.detached import record, spawn

        recorded = record(settings, found, args, kwargs, run_id=run_id, refresh=refresh)
        spawn(settings, recorded)
        if invocation.json:
            print_json({"id": recorded, "workflow": found.name, "state": "running"})
        else:
            print(recorded)
            from dagengine.cli.summary import command as command_line

            shown_by = command_line(settings, "show", short(recorded))
            print(f"it runs in the background. To see how it goes: {shown_by}", file=sys.stderr)
        return 0
    return work_on(
        settings,
        lambda engine: engine.begin(found, args, kwargs, run_id, refresh=refresh),
        quiet=quiet,
        as_object=invocation.json,
        began=time.time(),
    )
