"""A disk that is really full: a small tmpfs, in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dagengine.engine import Engine
from tests.storage.kit import PATIENCE

FLOW = Path(__file__).with_name("full_disk_flow.py")
MOUNTED = "mkdir -p {0}/spill && mount -t tmpfs -o size=3m none {0}/spill"


def in_namespace(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{MOUNTED} && {command}"]
    words[-1] = words[-1].format(folder)
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_step_that_a_full_disk_keeps_waiting_fails_with_figures_and_the_run_is_resumed(tmp_path: Path) -> None:
    """It ends in one line that says what is full, and how much; with more memory the same run is finished."""
    if in_namespace("true", tmp_path).returncode:
        pytest.skip("nobody may mount anything here")
    told = in_namespace(f"{sys.executable} {FLOW} {{0}} {{0}}/spill", tmp_path)
    assert told.returncode == 0, told.stderr
    assert "step five_blocks/first[5]: dagengine.errors.ObjectStoreFull: there was no room for 2,10" in told.stdout
    assert f"because {tmp_path}/spill is full" in told.stdout
    assert "of the memory for objects (9,437,184 bytes)" in told.stdout
    with Engine(tmp_path / "store.db", home=tmp_path, workers=1, object_memory=64 << 20) as engine:
        assert engine.resume("full").result() == [0, 1, 2, 3, 4]
