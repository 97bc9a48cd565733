"""`dagengine gc`: collect what nobody needs any more."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.terminal import note, number, plural, print_json, size
from dagengine.model import RunState
from dagengine.retention import ENDED
from dagengine.tags import wanted
from dagengine.units import parse_period, parse_size

SHOWN = 20
"""Ids that are listed one by one."""


class Period(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """Seconds, as 90s, 30m, 12h, 2d or 1w; infinity for "never"."""

    name = "period"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_period(str(value))
        except ValueError:
            return self.fail(f"{str(value)!r} is no period. Say 12h, 14d, 8w, or never.", param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """Bytes, as 500GiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(str(value))
        except ValueError:
            return self.fail(f"{str(value)!r} is no size. Say 500GiB.", param, ctx)


@click.command("gc", short_help="Collect what nobody needs any more: old runs, old values, artifacts without a row.")
@common
@click.option("--records", type=Period(), help="Keep ended runs so long.  [default: 90d]")
@click.option("--payloads", type=Period(), help="Keep values of succeeded runs so long.  [default: 14d]")
@click.option("--failed-payloads", type=Period(), help="The same of other ended runs.  [default: 30d]")
@click.option(
    "--records-max",
    type=click.IntRange(min=0),
    metavar="STEPS",
    help="Remove the oldest runs of a store with more steps.",
)
@click.option(
    "--payloads-max", type=Size(), help="Leave the oldest runs without values while more bytes of artifacts are needed."
)
@click.option(
    "--state",
    "states",
    type=click.Choice([str(state) for state in ENDED]),
    multiple=True,
    help="Only runs in this state.",
)
@click.option(
    "--tag", "tags", metavar="NAME[=TEXT]", multiple=True, help="Only runs with this tag; several: with all of them."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="End after about so long."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def command(
    invocation: Invocation,
    /,
    *,
    states: tuple[str, ...],
    tags: tuple[str, ...],
    seconds: float,
    dry_run: bool,
    **said: Any,
) -> int:
    """Collect what nobody needs any more: runs that ended long ago, values of such runs, artifacts and code that no run names.

    Runs that have not ended, paused and pinned ones are never touched. What is kept how long may also be said in
    config.toml, under [retention]; options come before it. A pass may be stopped at any time, and another goes on.
    Exit status 0 if it got through, 1 if more is left.
    """
    from dagengine.collecting import Only, collect
    from dagengine.retention import Retention
    from dagengine.storage import open_artifacts

    settings = invocation.settings()
    asked: dict[str, Any] = {
        name: None if value == math.inf else value for name, value in said.items() if value is not None
    }
    retention = replace(settings.retention.value or Retention(), **asked)
    only = Only(tuple(RunState(state) for state in states), wanted(tags))
    with invocation.reading() as store:
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        try:
            done = collect(store, artifacts, settings.logs, retention, seconds=seconds, dry_run=dry_run, only=only)
        finally:
            artifacts.close()
    if invocation.json:
        print_json(done.to_json())
    else:
        would = "would be " if dry_run else ""
        print(f"{plural(len(done.runs), 'run')} {would}removed{_ids(done.runs)}")
        print(f"{plural(len(done.expired), 'run')} {would}left without values{_ids(done.expired)}")
        print(f"{plural(done.artifacts, 'artifact')} {would}removed: {size(done.artifact_bytes)}")
        print(f"{plural(done.packs, 'pack')} of code {would}removed: {size(done.pack_bytes)}")
        print(f"{number(done.kept_artifacts)} kept: {size(done.kept_bytes)}")
        if not done.complete:
            note("there is more to do: run it again, or give it more --seconds.")
    return 0 if done.complete else 1


def _ids(runs: list[str]) -> str:
    if not runs:
        return ""
    shown = ", ".join(short(run) for run in runs[:SHOWN])
    return f": {shown}{', …' if len(runs) > SHOWN else ''}"
