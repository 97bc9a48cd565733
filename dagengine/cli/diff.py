"""`dagengine diff`: what differs between two runs."""

from __future__ import annotations

from collections.abc import Iterable

import click

from dagengine.cli.app import Invocation, common, complete_run, find_run, short
from dagengine.cli.terminal import clean, duration, plural, print_json

SHOWN = 20  # of each kind of difference; --json has all


@click.command("diff", short_help="Show what differs between two runs.")
@common
@click.argument("first", metavar="RUN", shell_complete=complete_run)
@click.argument("second", metavar="RUN", shell_complete=complete_run)
@click.pass_obj
def command(invocation: Invocation, /, first: str, second: str) -> int:
    """Show what differs between two runs: their code, arguments, steps, outputs and times.

    Exit status 0 if they did the same, 1 if not; times do not count.
    """
    from dagengine.comparison import compare

    with invocation.reading() as store:
        found = compare(store, find_run(store, first), find_run(store, second))
    if invocation.json:
        print_json(found.to_json())
        return 0 if found.equal else 1
    names = [short(run.id) for run in found.runs]
    print(f"- run {names[0]} of {clean(found.runs[0].workflow)}\n+ run {names[1]} of {clean(found.runs[1].workflow)}")
    if found.arguments is not None:
        print(f"arguments:\n  - {clean(found.arguments[0], 500)}\n  + {clean(found.arguments[1], 500)}")
    steps = found.steps
    _print("code", (f"{clean(name)}: {what}" for name, what in found.code))
    _print("surroundings", (f"{name}: {clean(before)} → {clean(after)}" for name, before, after in found.facts))
    _print("steps of the first run only", map(clean, steps.only_first))
    _print("steps of the second run only", map(clean, steps.only_second))
    _print("states", (f"{clean(key)}: {before} → {after}" for key, before, after in steps.states))
    _print("outputs", (f"{clean(key)}: {before[:12]} → {after[:12]}" for key, before, after in steps.outputs))
    _print("times", (f"{clean(task)}: {duration(before)} → {duration(after)}" for task, before, after in steps.times))
    print(f"{plural(steps.same, 'step')} are the same" if steps.same != 1 else "1 step is the same")
    return 0 if found.equal else 1


def _print(title: str, lines: Iterable[str]) -> None:
    found = list(lines)
    if found:
        print(f"{title}:")
        for line in found[:SHOWN]:
            print(f"  {line}")
        if len(found) > SHOWN:
            print(f"  … and {len(found) - SHOWN:,} more")
