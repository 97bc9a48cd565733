"""`dagengine lineage`: what a value was made from, and what was made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dagengine.cli.app import Invocation, common, find_run, run_argument
from dagengine.cli.terminal import clean, mark, plural, print_json
from dagengine.units import show_size
from dagengine.views import find_step

if TYPE_CHECKING:
    from dagengine.lineage import Lineage


@click.command("lineage", short_help="Trace what a step was made from, and what was made from it.")
@common
@run_argument
@click.argument("step")
@click.option("--up", "direction", flag_value="up", help="Only what it was made from.")
@click.option("--down", "direction", flag_value="down", help="Only what was made from it.")
@click.option("--depth", type=click.IntRange(min=1), metavar="N", help="At most so many steps away.")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "json"]),
    help="text (the default), mermaid or json.",
)
@click.pass_obj
def command(
    invocation: Invocation, /, run: str, step: str, *, direction: str | None, depth: int | None, form: str | None
) -> None:
    """Trace what a step was made from, and what was made from it; and what would run again if its value were lost.

    STEP is its key, also without the workflow's name: extract[3].
    """
    from dagengine.graph import graph_of, grouped, mermaid, text
    from dagengine.lineage import lineage

    with invocation.reading() as store:
        record = find_run(store, run)
        seq = find_step(store, record, step).seq
        graph = graph_of(store, record)
    found = lineage(graph, seq, up=direction != "down", down=direction != "up", depth=depth)
    if form == "json" or (form is None and invocation.json):
        print_json(found.to_json())
    elif form == "mermaid":
        print(mermaid(found.graph))
    else:
        marks = {state: mark(state) for state in {data["state"] for _, data in graph.nodes(data=True)}}
        print(_headline(found))
        for line in text(grouped(found.graph), marks):
            print(f"  {line}")
        print(_if_lost(found))


def _headline(found: Lineage) -> str:
    data = found.graph.nodes[found.seq]
    value = "no value yet" if data["size"] is None else show_size(data["size"])
    kept = "recorded" if data["checkpointed"] else "not recorded (checkpoint=False)"
    around = f"from {plural(len(found.up), 'step')}, read by {plural(len(found.down), 'step')}"
    return f"{mark(data['state'])} {clean(data['key'], 500)}   {value}, {kept}; {around}"


def _if_lost(found: Lineage) -> str:
    nodes = found.graph.nodes
    if not found.reruns:
        return "its value is recorded: nothing would run again"
    some = ", ".join(clean(nodes[seq]["key"], 200) for seq in found.reruns[:5])
    more = ", …" if len(found.reruns) > 5 else ""
    began = ""
    if found.stops_at:
        began = f", beginning from {plural(len(found.stops_at), 'recorded value')}"
    return f"if its value were lost, {plural(len(found.reruns), 'step')} would run again{began}: {some}{more}"
