"""What a function's code is, as one digest: it changes when what the function does may have changed, and not with comments.

A fingerprint covers the function and, transitively, the functions, classes and globals of the *project* that it names:
through imports, module attributes, star imports. Not: comments, docstrings, layout, options of `@task` (they are recorded
as such), the standard library and installed packages (their versions are recorded with the pack), what is reached only by
a computed name (`getattr`), and methods of objects whose class it does not name.

It is computed from source, without importing, so that the code of a pack and today's code can be held against each other.
A function that no name leads to (a lambda, a notebook's, one of two of a name) counts by its code object, the values that it closes over,
and the globals that it names.

May import functions, project (what belongs to a project) and syntax (what a module says).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, Protocol

from dagengine.code.syntax import Chain, Imported, Summary, Unit, summary_of
from dagengine.functions import has_name


class Source(Protocol):
    """A module of a project. A package without `__init__` has no bytes."""

    @property
    def data(self) -> bytes: ...

    @property
    def package(self) -> bool: ...


class Sources(Protocol):
    """The modules of a project: as they are loaded here, as they are on disk, as they are in a pack."""

    def find(self, name: str) -> Source | None:
        """None if there is no such module, or it does not belong to the project. Raises nothing."""
        ...


class Fingerprint(NamedTuple):
    """parts: by "module:name", the digests of the units it is made from; the function's own module is "."."""

    digest: str
    parts: dict[str, str]


def fingerprint(function: Any) -> str:
    """The digest of a function or class, of a task, workflow or stateful class, as this process has it loaded.

    "" if nothing can be said of it (it is built in, or made by other means than Python).
    """
    return described(function).digest


def described(function: Any) -> Fingerprint:
    """As `fingerprint`, with its parts."""
    from dagengine.code.project import loaded_sources

    found = _described(function, loaded_sources())
    settings = getattr(function, "settings", None)
    version = getattr(getattr(settings, "options", settings), "version", None)
    if version is None:
        return found
    parts = {**found.parts, "version=": repr(version)}
    return Fingerprint(_together(parts), parts)


def _described(function: Any, sources: Sources) -> Fingerprint:
    plain = _plain(function)
    module, qualname = getattr(plain, "__module__", None), getattr(plain, "__qualname__", "")
    if isinstance(module, str) and _has_source(plain):
        found = fingerprint_of(sources, module, qualname)
        if found is not None:
            return found
    if not isinstance(plain, FunctionType):
        return Fingerprint("", {})
    parts: dict[str, str] = {}
    _Values(parts).function(plain, ".:" + plain.__name__)
    return Fingerprint(_together(parts), parts)


def fingerprint_of(sources: Sources, module: str, qualname: str) -> Fingerprint | None:
    """The fingerprint of what is called `qualname` in the module. None if there is no such thing in its source."""
    units = _Reach(sources, module)
    return units.fingerprint(qualname)


def difference(before: Fingerprint, after: Fingerprint) -> list[str]:
    """The parts that differ, as "module:name"; those of the function's own module as "name"."""
    names = sorted(before.parts.keys() | after.parts.keys())
    return [name.removeprefix(".:") for name in names if before.parts.get(name) != after.parts.get(name)]


def _plain(function: Any) -> Any:
    """The function or class under decorators of ours."""
    stateful = getattr(function, "__stateful__", None)
    if stateful is not None:
        return stateful.function
    return function if isinstance(function, (FunctionType, type)) else getattr(function, "function", function)


def _has_source(plain: Any) -> bool:
    """Whether what its module's source says of its name is said of it: not of a lambda, or one of two of a name."""
    return has_name(plain) if isinstance(plain, FunctionType) else "<" not in getattr(plain, "__qualname__", "<")


def _together(parts: dict[str, str]) -> str:
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(parts.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ---- by source ------------------------------------------------------------------------------


class _Reach:
    """Walks from a unit to all that it names within the project."""

    def __init__(self, sources: Sources, own: str) -> None:
        self._sources = sources
        self._own = own
        self._parts: dict[str, str] = {}
        self._seen: set[tuple[str, str]] = set()
        self._followed: dict[tuple[str, Chain], bool] = {}
        self._left: list[tuple[str, Unit]] = []

    def fingerprint(self, qualname: str) -> Fingerprint | None:
        summary = self._summary(self._own)
        if summary is None:
            return None
        name = qualname
        while name not in summary.units:
            name = name.rpartition(".")[0]
            if not name:
                return None
        self._take(self._own, name, summary.units[name])
        while self._left:
            module, unit = self._left.pop()
            for chain in unit.uses:
                self._follow_in(module, chain)
            for imported, rest in unit.imports:
                self._follow_import(imported, rest)
        return Fingerprint(_together(self._parts), self._parts)

    def _summary(self, module: str) -> Summary | None:
        source = self._sources.find(module)
        if source is None:
            return None
        try:
            return summary_of(source.data, module, source.package)
        except (SyntaxError, ValueError):
            return None

    def _take(self, module: str, name: str, units: Iterable[Unit]) -> None:
        if (module, name) in self._seen:
            return
        self._seen.add((module, name))
        units = list(units)
        shown = "." if module == self._own else module
        self._parts[f"{shown}:{name}"] = "+".join(unit.digest for unit in units)
        self._left += [(module, unit) for unit in units]

    def _follow_in(self, module: str, chain: Chain) -> bool:
        """A dotted name as the module would look it up. False if it has no such name."""
        known = self._followed.get((module, chain))
        if known is not None:
            return known
        self._followed[module, chain] = False  # modules may import each other by star
        self._followed[module, chain] = found = self._look_up(module, chain)
        return found

    def _look_up(self, module: str, chain: Chain) -> bool:
        summary = self._summary(module)
        if summary is None:
            return False
        name = chain[0]
        found = False
        if name in summary.units:
            self._take(module, name, summary.units[name])
            found = True
        for imported in summary.names.get(name, ()):
            self._follow_import(imported, chain[1:])
            found = True
        return found or any(self._follow_in(star, chain) for star in summary.stars)

    def _follow_import(self, imported: Imported, rest: Chain) -> None:
        attributes = rest if imported.attribute is None else (imported.attribute, *rest)
        module = imported.module
        while attributes:
            if self._sources.find(module) is None:
                return
            if self._follow_in(module, attributes):
                return
            inner = f"{module}.{attributes[0]}"
            if self._sources.find(inner) is None:
                return
            module, attributes = inner, attributes[1:]
        summary = self._summary(module)
        if summary is not None:
            # The module itself is a value here: whatever it has may be used.
            self._take(module, "*", [summary.whole])


# ---- by value -------------------------------------------------------------------------------

_SIMPLE = (int, float, complex, bool, str, bytes, type(None), type(Ellipsis))
_DEPTH = 8
"""Of containers in a global that are looked into: what is deeper counts by its type."""


class _Values:
    """Walks from a function object to what it closes over and names."""

    def __init__(self, parts: dict[str, str]) -> None:
        self._parts = parts
        self._seen: set[int] = set()

    def function(self, function: Callable[..., Any], name: str) -> None:
        if id(function) in self._seen:
            return
        self._seen.add(id(function))
        assert isinstance(function, FunctionType)
        text = [_code(function.__code__, function.__doc__)]
        text += [self._value(value, f"{name}=") for value in function.__defaults__ or ()]
        text += [f"{key}={self._value(value, name)}" for key, value in sorted((function.__kwdefaults__ or {}).items())]
        self._parts[name] = hashlib.sha256("|".join(text).encode("utf-8", "surrogatepass")).hexdigest()
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._part(f"{name}.{free}", cell.cell_contents)
            except ValueError:  # it is not filled yet
                continue
        names = set(_names(function.__code__))
        for found in sorted(names & function.__globals__.keys()):
            self._part(f"{function.__module__}:{found}", function.__globals__[found], names)

    def _part(self, name: str, value: Any, used: set[str] | None = None) -> None:
        if isinstance(value, ModuleType):
            for attribute in sorted((used or set()) & vars(value).keys()):
                inner = vars(value)[attribute]
                if isinstance(_plain(inner), (FunctionType, type)):
                    self._part(f"{value.__name__}:{attribute}", inner)
            return
        plain = _plain(value)
        if isinstance(plain, (FunctionType, type)):
            self._code_of(name, plain)
        else:
            self._parts[name] = hashlib.sha256(self._value(value, name).encode("utf-8", "surrogatepass")).hexdigest()

    def _code_of(self, name: str, plain: Any) -> None:
        from dagengine.code.project import belongs, loaded_sources

        module, qualname = plain.__module__ or "", plain.__qualname__
        if module != "__main__" and not belongs(module):
            return
        if _has_source(plain):
            found = fingerprint_of(loaded_sources(), module, qualname)
            if found is not None:
                self._parts[f"{module}:{qualname}"] = found.digest
                return
        if isinstance(plain, FunctionType):
            self.function(plain, name)
        elif isinstance(plain, type):
            for attribute, inner in sorted(vars(plain).items()):
                if isinstance(inner, FunctionType):
                    self.function(inner, f"{name}.{attribute}")

    def _value(self, value: Any, name: str, depth: int = 0) -> str:
        if isinstance(value, _SIMPLE):
            return repr(value)
        kind = type(value).__qualname__
        if depth < _DEPTH and isinstance(value, (list, tuple)):
            return f"{kind}({','.join(self._value(item, name, depth + 1) for item in value)})"
        if depth < _DEPTH and isinstance(value, (set, frozenset)):
            return f"{kind}({','.join(sorted(self._value(item, name, depth + 1) for item in value))})"
        if depth < _DEPTH and isinstance(value, dict):
            pairs = (
                f"{self._value(key, name, depth + 1)}:{self._value(item, name, depth + 1)}"
                for key, item in value.items()
            )
            return f"{kind}({','.join(pairs)})"
        if isinstance(_plain(value), (FunctionType, type)):
            self._part(f"{name}{getattr(value, '__qualname__', '')}", value)
        return kind


def _code(code: CodeType, doc: str | None) -> str:
    constants = [
        _code(constant, None)
        if isinstance(constant, CodeType)
        else repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
        if doc is None or constant != doc
    ]
    return f"{code.co_code.hex()}({','.join(constants)})({','.join(code.co_names)})({','.join(code.co_varnames)})"


def _names(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
