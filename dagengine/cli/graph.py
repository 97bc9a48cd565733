"""`dagengine graph`: the recorded graph of a run, as text, a picture, or data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument, short
from dagengine.cli.terminal import MARKS, clean, mark, print_json

if TYPE_CHECKING:
    import networkx as nx


@click.command("graph", short_help="Draw the graph of a run.")
@common
@run_argument
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "dot", "svg", "json"]),
    help="text (the default), mermaid, dot, svg or json.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write to this file.")
@click.option("--full", is_flag=True, help="Text: every group of calls, however many.")
@click.pass_obj
def command(invocation: Invocation, run: str, *, form: str | None, output: str | None, full: bool) -> None:
    """Draw the graph of a run. Calls of one function that lie equally deep are one line, ×n.

    An arrow ← names what else a group reads; ⟳ marks functions that are called in turn, round after round.
    """
    from dagengine.graph import dot, graph_of, mermaid, to_json

    form = form or ("json" if invocation.json else (Path(output).suffix[1:] if output else "") or "text")
    with invocation.reading() as store:
        graph = graph_of(store, find_run(store, run))
    if form == "json" and output is None:
        print_json(to_json(graph))
        return
    if form == "json":
        import json

        content = json.dumps(to_json(graph))
    elif form == "mermaid":
        content = mermaid(graph)
    elif form == "dot":
        content = dot(graph)
    elif form == "svg":
        from dagengine.drawing import svg

        content = svg(graph).rstrip()
    else:
        content = _text(graph, full, colors=output is None)
    if output is None:
        print(content)
        return
    try:
        Path(output).write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{output} can't be written: {error.strerror}. Name another file.") from None


def _text(graph: nx.DiGraph, full: bool, colors: bool) -> str:
    from dagengine.graph import GROUPS_SHOWN, grouped, text

    marks = {state: mark(state, sys.stdout) if colors else MARKS[state][0] for state in MARKS}
    about = graph.graph
    head = f"{marks[about['state']]} {clean(about['workflow'])}  {short(about['run'])}  {about['state']}"
    if not len(graph):
        return f"{head}\n  no steps"
    lines = text(grouped(graph, len(graph) if full else GROUPS_SHOWN), marks)
    return "\n".join([head, *(f"  {line}" for line in lines)])
