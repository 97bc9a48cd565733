"""The benchmarks still measure what they say: each workload runs, small, in the processes that it runs in for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import peers, table
from benchmarks.measure import WORKLOADS, Result

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"payload": 2, "latency": 20, "startup": 1, "idle": 1}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_gives_a_figure(workload: str) -> None:
    """One small run of each workload ends, and reports a figure in its unit with the machine that it is from."""
    size = str(SMALL.get(workload, 200))
    done = bench(workload, "--n", size, "--repeat", "1", "--json", "-")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    [result] = document["results"]
    assert result["workload"] == workload
    assert result["unit"] == WORKLOADS[workload].unit
    assert result["median"] >= 0
    assert document["machine"]["cores"] >= 1


def test_no_step_that_was_recorded_runs_again_in_the_benchmark_of_resuming() -> None:
    """A body that waits for each step has at most one that ran and was not recorded when the kill came."""
    done = bench("resume", "--n", "100", "--repeat", "1", "--json", "-")
    [facts] = json.loads(done.stdout)["results"][0]["facts"]
    assert facts["run_again"] <= 1


def test_a_typo_is_answered_with_the_names_there_are() -> None:
    """An unknown workload ends before anything is measured, with the list."""
    done = bench("fam")
    assert done.returncode == 2
    assert "no workload fam" in done.stderr
    assert "fan" in done.stderr


def test_the_table_says_how_many_times_better_ours_is() -> None:
    """Of rates the higher is better, of times the lower; a peer that is ahead is said to be ahead."""
    ours = [
        Result("fan", "steps/s", 10, False, [300.0, 400.0, 200.0], [{"seconds": 1.0}] * 3),
        Result("startup", "s", 1, True, [0.5], [{"new_store_s": 0.6}]),
    ]
    peer = [
        Result("fan", "steps/s", 10, False, [100.0], [{"peer": "other 1.0"}]),
        Result("startup", "s", 1, True, [2.0], [{"peer": "other 1.0"}]),
        Result("startup", "s", 1, True, [0.1], [{"peer": "bare 2.0"}]),
    ]
    head, fan, fan_peer, startup, startup_peer, startup_bare = table.lines(ours, peer)
    assert head.split() == ["workload", "n", "median", "min", "to", "max", "unit", "beside", "it"]
    assert fan.split()[:6] == ["fan", "10", "300", "200", "to", "400"]
    assert fan_peer.strip().startswith("other 1.0")
    assert fan_peer.endswith("ours is 3 times better")
    assert startup.split()[0] == "startup"
    assert startup_peer.endswith("ours is 4 times better")
    assert startup_bare.endswith("ours is 5 times worse")


def test_a_peers_script_is_called_and_read(tmp_path: Path) -> None:
    """A durable peer's script prints medians of its own, a runtime's metrics of one run; both end in our units."""
    said = {"peer": "slow", "version": "1", "n": 9, "runs": [2.0, 3.0], "extra": [{}, {}], "busy_before": [0.0, 0.0]}
    durable = tmp_path / "durable"
    durable.mkdir()
    (durable / "common.py").touch()
    (durable / "bench_slow.py").write_text(f"print('noise'); print('''{json.dumps(said)}''')")
    volatile = tmp_path / "runtime"
    volatile.mkdir()
    (volatile / "workloads.py").touch()
    metrics = {"peer": "slow", "version": "1", "metrics": {"total_s": 2.0}}
    (volatile / "bench_slow.py").write_text(f"print('''{json.dumps(metrics)}''')")
    ours = [Result("fan", "steps/s", 10, False, [300.0]), Result("memory", "bytes/step", 10, True, [1.0])]
    scripts = peers.scripts([durable, volatile], "slow")
    results = [found for script in scripts for found in peers.measure(script, sys.executable, ours, 2, 1)]
    assert [(found.workload, found.runs) for found in results] == [("fan", [2.0, 3.0]), ("fan", [1001.0, 1001.0])]
    assert "nothing recorded" in results[1].facts[-1]["peer"]


def test_a_peer_that_fails_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing library of a peer costs its line in the table, and nothing else."""
    (tmp_path / "common.py").touch()
    script = tmp_path / "bench_gone.py"
    script.write_text("import a_library_that_is_not_there")
    assert list(peers.measure(script, sys.executable, [Result("fan", "steps/s", 10, False, [1.0])], 1, 1)) == []
    assert "gone fan: ended with 1: ModuleNotFoundError" in capsys.readouterr().out


def test_a_big_store_is_made_and_asked(tmp_path: Path) -> None:
    """Small, but with more than one block of steps counted as it was recorded; each question is answered in a line."""
    command = [sys.executable, "-m", "benchmarks.big_store", "sqlite", "--steps", "145000", "--largest", "140000"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "145,000 steps" in done.stdout
    for question in ("list", "show", "resume", "stats", "gc --dry-run"):
        assert f"  {question} " in done.stdout
