"""Workflows of the tests of `dagengine serve`. Each execution of a step appends its key to the ledger."""

from __future__ import annotations

import os
import signal
from datetime import datetime
from pathlib import Path

from dagengine import context, get, sleep, task, wait_event, workflow

FOLDER = "DAGENGINE_TEST_FOLDER"


def mark(word: str) -> None:
    """Note it in a file that survives SIGKILL."""
    descriptor = os.open(Path(os.environ[FOLDER]) / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word}\n".encode())
    os.close(descriptor)


@task
def double(x: int) -> int:
    mark(f"double-{x}")
    return 2 * x


@task
def hold(x: int) -> int:
    """Say who works on it, and wait until somebody lets go."""
    mark(f"hold-{x}")
    folder = Path(os.environ[FOLDER])
    host = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])
    (folder / "started").write_text(f"{host}\n")
    (folder / "go").read_text()
    return x + 1


@task
def make_large(x: int) -> bytes:
    """As `hold`, but for the pipe `go-large`; what it returns is an artifact."""
    mark(f"large-{x}")
    folder = Path(os.environ[FOLDER])
    (folder / "started").write_text(f"{os.getpid()}\n")
    (folder / "go-large").read_text()
    return bytes(100_000)


@task(retries=0)
def section(key: str) -> None:
    """A part that must not run twice at once for one key: whoever finds the file of another one says so."""
    file = Path(os.environ[FOLDER]) / f"in-{key}"
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        mark(f"twice-{key}")
        raise
    mark(f"section-{context().run_id}")
    file.unlink()


@task(retries=0)
def forkers_end(x: int) -> int:
    """Kill the process that this one was forked from: no worker can be started any more."""
    mark(f"forkers-end-{x}")
    os.kill(os.getppid(), signal.SIGKILL)
    (Path(os.environ[FOLDER]) / "go").read_text()
    return x


@workflow
def workless(x: int) -> int:
    return forkers_end(x)


@workflow
def doubled(x: int) -> int:
    return double(x)


@workflow
def held(x: int) -> int:
    return double(hold(double(x)))


@workflow
def large(x: int) -> int:
    return len(get(make_large(x)))


@workflow
def alone(key: str) -> None:
    section(key)


@workflow
def deadly() -> None:
    """Takes down the process of its body, always."""
    mark("deadly")
    os.kill(os.getpid(), signal.SIGKILL)


@workflow
def failing(x: int) -> int:
    raise ValueError(f"no {x}")


@workflow
def timed(x: int, logical_time: datetime) -> str:
    return f"{get(double(x))} {logical_time:%Y-%m-%d}"


@workflow
def sleeping(x: int) -> int:
    sleep(2)
    return double(x)


@workflow
def waiting(x: int) -> int:
    return double(x + wait_event("more"))
