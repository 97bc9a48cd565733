"""`dagengine db`: the store itself."""

from __future__ import annotations

import click

from dagengine.cli.app import Invocation, common
from dagengine.cli.terminal import clean, mark, plural, print_json, size
from dagengine.config import store_path
from dagengine.errors import StoreUnavailable


@click.group("db", no_args_is_help=False, short_help="Check the store, or bring it up to date.")
def command() -> None:
    """Check the store, or bring it up to date."""


@command.command("check")
@common
@click.pass_obj
def check(invocation: Invocation) -> int:
    """Look whether the store is sound: its schema, and every page of it. Exit status 5 if it is not."""
    from dagengine.storage import open_store

    place = invocation.settings().store.value
    path = store_path(place)
    if path is not None and not path.exists():
        raise StoreUnavailable(f"there is no store at {path}. The first run makes it.", store=place)
    store = open_store(place)
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
    return 0 if sound else 5


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
        print_json({"store": settings.store.value, "before": before, "after": after})
    elif before == after:
        print(f"the store is up to date: schema {after}")
    else:
        print(f"the store has schema {after} now; before: {before}")
