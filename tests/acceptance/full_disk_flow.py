"""A run in whose arena there is room for four blocks, on a spill disk that takes one: `python full_disk_flow.py FOLDER SPILL`.

The first of five blocks is spilled. What reads it has to be done before what reads the others, which therefore stay, and
can't be written anywhere: it waits for room that never comes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dagengine import task, workflow
from dagengine.engine import Engine
from dagengine.errors import RunFailed

MB = 1 << 20


@task(checkpoint=False)
def block(number: int, after: int) -> bytes:
    """`after`: what has to be done before."""
    return bytes([number]) * (2 * MB)


@task
def first(given: bytes, after: int) -> int:
    return given[0]


@workflow
def five_blocks() -> list[int]:
    blocks: list[bytes] = []
    done = 0
    for number in range(5):
        blocks.append(block(number, done))
        done = first(blocks[-1], 0)
    oldest = first(blocks[0], done)
    return [first(given, oldest) for given in blocks]


def main(folder: Path, spill: str) -> None:
    with Engine(
        folder / "store.db", home=folder, workers=1, object_memory=9 * MB, spill=(spill,), room_timeout=1.0
    ) as engine:
        run = engine.begin(five_blocks, (), {}, run_id="full")
        try:
            print(run.result())
        except RunFailed as failed:
            print(failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
