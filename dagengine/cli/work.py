"""Working on a run in this process, from the engine's opening to the last line: what `run` and `resume` share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagengine.cli.app import short
from dagengine.cli.following import counted_signals, exit_status, follow, make_display
from dagengine.cli.lines import Quiet
from dagengine.cli.summary import print_end
from dagengine.cli.terminal import clean
from dagengine.errors import LoadError, RunCancelled, RunFailed, RunInterrupted, RunMismatch
from dagengine.model import RunState
from dagengine.results import readable

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.engine import Engine
    from dagengine.run import Run
    from dagengine.workflows import Workflow


def load_workflow(entry: str) -> Workflow[..., Any]:
    """The workflow that was named. Raises LoadError, also if its module ends the process when it is imported."""
    from dagengine.workflows import load

    place = entry.rpartition(":")[0] or entry
    if not place.endswith(".py"):
        modules_from_here()
    try:
        return load(entry)
    except SystemExit as error:
        raise LoadError(
            f"{entry} ends the process while it is loaded (exit status {error.code}). Put what it does when it is run"
            ' as a script under `if __name__ == "__main__":`.'
        ) from None


def modules_from_here(*folders: str) -> None:
    """Let modules of the working folder be imported, as `python -m` does; after them those of `folders`."""
    here: list[str] = []
    with contextlib.suppress(OSError):  # a working folder that was deleted has no modules
        here.append(str(Path.cwd()))
    for folder in reversed([*here, *folders]):
        if folder and folder not in sys.path and Path(folder).is_dir():
            sys.path.insert(0, folder)


def prints_aside(aside: bool) -> contextlib.AbstractContextManager[object]:
    """What the workflow's own code prints in this process goes to stderr, where stdout is to be one JSON object."""
    return contextlib.redirect_stdout(sys.stderr) if aside else contextlib.nullcontext()


def work_on(
    settings: Settings,
    begin: Callable[[Engine], Run[Any]],
    *,
    quiet: bool,
    as_object: bool,
    began: float,
    verb: str = "started",
) -> int:
    """Begin a run, follow it, and print its end. Returns the exit status."""
    from dagengine.engine import Engine

    with counted_signals() as signals:
        engine = Engine(
            settings.store.value,
            artifacts=settings.artifacts.value,
            workers=settings.workers.value,
            home=settings.home.value,
            **settings.of_machine(),
        )
        try:
            run = begin(engine)
            with prints_aside(as_object):
                display = make_display(short(run.id), began, quiet or as_object)
                if not isinstance(display, Quiet):
                    workflow = clean(run.progress().workflow)
                    display.say(f"run {run.id} of {workflow} {verb} ({settings.workers.value} workers)")
                follow(engine, run, display, signals)
                value = _value(run)
            record = engine.store.find_run(run.id)
            print_end(engine.store, settings, record, as_object, value)
            return exit_status(run.state, signals)
        finally:
            engine.close(force=signals.count > 1)


def _value(run: Run[Any]) -> Any:
    """What the run returned. An end of another kind is the record's to tell; a fault of this process is raised."""
    try:
        with readable(f"the result of run {short(run.id)}"):
            return run.result()
    except (RunFailed, RunCancelled, RunInterrupted, RunMismatch):
        if run.state is RunState.SUCCEEDED:
            raise
        return None
