"""What `dagengine approve` and `dagengine reject` have alike: the answer to what a run asks approval for.

May import what verbs may: the workflow layer, inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagengine.cli.app import Invocation, run_argument, short
from dagengine.cli.signal import posting, say_if_early
from dagengine.cli.terminal import clean, note, print_json

if TYPE_CHECKING:
    from dagengine.model import RunRecord

Function = TypeVar("Function", bound=Callable[..., Any])


def answer_arguments(function: Function) -> Function:
    """Arrive as `run`, `name`, `by` and `why`."""
    function = click.option("--why", metavar="TEXT", default="", help="The reason, for the record.")(function)
    function = click.option("--by", metavar="WHO", help="Who says so; otherwise the user.")(function)
    return run_argument(click.argument("name", required=False)(function))


def answer(invocation: Invocation, run: str, name: str | None, *, approved: bool, by: str | None, why: str) -> None:
    """Send the answer, and say so."""
    from dagengine.approvals import answer_of, answers_before, asked_for, send_answer

    given = answer_of(approved, by, why)
    with posting(invocation, run) as (post, record):
        name = name or _only_one(record, asked_for(post.store, record))
        number = send_answer(post, record.id, name, given)
        asked = asked_for(post.store, record)
        before = answers_before(post.store, record, name, number)
    if invocation.json:
        print_json({"id": record.id, "name": name, "approved": approved, "by": given.by, "why": given.why})
    else:
        said = "approved" if approved else "rejected"
        print(f"run {short(record.id)}: {clean(name, 200)} {said} by {clean(given.by, 200)}")
    if before:
        note("another answer came before it, and counts: this one is kept for the next time that the run asks")
    elif before is not None:
        say_if_early(name, asked)


def _only_one(run: RunRecord, names: list[str]) -> str:
    """The name of what the run asks approval for, if it asks for one thing; the usual name if it asks for nothing yet."""
    from dagengine.approvals import DEFAULT_NAME

    if len(names) > 1:
        raise click.UsageError(
            f"run {short(run.id)} asks for {', '.join(clean(name, 60) for name in names)}. Name one."
        )
    return names[0] if names else DEFAULT_NAME
