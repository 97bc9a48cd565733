"""`dagengine cache`: the values that runs share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.stores import writing
from dagengine.cli.terminal import ago, clean, note, plural, print_json, size, table
from dagengine.units import parse_duration

if TYPE_CHECKING:
    from dagengine.storage.caching import CacheEntry

_NAME = click.argument("name", metavar="TASK|KEY")


@click.group("cache", short_help="Look at the values that runs share, and remove them.")
def command() -> None:
    """Look at the values that runs share, and remove them. A task says whether its values are (`cache=`)."""


@command.command("ls")
@common
@click.option("--task", metavar="NAME", help="Only values of this task.")
@click.pass_obj
def list_them(invocation: Invocation, *, task: str | None) -> None:
    """List the values, the oldest of each task first."""
    from dagengine.storage.caching import entries

    with invocation.reading() as store:
        found = [entry for entry in entries(store) if task in (None, entry.task)]
    if invocation.json:
        print_json([_object(entry) for entry in found])
        return
    if not found:
        note("nothing is kept. A task with cache=True keeps its values.")
        return
    print(table(("key", "task", "value", "age", "of run", "shared by"), map(_row, found), right=(2,)))


def _object(entry: CacheEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "task": entry.task,
        "scope": entry.scope,
        "computing": entry.digest is None,
        "run": entry.of_run,
        "seq": entry.seq,
        "at": entry.at,
        "size": entry.size,
        "digest": entry.digest,
        "parts": entry.parts,
    }


def _row(entry: CacheEntry) -> tuple[str, ...]:
    kept = size(entry.size) if entry.size is not None else "computing"
    scope = "the project" if entry.scope == "project" else f"run {short(entry.scope)}"
    return entry.key[:12], clean(entry.task, 40), kept, ago(entry.at, time.time()), short(entry.of_run), scope


@command.command("explain")
@common
@_NAME
@click.pass_obj
def explain(invocation: Invocation, name: str) -> None:
    """Say what the keys of a task's values were made of."""
    from dagengine.caching import entries_named

    with invocation.reading() as store:
        found = entries_named(store, name)
    if invocation.json:
        print_json([_object(entry) for entry in found])
        return
    for entry in found:
        print(f"{entry.key[:12]} of {clean(entry.task)}, run {short(entry.of_run)}, step {entry.seq}")
        for part, digest in entry.parts.items():
            print(f"  {clean(part)}: {digest[:12]}")


@command.command("rm")
@common
@click.argument("names", metavar="[TASK|KEY]...", nargs=-1)
@click.option("--older", metavar="AGE", help='Only values that are older, such as "7d".')
@click.option("--all", "everything", is_flag=True, help="Of all tasks.")
@click.pass_obj
def remove(invocation: Invocation, names: tuple[str, ...], *, older: str | None, everything: bool) -> None:
    """Remove values: those who need them compute them again. Runs keep what they have."""
    from dagengine.caching import entries_named
    from dagengine.storage import caching

    if everything == bool(names):
        raise click.UsageError("name tasks or keys, or say --all.")
    try:
        before = time.time() - (0.0 if older is None else parse_duration(older))
    except ValueError:
        raise click.UsageError(f'--older {older!r} is no length of time, as in "12h" or "7d".') from None
    with writing(invocation.settings()) as store:
        found = (
            caching.entries(store) if everything else [entry for name in names for entry in entries_named(store, name)]
        )
        removed = caching.remove(store, [entry for entry in found if older is None or entry.at < before])
    if invocation.json:
        print_json({"removed": removed})
    else:
        print(f"{plural(removed, 'value')} removed")
