"""`dagengine approve`: say yes to what a run asks approval for."""

from __future__ import annotations

import click

from dagengine.cli.answering import answer, answer_arguments
from dagengine.cli.app import Invocation, common


@click.command("approve", short_help="Say yes to what a run asks approval for.")
@common
@answer_arguments
@click.pass_obj
def command(invocation: Invocation, run: str, name: str | None, *, by: str | None, why: str) -> None:
    """Say yes to what a run asks approval for. NAME is the one of its wait_approval; without it, the only one that it asks
    for.

    \b
    dagengine approve 7f3a deploy --why "tested on staging"
    """
    answer(invocation, run, name, approved=True, by=by, why=why)
