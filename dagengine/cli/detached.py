"""Runs in the background: a process of its own session that resumes what was recorded, and outlives the terminal.

The parent returns when the child says over a pipe that it owns the run; so what is asked of the run right after
(`wait`, `cancel`) finds an owner. A child that dies before that closes the pipe, and its last line is shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagengine.cli.machine import machine_words, secret_environment
from dagengine.cli.stores import writing_values
from dagengine.cli.terminal import clean
from dagengine.errors import RuntimeStopped

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.workflows import Workflow

READY = b"r"


def record(
    settings: Settings,
    workflow: Workflow[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    run_id: str | None = None,
    refresh: Sequence[str] = (),
) -> str:
    """Record the run, which nobody works on yet; returns its id."""
    from dagengine.recording import record_run

    with writing_values(settings) as (store, artifacts):
        return record_run(store, artifacts, workflow, args, kwargs, run_id=run_id, refresh=refresh)


def spawn(settings: Settings, run_id: str, *further: str) -> int:
    """Start the process that works on the run; returns its pid when it owns the run. Raises RuntimeStopped."""
    from dagengine.config import create_private

    log = create_private(settings.logs / run_id) / "controller.log"
    reading, writing = os.pipe()
    words = [sys.executable, "-m", "dagengine", "resume", run_id]
    words += [*machine_words(settings), "--ready-fd", str(writing), *further]
    environment = {**os.environ, "DAGENGINE_HOME": str(settings.home.value), **secret_environment(settings)}
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            start_new_session=True,
            env=environment,
        )
    finally:
        os.close(output)
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if pipe.read(1) == READY:
            process.returncode = 0  # it goes on by itself: nobody here waits for its end
            return process.pid
    status = process.wait()
    raise RuntimeStopped(
        f"the background process ended with status {status} before it had begun: {_last_line(log)} All it said is in"
        f" {log}."
    )


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    line = clean(lines[-1], 500) if lines else "it said nothing"
    return line if line.endswith((".", "?", "!")) else f"{line}."


def tell_ready(descriptor: int) -> None:
    """Say to the parent that this process owns the run."""
    try:
        os.write(descriptor, READY)
        os.close(descriptor)
    except OSError:
        pass  # the parent did not wait for it
