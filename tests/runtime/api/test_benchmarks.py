"""The benchmark of the runtime still measures what it says: each workload runs, small, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import ROOT
from benchmarks.runtime.__main__ import FIGURES, Rows
from benchmarks.runtime.workloads import WORKLOADS


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.runtime", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_of_the_runtime_gives_its_figures(workload: str) -> None:
    """One small run ends well, and checks its own results."""
    done = bench(workload, "--repeat", "1", "--scale", "0.02", "--json", "-")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert [result["unit"] for result in results] == [unit for _, unit, _, _ in FIGURES[workload]]
    assert all(len(result["runs"]) == 1 for result in results)


def test_a_peer_is_measured_in_the_same_run(tmp_path: Path) -> None:
    """Its script's metrics become rows beside ours, with the ratio; one that fails is named and left out."""
    said = {"peer": "slow", "version": "1", "metrics": {"total_s": 1e6}}
    (tmp_path / "bench_slow.py").write_text(f"print('''{json.dumps(said)}''')")
    (tmp_path / "bench_gone.py").write_text("import a_library_that_is_not_there")
    where = [
        "--peers",
        str(tmp_path),
        *("--env", f"slow={sys.executable}", "--env", f"gone={sys.executable}"),
    ]
    done = bench("fan", "--repeat", "1", "--scale", "0.02", *where)
    assert done.returncode == 0, done.stderr
    assert "slow 1" in done.stdout
    assert "times better" in done.stdout
    assert "gone fan: ended with 1" in done.stdout


def test_every_workload_has_figures() -> None:
    """What is measured is shown."""
    assert set(FIGURES) == set(WORKLOADS)
    assert Rows("tasks").filled() == []
