"""The Debian example by its plain function: the answers are facts of its data, found by other means, too."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dagengine.functions import load_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "debian" / "what_holds_up.py"


@pytest.fixture(scope="module")
def debian() -> Any:
    return load_file(str(EXAMPLE))


def test_known_answers_about_debian_come_out(debian: Any, tmp_path: Path) -> None:
    """PageRank, cycles, levels, dependants and accuracy are what is known of the data, and the report holds them."""
    found = debian.what_holds_up(out=str(tmp_path / "report"), folds=1)
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
        degree = np.array([graph.out_degree(package) for package in range(start, stop)], np.int32)
        blocks.append(debian.Block(200, int(start), pairs[:, 1], pairs[:, 0], degree))

    layers = debian.layer(blocks, 0.0)
    assert layers.cycles
    assert {*map(len, layers.cycles)} == {
        len(part) for part in nx.strongly_connected_components(graph) if len(part) > 1
    }
    counts = sum(debian.reach(part, index, layers, 0.0) for part in range(debian.PARTS))
    assert [counts[layers.component[at]] for at in graph] == [len(nx.ancestors(graph, at)) + 1 for at in graph]


def test_a_step_leaves_the_value_it_was_given_as_it_was(debian: Any) -> None:
    """Values of other steps are read-only in a run: training from a model makes a new one, the same each time."""
    words = np.array([3, 5, 3], np.int32)
    examples = debian.Examples(
        np.array([0, 2, 3], np.int32), words, np.array([0, 1], np.int32), np.array([1, 0], np.int32)
    )
    first = debian.epoch(None, examples, 0, 0.0)
    first.weights.flags.writeable = False
    second, again = (debian.epoch(first, examples, 0, 0.0) for _ in range(2))
    assert len(second.accuracy) == 2
    assert np.array_equal(second.weights, again.weights)
    assert not np.array_equal(second.weights, first.weights)
