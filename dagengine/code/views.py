"""What people ask of the packs of code: which there are, what is in one, how two differ, the files themselves, and
how a pack gets to another store with a run.

May import errors, model, packs, packing, pinning, project, validation and storage.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagengine.code.packing import BYTES_MAX, keep_pack, load_pack, pack_modules
from dagengine.code.pinning import code_of
from dagengine.code.project import Project
from dagengine.errors import ArtifactDamaged, BadArguments, RunNotFound
from dagengine.model import RunRecord
from dagengine.packs import Pack
from dagengine.storage.code import has_pack, packs_like
from dagengine.storage.interface import Store
from dagengine.validation import did_you_mean


def find_code(store: Store, name: str) -> Pack:
    """The pack of the run whose id begins with `name`, or whose own digest does.

    Raises RunNotFound, also if the run has no pack; LoadError if its files are gone.
    """
    try:
        run = store.find_run(name)
    except RunNotFound as unknown:
        digests = packs_like(store, name) if len(name) >= 4 and set(name) <= set("0123456789abcdef") else []
        if len(digests) > 1:
            names = ", ".join(digest[:16] for digest in digests)
            raise RunNotFound(f"{name} may be the code {names}. Say more of it.", run_id=name) from None
        if not digests:
            raise RunNotFound(
                f"there is no run and no code {name!r}. `dagengine code ls` lists codes.", run_id=name
            ) from unknown
        return load_pack(store, digests[0])
    digest = code_of(store, run)
    if digest is None:
        raise RunNotFound(
            f"run {run.id[:8]} has no code in the store: its workflow travels by value, or it is older than packs.",
            run_id=run.id,
        )
    return load_pack(store, digest)


def code_today(pack: Pack) -> Pack | None:
    """What would be packed today from where the pack is from. None if nothing is left there."""
    entry = pack.manifest["entry"]
    project = Project([*pack.manifest["roots"], *sys.path], loaded=False)
    path = pack.path(entry) if entry in pack.modules else ""
    if "." not in entry and Path(path).is_file():
        project.add_file(entry, path)
    return pack_modules(project, entry)


def code_difference(before: Pack, after: Pack) -> Iterator[str]:
    """The difference of two packs as lines of a unified diff; first that of the interpreter and of packages."""
    for name, was, now in surroundings(before, after):
        yield f"# {name}: {was or 'none'} → {now or 'none'}"
    for name in sorted(before.modules.keys() | after.modules.keys()):
        old, new = before.modules.get(name), after.modules.get(name)
        if old is not None and new is not None and old.digest == new.digest:
            continue
        yield from difflib.unified_diff(
            _lines(before, name),
            _lines(after, name),
            f"a/{old.file}" if old is not None else "/dev/null",
            f"b/{new.file}" if new is not None else "/dev/null",
            lineterm="",
        )


def surroundings(before: Pack, after: Pack) -> list[tuple[str, str | None, str | None]]:
    """Interpreter and packages whose versions differ: (name, version before, version after)."""
    old, new = (
        {pack.manifest["implementation"]: pack.manifest["python"], **pack.manifest["distributions"]}
        for pack in (before, after)
    )
    return [(name, old.get(name), new.get(name)) for name in sorted(old | new) if old.get(name) != new.get(name)]


def _lines(pack: Pack, name: str) -> list[str]:
    return pack.source(name).decode("utf-8", "replace").splitlines() if name in pack.modules else []


def module_named(pack: Pack, name: str) -> str:
    """The name of the module that is called so, or whose file is. Raises RunNotFound, with the nearest."""
    module: str
    for module, packed in pack.modules.items():
        if name in (module, packed.file):
            return module
    known = [*pack.modules, *(packed.file for packed in pack.modules.values())]
    hint = did_you_mean(name, known, "`dagengine code show` lists them.")
    raise RunNotFound(f"the code {pack.digest[:12]} has no module {name!r}.{hint}", run_id=name)


def export_code(pack: Pack, folder: Path) -> list[Path]:
    """Write the pack's files into the folder, which has to be new or empty; a folder of its own for each root.

    Returns the files. Raises BadArguments.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadArguments(f"{folder} is there already, and not an empty folder. Name a new one.")
    folders = _folders(pack, folder)
    written = []
    for name, module in pack.modules.items():
        target = (folders[module.root] / module.file).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise BadArguments(f"the code {pack.digest[:12]} names a file out of its folder: {module.file}.")
        if module.kind == "namespace":
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pack.source(name))
        written.append(target)
    return sorted(written)


def _folders(pack: Pack, folder: Path) -> list[Path]:
    roots: list[Any] = pack.manifest["roots"]
    if len(roots) == 1:
        return [folder]
    return [folder / f"{number}-{Path(root).name}" for number, root in enumerate(roots)]


# ---- from one store to another --------------------------------------------------------------


def packed_code(store: Store, run: RunRecord) -> Iterator[tuple[str, bytes]]:
    """The run's pack as members of an archive: its manifest, then its files. Nothing if the run, or the store, has none."""
    digest = code_of(store, run)
    if digest is None or not has_pack(store, digest):
        return
    pack = load_pack(store, digest)
    yield "code.json", pack.text.encode()
    for file in sorted({module.digest for module in pack.modules.values() if module.kind != "namespace"}):
        yield f"code/{file}", pack.read(file)


class ArrivingCode:
    """A pack as it comes out of an archive, held against its digests. Raises ArtifactDamaged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._manifest: bytes | None = None
        self._files: dict[str, bytes] = {}
        self._size = 0

    def add(self, digest: str, data: bytes) -> None:
        """The manifest, which has no digest here, or a file."""
        self._size += len(data)
        if self._size > 2 * BYTES_MAX:
            raise ValueError("there is more code in it than is ever packed")
        if not digest:
            self._manifest = data
        elif hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactDamaged(f"the code {digest[:12]} in the archive is damaged: copy it again", digest=digest)
        else:
            self._files[digest] = data

    def keep(self) -> None:
        if self._manifest is not None:
            keep_pack(self._store, Pack(json.loads(self._manifest), self._files.__getitem__))
