"""The command line in this process, on a home of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagengine.cli import main
from dagengine.storage import open_store
from dagengine.storage.interface import Store


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of the commands of this test. Not there yet."""
    folder = tmp_path / "home"
    monkeypatch.setenv("DAGENGINE_HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process."""

    def run(*words: str) -> Done:
        capsys.readouterr()
        status = main(words)
        out, err = capsys.readouterr()
        return Done(status, out, err)

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store that nothing was written to: copying it is quicker than making one."""
    file = tmp_path_factory.mktemp("empty") / "store.db"
    open_store(str(file)).close()
    return file


@pytest.fixture
def store(home: Path, empty_store: Path) -> Iterator[Store]:
    """The store that the commands of this test look into."""
    home.mkdir(mode=0o700)
    shutil.copy(empty_store, home / "store.db")
    opened = open_store(str(home / "store.db"))
    yield opened
    opened.close()
