"""What every store promises of side tables: one implementation of what is asked, transactions that hold."""

from __future__ import annotations

import pytest

from dagengine.errors import InternalError
from dagengine.storage.interface import Store
from dagengine.storage.origins import ADD, origin, origins
from dagengine.storage.writes import SideWrite
from tests.storage.kit import DEFINITION, begin, record, recorded, step, succeed, write

SOURCE = {"by": "fork", "run": "7f3a", "seq": 4}


def test_a_side_row_is_written_with_its_batch(store: Store) -> None:
    """It is there when the batch is, under the number of the batch's run; the same row again replaces it."""
    claim = begin(store)
    recorded(store, claim, record(step(0), definitions=(DEFINITION,)), succeed(0, 0), origin(0, {"by": "cache"}))
    assert origins(store, claim.run_number) == {0: {"by": "cache"}}
    recorded(store, claim, origin(0, SOURCE))
    assert origins(store, claim.run_number, [0, 1]) == {0: SOURCE}
    assert origins(store, claim.run_number, [1]) == {}
    assert origins(store, claim.run_number + 1) == {}


def test_a_batch_whose_side_row_does_not_fit_changes_nothing(store: Store) -> None:
    """The record stays as it was, and so do side rows of the same batch."""
    claim = begin(store)
    batch = record(step(0), definitions=(DEFINITION,)), origin(0, SOURCE), SideWrite("origins:ADD", ({"seq": 1},))
    error = write(store, claim, *batch)
    assert isinstance(error, InternalError)
    assert store.steps(claim.run_number) == []
    assert origins(store, claim.run_number) == {}


def test_a_side_transaction_is_all_or_nothing(store: Store) -> None:
    """What is raised in it leaves as it is, and leaves nothing behind; what it returns, it returns durable."""

    def half(connection: object) -> None:
        ADD(connection, run=1, seq=7, source="{}")  # type: ignore[arg-type]
        raise KeyError("half-way")

    def whole(connection: object) -> str:
        ADD(connection, run=1, seq=8, source="{}")  # type: ignore[arg-type]
        return "done"

    with pytest.raises(KeyError):
        store.side(half)
    assert store.side(whole) == "done"
    assert origins(store, 1) == {8: {}}


def test_a_definition_keeps_its_fingerprint(store: Store) -> None:
    """Of the code that it was called with; where nobody knows it, it is empty."""
    from dataclasses import replace

    claim = begin(store)
    known = replace(DEFINITION, number=1, fingerprint="ab12")
    recorded(store, claim, record(definitions=(DEFINITION, known)))
    assert [found.fingerprint for found in store.definitions(claim.run_number)] == ["", "ab12"]
    assert store.frontier(claim.run_number).definitions[1] == known
