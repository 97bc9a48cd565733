"""Lineage: up, down, and what would run again."""

from __future__ import annotations

import networkx as nx
import pytest

from dagengine.lineage import lineage


def graph_with(edges: list[tuple[int, int]], ephemeral: set[int], unfinished: set[int] = frozenset()) -> nx.DiGraph:  # type: ignore[assignment]
    graph = nx.DiGraph(run="7f3a", workflow="w", state="succeeded")
    for seq in sorted({seq for edge in edges for seq in edge}):
        state = "waiting" if seq in unfinished else "succeeded"
        graph.add_node(seq, key=f"w/s[{seq}]", task="s", state=state, checkpointed=seq not in ephemeral, size=1)
    graph.add_edges_from(edges)
    return graph


DIAMOND = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (5, 4)]


def test_up_is_all_that_it_was_made_from_and_down_all_that_was_made_from_it() -> None:
    """Not the step itself, and not what is only beside it."""
    found = lineage(graph_with(DIAMOND, set()), 3)
    assert (found.up, found.down) == ((0, 1, 2), (4,))
    assert set(found.graph) == {0, 1, 2, 3, 4}
    assert lineage(graph_with(DIAMOND, set()), 3, down=False).down == ()
    assert lineage(graph_with(DIAMOND, set()), 4, depth=1).up == (3, 5)


def test_a_recorded_value_needs_nothing_to_run_again() -> None:
    """However its inputs were made."""
    found = lineage(graph_with(DIAMOND, {0, 1, 2}), 3)
    assert (found.reruns, found.stops_at) == ((), ())


def test_recorded_ancestors_stop_the_climb() -> None:
    """What is not recorded runs again, as far up as it has to."""
    found = lineage(graph_with(DIAMOND, {3, 1}), 3)
    assert (found.reruns, found.stops_at) == ((1, 3), (0, 2))
    found = lineage(graph_with(DIAMOND, {0, 1, 2, 3}), 3)
    assert (found.reruns, found.stops_at) == ((0, 1, 2, 3), ())


def test_what_never_ran_has_to_run() -> None:
    """A step without an end is no recorded value."""
    assert lineage(graph_with(DIAMOND, set(), unfinished={3}), 3).reruns == (3,)


def test_a_lineage_100000_deep_is_traced() -> None:
    """Nothing is recursive."""
    depth = 100_000
    graph = graph_with([(seq, seq + 1) for seq in range(depth)], set(range(1, depth + 1)))
    found = lineage(graph, depth)
    assert len(found.up) == depth
    assert len(found.reruns) == depth
    assert found.stops_at == (0,)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_counts_edges(depth: int) -> None:
    """One edge is one step away."""
    found = lineage(graph_with([(seq, seq + 1) for seq in range(10)], set()), 5, depth=depth)
    assert len(found.up) == len(found.down) == depth
