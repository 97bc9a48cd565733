"""What is installed is what is here: the list of packages, the wheel's files, the errors, the public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dagengine import errors

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]
PACKAGE_DIR: dict[str, str] = PYPROJECT["tool"]["setuptools"]["package-dir"]
LINKS = ("airflow_plugin", "migrations", "runtime", "storage")
ERRORS = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if thing.__module__ == errors.__name__]


def _folder(package: str) -> Path:
    """Where the package's files lie, by the build's own rule: the longest mapped parent wins."""
    parts = package.split(".")
    for length in range(len(parts), 0, -1):
        mapped = PACKAGE_DIR.get(".".join(parts[:length]))
        if mapped is not None:
            return ROOT.joinpath(mapped, *parts[length:])
    return ROOT.joinpath(*parts)


def _modules() -> set[str]:
    """Every Python file of the package, as the path that it has when it is installed."""
    found = set()
    for top, name in [(ROOT / "dagengine", "dagengine"), *((ROOT / link, f"dagengine/{link}") for link in LINKS)]:
        for file in top.rglob("*.py"):
            if not any(parent.is_symlink() for parent in file.parents if parent.is_relative_to(top)):
                found.add(f"{name}/{file.relative_to(top).as_posix()}")
    return found


def test_the_list_of_packages_is_the_list_of_folders() -> None:
    """A new folder of modules is named in pyproject.toml, or it would be missing from every installation."""
    folders = {file.rpartition("/")[0].replace("/", ".") for file in _modules()}
    assert sorted(folders) == sorted(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_a_regular_one(package: str) -> None:
    """Each package has an __init__: without one, mypy, pytest and editors disagree on its name."""
    assert (_folder(package) / "__init__.py").is_file()


@pytest.mark.parametrize("name", LINKS)
def test_a_link_stands_for_a_folder_of_the_repository(name: str) -> None:
    """Checkouts and checkers see one package; the link is relative, so a clone may lie anywhere."""
    link = ROOT / "dagengine" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert link.is_dir()


def test_a_wheel_holds_all_modules_and_nothing_else(tmp_path: Path) -> None:
    """The built wheel has each module once, at its installed place, the marker for types, and no tests or examples."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    leave = shutil.ignore_patterns("__pycache__")
    for folder in ("dagengine", *LINKS, "tests", "examples"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=leave)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    [wheel] = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    modules = [name for name in names if name.endswith(".py")]
    assert sorted(modules) == sorted(_modules())
    assert set(names) - set(modules) == {"dagengine/py.typed", "dagengine/migrations/script.py.mako"}


def _example_of(error: type[BaseException]) -> BaseException:
    if error is errors.Unpicklable:
        return errors.Unpicklable("the result of load", "result['file']", "cannot pickle '_io.TextIOWrapper' object")
    if not issubclass(error, errors.DagengineError):
        return error("an invariant is broken")
    fields: dict[str, Any] = {
        "key": "nightly/load[0]",
        "run_id": "7f3a",
        "failed": ("nightly/load[0]",),
        "timeout": 2.5,
    }
    return error("what is wrong (where). What to do.", **fields)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.__name__))
def test_an_error_survives_pickling(error: type[BaseException]) -> None:
    """Whoever catches an error in another process sees the same class, message and fields."""
    before = _example_of(error)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is error
    assert str(after) == str(before)
    assert after.args == before.args
    assert vars(after) == vars(before)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.__name__))
def test_an_error_tells_the_command_line_how_to_end(error: type[BaseException]) -> None:
    """Each error has an exit status: 1 to 5 say who has to act, 70 is our own bug, 130 an interrupt."""
    assert getattr(error, "exit_status", None) in {1, 2, 3, 4, 5, 70, 130}


def test_an_error_of_ours_is_not_caught_by_accident() -> None:
    """A broken invariant is outside of the tree that users catch."""
    assert not issubclass(errors.InternalError, errors.DagengineError)


def test_every_public_name_is_there_and_is_named_once() -> None:
    """What `dagengine.__all__` promises can be imported, and is one thing under one name."""
    front = importlib.import_module("dagengine")
    assert len(set(front.__all__)) == len(front.__all__)
    things = {name: getattr(front, name) for name in front.__all__}
    objects = [thing for thing in things.values() if inspect.isclass(thing) or inspect.isfunction(thing)]
    assert len({id(thing) for thing in objects}) == len(objects)
    assert all(thing.__module__.startswith("dagengine.") for thing in objects)


def test_type_checkers_see_the_names_that_are_there() -> None:
    """What is imported for checkers is what is loaded on first use: the same names, from the same modules."""
    front = importlib.import_module("dagengine")
    tree = ast.parse((ROOT / "dagengine" / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    for_checkers = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted(for_checkers) == sorted(front.__all__)
    for name, module in for_checkers.items():
        assert getattr(importlib.import_module(str(module)), name) is getattr(front, name)


def test_a_public_name_is_no_module_unless_it_stands_for_one() -> None:
    """`dagengine.task` stays the decorator whatever is imported: no module of the package is named like a public name."""
    front = importlib.import_module("dagengine")
    modules = {file.stem for file in (ROOT / "dagengine").glob("*.py")}
    assert {name for name in front.__all__ if name in modules} == {
        name for name in front.__all__ if inspect.ismodule(getattr(front, name))
    }


def test_the_version_is_the_one_of_pyproject() -> None:
    """`dagengine.__version__` can't drift from what is released."""
    assert importlib.import_module("dagengine").__version__ == PYPROJECT["project"]["version"]
