"""What a store promises of values that are not recorded: their steps come back as lineage, and can be given bytes once."""

from __future__ import annotations

import pytest

from dagengine.errors import InternalError
from dagengine.model import Claim, Definition, StepInput, StepKind, StepState, Value
from dagengine.storage.interface import Store
from dagengine.storage.writes import CloseBody, ExpandStep, KeepValue
from tests.storage.kit import DEFINITION, attempt, begin, fail, record, recorded, step, succeed, value, write

EPHEMERAL = Definition(1, "load", {"module": "jobs", "qualname": "load"}, {"checkpoint": False})
NO_BYTES = Value("", 1000)


def lineage_of(store: Store, claim: Claim) -> list[int]:
    return [found.seq for found in store.frontier(claim.run_number).ephemeral]


def chain(store: Store) -> Claim:
    """0 recorded ◀ 1 not ◀ 2 not ◀ 3 recorded ◀ 4 not ◀ 5 unfinished; and 6, not recorded, that nobody reads."""
    claim = begin(store)
    steps = [step(seq, *([seq - 1] if 0 < seq < 6 else []), definition=int(seq in (1, 2, 4, 6))) for seq in range(7)]
    recorded(store, claim, record(*steps, definitions=(DEFINITION, EPHEMERAL)))
    ends = [succeed(seq, seq, NO_BYTES if seq in (1, 2, 4, 6) else None) for seq in (0, 1, 2, 3, 4, 6)]
    recorded(store, claim, *ends, attempt(4, 1, "succeeded"), attempt(4, 2, "lost"))
    return claim


def test_lineage_reaches_up_to_recorded_values(store: Store) -> None:
    """Of a run whose body has returned: what an unfinished step is made from, and no further."""
    claim = chain(store)
    recorded(store, claim, CloseBody(b"", ()))
    (found,) = store.frontier(claim.run_number).ephemeral
    assert (found.seq, found.attempts, found.inputs) == (4, 2, (StepInput(3),))


def test_a_body_that_is_called_again_may_ask_for_any_of_them(store: Store) -> None:
    """So all of them come."""
    assert lineage_of(store, chain(store)) == [1, 2, 4, 6]


def test_what_the_body_returned_is_wanted_too(store: Store) -> None:
    """With what it is made from."""
    claim = chain(store)
    recorded(store, claim, CloseBody(b"", (StepInput(2), StepInput(6))))
    assert lineage_of(store, claim) == [1, 2, 4, 6]


def test_the_items_of_a_map_are_its_lineage(store: Store) -> None:
    """And what these read."""
    claim = begin(store)
    steps = [
        step(0, definition=1),
        step(1, kind=StepKind.MAP, definition=1),
        step(2, 0, definition=1),
        step(3, 0, definition=1),
        step(4, 1),
    ]
    recorded(store, claim, record(*steps, definitions=(DEFINITION, EPHEMERAL)), ExpandStep(1, 2, 2))
    ends = [succeed(seq, seq, NO_BYTES) for seq in (0, 2, 3)]
    recorded(store, claim, *ends, succeed(1, 9, Value("", 0, items=(2, 2))), CloseBody(b"", ()))
    found = {step.seq: step for step in store.frontier(claim.run_number).ephemeral}
    assert sorted(found) == [0, 1, 2, 3]
    assert found[1].items == (2, 2)


def test_a_value_is_kept_once(store: Store) -> None:
    """From then on it is a recorded value like any."""
    claim = chain(store)
    assert store.values(claim.run_number, [4]) == {4: NO_BYTES}
    recorded(store, claim, KeepValue(4, value(b"kept")))
    assert store.values(claim.run_number, [4]) == {4: value(b"kept")}
    assert 4 not in lineage_of(store, claim)
    assert isinstance(write(store, claim, KeepValue(4, value(b"again"))), InternalError)
    assert store.values(claim.run_number, [4]) == {4: value(b"kept")}


@pytest.mark.parametrize("seq", [3, 5])
def test_only_a_value_that_was_not_recorded_can_be_kept(store: Store, seq: int) -> None:
    """Not one that is, and not that of a step that has not ended."""
    claim = chain(store)
    assert isinstance(write(store, claim, KeepValue(seq, value(b"other"))), InternalError)


def test_steps_that_did_not_succeed_are_no_lineage(store: Store) -> None:
    """They are opened, or stay failed."""
    claim = begin(store)
    recorded(store, claim, record(step(0, definition=1), definitions=(DEFINITION, EPHEMERAL)))
    recorded(store, claim, fail(0, 0, StepState.FAILED))
    assert lineage_of(store, claim) == []
