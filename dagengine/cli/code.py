"""`dagengine code`: the code that runs were started with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run
from dagengine.cli.terminal import ago, clean, note, number, plural, print_json, size, table
from dagengine.errors import RunNotFound
from dagengine.packs import Pack
from dagengine.storage.interface import Store

_CODE = click.argument("code", metavar="RUN|CODE", shell_complete=complete_run)


@click.group("code", short_help="Look at the code that runs were started with.")
def command() -> None:
    """Look at the code that runs were started with, and take it out. CODE is a digest, or its beginning."""


def _find(store: Store, name: str) -> Pack:
    from dagengine.code.views import find_code

    return find_code(store, find_run(store, name).id if name.startswith("@") else name)


@command.command("ls")
@common
@click.pass_obj
def list_them(invocation: Invocation) -> None:
    """List the codes that are kept, the newest first."""
    from dagengine.storage.code import all_packs

    with invocation.reading() as store:
        packs = all_packs(store)
    if invocation.json:
        print_json([pack._asdict() for pack in packs])
        return
    if not packs:
        note("no code is kept yet: `dagengine run FILE.py:WORKFLOW` keeps what it runs.")
        return
    rows = [
        (pack.digest[:12], clean(pack.entry, 60), number(pack.modules), size(pack.size), ago(pack.created_at))
        for pack in packs
    ]
    print(table(("code", "of", "modules", "size", "kept"), rows, right=(2, 3)))


@command.command("show")
@common
@_CODE
@click.argument("module", required=False)
@click.pass_obj
def show(invocation: Invocation, /, code: str, module: str | None) -> None:
    """Show what a code is made of; or, of one MODULE (or file), its source."""
    from dagengine.code.views import module_named

    with invocation.reading() as store:
        pack = _find(store, code)
        source = None if module is None else pack.source(module_named(pack, module))
    if source is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(source)
        return
    manifest = pack.manifest
    if invocation.json:
        print_json({"digest": pack.digest, **manifest})
        return
    print(f"code {pack.digest[:12]} of {clean(manifest['entry'], 100)}: {plural(len(pack.modules), 'module')}")
    print(f"  {manifest['implementation']} {manifest['python']}")
    for name, version in manifest["distributions"].items():
        print(f"  {clean(name)} {clean(version)}")
    rows = [
        (clean(name, 80), clean(packed.file, 100), size(packed.size), packed.digest[:12])
        for name, packed in sorted(pack.modules.items())
    ]
    print(table(("module", "file", "size", "digest"), rows, right=(2,)))
    for name, why in manifest["left_out"].items():
        print(f"left out: {clean(name, 80)}: {clean(why, 300)}")


@command.command("diff")
@common
@_CODE
@click.argument("other", metavar="[RUN|CODE]", default="current", shell_complete=complete_run)
@click.pass_obj
def diff(invocation: Invocation, /, code: str, other: str) -> None:
    """Show how a code differs from another one, or from what is on disk today."""
    from dagengine.code.views import code_difference, code_today, surroundings

    with invocation.reading() as store:
        before = _find(store, code)
        after = code_today(before) if other == "current" else _find(store, other)
    if after is None:
        raise RunNotFound(
            f"nothing of the code {before.digest[:12]} is where it was: {', '.join(before.manifest['roots'])}.",
            run_id=code,
        )
    if invocation.json:
        print_json(_difference(before, after, surroundings(before, after)))
        return
    for line in code_difference(before, after):
        print(line)


def _difference(before: Pack, after: Pack, versions: list[tuple[str, str | None, str | None]]) -> dict[str, Any]:
    old, new = before.modules, after.modules
    return {
        "before": before.digest,
        "after": after.digest,
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name].digest != new[name].digest),
        "versions": [{"name": name, "before": was, "after": now} for name, was, now in versions],
    }


@command.command("export")
@common
@_CODE
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_obj
def export(invocation: Invocation, /, code: str, folder: Path) -> None:
    """Write the files of a code into a new folder."""
    from dagengine.code.views import export_code

    with invocation.reading() as store:
        pack = _find(store, code)
    written = export_code(pack, folder)
    if invocation.json:
        print_json({"digest": pack.digest, "files": [str(file) for file in written]})
        return
    print(f"{plural(len(written), 'file')} of code {pack.digest[:12]} in {folder}")
