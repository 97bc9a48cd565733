"""Counting the steps of long runs from what was noted while they were recorded: the same numbers as by looking at each."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from dagengine.model import Claim, StepState
from dagengine.storage import blocks, tallies
from dagengine.storage.blocks import Tallies
from dagengine.storage.interface import Store
from dagengine.storage.writes import DropSteps, ReopenSteps, SideWrite, Write
from tests.storage.kit import DEFINITION, begin, fail, record, recorded, step, succeed

OTHER = replace(DEFINITION, number=1, name="load")
BLOCK = 16
STEPS = 20 * BLOCK


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    monkeypatch.setattr(tallies, "BLOCK", BLOCK)
    monkeypatch.setattr(tallies, "WORTH_WHILE", 2 * BLOCK)


def looked_at(store: Store, run: int) -> dict[tuple[str, StepState], int]:
    """What counting each step gives."""
    return dict(Counter((found.task, found.state) for found in store.steps(run)))


def write(store: Store, claim: Claim, noted: Tallies, *batch: Write) -> None:
    """As the owner of a run does."""
    recorded(store, claim, *batch, *noted.note(batch))


def long_run(store: Store, noted: Tallies) -> Claim:
    """All but the last few of its steps have succeeded; batches don't end where blocks do."""
    claim = begin(store)
    for first in range(0, STEPS, 7):
        seqs = range(first, min(first + 7, STEPS))
        definitions = () if first else (DEFINITION, OTHER)
        steps = record(*(step(seq, definition=int(seq % 3 == 0)) for seq in seqs), definitions=definitions)
        write(store, claim, noted, steps, *(succeed(seq, seq) for seq in seqs if seq < STEPS - 5))
    return claim


def test_a_long_run_is_counted_from_its_tallies(store: Store) -> None:
    """Also when steps fail, are open again, and when more are recorded by another process."""
    claim = long_run(store, Tallies())
    run = claim.run_number
    assert store.counts(run) == looked_at(store, run)
    recorded(store, claim, fail(STEPS - 1, STEPS), fail(STEPS - 2, STEPS + 1))
    assert store.counts(run) == looked_at(store, run)
    recorded(store, claim, ReopenSteps((STEPS - 1,)))
    assert store.counts(run) == looked_at(store, run)
    after = Tallies()
    write(store, claim, after, record(*(step(seq) for seq in range(STEPS, STEPS + 2 * BLOCK))))
    recorded(store, claim, *(succeed(seq, seq + 9) for seq in range(STEPS, STEPS + 2 * BLOCK)))
    assert store.counts(run) == looked_at(store, run)


def test_steps_that_are_dropped_are_not_counted(store: Store) -> None:
    """Their block is looked at again, also by whoever notes it later."""
    noted = Tallies()
    claim = long_run(store, noted)
    write(store, claim, noted, DropSteps((3, 40)))
    assert store.counts(claim.run_number) == looked_at(store, claim.run_number)
    assert sum(store.counts(claim.run_number).values()) == STEPS - 2


def test_what_was_noted_is_not_looked_at_again(store: Store) -> None:
    """A tally that is wrong on purpose is believed: nobody reads the steps that it stands for."""
    if store.url == "memory:":
        return  # it has all steps at hand
    claim = long_run(store, Tallies())
    wrong = SideWrite("tallies:NOTE", ({"block": 1, "tasks": '{"0": 1000}'},))
    recorded(store, claim, wrong)
    assert sum(store.counts(claim.run_number).values()) == STEPS - BLOCK + 1000


def test_only_whole_blocks_are_noted_and_each_once() -> None:
    """Whatever order steps come in; a block in which a seq is left out never is, nor one with a step that was dropped."""
    noted = Tallies()
    late = [noted.note([record(*(step(seq) for seq in seqs))]) for seqs in (range(1, 20), range(21, 3 * BLOCK), [0])]
    assert late[0] == []
    [[first], [second]] = late[1:]
    assert [row["block"] for row in first.rows] == [2]
    assert [row["block"] for row in second.rows] == [0]
    noted.note([DropSteps((3 * BLOCK,))])
    assert noted.note([record(*(step(seq) for seq in range(3 * BLOCK, 4 * BLOCK)))]) == []
