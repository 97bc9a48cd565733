"""`dagengine airflow`: a workflow as the file of an Airflow DAG. Airflow itself is not needed for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run
from dagengine.cli.terminal import clean, note, plural, print_json
from dagengine.cli.work import load_workflow, prints_aside
from dagengine.errors import BadArguments

if TYPE_CHECKING:
    from dagengine.airflow_plugin.export_file import Exported
    from dagengine.outline import Outline
    from dagengine.workflows import Workflow


@click.group("airflow", short_help="Write a workflow as the file of an Airflow DAG.")
def command() -> None:
    """Write a workflow as the file of an Airflow DAG. To run workflows in Airflow, see the operator in docs/airflow.md."""


@command.command("export")
@common
@click.argument("workflow", metavar="FILE.py:WORKFLOW")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--mode",
    type=click.Choice(["mirror", "expand"]),
    default="mirror",
    show_default=True,
    help="One task runs it and others follow its steps, or each step is a task.",
)
@click.option("--run", metavar="RUN", shell_complete=complete_run, help="Take the steps that this run has called.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it there, instead of printing it.",
)
@click.option("--force", is_flag=True, help="Write over a file that was not written by this command.")
@click.option("--dag-id", metavar="ID", help="Of the DAG, instead of the workflow's name.")
@click.option("--schedule", metavar="CRON|PRESET", help="When Airflow is to begin runs of it.")
@click.option("--conn-id", metavar="ID", help="The Airflow connection of the store, instead of dagengine_default.")
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=500),
    default=50,
    show_default=True,
    help="Follow up to so many steps one by one; else put them together.",
)
@click.pass_obj
def export_it(
    invocation: Invocation,
    /,
    workflow: str,
    arguments: tuple[str, ...],
    *,
    mode: str,
    run: str | None,
    output: Path | None,
    force: bool,
    dag_id: str | None,
    schedule: str | None,
    conn_id: str | None,
    limit: int,
) -> None:
    """Write a workflow as the file of an Airflow DAG, in which each step, or group of steps, is a task.

    The workflow's body is called to see its steps; no task runs, and nothing is recorded. Values that the steps depend on
    have to be given; the others become parameters of the DAG.

    \b
    dagengine airflow export nightly.py:nightly year=2013 -o dags/nightly.py
    dagengine airflow export nightly.py:nightly --mode expand --schedule @daily
    """
    with prints_aside(True):
        found = load_workflow(workflow)
        from dagengine.airflow_plugin.export import export
        from dagengine.airflow_plugin.export_file import Wanted
        from dagengine.cli.arguments import given

        values = given(found.name, found.signature, found.function, arguments)
        wanted = Wanted(_code(found, output), workflow, dag_id, conn_id, schedule, limit)
        made = export(found, values, wanted, mode, None if run is None else _recorded(invocation, run, found))
    if output is not None:
        _write(output, made.text, force)
    _tell(invocation, made, output)


def _recorded(invocation: Invocation, run: str, workflow: Workflow[..., Any]) -> Outline:
    from dagengine.outline import outline_of_run

    with invocation.reading() as store:
        record = find_run(store, run)
        if record.workflow != workflow.name:
            raise BadArguments(
                f"run {record.id[:8]} is one of {clean(record.workflow, 100)}, not of {workflow.name}. Name another one."
            )
        return outline_of_run(store, record)


def _code(workflow: Workflow[..., Any], output: Path | None) -> Any:
    """Where Airflow's workers find the workflow. A relative path is one from the folder of the DAG's file: they move together."""
    from dagengine.airflow_plugin.export_text import Code, text
    from dagengine.functions import refer

    reference = refer(workflow)
    if reference.file is None:
        return Code(text(reference.module))
    file = Path(reference.file)
    if output is None:
        return Code(text(str(file)))
    way = Path(os.path.relpath(file, output.parent.resolve()))
    return Code(text(str(file) if way.parts[0] == ".." else way.as_posix()))


def _write(output: Path, whole: str, force: bool) -> None:
    """Whole or not at all: Airflow reads the folder at any moment."""
    from dagengine.airflow_plugin.export_file import MARK

    if output.exists() and not force and MARK not in output.read_text("utf-8", errors="replace"):
        raise BadArguments(f"{output} is there, and was not written by {MARK}. Name another file, or say --force.")
    if not output.parent.is_dir():
        raise BadArguments(
            f"there is no folder {output.parent} to write {output.name} to. Make it, or name another file."
        )
    scratch = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        scratch.write_text(whole, "utf-8")
        scratch.replace(output)
    finally:
        scratch.unlink(missing_ok=True)


def _tell(invocation: Invocation, made: Exported, output: Path | None) -> None:
    if invocation.json:
        said: dict[str, Any] = {
            "dag_id": made.dag_id,
            "mode": made.mode,
            "tasks": made.tasks,
            "notes": list(made.notes),
        }
        print_json({**said, **({"text": made.text} if output is None else {"file": str(output)})})
        return
    if output is None:
        print(made.text, end="")
    else:
        print(f"DAG {made.dag_id} written to {output}: {plural(made.tasks, 'task')}")
    for line in made.notes:
        note(f"{line[:1].upper()}{line[1:]}")
