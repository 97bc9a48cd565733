"""`dagengine doctor`: what this machine, the settings and the store are like, and what to fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dagengine.cli.app import Invocation, common
from dagengine.cli.terminal import clean, note, paint, plural, print_json
from dagengine.errors import BadOption

if TYPE_CHECKING:
    from dagengine.config import Settings

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@click.command("doctor", short_help="Look at this machine and the settings, and say what to fix.")
@common
@click.pass_obj
def command(invocation: Invocation) -> int:
    """Look at this machine and the settings, and say what to fix. Removes what dead processes have left.

    Exit status 1 if something has to be fixed.
    """
    from dagengine.cli.checks import Finding, all_findings

    settings: Settings | None = None
    try:
        settings = invocation.settings()
    except BadOption as error:
        findings = [Finding("settings", "fail", str(error))]
    else:
        findings = all_findings(settings)
    failed = sum(finding.level == "fail" for finding in findings)
    if invocation.json:
        print_json(
            {
                "sound": not failed,
                "settings": settings.to_json() if settings else None,
                "findings": [finding.to_json() for finding in findings],
            }
        )
        return 1 if failed else 0
    for finding in findings:
        sign, color = _MARKS[finding.level]
        print(f"{paint(sign, color)} {finding.what:<14}{clean(finding.text, 1000)}")
        if finding.advice:
            print(f"  {'':<14}{paint('→', color)} {clean(finding.advice, 1000)}")
    if settings is not None:
        print()
        for name, setting in settings.to_json().items():
            print(f"  {name:<14}{clean(setting['value'], 500)}  {paint('from ' + clean(setting['origin']), 'dim')}")
    if failed:
        note(f"{plural(failed, 'thing')} to fix")
    return 1 if failed else 0
