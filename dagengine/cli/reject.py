"""`dagengine reject`: say no to what a run asks approval for."""

from __future__ import annotations

import click

from dagengine.cli.answering import answer, answer_arguments
from dagengine.cli.app import Invocation, common


@click.command("reject", short_help="Say no to what a run asks approval for.")
@common
@answer_arguments
@click.pass_obj
def command(invocation: Invocation, run: str, name: str | None, *, by: str | None, why: str) -> None:
    """Say no to what a run asks approval for. NAME is the one of its wait_approval; without it, the only one that it asks
    for.

    \b
    dagengine reject 7f3a deploy --why "not on a Friday"
    """
    answer(invocation, run, name, approved=False, by=by, why=why)
