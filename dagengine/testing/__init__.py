"""For tests of workflows: an engine with nothing behind it, a clock that jumps, fakes of tasks, and a process that dies at
every write.

    from dagengine.testing import crash_everywhere, memory_engine

    with memory_engine() as engine:
        assert engine.start(nightly, 2013).result() == 42

    crash_everywhere(nightly, 2013)

The store is in memory, the tasks run one after the other in this process (so that a debugger stops in them), and large
values go to a folder that is removed at the end. May import everything but the command line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagengine.engine import Engine
from dagengine.runtime.protocol import Runtime
from dagengine.testing.crashes import Crash, CrashFailure, CrashReport, crash_at, crash_everywhere
from dagengine.testing.fakes import Fake, fake
from dagengine.testing.mortal import ProcessDied
from dagengine.testing.virtual import VirtualClock

__all__ = [
    "Crash",
    "CrashFailure",
    "CrashReport",
    "Fake",
    "ProcessDied",
    "VirtualClock",
    "crash_at",
    "crash_everywhere",
    "fake",
    "memory_engine",
]


@contextmanager
def memory_engine(runtime: Runtime | None = None, **options: Any) -> Iterator[Engine]:
    """An open engine on a store in memory. `runtime`: instead of running tasks in this process. `options`: `Engine`'s."""
    from dagengine.runtime.inline import InlineRuntime

    with (
        tempfile.TemporaryDirectory(prefix="dagengine-") as folder,
        Engine(
            "memory:", home=folder, artifacts=f"{folder}/artifacts", runtime=runtime or InlineRuntime(), **options
        ) as engine,
    ):
        yield engine
