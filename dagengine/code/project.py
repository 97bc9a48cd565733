"""Which modules are the project's, where they are, and what they import: found without importing anything.

A module belongs to the *project* if it is a Python file outside of the standard library, of installed packages and of
dagengine. Left out, and said so: files whose path leaves the project's folder by a symbolic link, and hidden ones.

What is loaded in this process counts as it was when it was first looked at, whatever has become of the file since: the
functions that run here are those. What is not loaded is read again when its file has changed.

May import errors and packs.
"""

from __future__ import annotations

import ast
import hashlib
import os
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from dagengine.errors import CodeNotPacked
from dagengine.packs import Pack, PackImporter, importers

FOREIGN_FOLDERS = ("site-packages", "dist-packages")

_IMPORT = re.compile(
    rb"(?:^|[:;])[ \t]*("
    rb"from[ \t]+[.\w]+[ \t]+import[ \t]*(?:\([^)]*\)|(?:\\\r?\n|[^\n;(])+)"
    rb"|import[ \t]+(?:\\\r?\n|[^\n;])+)",
    re.MULTILINE,
)
_DYNAMIC = re.compile(rb"\b(?:import_module|__import__)\b")


@dataclass(frozen=True)
class Module:
    """A module of the project: its bytes and where they are from.

    root: the folder that it, or the package it is in, was found in; locations: of a package, where its modules are
    file: its path within the root; of a package without `__init__`, that of its folder, and no data
    """

    name: str
    path: str
    root: str
    data: bytes
    package: bool
    locations: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return os.path.relpath(self.path, self.root)

    @property
    def namespace(self) -> bool:
        return self.package and not self.path.endswith(".py")

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class Project:
    """A `Sources`: the modules as this process sees them.

    path: where modules are looked for; None: sys.path
    loaded: whether what this process has loaded counts; else only what is on disk does
    """

    def __init__(self, path: Sequence[str] | None = None, loaded: bool = True) -> None:
        self.left_out: dict[str, str] = {}
        self.foreign: set[str] = set()
        self._path = path
        self._loaded = loaded
        self._known: dict[str, tuple[object, Module | None]] = {}
        self._files: dict[str, str] = {}

    def add_file(self, name: str, path: str) -> None:
        """A module that is found at this path, as the file that was named on the command line is."""
        self._files[name] = path

    def find(self, name: str) -> Module | None:
        top = name.partition(".")[0]
        if top in self.foreign or top in sys.stdlib_module_names or top == "dagengine" or not top:
            return None
        loaded = sys.modules.get(name) if self._loaded else None
        known = self._known.get(name)
        if loaded is not None:
            state: object = getattr(loaded, "__spec__", None) or loaded
            if known is not None and known[0] is state:
                return known[1]
            found = self._from_loaded(name, loaded)
        else:
            spec = self._spec(name)
            if spec is None:
                return None
            state = _state_of(spec)
            if known is not None and known[0] == state:
                return known[1]
            found = self._from_spec(name, spec)
        self._known[name] = (state, found)
        return found

    # ---- where it is --------------------------------------------------------------------------

    def _from_loaded(self, name: str, loaded: Any) -> Module | None:
        spec = getattr(loaded, "__spec__", None)
        if name == "__main__" or spec is None:
            path = getattr(loaded, "__file__", None)
            return self._read(name, path, None) if path and path.endswith(".py") else None
        return self._from_spec(name, spec)

    def _spec(self, name: str) -> ModuleSpec | None:
        if name in self._files:
            from importlib.util import spec_from_file_location

            return spec_from_file_location(name, self._files[name])
        if self._loaded:
            for importer in importers():
                spec = importer.find_spec(name)
                if spec is not None:
                    return spec
        parent = name.rpartition(".")[0]
        path = self._path
        if parent:
            package = self.find(parent)
            if package is None:
                return None
            path = package.locations
        spec = _on_path(name, sys.path if path is None else path)
        if spec is None and self._loaded:
            spec = _other_finders(name, path)
        if spec is None and not parent:
            self.foreign.add(name)  # not there: asked for once
        return spec

    def _from_spec(self, name: str, spec: ModuleSpec) -> Module | None:
        if isinstance(spec.loader, PackImporter):
            return _from_pack(name, spec.loader.pack)  # what is in the pack, whatever is on disk by now
        locations = _locations(spec)
        if spec.origin is None or not spec.has_location:
            if not locations or all(_is_foreign(folder) for folder in locations):
                self._foreign(name)
                return None
            return Module(name, locations[0], self._root(name, locations[0]), b"", True, locations)
        if _is_foreign(spec.origin):
            self._foreign(name)
            return None
        if not spec.origin.endswith(".py") or type(spec.loader).__module__ == "zipimport":
            self.left_out[name] = f"{spec.origin} is no Python file"
            return None
        return self._read(name, spec.origin, locations if spec.submodule_search_locations is not None else None)

    def _foreign(self, name: str) -> None:
        if "." not in name:
            self.foreign.add(name)

    def _root(self, name: str, path: str) -> str:
        for _ in range(name.count(".") + 1):
            path = str(Path(path).parent)
        return path

    def _read(self, name: str, path: str, locations: tuple[str, ...] | None) -> Module | None:
        path = str(Path(path).absolute())
        if _is_foreign(path):
            self._foreign(name)
            return None
        root = self._root(name, str(Path(path).parent) if locations is not None else path)
        inside = os.path.relpath(path, root)
        if any(part.startswith(".") for part in Path(inside).parts):
            self.left_out[name] = f"{inside} is hidden"
            return None
        real, real_root = os.path.realpath(path), os.path.realpath(root)
        if os.path.commonpath([real, real_root]) != real_root:
            self.left_out[name] = f"{inside} is a link to {real}, out of {root}"
            return None
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            self.left_out[name] = f"{path} can't be read: {(error.strerror or str(error)).lower()}"
            return None
        return Module(name, path, root, data, locations is not None, locations or ())

    # ---- what is reached ----------------------------------------------------------------------

    def reach(self, names: Iterable[str]) -> dict[str, Module]:
        """The modules of the project that importing these may import, and the packages that they are in.

        Raises CodeNotPacked for a file that can't be read, or that is not loaded and is no Python.
        """
        found: dict[str, Module] = {}
        left = list(names)
        dynamic = False
        while left:
            name = left.pop()
            if name in found:
                continue
            module = self.find(name)
            if module is None:
                if "can't be read" in self.left_out.get(name, ""):
                    raise CodeNotPacked(f"the workflow's code can't be packed: {self.left_out[name]}.")
                continue
            found[name] = module
            if "." in name:
                left.append(name.rpartition(".")[0])
            left += imports_of(module, checked=not self._loaded or name not in sys.modules)
            if self._loaded and not dynamic and _DYNAMIC.search(module.data):
                dynamic = True
                left += self._loaded_beside(found)
        return found

    def _loaded_beside(self, found: dict[str, Module]) -> Iterator[str]:
        """Modules of the same folders that are loaded: some module imports by computed names, and these may be them."""
        roots = {module.root for module in found.values()}
        tops = {name.partition(".")[0] for name in found}
        for name in list(sys.modules):
            path = getattr(sys.modules[name], "__file__", None)
            if path is None or name in found:
                continue
            inside_package = "." in name and name.partition(".")[0] in tops
            if inside_package or os.path.dirname(path) in roots:  # noqa: PTH120 - of hundreds of loaded modules
                yield name


def _from_pack(name: str, pack: Pack) -> Module:
    packed = pack.modules[name]
    path = pack.path(name)
    package = packed.kind != "module"
    locations = (str(Path(path).parent),) if package else ()
    return Module(name, path, pack.manifest["roots"][packed.root], pack.source(name), package, locations)


def imports_of(module: Module, checked: bool = False) -> set[str]:
    """Names of modules that the module may import, wherever in it. Some are attributes, or are not there at all.

    checked: read the file as Python does, and raise CodeNotPacked if it is none. Otherwise its imports are found by
    their shape, which is ten times as fast, and may name more than there are (in a docstring), but not fewer.
    """
    if checked:
        try:
            statements: list[ast.AST] = list(ast.walk(ast.parse(module.data)))
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            text = error.msg if isinstance(error, SyntaxError) else str(error)
            raise CodeNotPacked(
                f"the workflow's code can't be packed: {module.path}{line} is no Python: {text}. Correct it, or take"
                " away what imports it."
            ) from None
    else:
        statements = []
        for match in _IMPORT.finditer(module.data):
            try:
                statements += ast.parse(match[1]).body
            except (SyntaxError, ValueError):
                continue  # a sentence that begins like one
    found: set[str] = set()
    for statement in statements:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                found.add(alias.name)
        elif isinstance(statement, ast.ImportFrom):
            origin = _absolute(module, statement)
            found.add(origin)
            found |= {f"{origin}.{alias.name}" for alias in statement.names if alias.name != "*"}
    return found


def _absolute(module: Module, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - statement.level + module.package]
    return ".".join([*parts, statement.module] if statement.module else parts)


def _state_of(spec: ModuleSpec) -> object:
    if spec.origin is None or not spec.has_location:
        return _locations(spec)
    try:
        found = os.stat(spec.origin)  # noqa: PTH116 - of hundreds of modules at every start
    except OSError:
        return spec.origin
    return spec.origin, found.st_mtime_ns, found.st_size


def _is_foreign(path: str) -> bool:
    return any(part in FOREIGN_FOLDERS for part in Path(path).parts) or path.startswith(_STDLIB)


_STDLIB = tuple({sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep})


def _on_path(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """As `PathFinder.find_spec`, which finds a namespace package in another one only if that is imported."""
    portions: list[str] = []
    for entry in path:
        finder = pkgutil.get_importer(entry or str(Path.cwd()))
        spec = None if finder is None else finder.find_spec(name)
        if spec is not None and spec.loader is not None:
            return spec
        if spec is not None:
            portions += spec.submodule_search_locations or ()
    if not portions:
        return None
    found = ModuleSpec(name, None, is_package=True)
    found.submodule_search_locations = portions
    return found


def _locations(spec: ModuleSpec) -> tuple[str, ...]:
    """The folders of a package; a loaded namespace package asks for its parent, which may be gone."""
    try:
        return tuple(str(Path(folder).absolute()) for folder in spec.submodule_search_locations or ())
    except KeyError:
        return ()


def _other_finders(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Finders beside the usual one: of projects that are installed for development."""
    for finder in sys.meta_path:
        kind = finder if isinstance(finder, type) else type(finder)
        if kind is PathFinder or kind.__module__.startswith(("_frozen_importlib", "_pytest", "dagengine")):
            continue
        try:
            spec = finder.find_spec(name, path)
        except Exception:
            continue  # not ours to report: nothing is imported here
        if spec is not None:
            return spec
    return None


_here = Project()


def loaded_sources() -> Project:
    """The project as this process has it loaded."""
    return _here


def belongs(module: str) -> bool:
    """Whether the module is the project's."""
    return _here.find(module) is not None
