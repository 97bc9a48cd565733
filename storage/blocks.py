"""Counting steps while they are recorded, by blocks of seqs: what `tallies` keeps of a run, and why, is said there.

Pure. May import nothing of ours but the interface.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from dagengine.storage.writes import DropSteps, RecordSteps, SideWrite, Write

BLOCK = 65_536
"""Steps of a block: its row is written once for so many steps, and counting those of one takes some hundredths of a second."""

_definition = attrgetter("definition")


class Tallies:
    """The steps that one process records of a run, by blocks."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[int]] = {}
        self._totals: Counter[int] = Counter()
        self._spoilt: set[int] = set()

    def note(self, writes: Sequence[Write]) -> list[SideWrite]:
        """What to write beside a batch: the rows of blocks that are whole with it."""
        touched: set[int] = set()
        for write in writes:
            if type(write) is RecordSteps and write.steps:
                touched |= self._count(write)
            elif type(write) is DropSteps:
                self._spoilt.update(seq // BLOCK for seq in write.seqs)
        whole = [block for block in sorted(touched) if self._totals[block] == BLOCK and block not in self._spoilt]
        if not whole:
            return []
        rows: tuple[dict[str, Any], ...] = tuple(
            {"block": block, "tasks": json.dumps(self._counts.pop(block))} for block in whole
        )
        return [SideWrite("tallies:NOTE", rows)]

    def _count(self, write: RecordSteps) -> set[int]:
        """Most batches lie in one block, and are counted without a look at each step."""
        steps = write.steps
        first, last = steps[0].seq // BLOCK, steps[-1].seq // BLOCK
        if first == last and steps[-1].seq - steps[0].seq + 1 == len(steps):
            parts = {first: steps}
        else:
            blocks = {step.seq // BLOCK for step in steps}
            parts = {block: tuple(step for step in steps if step.seq // BLOCK == block) for block in blocks}
        for block, some in parts.items():
            self._counts.setdefault(block, Counter()).update(map(_definition, some))
            self._totals[block] += len(some)
        return set(parts)


def dropped(seqs: Iterable[int]) -> SideWrite:
    """The write that forgets the blocks of steps that are dropped."""
    return SideWrite("tallies:DROP", tuple({"block": block} for block in sorted({seq // BLOCK for seq in seqs})))
