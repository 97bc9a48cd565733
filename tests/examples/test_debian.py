"""The Debian example: the answers are facts of its data, and a killed run goes on to the same ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dagengine.functions import load_file
from dagengine.model import StepRecord, StepState
from dagengine.storage import open_store

EXAMPLE = Path(__file__).parents[2] / "examples" / "debian" / "what_holds_up.py"


@pytest.fixture(scope="module")
def debian() -> Any:
    return load_file(str(EXAMPLE))


def test_known_answers_about_debian_come_out(debian: Any, tmp_path: Path) -> None:
    """PageRank, cycles, levels, dependants and accuracy are what is known of the data, and the report holds them."""
    found = debian.what_holds_up(out=str(tmp_path / "report"), epochs=3, folds=1)
    assert found["packages"] == 63_436
    assert found["edges"] == 264_191
    assert found["top"] == ["libc6", "libgcc-s1", "gcc-12-base", "python3", "perl"]
    assert (found["cycles"], found["largest_cycle"], found["levels"]) == (60, 11, 37)
    assert found["accuracy"] == pytest.approx(0.80, abs=0.01)

    ranks = parquet.read_table(tmp_path / "report" / "ranks.parquet")
    assert ranks.num_rows == 63_436
    assert ranks["package"][:5].to_pylist() == found["top"]
    assert ranks["dependants"][0].as_py() == 21_808  # zcat | awk: lines that name libc6 among the dependencies
    assert np.sum(ranks["rank"].to_numpy()) == pytest.approx(1)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert "63,436" in page
    assert "$" not in page.split("</style>")[1].split("<svg")[0]
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_reach_counts_what_a_walk_of_the_graph_counts(debian: Any) -> None:
    """The rows of bits give, for each package of a random graph with cycles, the number of its ancestors and itself."""
    graph = nx.gnp_random_graph(200, 0.008, seed=7, directed=True)
    starts = np.array([0, 70, 200] + [200] * (debian.PARTS - 2), np.int32)
    index = debian.Index(pa.table({}), starts, [])
    blocks = []
    for start, stop in pairwise(starts):
        edges = sorted((target - start, source) for source, target in graph.edges if start <= target < stop)
        pairs = np.array(edges, np.int32).reshape(-1, 2)
        degree = np.array([len(graph[package]) for package in range(start, stop)], np.int32)
        blocks.append(debian.Block(200, int(start), pairs[:, 1], pairs[:, 0], degree))

    layers = debian.layer(blocks, 0.0)
    assert layers.cycles
    assert {*map(len, layers.cycles)} == {
        len(part) for part in nx.strongly_connected_components(graph) if len(part) > 1
    }
    counts = np.sum([debian.reach(part, index, layers, 0.0) for part in range(debian.PARTS)], axis=0)
    assert [counts[layers.component[at]] for at in graph] == [len(nx.ancestors(graph, at)) + 1 for at in graph]


def test_training_goes_on_from_weights_that_are_read_only(debian: Any) -> None:
    """A state that was restored is read-only: an epoch makes new weights from it, the same each time."""
    words = np.array([3, 5, 3], np.int32)
    examples = debian.Examples(
        np.array([0, 2, 3], np.int32), words, np.array([0, 1], np.int32), np.array([1, 0], np.int32)
    )
    one, other = debian.Classifier(0), debian.Classifier(0)
    for classifier in (one, other):
        classifier.epoch(examples, 0.0)
        classifier.weights.flags.writeable = False
    first = one.weights
    assert one.epoch(examples, 0.0) == other.epoch(examples, 0.0)
    assert len(one.model().accuracy) == 2
    assert np.array_equal(one.weights, other.weights)
    assert not np.array_equal(one.weights, first)


def succeeded(home: Path) -> dict[str, StepRecord]:
    store = open_store(str(home / "store.db"))
    try:
        return {step.key: step for step in store.steps(store.find_run("demo").number, states=[StepState.SUCCEEDED])}
    finally:
        store.close()


def test_a_run_killed_half_way_is_resumed_without_repeating_a_step(tmp_path: Path) -> None:
    """`kill -9` once the shuffle is done; `dagengine resume` finishes, and what was recorded stays as it was."""
    home = tmp_path / "home"
    command = [sys.executable, "-m", "dagengine"]
    small = ["rounds=2", "epochs=1", "folds=1", f"out={tmp_path / 'report'}"]
    environment = {**os.environ, "DAGENGINE_HOME": str(home)}
    with subprocess.Popen(
        [*command, "run", "--run-id", "demo", f"{EXAMPLE}:what_holds_up", *small],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any("assemble: 16 steps done" in line for line in process.stderr)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    before = succeeded(home)
    assert sum(key.startswith("what_holds_up/assemble") for key in before) == 16
    assert not any(key.startswith("what_holds_up/report") for key in before)

    resumed = subprocess.run(
        [*command, "resume", "demo"], env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert resumed.returncode == 0, resumed.stderr
    after = succeeded(home)
    assert {key: after[key] for key in before} == before
    assert len(after) == 6 * 16 + 2 * 32 + 5 + 3  # six tasks of 16 parts, two rounds, five that join, a classifier's
    ranks = parquet.read_table(tmp_path / "report" / "ranks.parquet")
    assert ranks["package"][0].as_py() == "libc6"
