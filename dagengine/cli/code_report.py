"""What today's code means for the steps of a run, as lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dagengine.cli.terminal import clean, number, plural
from dagengine.code.changes import GONE, KEPT, SAME, TO_RUN, UNKNOWN

if TYPE_CHECKING:
    from dagengine.code.changes import CodeChanges

VERDICTS = (SAME, KEPT, TO_RUN, GONE, UNKNOWN)


def summary(changes: CodeChanges) -> str:
    """One line: 12 steps same, 3 changed and kept."""
    counts = changes.counts()
    said = [f"{number(counts[verdict])} {verdict}" for verdict in VERDICTS if counts[verdict]]
    return f"{plural(len(changes.steps), 'step')}: {', '.join(said)}" if said else "no steps yet"


def details(changes: CodeChanges) -> Iterator[str]:
    """A line for each function that is not the same, and verdict of its steps."""
    groups: dict[tuple[int, str], list[str]] = {}
    for step, verdict in changes.steps:
        if verdict != SAME:
            groups.setdefault((step.definition, verdict), []).append(step.key)
    for (definition, verdict), keys in sorted(groups.items()):
        change = changes.functions[definition]
        which = clean(keys[0], 200) if len(keys) == 1 else f"{clean(keys[0], 200)} … {clean(keys[-1], 200)}"
        count = "" if len(keys) == 1 else f" ({number(len(keys))} steps)"
        parts = f"; differs: {', '.join(clean(part, 80) for part in change.parts[:6])}" if change.parts else ""
        yield f"{verdict}: {which}{count}{parts}"
