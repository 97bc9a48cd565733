"""What holds Debian up? PageRank, reach, cycles and a text classifier over the 63,436 packages of Debian 12.

Shows a data job of about 1,100 steps whose body never waits: it is called once, and its recorded graph does the rest.
Returns the packages that hold up the most, and writes debian-report/ (a page, a picture, a Parquet file).

    read 16 ─▶ index ─▶ scatter 16 ─▶ assemble 16 ─┬▶ (share 16 ─▶ collect 16) × 30 rounds ─▶ checkpoint × 6 ──┐
                 │                   (16 × 16)     └▶ layer ─▶ reach 16 ───────────────────────────────────────┼▶ report
                 └▶ featurise 16 ─▶ pool ─▶ epoch × 4 of a Classifier, for each of 10 held-out tenths ─────────┘

Packages are numbered by (hash of the name, name), so that each of the 16 partitions is one range of numbers and the
parts of a vector, one after the other, are the vector. Every task is deterministic: a step that is killed and runs
again gives the same bytes. Imports NumPy and pyarrow; networkx and matplotlib where they are used.
"""

from __future__ import annotations

import gzip
import io
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any, TypedDict
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dagengine import readonly, stateful, task, workflow

DATA = "debian-bookworm-main.tsv.gz"
PARTS = 16
DAMPING = 0.85
CHECKPOINT_EVERY = 5  # rounds
SECTIONS = 20  # the largest ones are told apart
FEATURES = 1 << 16  # the summaries have 20,816 words, so few of them share a place
LEARNING_RATE = 0.3
BLUE = "#3f7cc4"  # readable on light and dark

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class Findings(TypedDict):
    """What the run returns."""

    packages: int
    edges: int
    top: list[str]  # by PageRank
    most_reached: list[str]  # by the number of packages that would fall with them
    cycles: int
    largest_cycle: int
    levels: int
    accuracy: float  # mean over the tenths that were held out
    report: str


@dataclass(frozen=True)
class Index:
    """All packages in the order of their numbers; partition p is `starts[p]:starts[p + 1]`."""

    packages: pa.Table
    starts: Ints
    sections: list[str]  # the largest, largest first


@dataclass(frozen=True)
class Block:
    """The dependencies on the packages of one partition, which begins at the number `start`."""

    packages: int  # in all partitions
    start: int
    sources: Ints  # who depends
    targets: Ints  # on whom: numbered from `start`, ascending
    degree: Ints  # of each package of the partition: how many it depends on


@dataclass(frozen=True)
class Shares:
    """What each package of a partition hands to every package it depends on, and the rank of those without any."""

    each: Floats
    idle: float


@dataclass(frozen=True)
class Checkpoint:
    """The ranks of all packages after so many rounds, and how far they are from the checkpoint before, in sum."""

    rounds: int
    ranks: Floats
    change: float


@dataclass(frozen=True)
class Layers:
    """The graph with each cycle merged into one component. An edge leads from a higher level to a lower one."""

    component: Ints  # of each package
    level: Ints  # of each component; those of level 0 depend on nothing
    sources: Ints  # edges between components, ascending by the target's level, then by target
    targets: Ints
    cycles: list[list[int]]  # packages of each, the largest first


@dataclass(frozen=True)
class Examples:
    """Summaries as bags of words: example i has the words `words[starts[i]:starts[i + 1]]`."""

    starts: Ints
    words: Ints
    labels: Ints  # places in Index.sections
    tenths: Ints


@dataclass(frozen=True)
class Model:
    """A classifier after some epochs. `confusion[a, b]`: held-out examples of section a taken for b."""

    weights: Floats
    accuracy: list[float]  # on the held-out tenth, after each epoch
    confusion: Ints


# ---- the packages and their dependencies ------------------------------------------------------


@task
def read(part: int, data: str, slow: float) -> pa.Table:
    """Every 16th line of the file."""
    time.sleep(slow)
    with gzip.open(Path(data) if data else Path(__file__).with_name(DATA), "rt", encoding="utf-8") as file:
        lines = file.read().rstrip("\n").split("\n")
    rows = [line.split("\t") for line in lines[1 + part :: PARTS]]
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(lines[0].split("\t"))})
    place = table.column_names.index("installed_kb")
    return table.set_column(place, "installed_kb", table["installed_kb"].cast(pa.int64()))


@task
def index(tables: list[pa.Table], slow: float) -> Index:
    """Number the packages."""
    time.sleep(slow)
    packages = pa.concat_tables(tables)
    keys = [(crc32(name.encode()) % PARTS, name) for name in packages["package"].to_pylist()]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    sizes = np.bincount([part for part, _ in keys], minlength=PARTS)
    sections = Counter(packages["section"].to_pylist()).most_common(SECTIONS)
    return Index(
        packages.take(order).combine_chunks(),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        [name for name, _ in sections],
    )


@task
def scatter(table: pa.Table, index: Index, slow: float) -> list[Ints]:
    """The map side of the shuffle: the dependencies of some packages (two rows: from, to) for each of 16 partitions."""
    time.sleep(slow)
    number = {name: at for at, name in enumerate(index.packages["package"].to_pylist())}
    pairs = [
        (number[name], number[target])
        for name, depends in zip(table["package"].to_pylist(), table["depends"].to_pylist(), strict=True)
        for target in depends.split()
    ]
    edges = np.array(pairs, np.int32).reshape(-1, 2).T
    part = np.searchsorted(index.starts, edges[1], side="right") - 1
    return [edges[:, part == wanted] for wanted in range(PARTS)]


@task
def assemble(part: int, scattered: list[list[Ints]], index: Index, slow: float) -> Block:
    """The reduce side of the shuffle: all dependencies on the packages of one partition."""
    time.sleep(slow)
    sources, targets = np.concatenate([buckets[part] for buckets in scattered], axis=1)
    order = np.lexsort((sources, targets))
    start, stop = index.starts[part : part + 2].tolist()
    depends = index.packages["depends"].slice(start, stop - start).to_pylist()
    degree = np.array([len(names.split()) for names in depends], np.int32)
    return Block(len(index.packages), start, sources[order], targets[order] - np.int32(start), degree)


# ---- PageRank ---------------------------------------------------------------------------------


@task
def even(block: Block, slow: float) -> Floats:
    """The ranks of one partition before the first round: all alike."""
    time.sleep(slow)
    return np.full(len(block.degree), 1 / block.packages)


@task
def share(ranks: Floats, block: Block, slow: float) -> Shares:
    """Map: split the rank of each package of a partition among those that it depends on."""
    time.sleep(slow)
    return Shares(ranks / np.maximum(block.degree, 1), float(ranks[block.degree == 0].sum()))


@task
def collect(block: Block, shares: list[Shares], slow: float) -> Floats:
    """Reduce: the new ranks of one partition. The rank of packages without dependencies goes to all alike."""
    time.sleep(slow)
    each = np.concatenate([part.each for part in shares])
    idle = sum(part.idle for part in shares)
    got = np.bincount(block.targets, each[block.sources], minlength=len(block.degree))
    return np.asarray((1 - DAMPING) / len(each) + DAMPING * (got + idle / len(each)), np.float64)


@task
def checkpoint(rounds: int, ranks: list[Floats], before: Checkpoint | None, slow: float) -> Checkpoint:
    """The ranks after some rounds as one value. A killed run needs none, as the results of all rounds are recorded:
    checkpoints are what a person looks at, and what the report draws."""
    time.sleep(slow)
    joined = np.concatenate(ranks)
    last = np.full(len(joined), 1 / len(joined)) if before is None else before.ranks
    return Checkpoint(rounds, joined, float(np.abs(joined - last).sum()))


# ---- cycles, and what would fall --------------------------------------------------------------


@task
def layer(blocks: list[Block], slow: float) -> Layers:
    """Find the cycles (strongly connected components), merge each, and put the rest in levels."""
    import networkx as nx

    time.sleep(slow)
    sources = np.concatenate([block.sources for block in blocks])
    targets = np.concatenate([block.targets + np.int32(block.start) for block in blocks])
    graph = nx.DiGraph()
    graph.add_nodes_from(range(sum(len(block.degree) for block in blocks)))
    graph.add_edges_from(zip(sources.tolist(), targets.tolist(), strict=True))
    merged = nx.condensation(graph)
    component = np.zeros(len(graph), np.int32)
    for package, at in merged.graph["mapping"].items():
        component[package] = at
    level = np.zeros(len(merged), np.int32)
    for depth, members in enumerate(nx.topological_generations(merged.reverse(copy=False))):
        level[list(members)] = depth
    edges = np.array(merged.edges, np.int32).T
    edges = edges[:, np.lexsort((edges[0], edges[1], level[edges[1]]))]
    groups = (sorted(merged.nodes[at]["members"]) for at in merged)
    cycles = sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group))
    return Layers(component, level, edges[0], edges[1], cycles)


@task
def reach(part: int, index: Index, layers: Layers, slow: float) -> Ints:
    """For each component: how many packages of one partition need it, directly or through others.

    One row of bits for each component says which. Going down the levels, a row takes in its dependants' rows.
    """
    time.sleep(slow)
    start, stop = index.starts[part : part + 2].tolist()
    members = np.arange(stop - start, dtype=np.uint64)
    rows = np.zeros((len(layers.level), (len(members) + 63) // 64), np.uint64)
    own = (layers.component[start:stop], members // np.uint64(64))
    np.bitwise_or.at(rows, own, np.uint64(1) << members % np.uint64(64))
    level = layers.level[layers.targets]
    for depth in range(int(layers.level.max()) - 1, -1, -1):
        edges = slice(*np.searchsorted(level, [depth, depth + 1]))
        targets, first = np.unique(layers.targets[edges], return_index=True)
        rows[targets] |= np.bitwise_or.reduceat(rows[layers.sources[edges]], first, axis=0)
    counts: Ints = np.bitwise_count(rows).sum(axis=1, dtype=np.int32)
    return counts


# ---- the sections, told apart by the summaries ------------------------------------------------


@task
def featurise(table: pa.Table, index: Index, slow: float) -> Examples:
    """The words of some summaries, hashed to features."""
    time.sleep(slow)
    place = {section: at for at, section in enumerate(index.sections)}
    bags, labels, tenths = [], [], []
    for row in table.select(["package", "section", "summary"]).to_pylist():
        if row["section"] in place:
            words = re.findall(r"[a-z0-9+#-]+", row["summary"].lower())
            bags.append(sorted({crc32(word.encode()) % FEATURES for word in words}))
            labels.append(place[row["section"]])
            tenths.append(crc32(row["package"].encode()) % 10)
    starts = np.cumsum([0] + [len(bag) for bag in bags], dtype=np.int32)
    words = [word for bag in bags for word in bag]
    return Examples(starts, np.array(words, np.int32), np.array(labels, np.int32), np.array(tenths, np.int32))


@task
def pool(parts: list[Examples], slow: float) -> Examples:
    """All examples in one value."""
    time.sleep(slow)
    sizes = np.concatenate([np.diff(part.starts) for part in parts])
    return Examples(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.tenths for part in parts]),
    )


@stateful
class Classifier:
    """Softmax regression. Each epoch is a step, and its state is saved with it; the weights stay in the process."""

    def __init__(self, held_out: int) -> None:
        self.held_out = held_out
        self.weights = np.zeros((FEATURES, SECTIONS))
        self.accuracy: list[float] = []
        self.confusion = np.zeros((SECTIONS, SECTIONS), np.int32)

    def epoch(self, examples: Examples, slow: float) -> float:
        """Once through all examples but one tenth, in random order, one at a time; then the accuracy on that tenth."""
        time.sleep(slow)
        weights = self.weights.copy()  # what was restored is read-only
        starts, labels = examples.starts.tolist(), examples.labels.tolist()
        random = np.random.default_rng([self.held_out, len(self.accuracy)])
        for at in random.permutation(np.flatnonzero(examples.tenths != self.held_out)).tolist():
            words = examples.words[starts[at] : starts[at + 1]]
            chance = _chances(weights, words)
            chance[labels[at]] -= 1
            weights[words] -= LEARNING_RATE * chance
        confusion = np.zeros((SECTIONS, SECTIONS), np.int32)
        for at in np.flatnonzero(examples.tenths == self.held_out).tolist():
            confusion[labels[at], _chances(weights, examples.words[starts[at] : starts[at + 1]]).argmax()] += 1
        self.weights, self.confusion = weights, confusion
        self.accuracy.append(float(confusion.trace() / confusion.sum()))
        return self.accuracy[-1]

    @readonly
    def model(self) -> Model:
        return Model(self.weights, self.accuracy, self.confusion)


def _chances(weights: Floats, words: Ints) -> Floats:
    scores: Floats = weights[words].sum(axis=0)
    chances: Floats = np.exp(scores - scores.max())
    chances /= chances.sum()
    return chances


# ---- the report -------------------------------------------------------------------------------


@task
def report(
    out: str,
    index: Index,
    blocks: list[Block],
    *,
    checkpoints: list[Checkpoint],
    layers: Layers,
    reached: list[Ints],
    models: list[Model],
    slow: float,
) -> Findings:
    """Join everything: write `ranks.parquet`, `report.png` and `index.html` to the folder `out`."""
    from pyarrow import parquet

    time.sleep(slow)
    ranks = checkpoints[-1].ranks
    direct = np.concatenate([np.bincount(block.targets, minlength=len(block.degree)) for block in blocks])
    fall = np.sum(reached, axis=0)[layers.component]
    names = index.packages["package"].to_pylist()
    table = index.packages.select(["package", "section", "installed_kb"])
    for name, column in ("rank", ranks), ("dependants", direct), ("falls_with_it", fall):
        table = table.append_column(name, pa.array(column))
    order = np.argsort(-ranks, kind="stable")
    findings = Findings(
        packages=len(ranks),
        edges=int(direct.sum()),
        top=[names[at] for at in order[:5]],
        most_reached=[names[at] for at in np.argsort(-fall, kind="stable")[:5]],
        cycles=len(layers.cycles),
        largest_cycle=len(layers.cycles[0]),
        levels=int(layers.level.max()) + 1,
        accuracy=float(np.mean([model.accuracy[-1] for model in models])),
        report=f"{out}/index.html",
    )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    table = table.take(order)
    parquet.write_table(table, folder / "ranks.parquet")
    confusion = np.sum([model.confusion for model in models], axis=0)
    panels: dict[str, Callable[[Any], None]] = {
        "against": lambda axes: _draw_rank_against_fall(axes, table),
        "rounds": lambda axes: _draw_rounds(axes, checkpoints),
        "levels": lambda axes: _draw_levels(axes, layers),
        "confusion": lambda axes: _draw_confusion(axes, confusion, index.sections),
    }
    _save_picture(folder / "report.png", list(panels.values()))
    drawn = {name: _svg(draw) for name, draw in panels.items()}
    cycles = [[names[at] for at in cycle] for cycle in layers.cycles]
    (folder / "index.html").write_text(_page(findings, table, cycles, drawn), encoding="utf-8")
    return findings


def _draw_rank_against_fall(axes: Any, table: pa.Table) -> None:
    ranks, fall = table["rank"].to_numpy(), table["falls_with_it"].to_numpy()
    axes.loglog(fall, ranks, ".", markersize=2, alpha=0.4, color=BLUE, rasterized=True)
    for at in range(5):
        below = at % 2 * 8  # neighbours in rank would write over each other
        axes.annotate(
            table["package"][at].as_py(), (fall[at], ranks[at]), (-6, 2 - below), textcoords="offset points", ha="right"
        )
    axes.set(title="Rank, and what would fall", xlabel="packages that fall with it", ylabel="PageRank")


def _draw_rounds(axes: Any, checkpoints: Sequence[Checkpoint]) -> None:
    axes.semilogy([c.rounds for c in checkpoints], [c.change for c in checkpoints], "o-", color=BLUE)
    axes.set(title="Rank that moved since the checkpoint before", xlabel="rounds", ylabel="sum of changes")


def _draw_levels(axes: Any, layers: Layers) -> None:
    widths = np.bincount(layers.level)
    axes.bar(range(len(widths)), widths, color=BLUE)
    axes.set(title="Levels of the dependency graph", xlabel="level (0: depends on nothing)", ylabel="packages")


def _draw_confusion(axes: Any, confusion: Ints, sections: Sequence[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    places = range(len(sections))
    clear_to_blue = LinearSegmentedColormap.from_list("share", [BLUE + "00", BLUE])
    axes.imshow(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1), cmap=clear_to_blue, vmin=0, vmax=1)
    axes.set_xticks(places, sections, rotation=90, fontsize=7)
    axes.set_yticks(places, sections, fontsize=7)
    axes.set(title="Sections, by the summary alone", xlabel="taken for", ylabel="section")


def _save_picture(path: Path, panels: Sequence[Callable[[Any], None]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 10), layout="constrained")
    figure.suptitle("What holds Debian up?", fontsize=18)
    for axes, draw in zip(figure.subplots(2, 2).flat, panels, strict=True):
        draw(axes)
    figure.savefig(path, dpi=110)


def _svg(draw: Callable[[Any], None]) -> str:
    """One panel for the page: without a background, its lines and letters in the page's own colour."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink = "#010203"  # a colour that nothing else has, to be found again in the text
    settings: Any = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink
    )
    settings |= {"svg.fonttype": "none", "svg.hashsalt": "debian"}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(6.5, 5), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", dpi=160, transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(ink, "currentColor")


def _page(findings: Findings, table: pa.Table, cycles: list[list[str]], drawn: dict[str, str]) -> str:
    rows = table.slice(0, 20).to_pylist()
    body = "".join(
        f"<tr><td>{place}<td><b>{escape(row['package'])}</b> <small>{escape(row['section'])}</small>"
        f"<td>{_bar(row['rank'] / rows[0]['rank'], format(row['rank'], '.2%'))}<td>{row['dependants']:,}"
        f"<td>{_bar(row['falls_with_it'] / findings['packages'], format(row['falls_with_it'], ','))}"
        for place, row in enumerate(rows, 1)
    )
    page = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return page.substitute(
        {f"{name}_drawn": svg for name, svg in drawn.items()},
        top=escape(findings["top"][0]),
        packages=f"{findings['packages']:,}",
        edges=f"{findings['edges']:,}",
        count=findings["cycles"],
        levels=findings["levels"],
        accuracy=f"{findings['accuracy']:.0%}",
        share=f"{max(row['falls_with_it'] for row in rows) / findings['packages']:.0%}",
        rows=body,
        cycles="".join(f"<li>{escape(' · '.join(cycle))}" for cycle in cycles[:8]),
    )


def _bar(part: float, label: str) -> str:
    return f'<span class="bar" style="--part:{part:.4f}"></span>{label}'


# ---- the workflow -----------------------------------------------------------------------------


@workflow
def what_holds_up(
    data: str = "",
    out: str = "debian-report",
    *,
    rounds: int = 30,
    epochs: int = 4,
    folds: int = 10,
    slow: float = 0.0,
) -> Findings:
    """What holds Debian up?

    data: the packages, as debian-bookworm-main.tsv.gz has them (that file, if empty)
    out: folder of the report, from where the run is started or resumed
    rounds, epochs: of PageRank; of each classifier's training
    folds: how many of ten tenths are held out, each by a classifier of its own
    slow: seconds added to every step, to have the time to kill the run
    """
    if min(rounds, epochs, folds) < 1 or folds > 10:
        raise ValueError("rounds, epochs and folds have to be at least 1, and folds at most 10")

    tables = read.map(range(PARTS), data, slow)
    packages = index(tables, slow)
    blocks = assemble.map(range(PARTS), scatter.map(tables, packages, slow), packages, slow)

    layers = layer(blocks, slow)
    reached = reach.map(range(PARTS), packages, layers, slow)

    ranks = even.map(blocks, slow)
    checkpoints: list[Checkpoint] = []
    for done in range(1, rounds + 1):
        shares = [share(part, block, slow) for part, block in zip(ranks, blocks, strict=True)]
        ranks = collect.map(blocks, shares, slow)
        if done % CHECKPOINT_EVERY == 0 or done == rounds:
            checkpoints.append(checkpoint(done, ranks, checkpoints[-1] if checkpoints else None, slow))

    examples = pool(featurise.map(tables, packages, slow), slow)
    classifiers = [Classifier(held_out) for held_out in range(folds)]
    for _ in range(epochs):
        for classifier in classifiers:
            classifier.epoch(examples, slow)
    models = [classifier.model() for classifier in classifiers]

    return report(
        out, packages, blocks, checkpoints=checkpoints, layers=layers, reached=reached, models=models, slow=slow
    )
