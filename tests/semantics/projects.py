"""Projects that tests write, load, change and load anew, as a process that was started later would."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagengine import functions
from dagengine.code.project import loaded_sources
from dagengine.functions import load_file
from dagengine.packs import importers


class ProjectFolder:
    """The files of a project. `load` gives its workflow, `forget` lets the next load see the files as they are then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = set(sys.modules)
        self._path = list(sys.path)

    def write(self, files: dict[str, str]) -> None:
        """By name, without the suffix. A module of that name may be left of another test in this process: it goes."""
        for name, text in files.items():
            module = sys.modules.get(name)
            if module is not None and not str(module.__file__).startswith(str(self.folder)):
                del sys.modules[name]
                functions._files.pop(name, None)
                self._before.discard(name)
            file = self.folder / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))

    def change(self, name: str, old: str, new: str) -> None:
        file = self.folder / f"{name}.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def load(self, name: str = "flow", file: str = "flow") -> Any:
        return getattr(load_file(str(self.folder / f"{file}.py")), name)

    def forget(self) -> None:
        """As if this process had loaded nothing of the project, and no pack."""
        for name in set(sys.modules) - self._before:
            module = sys.modules[name]
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)) or _is_namespace(module):
                del sys.modules[name]
                functions._files.pop(name, None)
        for importer in list(importers()):
            sys.meta_path.remove(importer)
        sys.path[:] = self._path
        sys.path_importer_cache.clear()
        loaded_sources().foreign.clear()


def _is_namespace(module: Any) -> bool:
    return getattr(module, "__file__", None) is None and hasattr(module, "__path__")


@contextmanager
def project_folder(folder: Path) -> Iterator[ProjectFolder]:
    found = ProjectFolder(folder)
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # files that change within a second would be taken for what was compiled before
    try:
        yield found
    finally:
        sys.dont_write_bytecode = writes
        found.forget()
