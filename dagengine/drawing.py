"""A run's graph as an SVG picture, with a layout of our own: no binary, no font and no script is needed to look at it.

Layered, from left to right: a group's column is its depth; within a column, groups are put near the middle of what they are
joined to (barycentres, a few sweeps to and fro), which is what keeps edges from crossing. Light and dark by the viewer's
own preference. All text is escaped; nothing of it is markup.

May import nothing of ours but graph.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from dagengine.graph import COLORS, Group, drawn

if TYPE_CHECKING:
    import networkx as nx

SWEEPS = 8
CHARACTER = 7.0  # pixels that a character of the 12-pixel sans-serif font takes, on the safe side
HEIGHT, ROW, GAP, MARGIN = 28, 40, 56, 24
LABEL_LIMIT = 44  # characters; the whole label is in the tooltip

_STYLE = """
  svg { font: 12px system-ui, sans-serif; background: #fff; }
  text { fill: #1c2733; } .edge { fill: none; stroke: #90a4ae; stroke-width: 1.2; } rect { fill: #f7f9fb; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    svg { background: #11171d; } text { fill: #dfe7ee; } .edge { stroke: #546e7a; } rect { fill: #1b242d; }
  }"""


def svg(graph: nx.DiGraph) -> str:
    """The picture, as one self-contained document."""
    picture = drawn(graph)
    columns = _columns(picture)
    place = {number: row for column in columns for row, number in enumerate(column)}
    groups: dict[int, Group] = dict(picture.nodes(data="group"))
    tallest = max(map(len, columns), default=1)
    box: dict[int, tuple[float, float, float]] = {}
    x = float(MARGIN)
    for column in columns:
        wide = max(CHARACTER * len(_shown(groups[number])) + 20 for number in column)
        top = MARGIN + ROW + (tallest - len(column)) * ROW / 2
        for number in column:
            box[number] = (x, top + place[number] * ROW, wide)
        x += wide + GAP
    title = f"{graph.graph['workflow']} {graph.graph['run'][:8]}: {graph.graph['state']}"
    width = max(x - GAP + MARGIN, CHARACTER * len(title) + 2 * MARGIN)
    height = 2 * MARGIN + ROW * (tallest + 1)
    size = f'width="{width:.0f}" height="{height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{_safe(title)}</title>",
        f"<style>{_STYLE}\n</style>",
        f'<text x="{MARGIN}" y="{MARGIN + 6}" font-weight="bold">{_safe(title)}</text>',
    ]
    for a, b in picture.edges:
        (ax, ay, wide), (bx, by, _) = box[a], box[b]
        start, y, end, to = ax + wide, ay + HEIGHT / 2, bx, by + HEIGHT / 2
        bend = max(20.0, (end - start) / 2)
        parts.append(
            f'<path class="edge" d="M{start:.0f} {y:.0f}C{start + bend:.0f} {y:.0f} {end - bend:.0f} {to:.0f}'
            f' {end:.0f} {to:.0f}"/>'
        )
    for number, group in groups.items():
        left, top, wide = box[number]
        states = ", ".join(f"{count} {state}" for state, count in sorted(group.states.items()))
        parts.append(
            f'<g><title>{_safe(f"{group.label}: {states}")}</title><rect x="{left:.0f}" y="{top:.0f}" width="{wide:.0f}"'
            f' height="{HEIGHT}" rx="6" stroke="{COLORS[group.state]}"/><text x="{left + 10:.0f}"'
            f' y="{top + HEIGHT / 2 + 4:.0f}">{_safe(_shown(group))}</text></g>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _shown(group: Group) -> str:
    label = ("⟳ " if group.loops else "") + group.label
    return label if len(label) <= LABEL_LIMIT else label[: LABEL_LIMIT - 1] + "…"


def _safe(text: str) -> str:
    """Escaped, and without the characters that XML can't hold."""
    return escape("".join(c for c in text if c.isprintable()), {'"': "&quot;"})


def _columns(picture: nx.DiGraph) -> list[list[int]]:
    """Groups by depth, in the order from top to bottom."""
    import networkx as nx

    columns = [sorted(generation) for generation in nx.topological_generations(picture)]
    row = {number: float(index) for column in columns for index, number in enumerate(column)}
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for column in columns if forward else reversed(columns):
            pulled: dict[int, float] = defaultdict(float)
            for number in column:
                near = list(picture.predecessors(number) if forward else picture.successors(number))
                pulled[number] = sum(row[other] for other in near) / len(near) if near else row[number]
            column.sort(key=lambda number: (pulled[number], number))
            middle = (len(column) - 1) / 2
            for index, number in enumerate(column):
                row[number] = index - middle
    return columns
