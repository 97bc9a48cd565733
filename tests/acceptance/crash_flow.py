"""A small workflow with everything in it, and a program that runs or resumes it and dies where it is told to.

    python crash_flow.py FOLDER begin|resume [commit|artifact before|after N]

The folder holds the store and `ledger`, to which each execution of a step appends its key. With the last three words
the whole process group is killed (SIGKILL) before or after the N-th commit, or step on the way of an artifact to disk.
Prints what the run returned.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dagengine import Engine, as_completed, context, get, task, workflow
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.interface import Store
from dagengine.storage.sqlite import SqliteStore

LEDGER = "DAGENGINE_TEST_LEDGER"


def mark() -> None:
    """Note that this step runs, in a file that survives SIGKILL."""
    descriptor = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{context().key}\n".encode())
    os.close(descriptor)


@task
def source(n: int) -> list[int]:
    mark()
    return list(range(n))


@task
def double(x: int, shift: int = 0) -> int:
    mark()
    return 2 * x + shift


@task
def blow_up(x: int) -> np.ndarray:
    """Larger than a row takes: an artifact."""
    mark()
    return np.full(10_000, x)


@task
def total(numbers: list[int], big: np.ndarray) -> int:
    mark()
    return sum(numbers) + int(big.sum())


@task(retries=2, retry_delay=0)
def flaky(x: int) -> int:
    mark()
    if context().attempt == 1:
        raise OSError("not yet")
    return x


@task
def broken() -> int:
    mark()
    raise ValueError("for ever")


@workflow
def everything(n: int) -> int:
    doubled = double.map(source(n), shift=1)
    big = blow_up(n)
    try:
        get(broken())
    except ValueError:
        extra = flaky(100)
    first_two = sum(as_completed([double(1), double(2)]))
    subtotal = total(doubled, big)
    if get(subtotal) > 0:
        subtotal = double(subtotal)
    return int(get(subtotal)) + get(extra) + first_two


EXPECTED = 2 * (sum(2 * x + 1 for x in range(3)) + 30_000) + 100 + 6


def suicide(kind: str, when: str, count: int) -> tuple[Callable[[str, int], None], Callable[[str, str], None]]:
    seen = 0

    def die() -> None:
        os.killpg(0, signal.SIGKILL)

    def on_commit(now: str, number: int) -> None:
        if (kind, when, count) == ("commit", now, number):
            die()

    def on_step(now: str, name: str) -> None:
        nonlocal seen
        if kind == "artifact" and now == when:
            seen += 1
            if seen == count:
                die()

    return on_commit, on_step


def place_of(folder: Path) -> str:
    """The store that belongs to the folder: a file in it, or what the file `store-url` names."""
    named = folder / "store-url"
    return named.read_text() if named.exists() else str(folder / "store.db")


def open_store_of(folder: Path, on_commit: Callable[[str, int], None]) -> Store:
    place = place_of(folder)
    if place.startswith("postgresql:"):
        from dagengine.storage.postgres import PostgresStore

        return PostgresStore(place, on_commit=on_commit)
    return SqliteStore(place, on_commit=on_commit)


def main(folder: Path, verb: str, *where: str) -> None:
    kind, when, count = (where[0], where[1], int(where[2])) if where else ("", "", 0)
    on_commit, on_step = suicide(kind, when, count)
    os.environ[LEDGER] = str(folder / "ledger")
    store = open_store_of(folder, on_commit)
    with Engine(store, home=folder, workers=1) as engine:
        engine.artifacts.close()
        engine.artifacts = LocalArtifacts(str(folder / "artifacts"), on_step=on_step)
        run = engine.start(everything, 3) if verb == "begin" else engine.resume("")
        print(run.result())


if __name__ == "__main__":
    from tests.acceptance import crash_flow  # the workflow of the importable module, which workers find by name

    crash_flow.main(Path(sys.argv[1]), *sys.argv[2:])
