"""`dagengine version`."""

from __future__ import annotations

import platform

import click

from dagengine import __version__
from dagengine.cli.app import Invocation, common
from dagengine.cli.terminal import print_json


@click.command("version", short_help="Print the version.")
@common
@click.pass_obj
def command(invocation: Invocation) -> None:
    """Print the version."""
    if invocation.json:
        print_json({"version": __version__, "python": platform.python_version(), "system": platform.system()})
    else:
        print(f"dagengine {__version__} (Python {platform.python_version()}, {platform.system()})")
