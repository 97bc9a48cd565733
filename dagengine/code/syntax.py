"""What a module's source says, as far as fingerprints ask: its units, what each is when comments are gone, what it names.

A *unit* is what a name of the module stands for: a function, a class, an assignment (with all that change it), an import.
Its digest is over its syntax without positions, comments and docstrings, and without decorators of dagengine: what they say
is recorded as options. What it *uses* are dotted names that it does not bind itself.

Pure: source in, facts out. Imports nothing of ours.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

Chain = tuple[str, ...]
"""A dotted name: ("helpers", "clean")."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import binds a name to: the module, or an attribute of it (which may be a module, too)."""

    module: str
    attribute: str | None = None


@dataclass(slots=True)
class Unit:
    """uses: dotted names of the module's; imports: what the unit imports by itself, with the rest of the dotted name"""

    digest: str
    uses: frozenset[Chain]
    imports: frozenset[tuple[Imported, Chain]] = frozenset()


@dataclass(slots=True)
class Summary:
    """units: by name; also "Class.function". names: what imports bind. stars: modules of `from … import *`.

    whole: all of the module, for whoever uses it as a value
    """

    units: dict[str, list[Unit]] = field(default_factory=dict)
    names: dict[str, list[Imported]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    whole: Unit = field(default_factory=lambda: Unit("", frozenset()))


def summarize(source: bytes, module: str, package: bool) -> Summary:
    """Raises SyntaxError (or ValueError, for a zero byte)."""
    tree = ast.parse(source)
    place = _Place(module, package, tuple(source.splitlines()))
    summary = Summary()
    _collect(tree.body, place, summary)
    summary.whole = _unit(tree, place, summary)
    return summary


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the source stands, which says what its relative imports mean."""

    module: str
    package: bool
    lines: tuple[bytes, ...] = ()

    def absolute(self, level: int, name: str | None) -> str:
        if not level:
            return name or ""
        parts = self.module.split(".")
        parts = parts[: len(parts) - level + self.package]
        return ".".join([*parts, name] if name else parts)


def _collect(body: Iterable[ast.stmt], place: _Place, summary: Summary) -> None:
    stars = summary.stars
    for statement in body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            for name, found in _imported(statement, place, stars):
                summary.names.setdefault(name, []).append(found)
            continue
        unit = None
        for name in _bound(statement, changed=True):
            unit = unit or _unit(statement, place, summary)
            summary.units.setdefault(name, []).append(unit)
        if isinstance(statement, ast.ClassDef):
            for inner in statement.body:
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found_unit = _unit(inner, place, summary)
                    summary.units.setdefault(f"{statement.name}.{inner.name}", []).append(found_unit)
        for inner_import in _inner_imports(statement):
            for name, found in _imported(inner_import, place, stars):
                summary.names.setdefault(name, []).append(found)


def _inner_imports(statement: ast.stmt) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports in a compound statement of the module's own level, as under `try` or `if TYPE_CHECKING`."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, (ast.stmt, ast.excepthandler)):
            yield from _inner_imports(child)  # type: ignore[arg-type]


def _imported(
    statement: ast.Import | ast.ImportFrom, place: _Place, stars: list[str]
) -> Iterator[tuple[str, Imported]]:
    """The names that the import binds."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.asname:
                yield alias.asname, Imported(alias.name)
            else:
                top = alias.name.partition(".")[0]
                yield top, Imported(top)
        return
    origin = place.absolute(statement.level, statement.module)
    for alias in statement.names:
        if alias.name == "*":
            stars.append(origin)
        else:
            yield alias.asname or alias.name, Imported(origin, alias.name)


# ---- what a statement binds -----------------------------------------------------------------


def _bound(node: ast.AST, changed: bool = False) -> set[str]:
    """Names that the node assigns to in its own scope. `changed`: also those whose value it changes: `LIMITS["a"] = 1`."""
    found: set[str] = set()
    _bind(node, found, changed)
    return found


def _bind(node: ast.AST, found: set[str], changed: bool) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        found.add(node.name)
        return
    if isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
        # An assignment expression in a comprehension binds outside of it.
        found |= {part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr)}
        return
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(node.id)
        return
    if changed and isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        root = node.value
        while isinstance(root, (ast.Subscript, ast.Attribute)):
            root = root.value
        if isinstance(root, ast.Name):
            found.add(root.id)
    elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        found.add(node.name)
    elif isinstance(node, ast.MatchMapping) and node.rest:
        found.add(node.rest)
    if changed and isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        # `REGISTRY.append(…)`, `LIMITS.update(…)` on the module's level make what they are called on.
        called = node.value.func
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            found.add(called.value.id)
    for child in ast.iter_child_nodes(node):
        _bind(child, found, changed)


# ---- what a unit is, and what it uses -------------------------------------------------------


def _unit(node: ast.AST, place: _Place, summary: Summary) -> Unit:
    node = _without_ours(node, summary)
    uses = _Uses(place)
    text: list[str] = []
    try:
        uses.visit(node, [])
        _write(node, text)
    except RecursionError:  # a sum of a thousand terms: it counts as it is written
        first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(place.lines))
        text = [line.decode("utf-8", "replace") for line in place.lines[first - 1 : last]]
    digest = hashlib.sha256("".join(text).encode("utf-8", "surrogatepass")).hexdigest()
    return Unit(digest, frozenset(uses.chains), frozenset(uses.imports))


def _without_ours(node: ast.AST, summary: Summary) -> ast.AST:
    """The node without decorators of dagengine's."""
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node
    kept = [decorator for decorator in node.decorator_list if not _is_ours(decorator, summary)]
    if len(kept) == len(node.decorator_list):
        return node
    fields = {name: getattr(node, name) for name in node._fields if hasattr(node, name)}
    return ast.copy_location(type(node)(**{**fields, "decorator_list": kept}), node)


def _is_ours(decorator: ast.expr, summary: Summary) -> bool:
    root: ast.AST = decorator
    while isinstance(root, (ast.Call, ast.Attribute)):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not isinstance(root, ast.Name):
        return False
    return any(found.module.partition(".")[0] == "dagengine" for found in summary.names.get(root.id, ()))


def _write(node: object, text: list[str]) -> None:
    """The node as text, the same in all versions of Python that parse it alike: empty fields are left out."""
    if isinstance(node, ast.AST):
        text.append(type(node).__name__)
        text.append("(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is None and not (name == "value" and isinstance(node, ast.Constant)):
                continue
            if value == [] or name in ("ctx", "kind", "type_comment", "type_ignores"):
                continue
            text.append(f"{name}=")
            _write(value, text)
        text.append(")")
    elif isinstance(node, list):
        text.append("[")
        for item in node:
            if isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant):
                continue  # a docstring, or what stands like one
            _write(item, text)
        text.append("]")
    else:
        text.append(repr(node))
        text.append(",")


class _Scope:
    """Names bound in a function, class or comprehension; of those that an import binds, what to."""

    __slots__ = ("imports", "is_class", "names")

    def __init__(self, names: set[str], is_class: bool = False) -> None:
        self.names = names
        self.imports: dict[str, list[Imported]] = {}
        self.is_class = is_class


class _Uses:
    """Walks a unit and keeps the dotted names that lead out of it."""

    def __init__(self, place: _Place) -> None:
        self.chains: set[Chain] = set()
        self.imports: set[tuple[Imported, Chain]] = set()
        self._place = place

    def visit(self, node: ast.AST, scopes: list[_Scope]) -> None:
        if isinstance(node, ast.Name):
            self._use((node.id,), scopes)
        elif isinstance(node, ast.Attribute):
            self._attribute(node, scopes)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            self._function(node, scopes)
        elif isinstance(node, ast.ClassDef):
            self._class(node, scopes)
        elif isinstance(node, _COMPREHENSIONS):
            self._comprehension(node, scopes)
        else:
            self._all(ast.iter_child_nodes(node), scopes)

    def _all(self, nodes: Iterable[ast.AST], scopes: list[_Scope]) -> None:
        for node in nodes:
            self.visit(node, scopes)

    def _attribute(self, node: ast.Attribute, scopes: list[_Scope]) -> None:
        names = [node.attr]
        root: ast.expr = node.value
        while isinstance(root, ast.Attribute):
            names.append(root.attr)
            root = root.value
        if isinstance(root, ast.Name):
            self._use((root.id, *reversed(names)), scopes)
        else:
            self.visit(root, scopes)

    def _use(self, chain: Chain, scopes: list[_Scope]) -> None:
        for index in range(len(scopes) - 1, -1, -1):
            scope = scopes[index]
            if chain[0] not in scope.names or (scope.is_class and index != len(scopes) - 1):
                continue
            self.imports |= {(found, chain[1:]) for found in scope.imports.get(chain[0], ())}
            return
        self.chains.add(chain)

    def _function(self, node: Function | ast.Lambda, scopes: list[_Scope]) -> None:
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
        self._all([default for default in (*arguments.defaults, *arguments.kw_defaults) if default], scopes)
        self._all([argument.annotation for argument in named if argument.annotation], scopes)
        names = {argument.arg for argument in named}
        if isinstance(node, ast.Lambda):
            self.visit(node.body, [*scopes, _Scope(names)])
            return
        self._all(node.decorator_list, scopes)
        if node.returns:
            self.visit(node.returns, scopes)
        outer: set[str] = set()
        for statement in node.body:
            names |= _bound(statement)
            outer |= set(_declared_outer(statement))
        self._body(node.body, [*scopes, _Scope(names - outer)])

    def _class(self, node: ast.ClassDef, scopes: list[_Scope]) -> None:
        self._all([*node.decorator_list, *node.bases, *[keyword.value for keyword in node.keywords]], scopes)
        names: set[str] = set()
        for statement in node.body:
            names |= _bound(statement)
        self._body(node.body, [*scopes, _Scope(names, is_class=True)])

    def _body(self, body: list[ast.stmt], scopes: list[_Scope]) -> None:
        scope = scopes[-1]
        for statement in body:
            for found in _own_imports(statement):
                for name, imported in _imported(found, self._place, []):
                    scope.names.add(name)
                    scope.imports.setdefault(name, []).append(imported)
        self._all(body, scopes)

    def _comprehension(self, node: ast.AST, scopes: list[_Scope]) -> None:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        self.visit(generators[0].iter, scopes)
        inner = [*scopes, _Scope(set().union(*[_bound(generator.target) for generator in generators]))]
        for number, generator in enumerate(generators):
            self._all([*([generator.iter] if number else []), *generator.ifs], inner)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
        self._all(parts, inner)


def _own_imports(statement: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield statement
    elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        for child in ast.iter_child_nodes(statement):
            yield from _own_imports(child)


def _declared_outer(statement: ast.AST) -> Iterator[str]:
    """Names that the function takes from outside by `global` or `nonlocal`."""
    if isinstance(statement, (ast.Global, ast.Nonlocal)):
        yield from statement.names
    elif not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        for child in ast.iter_child_nodes(statement):
            yield from _declared_outer(child)


@lru_cache(maxsize=512)
def summary_of(source: bytes, module: str, package: bool) -> Summary:
    """`summarize`, remembered."""
    return summarize(source, module, package)
