"""`dagengine approve`: say yes to what a run asks approval for."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common, run_argument, short
from dagengine.cli.signal import posting
from dagengine.cli.terminal import clean, print_json


@click.command("approve", short_help="Say yes to what a run asks approval for.")
@common
@run_argument
@click.argument("name", default="approval")
@click.option("--by", metavar="WHO", help="Who says so; otherwise the user.")
@click.option("--why", metavar="TEXT", default="", help="The reason, for the record.")
@click.pass_obj
def command(invocation: Invocation, run: str, name: str, *, by: str | None, why: str) -> None:
    """Say yes to what a run asks approval for. NAME is the one of its wait_approval.

    \b
    dagengine approve 7f3a deploy --why "tested on staging"
    """
    from dagengine.approvals import answer_of, send_answer

    answer = answer_of(True, by, why)
    with posting(invocation, run) as (post, record):
        send_answer(post, record.id, name, answer)
    if invocation.json:
        print_json({"id": record.id, "name": name, "approved": answer.approved, "by": answer.by, "why": answer.why})
    else:
        print(f"run {short(record.id)}: {clean(name, 200)} approved by {clean(answer.by, 200)}")
