"""`dagengine signal`: send something to a run that waits for it, or will."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.terminal import clean, note, print_json

if TYPE_CHECKING:
    from dagengine.model import RunRecord
    from dagengine.signals import Post


@click.command("signal", short_help="Send something to a run that waits for it.")
@common
@run_argument
@click.argument("name")
@click.argument("payload", required=False)
@click.option("--id", "signal_id", metavar="ID", help="The same id again is no second signal.")
@click.pass_obj
def command(invocation: Invocation, run: str, name: str, payload: str | None, *, signal_id: str | None) -> None:
    """Send something to a run that waits for it, or will: it is kept until then.

    PAYLOAD is JSON, or a text that is not; @FILE.json takes it from a file. A step that waits for NAME gets it:
    `wait_event("paid")`.

    \b
    dagengine signal 7f3a paid 12.50
    dagengine signal 7f3a answer '{"yes": true}' --id mail-77
    """
    from dagengine.signals import send
    from dagengine.waiting_view import signals_awaited

    with posting(invocation, run) as (post, record):
        awaited = signals_awaited(post.store, record)
        sent = send(post, record.id, name, _payload(name, payload), signal_id=signal_id)
    if invocation.json:
        print_json({"id": record.id, "name": name, "sent": sent})
    else:
        print(f"run {short(record.id)}: {clean(name, 200)} {'sent' if sent else 'was sent before, under the same id'}")
    if sent:
        say_if_early(name, awaited)


def say_if_early(name: str, awaited: list[str]) -> None:
    """A name that nothing waits for may be a slip of the pen; or early, which does no harm."""
    if name not in awaited:
        others = ", ".join(clean(other, 60) for other in awaited[:5])
        now = f"; now it waits for {others}" if others else ""
        note(f"it does not wait for {clean(name, 200)} yet: this is kept until it does{now}")


@contextmanager
def posting(invocation: Invocation, run: str) -> Iterator[tuple[Post, RunRecord]]:
    """Where signals go, and the run."""
    from dagengine.signals import Post
    from dagengine.storage import open_artifacts

    settings = invocation.settings()
    with invocation.reading() as store:
        record = find_run(store, run)
        artifacts = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
        try:
            yield Post(store, artifacts, settings.control), record
        finally:
            artifacts.close()


def _payload(name: str, text: str | None) -> Any:
    from dagengine.signals import PAYLOAD_LIMIT, too_large

    if text is None:
        return None
    if text.startswith("@"):
        file = Path(text[1:])
        if not file.is_file():
            raise click.UsageError(f"there is no file {text[1:]!r} to take the payload from.")
        size = file.stat().st_size
        if size > PAYLOAD_LIMIT:
            raise too_large(name, size)
        try:
            return json.loads(file.read_bytes())
        except ValueError as error:
            raise click.UsageError(f"{text[1:]} is not JSON: {error}.") from None
    try:
        return json.loads(text)
    except ValueError:
        return text
