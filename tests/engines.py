"""Engines for tests that go on in a further process, as far as the engine can tell: one after the other on one folder."""

from __future__ import annotations

from pathlib import Path

from dagengine.engine import Engine
from dagengine.runtime.inline import InlineRuntime
from dagengine.runtime.protocol import Runtime


def opened(folder: Path, runtime: Runtime | None = None) -> Engine:
    """On the SQLite store in the folder. Its tasks run in this process, if no other runtime is given."""
    return Engine(folder / "store.db", home=folder, runtime=InlineRuntime() if runtime is None else runtime)
