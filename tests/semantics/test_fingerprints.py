"""What changes a fingerprint, and what does not."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pytest

from dagengine import task
from dagengine.code.fingerprints import described, difference, fingerprint, fingerprint_of


@dataclass
class _Source:
    data: bytes
    package: bool = False


class _Sources:
    """Modules as text, by name; a name that ends with a dot is a package."""

    def __init__(self, **modules: str) -> None:
        self._modules = {name.replace("__", "."): textwrap.dedent(text) for name, text in modules.items()}

    def find(self, name: str) -> _Source | None:
        for suffix in ("", "."):
            text = self._modules.get(name + suffix)
            if text is not None:
                return _Source(text.encode(), bool(suffix))
        return None


def _of(text: str, name: str = "f", **modules: str) -> str:
    found = fingerprint_of(_Sources(flow=text, **modules), "flow", name)
    assert found is not None
    return found.digest


BASE = """
import os
from dagengine import task
from helpers import clean
import tools.text as text

LIMIT = 10
LIMITS = {"a": 1}
LIMITS["b"] = 2

def inner(x):
    return x + LIMIT

@task(retries=3)
def f(x):
    "What it does."
    # why it does it
    return clean(inner(x)) + text.width(x) + LIMITS["a"]

def unrelated():
    return 1
"""
HELPERS = "def clean(x):\n    return strip(x)\ndef strip(x):\n    return x\ndef other():\n    return 0\n"
TEXT = "WIDTH = 3\ndef width(x):\n    return WIDTH\n"
MODULES = {"helpers": HELPERS, "tools__": "", "tools__text": TEXT}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # why it does it\n", ""),
        ('    "What it does."\n', '    """Something else."""\n'),
        ("retries=3", "retries=5"),
        ("    return 1\n", "    return 2\n"),
        ("def inner(x):\n", "\n\n\ndef inner(\n    x,\n):\n"),
        ("import os\n", "import os\nimport sys\n"),
    ],
)
def test_what_a_function_does_not_do_by_does_not_change_its_fingerprint(old: str, new: str) -> None:
    """Comments, docstrings, layout, options that are recorded, and other functions."""
    assert old in BASE
    assert _of(BASE.replace(old, new), **MODULES) == _of(BASE, **MODULES)


@pytest.mark.parametrize(
    ("module", "old", "new", "names"),
    [
        ("flow", "clean(inner(x))", "clean(x)", ["f", "inner", "LIMIT"]),
        ("flow", "x + LIMIT", "x - LIMIT", ["inner"]),
        ("flow", "LIMIT = 10", "LIMIT = 11", ["LIMIT"]),
        ("flow", 'LIMITS["b"] = 2', 'LIMITS["b"] = 3', ["LIMITS"]),
        ("helpers", "return strip(x)", "return strip(x) + 1", ["helpers:clean"]),
        ("helpers", "strip(x):\n    return x", "strip(x):\n    return -x", ["helpers:strip"]),
        ("tools__text", "WIDTH = 3", "WIDTH = 4", ["tools.text:WIDTH"]),
    ],
)
def test_a_change_of_what_a_function_reaches_changes_its_fingerprint(
    module: str, old: str, new: str, names: list[str]
) -> None:
    """Its own body, project functions through imports and module attributes, globals; the difference names them."""
    modules = {"flow": BASE, **MODULES}
    assert old in modules[module]
    before = fingerprint_of(_Sources(**modules), "flow", "f")
    after = fingerprint_of(_Sources(**{**modules, module: modules[module].replace(old, new)}), "flow", "f")
    assert before is not None
    assert after is not None
    assert before.digest != after.digest
    assert difference(before, after) == sorted(names)


def test_a_local_name_is_not_the_global_of_that_name() -> None:
    """A parameter, a variable, a comprehension's own: the global may change. One that is declared global counts."""
    text = "x = 1\ny = 2\ndef f(x):\n    y = x\n    return [y for y in range(3)], (lambda z: z + y)(y)\n"
    assert _of(text) == _of(text.replace("x = 1", "x = 9").replace("y = 2", "y = 9"))
    text = "y = 2\ndef f():\n    global y\n    y += 1\n"
    assert _of(text) != _of(text.replace("y = 2", "y = 3"))


def test_imports_within_functions_and_by_star_are_followed() -> None:
    """Where the import stands makes no difference to what it brings."""
    for text in (
        "def f(x):\n    from helpers import clean as c\n    return c(x)\n",
        "def f(x):\n    import helpers\n    return helpers.clean(x)\n",
        "from helpers import *\ndef f(x):\n    return clean(x)\n",
        "try:\n    from helpers import clean\nexcept ImportError:\n    clean = None\ndef f(x):\n    return clean(x)\n",
    ):
        changed = {**MODULES, "helpers": HELPERS.replace("return x", "return -x")}
        assert _of(text, **MODULES) != _of(text, **changed)
        other = {**MODULES, "helpers": HELPERS.replace("return 0", "return 7")}
        assert _of(text, **MODULES) == _of(text, **other)


def test_a_module_as_a_value_counts_whole() -> None:
    """`getattr(helpers, name)` may use any of it."""
    text = "import helpers\ndef f(name):\n    return getattr(helpers, name)\n"
    other = {**MODULES, "helpers": HELPERS.replace("return 0", "return 7")}
    assert _of(text, **MODULES) != _of(text, **other)


def test_modules_that_import_each_other_have_fingerprints() -> None:
    """Circles of functions and of star imports end."""
    a = "from b import *\ndef f(x):\n    return g(x)\n"
    b = "from flow import *\ndef g(x):\n    return f(x) if x else missing\n"
    assert _of(a, b=b) != _of(a, b=b.replace("if x", "if not x"))


def test_a_class_and_a_very_long_expression_count() -> None:
    """A class with its bases; an expression too deep to be walked, as it is written."""
    text = "class A:\n    n = 1\nclass f(A):\n    def m(self):\n        return self.n\n"
    assert _of(text) != _of(text.replace("n = 1", "n = 2"))
    long = "def f(a):\n    return " + " + ".join(["a"] * 2_000) + "\n"
    assert _of(long) == _of(long)
    assert _of(long) != _of(long.replace("return a", "return -a"))


def test_functions_without_source_of_their_own_count_by_their_code() -> None:
    """Closures and lambdas: their code, and the values that they close over."""

    def make(n: int, data: dict[str, list[int]]) -> object:
        @task
        def scaled(x: int) -> int:
            return x * n + len(data)

        return scaled

    same = {fingerprint(make(2, {"a": [1]})) for _ in range(3)}
    assert len(same) == 1
    assert fingerprint(make(3, {"a": [1]})) not in same
    assert fingerprint(make(2, {"a": [2]})) not in same
    assert fingerprint(lambda x: x + 1) != fingerprint(lambda x: x + 2)


@task
def _here(x: int) -> int:
    return _helper(x)


def _helper(x: int) -> int:
    return x


def test_a_loaded_task_has_the_fingerprint_of_its_source() -> None:
    """With what it names; a declared version makes another one of it."""
    assert set(described(_here).parts) == {".:_here", ".:_helper"}
    assert fingerprint(_here) != fingerprint(_here.options(version="2"))
    assert fingerprint(_here) == fingerprint(_here.options(retries=2))
    assert fingerprint(len) == ""
