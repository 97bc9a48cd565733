"""`dagengine test`: run a workflow on stores of its own, and kill it at every write to see whether that makes a difference."""

from __future__ import annotations

from typing import Any

import click

from dagengine.cli.app import Invocation, common
from dagengine.cli.terminal import clean_block, print_json
from dagengine.cli.work import load_workflow, prints_aside
from dagengine.errors import DagengineError

STORES = ("memory:", "sqlite:")


@click.command("test", short_help="Kill a workflow at every write, and see that it makes no difference.")
@common
@click.argument("workflow", metavar="FILE.py:WORKFLOW")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--crash-everywhere", is_flag=True, help="Kill it before and after each write to the store, and resume it."
)
@click.option("--once", metavar="TASK", multiple=True, help="A task that may not begin twice, whatever crashes.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=200, show_default=True, help="Kill it at most at so many writes."
)
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    workflow: str,
    arguments: tuple[str, ...],
    *,
    crash_everywhere: bool,
    once: tuple[str, ...],
    limit: int,
) -> int:
    """Kill a workflow at every write, and see that it makes no difference.

    It runs on stores of its own, with its tasks in this process: once as it is and, with --crash-everywhere, once for each
    write to the store at which its process dies, and goes on from what is recorded. The results have to be the same, and
    what was recorded is not to run again. Steps that begin again because nobody knew that they had ended are listed.

    \b
    dagengine test nightly.py:nightly year=2013 --crash-everywhere
    dagengine test orders.py:ship order=17 --crash-everywhere --once charge --store sqlite:
    """
    store = invocation.store or "memory:"
    if store not in STORES:
        raise click.UsageError(f"test makes stores of its own: --store {' or '.join(STORES)}")
    with prints_aside(invocation.json):
        found = load_workflow(workflow)
        from dagengine.cli.arguments import bind
        from dagengine.testing import CrashFailure
        from dagengine.testing import crash_everywhere as run_everywhere

        args, kwargs = bind(found.name, found.signature, found.function, arguments)
        try:
            report = run_everywhere(
                found, *args, kwargs=kwargs, store=store, once=once, limit=limit if crash_everywhere else 0
            )
        except CrashFailure as failure:
            differs = str(failure)
        else:
            differs = ""
    if differs and not invocation.json:
        raise DagengineError(clean_block(f"{found.name}: {differs}"))
    if differs:
        print_json({"workflow": found.name, "same": False, "difference": differs})
        return 1
    said: dict[str, Any] = {
        "workflow": report.workflow,
        "same": True,
        "state": str(report.state),
        "writes": report.writes,
        "crashes": len(report.crashes),
        "again": report.again,
    }
    if invocation.json:
        print_json(said)
    else:
        print(clean_block(str(report)))
    return 0 if report.state == "succeeded" else 1
