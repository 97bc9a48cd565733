"""`dagengine resume`: go on with a run that has not succeeded."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.machine import machine_options
from dagengine.cli.terminal import clean
from dagengine.cli.work import modules_from_here, work_on
from dagengine.continuing import last_of
from dagengine.model import RunRecord, RunState, StepState

if TYPE_CHECKING:
    from dagengine.engine import Engine
    from dagengine.run import Run
    from dagengine.storage.interface import Store


@click.command("resume", short_help="Go on with a run that has not succeeded; finished steps are not repeated.")
@common
@click.argument("run", metavar="[RUN]", required=False, shell_complete=complete_run)
@machine_options
@click.option("--artifacts", metavar="PATH|URL", help="Where large values go, instead of beside the store.")
@click.option("--detach", is_flag=True, help="Let it run in the background.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--takeover", is_flag=True, help="Take the run, even if its owner may be alive on another machine.")
@click.option(
    "--code",
    type=click.Choice(["pinned", "current"]),
    default="pinned",
    show_default=True,
    help="The code that the run was started with, or today's.",
)
@click.option(
    "--rerun-changed", is_flag=True, help="With --code current: a new run, of what has changed and what it reaches."
)
@click.option(
    "--adopt", is_flag=True, help="Let today's calls replace recorded ones that differ, and what was called after them."
)
@click.option("--ready-fd", type=int, hidden=True)
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    run: str | None,
    *,
    artifacts: str | None,
    detach: bool,
    quiet: bool,
    takeover: bool,
    code: str,
    rerun_changed: bool,
    adopt: bool,
    ready_fd: int | None,
    **machine: Any,
) -> int:
    """Go on with a run that has failed, was interrupted or cancelled, or whose process died.

    Finished steps are not repeated; failed ones get new attempts. Without RUN: the only run that can be resumed.

    The run keeps the code that it was started with. With --code current it goes on with today's: what that means for each
    step is said first. What is finished stays, unless --rerun-changed begins a new run that shares what has not changed.
    """
    if rerun_changed and (code != "current" or detach):
        raise click.UsageError("--rerun-changed goes with --code current, and without --detach.")
    settings = invocation.settings(artifacts=artifacts, **machine)
    with invocation.reading() as store:
        record = _only_one(store) if run is None else last_of(store, find_run(store, run))
        if record.state is RunState.SUCCEEDED and not rerun_changed:
            from dagengine.cli.results import read_result
            from dagengine.cli.summary import print_end

            find_modules(record)
            print(f"run {short(record.id)} has already succeeded; nothing is left to do", file=sys.stderr)
            print_end(store, settings, record, invocation.json, read_result(store, settings, record))
            return 0
        if detach and not takeover:
            _refuse_live(record)
        verb = _verb(store, record)
        find_modules(record)
        _say_what_changed(store, record, code)
    if detach:
        from dagengine.cli.detached import spawn

        spawn(settings, record.id, "--code", code, *(["--adopt"] if adopt else []))
        print(record.id)
        return 0

    def begin(engine: Engine) -> Run[Any]:
        if rerun_changed:
            return engine.fork(record.id, code=code)
        resumed = engine.resume(record.id, takeover, code=code, adopt=adopt)
        if ready_fd is not None:
            from dagengine.cli.detached import tell_ready

            tell_ready(ready_fd)
        return resumed

    return work_on(settings, begin, quiet=quiet, as_object=invocation.json, began=time.time(), verb=verb)


def _say_what_changed(store: Store, record: RunRecord, code: str) -> None:
    """What today's code means for the run's steps; or, if it keeps its own, which versions are others here."""
    if code == "current":
        from dagengine.cli.code_report import details, summary
        from dagengine.code.changes import code_changes

        changes = code_changes(store, record)
        print(f"today's code: {summary(changes)}", file=sys.stderr)
        for line in details(changes):
            print(f"  {clean(line, 1000)}", file=sys.stderr)
        return
    from dagengine.code.pinning import changed_files, changed_surroundings

    files = changed_files(store, record)
    if files:
        named = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        line = (
            f"{named} changed since the run was started, and it goes on with its own code. For today's: --code current"
        )
        print(f"note: {clean(line, 500)}", file=sys.stderr)
    changed = changed_surroundings(store, record)
    if changed is not None:
        print(f"note: {clean(changed, 500)}", file=sys.stderr)


def find_modules(record: RunRecord) -> None:
    """A workflow of a module, not of a file, is looked for here and where it was started."""
    if not record.entry.get("file"):
        modules_from_here(str(record.facts.get("cwd", "")))


def _verb(store: Store, record: RunRecord) -> str:
    if record.state is RunState.PENDING:
        return "started"
    if not record.steps:
        return "resumed"
    done = sum(count for (_, state), count in store.counts(record.number).items() if state is StepState.SUCCEEDED)
    return f"resumed with {done:,} of {record.steps:,} steps done"


def _refuse_live(record: RunRecord) -> None:
    from dagengine.errors import RunOwned
    from dagengine.views import run_state

    if run_state(record) is RunState.RUNNING and record.owner is not None:
        owner = f"process {record.owner.pid} on {record.owner.host}"
        raise RunOwned(
            f"run {short(record.id)} is being worked on by {owner}. Wait for it, or stop it first.",
            run_id=record.id,
            owner=owner,
        )


def _only_one(store: Store) -> RunRecord:
    from dagengine.storage.interface import RunFilter
    from dagengine.views import resumable

    runs = [run for run in store.runs(RunFilter(limit=200)) if resumable(run)]
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise click.UsageError("no run is left to be resumed. `dagengine ls` lists them all.")
    names = ", ".join(f"{short(run.id)} ({run.workflow})" for run in runs[:5])
    raise click.UsageError(
        f"{len(runs)} runs can be resumed: {names}{', …' if len(runs) > 5 else ''}. Name one, or say @last."
    )
