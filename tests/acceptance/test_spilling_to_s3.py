"""Spilling to a real object store's protocol: a server that speaks S3, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("s3fs", reason="pip install 'dagengine[dev]'")
pytest.importorskip("moto.server", reason="pip install 'dagengine[dev]'")

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
    home = Path(sys.argv[1])
    with Engine(home / "store.db", home=home, workers=2, object_memory=9 * MB, spill=("s3://spilled/here",)) as engine:
        print(engine.start(many, 12).result())
        stats = engine.runtime.stats()
        print("spilled", stats["spilled_bytes"] > 8 * MB, "restored", stats["restored_bytes"] > 8 * MB)
"""


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """The environment in which `s3://` is that server's, with one empty bucket."""
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", "0"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stderr is not None
        found = next(match for line in server.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": found[0],
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        make = "import s3fs; s3fs.S3FileSystem().mkdir('spilled')"
        subprocess.run([sys.executable, "-c", make], env=environment, check=True, timeout=60)
        yield environment
    finally:
        server.kill()
        server.communicate()


def test_what_has_no_room_goes_to_s3_and_comes_back_and_nothing_stays_there(s3: dict[str, str], tmp_path: Path) -> None:
    """Twelve blocks in room for four: all are right, and the bucket is empty when the engine is closed."""
    flow = tmp_path / "flow.py"
    flow.write_text(FLOW)
    told = subprocess.run(
        [sys.executable, str(flow), str(tmp_path)], env=s3, capture_output=True, text=True, timeout=100, check=False
    )
    assert told.stdout == f"{[[at, at + 1] for at in range(0, 12, 2)]}\nspilled True restored True\n", told.stderr
    left = "import s3fs; print(s3fs.S3FileSystem().find('spilled'))"
    after = subprocess.run([sys.executable, "-c", left], env=s3, capture_output=True, text=True, timeout=60, check=True)
    assert after.stdout == "[]\n"
