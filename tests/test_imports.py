"""Who may import whom (docs/design.md, section 2), read from every module's syntax tree.

Imports inside functions and under TYPE_CHECKING count as well: a direction that is only taken late is still taken.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "dagengine": ROOT / "dagengine",
    "dagengine.runtime": ROOT / "runtime",
    "dagengine.storage": ROOT / "storage",
    "dagengine.migrations": ROOT / "migrations",
    "dagengine.airflow_plugin": ROOT / "airflow_plugin",
}

BASE = {"errors", "units", "validation", "model", "values", "functions", "identity", "packs", "remote_files"}

MAY_IMPORT = {
    "base": {"base"},
    "runtime": {"base", "runtime"},
    "storage": {"base", "storage"},
    "workflow": {"base", "runtime", "storage", "workflow"},
    # What `dagengine airflow` writes is known to the plugin; it works without Airflow.
    "cli": {"base", "storage", "workflow", "cli", "airflow_plugin"},
    "airflow_plugin": {"base", "workflow", "airflow_plugin"},
    # `python -m dagengine` is the command line.
    "main": {"cli"},
}

ONLY_OF_OURS = {
    "dagengine.runtime.protocol": {"dagengine.errors", "dagengine.model", "dagengine.values"},
    "dagengine.storage.interface": {"dagengine.errors", "dagengine.model", "dagengine.storage.writes"},
    "dagengine.storage.writes": {"dagengine.model"},
    "dagengine.errors": set(),
    "dagengine.units": set(),
    "dagengine.validation": {"dagengine.errors"},
    "dagengine.model": set(),
}
"""Modules that others build on from outside: what their docstrings promise of them."""

LIBRARY_STAYS_IN = {
    "sqlalchemy": {"storage"},
    "alembic": {"storage"},
    "sqlite3": {"storage"},
    "psycopg": {"storage"},
    "msgspec": {"runtime"},
    "click": {"cli"},
    "rich": {"cli"},
    "networkx": {"workflow", "cli"},  # a graph is what `dagengine graph` hands from the one to the other
    "airflow": {"airflow_plugin"},
}
"""A library is known to one layer, which translates it for the others."""

WORLD = {
    "asyncio",
    "datetime",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
}
"""What a pure core must not see: clocks, chance, files, processes, threads."""

PURE = {
    # What can be written is the store's vocabulary; the core asks for it in these words.
    "dagengine.core": ("dagengine.core", "dagengine.options", "dagengine.storage.writes"),
    "dagengine.runtime.core": ("dagengine.runtime.core", "dagengine.runtime.protocol"),
    "dagengine.runtime.allocator": (),
    "dagengine.runtime.dispatch": ("dagengine.runtime.dispatch", "dagengine.runtime.protocol"),
}
"""The pure cores, and what they may import beside the base."""


@dataclass(frozen=True)
class Import:
    """`name`: the whole path, of the imported name, too, where it is a module. `inside`: the importing module."""

    name: str
    inside: str
    line: int


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            # The links in dagengine/ show the other folders a second time.
            if package == "dagengine" and any(link in file.parents for link in folder.iterdir() if link.is_symlink()):
                continue
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


MODULES = _modules()
# A package's front is known by its folder, also where it has no __init__.
PACKAGES = {module.rpartition(".")[0] for module in MODULES} | set(FOLDERS)


def _layer(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1:
        return "workflow"
    if parts[1] in ("runtime", "storage", "airflow_plugin", "cli"):
        return parts[1]
    if parts[1] == "migrations":
        return "storage"
    if parts[1] == "__main__":
        return "main"
    return "base" if parts[1] in BASE else "workflow"


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def _imports(module: str) -> list[Import]:
    found = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, module, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports by a relative name; give the full one"
            source = node.module or ""
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                if whole == "dagengine.__version__":
                    continue  # defined in the front itself, beside nothing that is heavy
                found.append(Import(whole if whole in MODULES or whole in PACKAGES else source, module, node.lineno))
    return found


def _of_ours(module: str) -> list[Import]:
    return [found for found in _imports(module) if found.name.split(".")[0] == "dagengine"]


def _say(wrong: list[Import], rule: str) -> str:
    return "\n".join(f"{at.inside}:{at.line} imports {at.name}; {rule}" for at in wrong)


def test_the_modules_are_found_once_and_in_every_layer() -> None:
    """The tests below look at the real files of all layers, not at the links, and not at nothing."""
    assert {"base", "runtime", "storage", "workflow"} <= {_layer(module) for module in MODULES}
    real = [file.resolve() for file in MODULES.values()]
    assert len(set(real)) == len(real)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    """Each module opens with a docstring."""
    assert ast.get_docstring(_tree(module)), f"{module} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_layers(module: str) -> None:
    """A module imports only from the layers that its own layer may know."""
    allowed = MAY_IMPORT[_layer(module)]
    wrong = [found for found in _of_ours(module) if _layer(found.name) not in allowed]
    assert not wrong, _say(wrong, f"the {_layer(module)} layer may import {', '.join(sorted(allowed))}")


@pytest.mark.parametrize("module", MODULES)
def test_inner_modules_import_from_where_a_thing_is_defined(module: str) -> None:
    """Nothing inside imports from the package's public front, which is there for users and imports them all."""
    wrong = [found for found in _of_ours(module) if found.name == "dagengine"]
    assert not wrong, _say(wrong, "name the module that defines it")


@pytest.mark.parametrize("module", ONLY_OF_OURS)
def test_contracts_and_base_modules_import_no_more_than_they_say(module: str) -> None:
    """What second implementations are written against stays small."""
    wrong = [found for found in _of_ours(module) if found.name not in ONLY_OF_OURS[module]]
    assert not wrong, _say(wrong, f"it may import {', '.join(sorted(ONLY_OF_OURS[module])) or 'nothing of ours'}")


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_imported_by_their_full_name(module: str) -> None:
    """`import storage` would load a second copy of every class, next to the one of dagengine.storage."""
    folders = {name.rpartition(".")[2] for name in FOLDERS} - {"dagengine"}
    wrong = [found for found in _imports(module) if found.name.split(".")[0] in folders]
    assert not wrong, _say(wrong, "write dagengine.… in front")


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_known_to_one_layer(module: str) -> None:
    """SQL stays in storage, the terminal in cli, Airflow in its plugin."""
    wrong = [
        found
        for found in _imports(module)
        if (library := found.name.split(".")[0]) in LIBRARY_STAYS_IN and _layer(module) not in LIBRARY_STAYS_IN[library]
    ]
    assert not wrong, _say(wrong, "its layer does not know that library")


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(tuple(PURE))])
def test_the_pure_cores_see_no_world(module: str) -> None:
    """The cores decide and do not do: they import no clock, chance, file, process or thread."""
    wrong = [found for found in _imports(module) if found.name.split(".")[0] in WORLD]
    assert not wrong, _say(wrong, "a core gets it as an argument, or leaves it to its shell")
    allowed = next(allowed for core, allowed in PURE.items() if module.startswith(core))
    outside = [
        found for found in _of_ours(module) if _layer(found.name) != "base" and not found.name.startswith(allowed)
    ]
    assert not outside, _say(outside, f"beside the base it may import {' and '.join(allowed)}")


@pytest.mark.parametrize("module", MODULES)
def test_every_import_is_a_dependency_or_the_standard_library(module: str) -> None:
    """No module leans on a package that pyproject.toml does not name."""
    named = {
        *("alembic", "click", "cloudpickle", "fsspec", "grpc", "msgspec", "networkx", "pyarrow", "rich", "sqlalchemy"),
        *("psycopg", "airflow", "ray", "starlette", "uvicorn", "numpy", "matplotlib", "dask", "joblib", "pynvml"),
        "aiohttp",  # of gcsfs, for whose filesystem it is imported
        *("attr", "openlineage"),  # only when Airflow's provider for OpenLineage calls, which brings them
    }
    known = named | sys.stdlib_module_names | {"dagengine"}
    wrong = [found for found in _imports(module) if found.name.split(".")[0] not in known]
    assert not wrong, _say(wrong, "pyproject.toml has no such dependency")
