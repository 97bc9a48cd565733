"""`dagengine db`: the store itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dagengine.cli.app import Invocation, common
from dagengine.cli.terminal import clean, mark, number, plural, print_json, size
from dagengine.config import store_path, without_password
from dagengine.errors import BadArguments, StoreUnavailable
from dagengine.model import RunState
from dagengine.views import run_state

if TYPE_CHECKING:
    from collections import Counter

    from dagengine.storage.interface import Store

RUNNING_MAX = 100_000
"""Runs that are asked whether their process lives: far more than one store's processes work on."""


@click.group("db", short_help="Check the store, or bring it up to date.")
def command() -> None:
    """Check the store, or bring it up to date."""


@command.command("check")
@common
@click.pass_obj
def check(invocation: Invocation) -> int:
    """Look whether the store is sound: its schema, and every page of it. Exit status 5 if it is not."""
    from dagengine.storage import open_existing

    place = invocation.settings().store.value
    store = open_existing(place)
    if store is None:
        shown = without_password(place)
        raise StoreUnavailable(f"there is no store at {shown}. The first run makes it.", store=shown)
    try:
        found = store.check()
    finally:
        store.close()
    sound = found["integrity"] == "ok"
    if invocation.json:
        print_json({"store": store.url, "sound": sound, **found})
    else:
        print(f"{mark('succeeded' if sound else 'failed')} {clean(store.url, 500)}")
        print(f"  schema {found['revision']}, {size(found['bytes'])}")
        print(f"  {plural(found['runs'], 'run')} with {plural(found['steps'], 'step')}")
        print(f"  integrity: {clean(found['integrity'], 2000)}")
        if found["durability"] != "ok":
            print(f"  durability: {clean(found['durability'], 2000)}")
    return 0 if sound else 5


@command.command("stats")
@common
@click.option("--artifacts", is_flag=True, help="Also count the artifacts, for which all of them are listed.")
@click.pass_obj
def stats(invocation: Invocation, artifacts: bool) -> None:
    """Count what is in the store, by state and workflow, and how much room it takes."""
    from collections import Counter

    from dagengine.storage.lifetime_notes import pins

    with invocation.reading() as store:
        found = store.figures()
        states, workflows = _states(store), Counter(store.census()[1])
        pinned, expired = len(pins(store)), len(store.expired_runs())
    counted = _artifacts(invocation) if artifacts else None
    if invocation.json:
        facts: dict[str, Any] = {"states": states, "workflows": workflows, "pinned": pinned, "without_values": expired}
        if counted:
            facts["artifacts"] = {"count": counted[0], "bytes": counted[1]}
        print_json({"store": store.url, **found._asdict(), **facts})
        return
    free = f", {size(found.free_bytes)} of them free" if found.free_bytes else ""
    print(clean(store.url, 500))
    print(f"  schema {found.revision}, {size(found.bytes)}{free}")
    print(f"  {plural(found.runs, 'run')} with {plural(found.steps, 'step')}")
    for name, of in (("states", states), ("workflows", workflows)):
        shown = ", ".join(f"{number(count)} {clean(word, 40)}" for word, count in of.most_common(12))
        print(f"  {name}: {shown or 'none'}")
    print(f"  {number(pinned)} pinned, {number(expired)} without their values")
    if counted:
        print(f"  {plural(counted[0], 'artifact')}: {size(counted[1])}")


def _artifacts(invocation: Invocation) -> tuple[int, int]:
    """How many there are, and their bytes."""
    from dagengine.collecting import SHARDS
    from dagengine.storage import open_artifacts

    settings = invocation.settings()
    opened = open_artifacts(settings.artifacts.value, cache=str(settings.folder / "cache"))
    try:
        sizes = [found.size for shard in SHARDS for found in opened.listed(shard)]
    finally:
        opened.close()
    return len(sizes), sum(sizes)


def _states(store: Store) -> Counter[str]:
    """How many runs there are in each state, as they look now."""
    from collections import Counter

    from dagengine.storage.interface import RunFilter

    stored, _ = store.census()
    running = Counter(str(run_state(run)) for run in store.runs(RunFilter((RunState.RUNNING,), limit=RUNNING_MAX)))
    others = Counter({str(state): count for state, count in stored.items() if state is not RunState.RUNNING})
    return running + others


@command.command("backup")
@common
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def backup(invocation: Invocation, file: Path) -> None:
    """Copy the store of one SQLite file to FILE, while others work with it. Artifacts are not part of it.

    Of a store on a PostgreSQL server it says the command that does.
    """
    from dagengine.storage.sqlite_files import backup as copy

    place = invocation.settings().store.value
    path = store_path(place)
    if path is None:
        from dagengine.storage.postgres_url import parse

        raise StoreUnavailable(
            f"a store on a server is copied by the server's own tools: {parse(place).copied_by(str(file))}",
            store=without_password(place),
        )
    if not path.exists():
        raise StoreUnavailable(f"there is no store at {path}. The first run makes it.", store=place)
    if file.exists():
        raise BadArguments(f"{file} is there already: name another file, or remove it.")
    copied = copy(str(path), str(file))
    if invocation.json:
        print_json({"store": place, "file": str(file), "bytes": copied})
    else:
        print(f"{clean(place, 500)} copied to {file}: {size(copied)}")


@command.command("upgrade")
@common
@click.pass_obj
def upgrade(invocation: Invocation) -> None:
    """Bring an older store to the schema of this version. Makes it, if there is none."""
    from dagengine.config import create_private
    from dagengine.storage import upgrade as upgrade_store

    settings = invocation.settings()
    if settings.store.origin == "default":
        create_private(settings.home.value)
    before, after = upgrade_store(settings.store.value)
    if invocation.json:
        print_json({"store": without_password(settings.store.value), "before": before, "after": after})
    elif before == after:
        print(f"the store is up to date: schema {after}")
    else:
        print(f"the store has schema {after} now; before: {before}")
