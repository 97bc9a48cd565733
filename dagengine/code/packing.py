"""Packing the code that a run is started with, keeping it in the store, and having it at hand again.

    project ─ reach ─▶ Pack ─ keep_pack ─▶ store ─ load_pack ─▶ Pack ─ write_to ─▶ HOME/cache/code/DIGEST.pack ─▶ workers

The same code is the same pack, whoever packs it: nothing is written that the store has. A pack names where its modules were,
the interpreter's version and those of the installed packages that the modules import. Data beside modules is not packed.

May import config, errors, functions, packs, project and storage.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dagengine.code.project import Module, Project, imports_of, loaded_sources
from dagengine.config import create_private
from dagengine.errors import CodeNotPacked, LoadError, StoreUnavailable
from dagengine.functions import Reference, main_file
from dagengine.packs import FORMAT, Pack, importers
from dagengine.storage.code import PackFacts, add_pack, find_pack, read_files, renew_pack
from dagengine.storage.interface import Store

if TYPE_CHECKING:
    from dagengine.workflows import Workflow

FILES_MAX = 5_000
BYTES_MAX = 32 * 1024 * 1024
"""Of a pack. Source of this size is read for minutes by whoever wrote it; what is larger is data in Python's clothes, or
a folder of packages that are not installed but lie in the project."""

SHELF_PACKS = 50
"""Files of packs that are left in the cache when a new one comes; any is made again from the store when it is wanted."""

RENEWED_SECONDS = 3_600.0
"""How long this process takes a pack for young that it has kept: much less than the day after which `gc` takes it for old."""

_packs: dict[tuple[str, ...], tuple[Pack, dict[str, Module]]] = {}
_kept: WeakKeyDictionary[Store, dict[str, float]] = WeakKeyDictionary()


# ---- packing --------------------------------------------------------------------------------


def pack_of_workflow(workflow: Workflow[..., Any]) -> Pack | None:
    """What the workflow reaches, as this process has it loaded. None if that is nothing of a project's.

    Raises CodeNotPacked.
    """
    project = loaded_sources()
    name = workflow.__module__
    if name != "__main__":
        return _pack(project, name, [name])
    file = main_file()
    if file is not None:
        name = Path(file).stem  # as whoever resumes the run will load it
        project.add_file(name, file)
        return _pack(project, name, [name])
    return _pack(project, "__main__", sorted(_named_in_main()))


def pack_of_reference(reference: Reference, cwd: str) -> Pack | None:
    """What the workflow reaches, as it lies on disk; nothing is imported. `cwd`: where its modules are looked for, too.

    Raises CodeNotPacked, LoadError.
    """
    folders = [cwd, *(folder for folder in sys.path if folder)]
    if reference.file is not None:
        folders.insert(0, str(Path(reference.file).parent))
    project = Project(folders, loaded=False)
    if reference.file is not None:
        if not Path(reference.file).is_file():
            raise LoadError(f"there is no file {reference.file}. Name a Python file, as in FILE.py:WORKFLOW.")
        project.add_file(reference.module, reference.file)
    return _pack(project, reference.module, [reference.module], remember=False)


def pack_modules(project: Project, entry: str) -> Pack | None:
    """What the module `entry` reaches in a project. Raises CodeNotPacked."""
    return _pack(project, entry, [entry], remember=False)


def _named_in_main() -> set[str]:
    """Modules that a notebook has names of, or of whose functions and classes it has."""
    found = set()
    for value in vars(sys.modules["__main__"]).values():
        name = value.__name__ if isinstance(value, type(sys)) else getattr(value, "__module__", None)
        if isinstance(name, str) and name != "__main__":
            found.add(name)
    return found


def _pack(project: Project, entry: str, names: Sequence[str], remember: bool = True) -> Pack | None:
    known = _packs.get(tuple(names)) if remember else None
    if known is not None and all(project.find(name) is module for name, module in known[1].items()):
        return known[0]
    modules = project.reach(names)
    if not modules:
        return None
    _check_size(modules)
    data = {module.digest: module.data for module in modules.values()}
    pack = Pack(_manifest(project, entry, modules), data.__getitem__)
    if remember:
        _packs[tuple(names)] = (pack, modules)
    return pack


def _check_size(modules: dict[str, Module]) -> None:
    size = sum(len(module.data) for module in modules.values())
    if size <= BYTES_MAX and len(modules) <= FILES_MAX:
        return
    largest = sorted(modules.values(), key=lambda module: len(module.data))[-3:]
    names = ", ".join(f"{module.file} ({len(module.data) / 1e6:.1f} MB)" for module in reversed(largest))
    raise CodeNotPacked(
        f"the workflow's code can't be packed: it reaches {len(modules):,} modules of {size / 1e6:.1f} MB, and"
        f" {FILES_MAX:,} of {BYTES_MAX / 1e6:.0f} MB are kept at most. The largest are {names}. Move data out of modules,"
        " and install what is not the project's own."
    )


def _manifest(project: Project, entry: str, modules: dict[str, Module]) -> dict[str, Any]:
    roots = sorted({module.root for module in modules.values()})
    numbers = {root: number for number, root in enumerate(roots)}
    imported = {name for module in modules.values() for name in imports_of(module)}  # the project may know of more
    return {
        "format": FORMAT,
        "entry": entry,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "roots": roots,
        "modules": {
            name: [numbers[module.root], module.file, module.digest, len(module.data), _kind(module)]
            for name, module in modules.items()
        },
        "left_out": {name: why for name, why in project.left_out.items() if name in imported},
        "distributions": versions_of(project.foreign & {name.partition(".")[0] for name in imported}),
    }


def _kind(module: Module) -> str:
    if module.namespace:
        return "namespace"
    return "package" if module.package else "module"


# ---- keeping --------------------------------------------------------------------------------


def keep_pack(store: Store, pack: Pack) -> str:
    """Have the pack in the store, for a run to name it soon; returns its digest."""
    kept = _kept.setdefault(store, {})
    now = time.time()
    if now - kept.get(pack.digest, 0.0) > RENEWED_SECONDS:
        if not renew_pack(store, pack.digest, now):
            sizes = {module.digest: module.size for module in pack.modules.values() if module.kind != "namespace"}
            size = sum(module.size for module in pack.modules.values())
            facts = PackFacts(pack.digest, pack.manifest["entry"], len(pack.modules), size, now)
            add_pack(store, facts, pack.text, {digest: pack.read(digest) for digest in sizes})
        kept[pack.digest] = now
    return pack.digest


def keep_code(store: Store, workflow: Workflow[..., Any]) -> dict[str, str]:
    """Pack and keep what the workflow reaches: the facts of a run that say so. Raises CodeNotPacked, StoreError."""
    pack = pack_of_workflow(workflow)
    return {} if pack is None else {"code": keep_pack(store, pack)}


def pack_reference(store: Store, reference: Reference, cwd: str) -> str | None:
    """As `keep_code`, of what lies on disk, without importing it. The digest, or None if there is nothing to pack."""
    pack = pack_of_reference(reference, cwd)
    return None if pack is None else keep_pack(store, pack)


def load_pack(store: Store, digest: str) -> Pack:
    """The pack from the store, with all its files. Raises LoadError."""
    import json

    manifest = find_pack(store, digest)
    if manifest is None:
        raise LoadError(
            f"the code {digest[:12]} that the run was started with is not in the store. Resume it with today's:"
            " --code current."
        )
    files = read_files(store, digest)

    def read(wanted: str) -> bytes:
        if wanted not in files:
            raise LoadError(f"a file of the code {digest[:12]} is missing in the store: {wanted[:12]}.")
        return files[wanted]

    return Pack(json.loads(manifest), read)


class Shelf:
    """The packs of one engine as files that workers read. On any thread.

    Packs that agree on all modules that they share are of one *group*: a worker may have several of them.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._lock = threading.Lock()
        self._given: dict[str, tuple[str, str]] = {}
        self._packs: dict[str, Pack] = {}
        self._groups: dict[str, dict[str, tuple[str, str]]] = {}

    def give(self, digest: str) -> tuple[str, str]:
        """The pack's group, and the path of its file, which is made if it is not there. Raises LoadError, StoreError."""
        with self._lock:
            given = self._given.get(digest)
            if given is None:
                given = self._given[digest] = self._make(digest)
            return given

    def pack(self, digest: str) -> Pack:
        """The pack, opened once. Raises LoadError, StoreError."""
        with self._lock:
            if digest not in self._packs:
                self._given[digest] = self._make(digest)
            return self._packs[digest]

    def close(self) -> None:
        """Let go of the packs, and so of their open files: this object may be in one of Python's circles for long."""
        with self._lock:
            self._given.clear()
            self._packs.clear()

    def _make(self, digest: str) -> tuple[str, str]:
        path = self._folder / f"{digest}.pack"
        try:
            pack = self._kept(path)
            if pack is None:
                create_private(self._folder)
                load_pack(self._store, digest).write_to(path)
                pack = Pack.of_file(str(path))  # its modules stay on disk until they are wanted
                self._tidy(path)
        except OSError as error:  # of this machine, not of the run
            reason = (error.strerror or str(error)).lower()
            raise StoreUnavailable(f"the run's code can't be put into {self._folder}: {reason}.") from error
        self._packs[digest] = pack
        return self._group(pack), str(path)

    @staticmethod
    def _kept(path: Path) -> Pack | None:
        """The file as an earlier engine has left it; None if it has to be made."""
        if not path.exists():
            return None
        try:
            pack = Pack.of_file(str(path))
        except (LoadError, OSError):
            path.unlink(missing_ok=True)
            return None
        os.utime(path)
        return pack

    def _group(self, pack: Pack) -> str:
        mine = {name: (module.digest, pack.path(name)) for name, module in pack.modules.items()}
        for group, known in self._groups.items():
            if all(known.get(name, given) == given for name, given in mine.items()):
                known.update(mine)
                return group
        self._groups[pack.digest] = mine
        return pack.digest

    def _tidy(self, new: Path) -> None:
        """Other engines' workers may be about to read a file: only those that were not asked for in a day go."""
        with contextlib.suppress(FileNotFoundError):  # another engine tidies, too
            files = sorted((file.stat().st_mtime, file) for file in self._folder.glob("*.pack") if file != new)
            for changed, file in files[:-SHELF_PACKS]:
                if changed < time.time() - 86_400:
                    file.unlink(missing_ok=True)


# ---- the surroundings -----------------------------------------------------------------------


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """By distribution: versions of the installed ones that these importable names belong to, as far as they say so."""
    installed = _installed()
    found: dict[str, str] = {}
    for name in names:
        known = installed.get(_normal(name))
        if known is not None:
            found[known[0]] = known[1]
    return dict(sorted(found.items()))


_distributions: dict[str, tuple[str, str]] | None = None


def _installed() -> dict[str, tuple[str, str]]:
    """Normal name, or name of a module -> distribution and version, of all that is installed. `importlib.metadata` knows
    it too, and takes ten times as long to."""
    global _distributions
    if _distributions is None:
        found: dict[str, tuple[str, str]] = {}
        for folder in sys.path:
            try:
                entries = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".dist-info")]
            except OSError:
                continue
            for entry in entries:
                name, _, version = entry.removesuffix(".dist-info").partition("-")
                found.setdefault(_normal(name), (_normal(name), version))
                try:
                    tops = (Path(folder) / entry / "top_level.txt").read_text().split()
                except (OSError, UnicodeDecodeError):
                    continue
                for top in tops:
                    found.setdefault(_normal(top), (_normal(name), version))
        _distributions = found
    return _distributions


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def surroundings_changed(manifest: Mapping[str, Any]) -> str | None:
    """One line on what is another version here than where the pack was made; None if nothing is."""
    then: dict[str, str] = {manifest["implementation"]: manifest["python"], **manifest["distributions"]}
    here = dict(_installed().values())
    here[platform.python_implementation()] = platform.python_version()
    changed = [
        f"{name} {then[name]} → {here.get(name, 'not installed')}" for name in then if then[name] != here.get(name)
    ]
    if not changed:
        return None
    shown = ", ".join(changed[:6]) + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
    return f"the run was started with other versions: {shown}"


def conflict_here(pack: Pack) -> str | None:
    """The first module that this process has loaded as another version than the pack's."""
    project = loaded_sources()
    name: str
    for name, module in pack.modules.items():
        if name not in sys.modules or module.kind == "namespace":
            continue
        found = project.find(name)
        if found is None or found.digest != module.digest:
            return name
    return None


def agrees_with_disk(pack: Pack) -> bool:
    """Whether importing by the usual ways gives the pack's modules: there is no need to install it."""
    if any(other.pack.digest != pack.digest for other in importers()):
        return False
    project = loaded_sources()
    for name, module in pack.modules.items():
        found = project.find(name)
        if found is None or found.path != pack.path(name) or found.digest != module.digest:
            return False
    return True
