"""The graph of a run, grouped for people, and in the formats that others read."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from collections.abc import Iterator

import networkx as nx
import pytest

from dagengine.cli.terminal import MARKS
from dagengine.drawing import svg
from dagengine.graph import STEPS_DRAWN, dot, graph_of, grouped, mermaid, split_key, text, to_json
from dagengine.model import StepKind
from dagengine.storage.interface import Store
from dagengine.storage.memory import MemoryStore
from tests.cli.book import Book, failed_run, rounds

SIGNS = {state: sign for state, (sign, _) in MARKS.items()}


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store."""
    opened = MemoryStore()
    yield opened
    opened.close()


def tree(book: Book, most: int = 60) -> list[str]:
    return text(grouped(graph_of(book.store, book.run), most), SIGNS)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("nightly/extract[3]", ("nightly", "extract", "3")),
        ("nightly/train[0]/epoch[7]", ("nightly/train[0]", "epoch", "7")),
        ("nightly/extract.map[0]", ("nightly", "extract.map", "0")),
        ("nightly/train[lr=0.1]", ("nightly", "train", "lr=0.1")),
        ("alone", ("", "alone", "")),
        ("", ("", "", "")),
    ],
)
def test_keys_come_apart(key: str, parts: tuple[str, str, str]) -> None:
    """Scope, function, ordinal."""
    assert split_key(key) == parts


def test_nodes_are_steps_and_edges_lead_to_readers(store: Store) -> None:
    """What networkx then can do with it is the user's."""
    graph = graph_of(store, failed_run(store).run)
    assert graph.nodes[1]["key"] == "nightly/extract[1]"
    assert graph.nodes[1]["state"] == "failed"
    assert set(graph.edges) == {(0, 3), (1, 3), (2, 3), (3, 4)}
    assert nx.is_directed_acyclic_graph(graph)


def test_items_stand_between_what_a_map_reads_and_the_map(store: Store) -> None:
    """The map's value is the list of theirs."""
    book = Book(store)
    book.step("months[0]")
    book.step("extract.map[0]", "months[0]", kind=StepKind.MAP)
    for index in range(3):
        book.step(f"extract.map[0]/extract[{index}]")
    book.step("merge[0]", "extract.map[0]")
    graph = graph_of(store, book.run)
    assert set(graph.predecessors(1)) == {2, 3, 4}
    assert set(graph.predecessors(3)) == {0}
    assert set(graph.successors(1)) == {5}
    assert any("extract.map[0]/extract[0…2] ×3" in line for line in tree(book))


def test_calls_that_lie_equally_deep_are_one_line(store: Store) -> None:
    """With their range, their number, and what became of them."""
    assert tree(failed_run(store)) == [
        "✗ extract[0…2] ×3   (1 failed, 2 succeeded)",
        "│",
        "↷ merge",
        "│",
        "↷ publish",
    ]


def test_a_tree_branches_where_a_group_is_read_twice(store: Store) -> None:
    """What else a group reads is named after an arrow."""
    book = Book(store)
    book.step("read[0]")
    book.step("left[0]", "read[0]")
    book.step("right[0]", "read[0]")
    book.step("join[0]", "left[0]", "right[0]")
    assert tree(book) == [
        "▸ read",
        "├─ ○ left",
        "└─ ○ right",
        "   │",
        "   ○ join   ← left",
    ]


def test_roots_that_have_nothing_to_do_with_each_other_stand_side_by_side(store: Store) -> None:
    """Each begins a tree of its own."""
    book = Book(store)
    book.step("a[0]")
    book.step("b[0]")
    assert tree(book) == ["▸ a", "▸ b"]


def test_rounds_that_nobody_would_read_are_drawn_as_a_loop(store: Store) -> None:
    """Thirty rounds of a map and a reduce are one line, whose functions call each other in turn."""
    book = Book(store)
    rounds(book, 30, 2)
    book.step("report[0]", "rank[29]")
    assert tree(book, most=20) == [
        "▸ ⟳ spread[0…59] ×60, rank[0…29] ×30   (2 ready, 88 waiting)",
        "│",
        "○ report",
    ]
    assert len([line for line in tree(book, most=1000) if line != "│"]) == 61


def test_a_chain_of_calls_of_one_function_is_a_loop(store: Store) -> None:
    """A function whose calls read each other."""
    book = Book(store)
    book.step("step[0]")
    for index in range(1, 100):
        book.step(f"step[{index}]", f"step[{index - 1}]")
    assert tree(book) == ["▸ ⟳ step[0…99] ×100   (1 ready, 99 waiting)"]


def test_groups_never_make_a_cycle(store: Store) -> None:
    """By depth or by function, the quotient is a graph without cycles."""
    book = Book(store)
    rounds(book, 10, 3)
    graph = graph_of(store, book.run)
    for most in (1, 5, 1000):
        assert nx.is_directed_acyclic_graph(grouped(graph, most))


def test_an_empty_run_has_an_empty_graph(store: Store) -> None:
    """In each format."""
    graph = graph_of(store, Book(store).run)
    assert text(grouped(graph), SIGNS) == []
    assert mermaid(graph).startswith("flowchart TD")
    assert dot(graph).endswith("}")
    xml.etree.ElementTree.fromstring(svg(graph))


def test_json_has_nodes_and_edges(store: Store) -> None:
    """Everything that is known of a step, and pairs of seqs."""
    found = json.loads(json.dumps(to_json(graph_of(store, failed_run(store).run))))
    assert (found["id"], found["workflow"], found["state"]) == ("7f3a", "nightly", "failed")
    assert found["nodes"][3]["key"] == "nightly/merge[0]"
    assert [3, 4] in found["edges"]


def test_mermaid_has_a_node_for_each_step_and_escapes_its_text(store: Store) -> None:
    """A key may hold anything; in the text it is no syntax."""
    book = Book(store)
    book.step('evil["x"]-->y')
    book.step("b[0]", 'evil["x"]-->y')
    lines = mermaid(graph_of(store, book.run)).splitlines()
    nodes = [line for line in lines if line.lstrip().startswith(("n0", "n1"))]
    assert len(nodes) == 3
    assert '"' not in nodes[0].partition('["')[2].rpartition('"]')[0]
    assert "n0 --> n1" in lines[3]


def test_dot_is_quoted(store: Store) -> None:
    """Quotes and backslashes of a name stay inside of its quotes."""
    book = Book(store, workflow='a"b\\c')
    book.step('x["y"]')
    out = dot(graph_of(store, book.run))
    assert out.startswith('digraph "a\\"b\\\\c" {')
    assert out.count("{") == out.count("}") == 1


def test_svg_is_well_formed_whatever_the_names_are(store: Store) -> None:
    """Markup in a name is text in the picture; what XML can't hold is left out."""
    book = Book(store, workflow="<script>alert(1)</script>&")
    book.step("<img src=x onerror=alert(1)>[0]")
    book.step("control\x1b\x00[1]")
    root = xml.etree.ElementTree.fromstring(svg(graph_of(store, book.run)))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "title", "style", "text", "rect", "path"}


def test_svg_puts_readers_to_the_right_of_what_they_read(store: Store) -> None:
    """Columns are depths; nothing lies on anything else."""
    root = xml.etree.ElementTree.fromstring(svg(graph_of(store, failed_run(store).run)))
    space = "{http://www.w3.org/2000/svg}"
    place = {}
    for group in root.iter(f"{space}g"):
        rect, label = group.find(f"{space}rect"), group.find(f"{space}text")
        assert rect is not None
        assert label is not None
        place[label.text] = (float(rect.attrib["x"]), float(rect.attrib["y"]))
    assert place["extract"][0] < place["merge"][0] < place["publish"][0]
    assert len({place[name] for name in place}) == 5


def test_a_picture_of_many_steps_is_one_of_groups(store: Store) -> None:
    """More boxes than anyone looks at are drawn as ×n."""
    book = Book(store)
    names = [f"part[{index}]" for index in range(STEPS_DRAWN + 1)]
    for name in names:
        book.step(name)
    book.step("merge[0]", *names)
    picture = svg(graph_of(store, book.run))
    assert picture.count("<rect") == 2
    assert f"part[0…{STEPS_DRAWN}] ×{STEPS_DRAWN + 1}" in picture
