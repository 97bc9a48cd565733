"""`dagengine gc`: collect what nobody needs any more."""

from __future__ import annotations

import re

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.terminal import note, number, plural, print_json, size

_AGE = re.compile(r"(\d{1,9})\s*(s|min|m|h|d|w)")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

SHOWN = 20
"""Ids that are listed one by one."""


class Period(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """Seconds, as 90s, 30m, 12h, 2d or 1w; None for "never"."""

    name = "period"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        text = str(value).strip()
        if text == "never":
            return None
        period = _AGE.fullmatch(text)
        if period is None:
            return self.fail(f"{text!r} is no period. Say 12h, 14d, 8w, or never.", param, ctx)
        return int(period[1]) * _SECONDS[period[2]]


@click.command("gc", short_help="Collect what nobody needs any more: old runs, old values, artifacts without a row.")
@common
@click.option("--records", type=Period(), default="90d", show_default=True, help="Keep ended runs so long.")
@click.option(
    "--payloads", type=Period(), default="14d", show_default=True, help="Keep values of succeeded runs so long."
)
@click.option(
    "--failed-payloads", type=Period(), default="30d", show_default=True, help="The same of other ended runs."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="End after about so long."
)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def command(
    invocation: Invocation,
    *,
    records: float | None,
    payloads: float | None,
    failed_payloads: float | None,
    seconds: float,
    dry_run: bool,
) -> int:
    """Collect what nobody needs any more: runs that ended long ago, values of such runs, artifacts and code that no run names.

    Runs that have not ended, and pinned ones, are never touched. A pass may be stopped at any time, and another goes on.
    Exit status 0 if it got through, 1 if more is left.
    """
    from dagengine.retention import Retention, collect
    from dagengine.storage import open_artifacts

    settings = invocation.settings()
    retention = Retention(records, payloads, failed_payloads)
    with invocation.reading() as store:
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        try:
            done = collect(store, artifacts, settings.logs, retention, seconds=seconds, dry_run=dry_run)
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
