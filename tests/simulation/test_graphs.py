"""Real graphs, and generated ones of their shapes: deep, wide, many components, names of any kind; replayed whole."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import pytest

from benchmarks import graphs as real
from dagengine.runtime.core.actions import Outcome
from dagengine.runtime.core.events import Freed, Submitted
from dagengine.runtime.simulation.graphs import (
    Graph,
    NotAcyclic,
    bound,
    capacity,
    least,
    order,
    ranks,
    replay,
    requests,
)
from dagengine.runtime.simulation.light import LightWorld

INSTANCES = real.instances()
HISTORY = real.DATA / "graphs" / "git-history-dask.tsv.gz"


def _chain(length: int, seconds: float = 0.01) -> Graph:
    parents: list[list[int]] = [[]] + [[number] for number in range(length - 1)]
    return Graph([f"link {number}" for number in range(length)], parents, [seconds] * length, [100] * length)


def _gather(width: int) -> Graph:
    """One source that all read, and one task that reads all of them: bwa-chameleon-large has 1,000 each way."""
    parents: list[list[int]] = [[], *[[0] for _ in range(width)], [*range(1, width + 1)]]
    names = ["/data/source.fa", *[f"ALIGN.SORT_{number}.bam" for number in range(width)], "merge all"]
    return Graph(names, parents, [0.05] * (width + 2), [1_000] * (width + 2))


def _history(length: int, seed: int = 7) -> Graph:
    """Commits on a main line with side branches that are merged, as deep as it is long."""
    rng = Random(seed)
    parents: list[list[int]] = [[]]
    tip = 0
    for number in range(1, length):
        if rng.random() < 0.08:
            parents.append([max(0, tip - rng.randint(1, 9))])  # a commit of a branch
            continue
        side = [number - 1] if number - 1 != tip else []
        parents.append([tip, *side])
        tip = number
    return Graph([f"{number:08x}" for number in range(length)], parents, [0.001] * length, [100] * length)


def _mosaic(tiles: int, seed: int = 3) -> Graph:
    """Montage: projections, differences of neighbours, one fit of all, corrections, one sum. Times spread widely."""
    rng = Random(seed)
    names: list[str] = []
    parents: list[list[int]] = []
    seconds: list[float] = []

    def add(name: str, reads: list[int], mean: float) -> int:
        names.append(f"{name}_{len(names)}.{rng.randint(0, 9)}")
        parents.append(reads)
        seconds.append(mean * 10 ** rng.uniform(-1, 1))
        return len(names) - 1

    projected = [add("mProject", [], 1.0) for _ in range(tiles)]
    fits = [add("mDiffFit", [a, b], 0.1) for a, b in itertools.pairwise(projected)]
    model = add("mBgModel", [add("mConcatFit", fits, 1.0)], 3.0)
    corrected = [add("mBackground", [tile, model], 0.2) for tile in projected]
    add("mAdd", corrected, 5.0)
    return Graph(names, parents, seconds, [rng.choice((0, 10, 10_000, 4_000_000)) for _ in names])


SHAPES = {
    "chain": _chain(2_000),
    "gather": _gather(1_100),
    "history": _history(7_642),
    "mosaic": _mosaic(300),
    "components": Graph([f"part.{n}" for n in range(90)], [[n - 1] if n % 5 else [] for n in range(90)], [0.1] * 90, [9] * 90),
    "no time at all": Graph([f"{n}" for n in range(400)], [[n // 3] if n else [] for n in range(400)], [0.0] * 400, [1] * 400),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_generated_graph_runs_to_its_end(shape: str) -> None:
    """Every task of the shapes that real graphs have is done, on several nodes, with arenas that don't hold it all."""
    graph = SHAPES[shape]
    largest = max(graph.sizes)
    replayed = replay(graph, nodes=3, workers=2, arena=max(4_000_000, 2_000 * largest))
    assert replayed.outcomes == {Outcome.DONE: len(graph.names)}


@pytest.mark.parametrize("shape", ["chain", "gather", "history", "mosaic", "components"])
def test_the_time_taken_is_near_what_no_schedule_can_beat(shape: str) -> None:
    """On two workers, at 50 ms a task: within 10 % of max(critical path, work / workers)."""
    graph = SHAPES[shape].scaled(0.05, 100_000)
    assert replay(graph).seconds <= 1.1 * bound(graph, 2)


@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.name.removesuffix(".json.gz"))
def test_a_real_execution_runs_to_its_end(path: Path) -> None:
    """All tasks are done, within 10 % of what no schedule of two workers at 50 ms a task can beat."""
    graph = real.instance(path).scaled(0.05, 1_000_000)
    replayed = replay(graph)
    assert replayed.outcomes == {Outcome.DONE: len(graph.names)}
    assert replayed.seconds <= 1.1 * least(graph, 2)


def test_an_execution_is_read_as_it_is_written() -> None:
    """A document of the same shape as the real ones, which are not in the repository: ids with dots and paths."""
    graph = real.read_instance(DOCUMENT)
    assert graph.names == ["PREP.GUNZIP_1", "/ALIGN/SORT 2"]
    assert replay(graph).outcomes == {Outcome.DONE: 2}


DOCUMENT = {
    "workflow": {
        "specification": {
            "tasks": [
                {"id": "PREP.GUNZIP_1", "parents": [], "outputFiles": ["/4d/a.fa", "/4d/versions.yml"]},
                {"id": "/ALIGN/SORT 2", "parents": ["PREP.GUNZIP_1"], "inputFiles": ["/4d/a.fa"], "outputFiles": []},
            ],
            "files": [{"id": "/4d/a.fa", "sizeInBytes": 500}, {"id": "/4d/versions.yml", "sizeInBytes": 29}],
        },
        "execution": {
            "tasks": [
                {"id": "/ALIGN/SORT 2", "runtimeInSeconds": 0},
                {"id": "PREP.GUNZIP_1", "runtimeInSeconds": 0.25},
            ]
        },
    }
}


def test_times_and_sizes_are_those_of_the_right_task() -> None:
    """Tasks are told apart by id, not by their place: the two lists of a document have orders of their own."""
    graph = real.read_instance(DOCUMENT)
    assert graph == Graph(["PREP.GUNZIP_1", "/ALIGN/SORT 2"], [[], [0]], [0.25, 0.0], [529, 0])


@pytest.mark.skipif(not HISTORY.exists(), reason=f"{HISTORY.name} is not in the repository")
def test_a_history_of_7642_commits_in_a_row_is_no_matter() -> None:
    """The git history of dask, where a recursive walk fails."""
    graph = real.history()
    assert len(graph.names) == 9_841
    assert max(ranks(graph)) == pytest.approx(7.642)
    assert replay(graph).outcomes == {Outcome.DONE: 9_841}


def test_the_cycles_of_debian_are_named_and_refused() -> None:
    """All 60 of them, the largest of eleven packages, by the names of the packages."""
    graph = real.debian()
    assert len(graph.names) == 63_436
    found = real.knots(graph)
    assert (len(found), max(map(len, found))) == (60, 11)
    with pytest.raises(NotAcyclic, match="60 cycles") as caught:
        real.refuse_knots(graph)
    for part in found:
        assert all(graph.names[number] in str(caught.value) for number in part)
    with pytest.raises(NotAcyclic, match="wait for one another"):
        order(graph)


def test_debian_without_its_cycles_runs_to_its_end() -> None:
    """63,337 tasks and 256,524 edges; one result has more than 20,000 readers."""
    graph = real.merged(real.debian()).scaled(0.01, 100_000)
    assert (len(graph.names), sum(map(len, graph.parents))) == (63_337, 256_524)
    assert replay(graph, nodes=4, workers=4, arena=1 << 34).outcomes == {Outcome.DONE: 63_337}


def test_one_that_waits_for_itself_is_a_cycle() -> None:
    """The smallest cycle has one task."""
    graph = Graph(["a", "b"], [[0], []], [0.1, 0.1], [1, 1])
    assert real.knots(graph) == [[0]]
    with pytest.raises(NotAcyclic, match="a"):
        real.refuse_knots(graph)


def test_ranks_are_the_longest_paths_to_the_end() -> None:
    """Also in a chain of 100,000, which nothing may walk recursively."""
    graph = Graph(["a", "b", "c", "d"], [[], [0], [0], [1, 2]], [1.0, 5.0, 2.0, 1.0], [1] * 4)
    assert ranks(graph) == [7.0, 6.0, 3.0, 1.0]
    deep = ranks(_chain(100_000, seconds=1.0))
    assert (deep[0], deep[-1]) == (100_000.0, 1.0)


def test_the_longest_path_goes_first() -> None:
    """A chain that is submitted after a crowd of small tasks begins at once, or the end would wait for it alone."""
    crowd, length = 400, 20
    parents: list[list[int]] = [[] for _ in range(crowd + 1)] + [[crowd + number] for number in range(length - 1)]
    count = crowd + length
    graph = Graph([str(n) for n in range(count)], parents, [0.05] * crowd + [0.5] * length, [10] * count)
    ended = []
    for ranked in (True, False):
        world = LightWorld(capacity(1, 2, 1 << 30), watch=True)
        world.feed(Submitted(requests(graph, ranked)))
        world.feed(Freed([(number,) for number in range(count)]))
        ended.append(world.run(count))
        if ranked:
            assert world.starts[0, crowd] == 0.0
    assert ended[0] <= 1.1 * bound(graph, 2)
    assert ended[1] > 1.3 * bound(graph, 2)
