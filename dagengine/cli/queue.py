"""`dagengine queue`: the queues of submitted runs, and their limits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common, short
from dagengine.cli.stores import writing
from dagengine.cli.terminal import ago, clean, duration, note, number, plural, print_json, table

if TYPE_CHECKING:
    from dagengine.storage.queue_rules import QueueSettings

_NAME = click.argument("name", metavar="NAME")


@click.group("queue", short_help="Look at queues, and set their limits.")
def command() -> None:
    """Look at queues, and set their limits. Runs wait in them for `dagengine serve`."""


@command.command("ls")
@common
@click.pass_obj
def list_them(invocation: Invocation) -> None:
    """List the queues, with what waits in them."""
    from dagengine.storage.queues import counts, queues

    with invocation.reading() as store:
        known, counted = queues(store), counts(store)
    if invocation.json:
        print_json([_object(name, settings, *counted.get(name, (0, 0))) for name, settings in sorted(known.items())])
        return
    rows = []
    for name, settings in sorted(known.items()):
        waiting, started = counted.get(name, (0, 0))
        rows.append((clean(name, 40), number(waiting), number(started), _limits(settings)))
    print(table(("queue", "waiting", "under way", "limits"), rows, right=(1, 2)))


def _object(name: str, settings: QueueSettings, waiting: int, started: int) -> dict[str, Any]:
    return {"name": name, **settings.to_json(), "waiting": waiting, "started": started}


def _limits(settings: QueueSettings) -> str:
    said = []
    if settings.paused:
        said.append("paused")
    for name, value in (
        ("at once", settings.concurrency),
        ("per worker", settings.per_worker),
        ("per key", settings.per_key),
    ):
        if value is not None:
            said.append(f"{value} {name}")
    if settings.rate is not None:
        said.append(f"{settings.rate[0]} in {duration(settings.rate[1])}")
    return ", ".join(said) or "none"


@command.command("show")
@common
@_NAME
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.pass_obj
def show(invocation: Invocation, name: str, *, limit: int) -> None:
    """Show who waits in a queue, in the order in which they go, and who is under way."""
    from dagengine.serving.queues import known_queue, queue_view

    with invocation.reading() as store:
        view, settings = queue_view(store, name, limit), known_queue(store, name)
    if invocation.json:
        print_json(view)
        return
    print(f"queue {clean(name)}, limits: {_limits(settings)}")
    now = time.time()
    for title, entries in (("under way", view["started"]), ("waiting", view["waiting"])):
        if entries:
            print()
            rows = [_row(entry, now) for entry in entries]
            print(table((title, "priority", "key", "submitted", "not before"), rows, right=(1,)))
    if not view["started"] and not view["waiting"]:
        note("nothing waits in it.")


def _row(entry: dict[str, Any], now: float) -> tuple[str, ...]:
    left = entry["not_before"] - now
    return (
        short(entry["id"]),
        str(entry["priority"]),
        clean(entry["key"] or "–", 30),
        ago(entry["submitted_at"]),
        f"in {duration(left)}" if left > 0 else "–",
    )


@command.command("set")
@common
@_NAME
@click.option("--concurrency", type=int, metavar="N", help="So many runs at once, everywhere; 0: no limit.")
@click.option("--per-worker", type=int, metavar="N", help="So many at once with one `dagengine serve`.")
@click.option("--per-key", type=int, metavar="N", help="So many at once with one --key.")
@click.option("--rate", metavar="N/TIME", help='So many may begin: 10/min, 5/30s; "" for no limit.')
@click.pass_obj
def set_limits(
    invocation: Invocation,
    name: str,
    *,
    concurrency: int | None,
    per_worker: int | None,
    per_key: int | None,
    rate: str | None,
) -> None:
    """Make a queue, or change its limits. What is left out stays as it is."""
    from dagengine.serving.queues import set_queue

    with writing(invocation.settings(), hints=True) as store:
        settings = set_queue(store, name, rate=rate, concurrency=concurrency, per_worker=per_worker, per_key=per_key)
    if invocation.json:
        print_json({"name": name, **settings.to_json()})
    else:
        print(f"queue {clean(name)}, limits: {_limits(settings)}")


@command.command("pause")
@common
@_NAME
@click.pass_obj
def pause(invocation: Invocation, name: str) -> None:
    """Let nothing begin any more. What is under way goes on."""
    _paused(invocation, name, True)


@command.command("resume")
@common
@_NAME
@click.pass_obj
def resume(invocation: Invocation, name: str) -> None:
    """Let runs begin again."""
    _paused(invocation, name, False)


def _paused(invocation: Invocation, name: str, paused: bool) -> None:
    from dagengine.serving.queues import pause_queue

    with writing(invocation.settings(), hints=True) as store:
        pause_queue(store, name, paused)
    if invocation.json:
        print_json({"name": name, "paused": paused})
    else:
        print(f"queue {clean(name)} is paused" if paused else f"queue {clean(name)} goes on")


@command.command("purge")
@common
@_NAME
@click.pass_obj
def purge(invocation: Invocation, name: str) -> None:
    """Cancel all runs that wait in a queue. What is under way goes on."""
    from dagengine.serving.queues import purge_queue

    with writing(invocation.settings()) as store:
        dropped = purge_queue(store, name)
    if invocation.json:
        print_json({"name": name, "cancelled": dropped})
    else:
        print(f"{plural(len(dropped), 'run')} cancelled")
