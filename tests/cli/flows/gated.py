"""Workflows for tests of the command line. Each step is written into the journal; the second one waits at a gate.

The gate is a named pipe: a step that opens it goes on when the test does. With a file `open` beside it, it stands open.
"""

import os
from pathlib import Path

from dagengine import task, workflow

FOLDER = Path(os.environ["GATED"])


def note(text: str) -> None:
    with (FOLDER / "journal").open("a") as journal:
        journal.write(f"{text}\n")


@task
def first(x: int) -> int:
    note("first")
    print(f"first of {x}", flush=True)
    return x + 1


@task
def gate(x: int) -> int:
    note("gate")
    print("at the gate", flush=True)
    (FOLDER / "arrived").write_text("")  # a named pipe, if the test waits for it
    if not (FOLDER / "open").exists():
        (FOLDER / "gate").read_text()
    return x * 10


@task
def last(x: int) -> dict[str, int]:
    note("last")
    return {"x": x}


@task
def explode(x: int) -> int:
    raise ValueError(f"no luck with {x}")


@workflow
def gated(x: int = 1) -> dict[str, int]:
    return last(gate(first(x)))


@workflow
def quick(x: int = 1) -> dict[str, int]:
    return last(first(x))


@workflow
def failing(x: int = 1) -> dict[str, int]:
    return last(explode(first(x)))
