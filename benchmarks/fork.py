"""How soon a fork of a large run that changes one leaf starts to work: `python benchmarks/fork.py [STEPS]`.

Prints the time from the call of `fork` to the leaf's start in a worker, and to the fork's end; workers are warm.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from dagengine import Engine, Run, task, workflow


@task
def leaf(number: int) -> int:
    return number


@task
def last(values: list[int], salt: int) -> float:
    return time.time()


@workflow
def wide(count: int, salt: int) -> float:
    return last(leaf.map(range(count)), salt)


def main(count: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="dagengine-") as folder,
        Engine(folder + "/store.db", home=folder) as engine,
    ):
        donor = engine.start(wide, count, 0)
        began = time.time()
        donor.result()
        print(f"donor of {count:,} steps: {time.time() - began:.2f} s")
        forks: dict[str, Callable[[], Run[Any]]] = {
            "one argument": lambda: engine.fork(donor.id, params={"salt": 1}),
            "--from the last step": lambda: engine.fork(donor.id, from_="last"),
        }
        for name, made in forks.items():
            for _ in range(3):
                began = time.time()
                fork = made()
                called = time.time() - began
                worked = fork.result() - began
                print(
                    f"fork, {name}: called in {called:.2f} s, works after {worked:.2f} s, ends after {time.time() - began:.2f} s"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
