"""`dagengine serve`: have submitted, scheduled and waiting runs worked on, until it is told to stop."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from dagengine.cli.app import Invocation, common
from dagengine.cli.machine import machine_options
from dagengine.cli.terminal import clean


@click.command("serve", short_help="Work on submitted, scheduled and waiting runs, until it is stopped.")
@common
@click.option("--queues", "names", metavar="A,B", default="", help="Only runs of these queues.")
@click.option("--runs", type=int, metavar="N", help="At most so many runs at once.  [default: 256]")
@click.option("--hosts", type=int, metavar="N", help="At most so many processes that run workflows.  [default: 4]")
@click.option("--name", metavar="NAME", default="", help="What it is called, instead of the machine's name.")
@click.option(
    "--grace", metavar="TIME", default="30s", show_default=True, help="For running steps to end, when it stops."
)
@click.option(
    "--leave-crashed", is_flag=True, help="Leave runs alone that were begun otherwise and whose process died."
)
@machine_options
@click.option("--artifacts", metavar="PATH|URL", help="Where large values go, instead of beside the store.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    names: str,
    *,
    runs: int | None,
    hosts: int | None,
    name: str,
    grace: str,
    leave_crashed: bool,
    artifacts: str | None,
    **machine: Any,
) -> int:
    """Work on submitted, scheduled and waiting runs, until it is stopped.

    Ctrl-C or SIGTERM lets running steps end, and stops; a second one stops at once. Nothing is lost: the next one that
    serves the store goes on. Several may serve a store at once.
    """
    from dagengine.config import store_path
    from dagengine.serving.serve import HOSTS, RUNS, ServeOptions, serve, with_name
    from dagengine.units import parse_duration

    settings = invocation.settings(artifacts=artifacts, **machine)
    if settings.store.value.startswith("memory:") and store_path(settings.store.value) is None:
        raise click.UsageError("a store in memory can't be served: no other process sees it. Give a file or a URL.")
    try:
        seconds = parse_duration(grace)
    except ValueError:
        raise click.UsageError(f"--grace {grace!r} is not a duration. Say 30s, or 5m.") from None
    options = ServeOptions(
        queues=tuple(part.strip() for part in names.split(",") if part.strip()),
        runs=RUNS if runs is None else runs,
        hosts=HOSTS if hosts is None else hosts,
        takes_over=not leave_crashed,
        grace=seconds,
        name=name,
    )
    serve(settings, with_name(options), say=_say)
    return 0


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {clean(line, 2000)}", file=sys.stderr, flush=True)
