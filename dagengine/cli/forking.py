"""What `fork` and `rerun` have alike: the changed parameters, and who works on the new run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagengine.cli.app import Invocation, short
from dagengine.cli.machine import machine_options
from dagengine.cli.resume import find_modules
from dagengine.cli.stores import writing_values
from dagengine.cli.terminal import print_json
from dagengine.cli.work import prints_aside, work_on

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.engine import Engine
    from dagengine.forks import Place
    from dagengine.model import RunRecord
    from dagengine.run import Run
    from dagengine.storage.interface import Store

Function = TypeVar("Function", bound=Callable[..., Any])


def new_run_options(function: Function) -> Function:
    """Arrive as `artifacts`, `detach`, `quiet` and `machine`."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
        click.option("--detach", is_flag=True, help="Print the new run's id, and let it run in the background."),
        click.option("--artifacts", metavar="PATH|URL", help="Where large values go, instead of beside the store."),
    ):
        function = option(function)
    return machine_options(function)


def parameters(
    invocation: Invocation, store: Store, donor: RunRecord, words: Sequence[str], code: str | None
) -> dict[str, Any]:
    """KEY=VALUE as arguments of the donor's workflow, typed by its signature."""
    if not words:
        return {}
    from dagengine.cli.arguments import given
    from dagengine.code.packing import Shelf
    from dagengine.code.pinning import PINNED, pin

    find_modules(donor)
    with prints_aside(invocation.json):
        shelf = Shelf(store, invocation.settings().folder / "cache" / "code")
        workflow = pin(store, donor, code or PINNED, shelf).workflow()
    return given(workflow.name, workflow.signature, workflow.function, words)


def begin_new(
    invocation: Invocation,
    settings: Settings,
    donor: RunRecord,
    *,
    record: Callable[[Place], str],
    detach: bool,
    quiet: bool,
    verb: str,
) -> int:
    """Record the new run and work on it here, or have a process of its own do that. Returns the exit status."""
    find_modules(donor)
    if not detach:

        def begin(engine: Engine) -> Run[Any]:
            return engine.resume(record(engine._place()))

        return work_on(settings, begin, quiet=quiet, as_object=invocation.json, began=time.time(), verb=verb)
    from dagengine.cli.detached import spawn
    from dagengine.code.packing import Shelf
    from dagengine.forks import Place

    with writing_values(settings) as (store, artifacts):
        recorded = record(Place(store, artifacts, Shelf(store, settings.folder / "cache" / "code")))
    spawn(settings, recorded)
    if invocation.json:
        print_json({"id": recorded, "workflow": donor.workflow, "forked_from": donor.id, "state": "running"})
    else:
        print(recorded)
        print(f"it runs in the background. To see how it goes: dagengine show {short(recorded)}", file=sys.stderr)
    return 0
