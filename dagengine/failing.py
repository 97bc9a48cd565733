"""What failed in a run, each kind once: however many steps that were, they are read a page at a time, and little is kept.

May import nothing of ours but model and storage's interface.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from dagengine.model import Failure, RunRecord, StepRecord, StepState
from dagengine.storage.interface import Store

PAGE: Final = 1_000
"""Failed steps that are in memory at once: each has its traceback."""

KINDS: Final = 50
"""Kinds that are told apart. Failures whose messages all differ (`bad row 17`) are as many kinds as steps."""

NAMED: Final = 5
"""Keys that are kept of those that failed as another one did."""

_FRAME: Final = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_INSTALLED: Final = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ", "<string>")


def is_installed(text: str) -> bool:
    """Whether a file that the text names is none of the user's."""
    return any(part in text for part in _INSTALLED)


def raised_at(failure: Failure) -> str | None:
    """FILE:LINE in FUNCTION: where the traceback leaves the user's code, or where it ends if it never was there."""
    frames: list[tuple[str, str, str]] = _FRAME.findall(failure.traceback)
    own = [frame for frame in frames if not is_installed(frame[0])]
    for file, line, function in reversed(own or frames):
        return f"{file}:{line} in {function}"
    return None


@dataclass(slots=True)
class Kind:
    """Steps of one function that failed with the same exception and message. `first`: called first; `others`: keys."""

    first: StepRecord
    count: int = 1
    others: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Failed:
    """count: all failed steps; kinds: in the order of their first steps; untold: of each function, failed steps of kinds
    that came after `KINDS` others"""

    count: int
    kinds: list[Kind]
    untold: dict[str, int]


def failed_steps(store: Store, run: RunRecord) -> Iterator[StepRecord]:
    """All of them, in the order in which they were called."""
    last = -1
    while True:
        page = store.steps(run.number, states=[StepState.FAILED], after=last, limit=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1].seq


def by_kind(steps: Iterable[StepRecord]) -> Failed:
    kinds: dict[tuple[str, str, str], Kind] = {}
    untold: Counter[str] = Counter()
    count = 0
    for step in steps:
        count += 1
        failure = step.failure
        alike = (step.task, failure.type if failure else "", failure.message if failure else "")
        kind = kinds.get(alike)
        if kind is not None:
            kind.count += 1
            if len(kind.others) < NAMED:
                kind.others.append(step.key)
        elif len(kinds) < KINDS:
            kinds[alike] = Kind(step)
        else:
            untold[step.task] += 1
    return Failed(count, list(kinds.values()), dict(untold))
