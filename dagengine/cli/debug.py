"""`dagengine debug`: a step again, here, with its recorded inputs and its run's code, in a debugger."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument
from dagengine.cli.resume import find_modules
from dagengine.cli.terminal import clean, note


@click.command("debug", short_help="Call a step again, here, in a debugger.")
@common
@run_argument
@click.argument("step")
@click.option("--break", "at_first", is_flag=True, help="Stop at the first line, instead of where it fails.")
@click.option("--debugpy", type=click.IntRange(1, 65535), metavar="PORT", help="Wait for an editor's debugger there.")
@click.option("--no-interactive", "batch", is_flag=True, help="Only call it: print its traceback, or what it returns.")
@click.option("--code", type=click.Choice(["pinned", "current"]), default="pinned", help="The run's code, or today's.")
@click.pass_obj
def command(
    invocation: Invocation, /, run: str, step: str, *, at_first: bool, debugpy: int | None, batch: bool, code: str
) -> int:
    """Call a task's step again, in this process, with the inputs that are recorded of it and the code of its run.

    If it raises, pdb stops where it did. What it returns is printed; the run stays as it is. But what the task does in the
    world, it does again. Exit status 1 if it raised.
    """
    from dagengine.code.packing import Shelf
    from dagengine.debugging import prepare
    from dagengine.forks import Place
    from dagengine.storage import open_artifacts

    if debugpy is not None and not batch:
        _wait_for_editor(debugpy)
    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        find_modules(record)
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        place = Place(store, artifacts, Shelf(store, settings.folder / "cache" / "code"))
        prepared = prepare(place, record, step, code)
        note(f"{clean(prepared.step.key, 500)} of run {record.id[:8]}, called again here; nothing is recorded")
        caller: Callable[..., Any] | None = None
        if at_first and debugpy is not None:
            caller = _stopping
        elif at_first and not batch:
            import pdb

            caller = pdb.runcall
        try:
            found = prepared.call(caller)
        except Exception as error:
            _show(error)
            if not batch and debugpy is None:
                _post_mortem(error)
            return 1
        print(clean(repr(found), 10_000))
        return 0


def _show(error: BaseException) -> None:
    """The traceback from the task on: what is above it is ours."""
    import traceback

    trace = error.__traceback__
    while trace is not None and "dagengine" in trace.tb_frame.f_globals.get("__name__", "").split(".")[0]:
        trace = trace.tb_next
    print(
        "".join(traceback.format_exception(error.with_traceback(trace or error.__traceback__))), file=sys.stderr, end=""
    )


def _post_mortem(error: BaseException) -> None:
    import pdb

    pdb.post_mortem(error.__traceback__)


def _stopping(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Stop in the editor's debugger; the next step in is the task."""
    breakpoint()
    return function(*args, **kwargs)


def _wait_for_editor(port: int) -> None:
    try:
        debugpy = importlib.import_module("debugpy")
    except ImportError:
        raise click.UsageError(
            "debugpy is not installed here. `pip install debugpy`, or leave out --debugpy."
        ) from None
    debugpy.listen(("127.0.0.1", port))
    note(f"waiting for a debugger at 127.0.0.1:{port}")
    debugpy.wait_for_client()
