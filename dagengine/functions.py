"""How a function is named, so that another process, today or after a crash, finds the same one.

A function of an importable module is named by module and qualified name; one of a file given on the command line also
by the file's path, which is loaded under the file's stem as its module name. What no name leads to travels by value: what
is in `__main__` (a notebook, `python -c`), in another function, a lambda, what was defined twice or in a loop. Every
process that loads the same reference gets the same module object.

May import nothing of ours but errors and packs.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from inspect import unwrap
from pathlib import Path
from traceback import walk_tb
from types import FunctionType
from typing import Any, Final

from dagengine.errors import DagengineError, LoadError, Unpicklable
from dagengine.packs import serves

_OURS: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Reference:
    """file: absolute path of a module that is not importable by name. pickled: hex of the function by value. change: hex of
    what makes the function that is meant of the one that its name leads to, pickled"""

    module: str
    qualname: str
    file: str | None = None
    pickled: str | None = None
    change: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Reference:
        return cls(fields["module"], fields["qualname"], *map(fields.get, ("file", "pickled", "change")))

    def __str__(self) -> str:
        return f"{self.file or self.module}:{self.qualname}"


_files: dict[str, str] = {}
"""Module name -> absolute path, of the modules that this process loaded from a file."""


def load_file(path: str) -> Any:
    """The module in the file `path`, loaded once under its stem. Its folder goes to the front of sys.path.

    Raises LoadError if there is no such file, its name is taken by another module, or it raises.
    """
    file = Path(path).resolve()
    name = file.stem
    if not name.isidentifier():
        raise LoadError(f"{path} can't be a module: rename the file to a Python identifier")
    loaded = sys.modules.get(name)
    if loaded is not None:
        if _files.get(name, getattr(loaded, "__file__", None)) == str(file):
            return loaded
        raise LoadError(f"{path}: a module named {name} is already loaded. Rename the file.")
    if serves(name, str(file)):
        _files[name] = str(file)
        _search_in(file.parent)
        return load_module(name)
    if not file.is_file():
        raise LoadError(f"there is no file {path}. Name a Python file, as in FILE.py:WORKFLOW.")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is not a Python file. Name one, as in FILE.py:WORKFLOW.")
    _search_in(file.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _files[name] = str(file)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name], _files[name]
        if not isinstance(error, Exception):
            raise
        raise LoadError(f"{path} can't be loaded: {describe(error)}{_of_a_package(file, error)}") from error
    return module


def _of_a_package(file: Path, error: Exception) -> str:
    """What to do about a relative import: a file that is named as a file belongs to no package."""
    root, names = file.parent, [file.stem]
    if not isinstance(error, ImportError) or "relative import" not in str(error):
        return ""
    while (root / "__init__.py").is_file():
        root, names = root.parent, [root.name, *names]
    return f". Name it as a module, in the folder {root}: {'.'.join(names)}" if len(names) > 1 else ""


def _search_in(folder: Path) -> None:
    """Let modules beside a file be imported, as Python does for a script."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def describe(error: BaseException) -> str:
    """One line: the exception's type, text and, for code of a user's file, the line it came from."""
    text = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    frames = [(Path(frame.f_code.co_filename), number) for frame, number in walk_tb(error.__traceback__)]
    while len(frames) > 1 and isinstance(error, DagengineError) and _is_ours(frames[-1][0]):
        frames.pop()  # what refuses an option is not what is wrong
    if frames and not isinstance(error, SyntaxError):
        line += f" (line {frames[-1][1]} of {frames[-1][0].name})"
    return line


def _is_ours(file: Path) -> bool:
    return _OURS in file.parents or file.name in ("<string>", "dataclasses.py")  # on the way to a __post_init__


def load_module(name: str) -> Any:
    """Import the module `name`. Raises LoadError."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise LoadError(f"module {name} can't be imported: {describe(error)}") from error


def refer(function: Callable[..., Any]) -> Reference:
    """The reference of `function`: its name, if that leads to it (through decorators, too), and else itself, by value.

    Raises Unpicklable if it has to travel by value and can't.
    """
    function = getattr(function, "one_call_of", None) or function
    module, qualname = getattr(function, "__module__", None) or "", function.__qualname__
    if module == "__main__":
        return Reference(module, qualname, main_file(), _by_value(function, qualname))
    file = _files.get(module)
    if not has_name(function):
        return Reference(module, qualname, file, _by_value(function, qualname))
    named = _of_ours(_named(module, qualname))
    change = function.change_from(named) if named is not function and hasattr(function, "change_from") else None
    return Reference(module, qualname, file, None, None if change is None else _by_value(change, qualname))


def has_name(function: Any) -> bool:
    """Whether its module and qualified name lead to this function, class, or what a decorator of ours has made of it."""
    named = _named(getattr(function, "__module__", None) or "", function.__qualname__)
    return _plain(_of_ours(named)) is _plain(function) or named is function


def _named(module: str, qualname: str) -> Any:
    """What the name leads to in this process; None if there is nothing."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _of_ours(named: Any) -> Any:
    """What a decorator of ours has made, where others have put functions around it; else what is named."""
    if not isinstance(named, FunctionType):
        return named
    inner: Any = unwrap(named, stop=lambda function: not isinstance(function, FunctionType))
    return inner if hasattr(inner, "function") else named


def _plain(function: Any) -> Any:
    """The function or class in what a decorator of ours has made."""
    return function if isinstance(function, (type, FunctionType)) else getattr(function, "function", function)


def _by_value(value: Any, name: str) -> str:
    import cloudpickle

    try:
        return str(cloudpickle.dumps(value, 5).hex())
    except DagengineError:
        raise  # of a task in it, which says what to do
    except Exception as error:
        what = f"{name}, which has no name that another process could import it by,"
        raise Unpicklable(what, "its code, or what it closes over", describe(error)) from error


_today: dict[tuple[str, str], Callable[..., Any]] = {}
"""(module, qualified name) -> what this process has of it today, of what travels by value."""


def stand_for(function: Callable[..., Any]) -> None:
    """A function that no name leads to is what its module and qualified name mean today, in this process."""
    _today[function.__module__, function.__qualname__] = function


def today(reference: Reference) -> Reference:
    """The same function as it is today, of one that travels by value, where this process has said (`stand_for`)."""
    function = _today.get((reference.module, reference.qualname)) if reference.pickled is not None else None
    return reference if function is None else refer(function)


def named_by_itself(value: Any) -> bool:
    """Whether another process finds this very object by its module and qualified name."""
    module = value.__module__ or ""
    return module in sys.modules and module != "__main__" and _named(module, value.__qualname__) is value


def main_file() -> str | None:
    """The absolute path of the script that runs as `__main__`, if it is one. (What comes from a pipe is none.)"""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return str(Path(path).resolve()) if path and path != "<stdin>" else None


def resolve(reference: Reference) -> Any:
    """The object that the reference names: the decorated one, where there is a decorator of ours. Raises LoadError."""
    if reference.pickled is not None:
        return pickle.loads(bytes.fromhex(reference.pickled))
    module = load_file(reference.file) if reference.file else load_module(reference.module)
    found = module
    for part in reference.qualname.split("."):
        if part == "<locals>" or not hasattr(found, part):
            raise LoadError(f"{reference.file or reference.module} has no {reference.qualname}. Was it renamed?")
        found = getattr(found, part)
    found = _of_ours(found)
    return found if reference.change is None else pickle.loads(bytes.fromhex(reference.change))(found)
