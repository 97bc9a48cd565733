"""Spilling by the protocols of real object stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clouds import CLOUDS, files_of, fresh_bucket
from tests.storage.kit import PATIENCE

FLOW = """
import sys
from pathlib import Path
from dagengine import task, workflow
from dagengine.engine import Engine

MB = 1 << 20


@task(checkpoint=False)
def block(number: int) -> bytes:
    return bytes([number]) * (2 * MB)


@task
def firsts(blocks: list[bytes]) -> list[int]:
    return [given[0] for given in blocks]


@workflow
def many(count: int) -> list[list[int]]:
    blocks = block.map(range(count))
    return [firsts(blocks[at : at + 2]) for at in range(0, count, 2)]


if __name__ == "__main__":
    home, bucket = Path(sys.argv[1]), sys.argv[2]
    with Engine(home / "store.db", home=home, workers=2, object_memory=9 * MB, spill=(bucket,)) as engine:
        print(engine.start(many, 12).result())
        stats = engine.runtime.stats()
        print("spilled", stats["spilled_bytes"] > 8 * MB, "restored", stats["restored_bytes"] > 8 * MB)
"""


@pytest.mark.parametrize("cloud", CLOUDS)
def test_what_has_no_room_goes_to_a_bucket_and_comes_back_and_nothing_stays_there(cloud: str, tmp_path: Path) -> None:
    """Twelve blocks in room for four: all are right, and the bucket is empty when the engine is closed."""
    bucket = fresh_bucket(cloud)
    flow = tmp_path / "flow.py"
    flow.write_text(FLOW)
    told = subprocess.run(
        [sys.executable, str(flow), str(tmp_path), f"{bucket}/here"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert told.stdout == f"{[[at, at + 1] for at in range(0, 12, 2)]}\nspilled True restored True\n", told.stderr
    assert files_of(cloud).find(bucket) == []
