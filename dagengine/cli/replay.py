"""`dagengine replay`: call the bodies of runs against their records, and see whether today's code goes on with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.ls import Age
from dagengine.cli.terminal import clean, mark, note, number, plural, print_json
from dagengine.cli.work import modules_from_here, prints_aside
from dagengine.errors import DagengineError
from dagengine.storage.interface import RunFilter

if TYPE_CHECKING:
    from dagengine.code.changes import CodeChanges
    from dagengine.code.rehearsal import Rehearsal
    from dagengine.config import Settings
    from dagengine.model import RunRecord
    from dagengine.storage.interface import ArtifactStore, Store


@click.command("replay", short_help="See whether a run would go on with today's code, without running anything.")
@common
@click.argument("run", metavar="[RUN]", required=False, shell_complete=complete_run)
@click.option("--name", metavar="WORKFLOW", help="All runs of this workflow.")
@click.option("--since", type=Age(), metavar="AGE|DATE", help="All runs begun since: 30m, 12h, 2d, 2024-12-31.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many runs."
)
@click.option(
    "--code",
    type=click.Choice(["current", "pinned"]),
    default="current",
    show_default=True,
    help="Today's code, or the run's own.",
)
@click.option("--check", is_flag=True, help="Say only which runs would not go on; exit status 1 if there are any.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    run: str | None,
    *,
    name: str | None,
    since: float | None,
    limit: int,
    code: str,
    check: bool,
) -> int:
    """See whether a run would go on: its body is called against its record, with nothing run and nothing written. It has
    to call what is recorded, up to the first value that is not. Says of the steps which are the same, changed, or gone.

    Of many runs with --name or --since, as a check before a deploy: dagengine replay --name nightly --since 7d --check
    """
    if run is None and name is None and since is None:
        raise click.UsageError("name a RUN, or say which by --name or --since.")
    if run is not None and (name is not None or since is not None):
        raise click.UsageError("either a RUN, or --name and --since.")
    if code == "pinned" and run is None:
        raise click.UsageError("a process can have the own code of one run only: name a RUN.")
    settings = invocation.settings()
    from dagengine.storage import open_artifacts

    bad, told = 0, []
    with invocation.reading() as store:
        runs = [find_run(store, run)] if run is not None else store.runs(RunFilter(name=name, since=since, limit=limit))
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        try:
            for record in runs:
                with prints_aside(invocation.json):
                    found = _look(store, artifacts, settings, record, code)
                bad += not found["good"]
                told.append(found)
                if not invocation.json and (not check or not found["good"]):
                    _print(record, found, brief=check)
        finally:
            artifacts.close()
    if invocation.json:
        print_json(told[0] if run is not None else told)
    elif not runs:
        note("no run fits.")
    elif check or len(runs) > 1:
        print(f"{plural(len(runs), 'run')}: {number(len(runs) - bad)} would go on, {number(bad)} would not")
    return 1 if bad else 0


def _look(store: Store, artifacts: ArtifactStore, settings: Settings, run: RunRecord, code: str) -> dict[str, Any]:
    """What comes of one run, as JSON."""
    from dagengine.code.changes import GONE, code_changes
    from dagengine.code.packing import Shelf
    from dagengine.code.pinning import load_workflow, pin
    from dagengine.code.rehearsal import rehearse

    if not run.entry.get("file"):
        modules_from_here(str(run.facts.get("cwd", "")))
    base = {"run": run.id, "workflow": run.workflow}
    try:
        if code == "pinned":
            pin(store, run, code, Shelf(store, settings.folder / "cache" / "code"))
        changes = code_changes(store, run)
        rehearsal = None if run.body_closed else rehearse(store, artifacts, run, load_workflow(run))
    except DagengineError as error:
        return {**base, "good": False, "end": "can't be loaded", "text": str(error)}
    gone = [step.key for step, verdict in changes.steps if verdict == GONE and not step.state.ended]
    good = not gone and (rehearsal is None or rehearsal.good)
    return {**base, "good": good, **_body(rehearsal, gone), "code": changes.to_json(), "summary": _lines(changes)}


def _body(rehearsal: Rehearsal | None, gone: list[str]) -> dict[str, Any]:
    if rehearsal is None:
        return {"end": "gone" if gone else "closed", "text": f"{gone[0]} has no function any more" if gone else ""}
    return {
        "end": "gone" if gone and rehearsal.good else rehearsal.end,
        "text": rehearsal.text or (f"{gone[0]} has no function any more" if gone else ""),
        "key": rehearsal.key,
        "difference": rehearsal.difference,
        "asked": rehearsal.asked,
        "new": list(rehearsal.new),
        "new_count": rehearsal.new_count,
        "unasked": list(rehearsal.unasked),
    }


def _lines(changes: CodeChanges) -> list[str]:
    from dagengine.cli.code_report import details, summary

    return [summary(changes), *details(changes)]


def _print(run: RunRecord, found: dict[str, Any], brief: bool) -> None:
    verdict = "would go on" if found["good"] else f"would not go on: {_short(found)}"
    print(f"{mark('succeeded' if found['good'] else 'failed')} {short(run.id)} {clean(run.workflow, 60)} {verdict}")
    for line in str(found.get("difference", "")).splitlines():
        print(f"    {clean(line, 500)}")
    if brief:
        return
    for line in found.get("summary", ()):
        print(f"  {clean(line, 1000)}")
    if found.get("new_count"):
        print(f"  calls that are not recorded: {number(found['new_count'])}, from {clean(found['new'][0], 200)}")
    if found.get("unasked"):
        print(f"  recorded, and not called any more: {', '.join(clean(key, 200) for key in found['unasked'][:5])}")


def _short(found: dict[str, Any]) -> str:
    if found["end"] == "mismatch":
        return f"{clean(found['key'], 300)} is called otherwise"
    return clean(found["text"] or found["end"], 500)
