"""What every store promises of runs that share the results of another one."""

from __future__ import annotations

from typing import Any

import pytest

from dagengine.errors import RunConflict, RunExists, RunNotFound
from dagengine.model import Claim, RunState, Share, StepKind, StepState
from dagengine.storage.interface import Store
from dagengine.storage.writes import DropSteps, ExpandStep, FinishRun
from tests.storage.kit import (
    DEFINITION,
    ME,
    NOW,
    attempt,
    begin,
    changed,
    dead,
    fail,
    large,
    new_run,
    record,
    recorded,
    step,
    succeed,
    value,
    write,
)

OTHER = value(b"another")


def fork(store: Store, donor: Claim, kept: tuple[int, ...], **shared: Any) -> Claim:
    """A run `fork` that shares of the donor, claimed by this process."""
    none: dict[str, Any] = {"reopened": (), "values": (), "chained": ()}
    share = Share(donor.run_number, kept, next_seq=20, token=1, **(none | shared))
    assert store.create_run(new_run("fork"), None, share) is None
    return store.claim("fork", ME, dead)


@pytest.mark.parametrize("how", ["expired", "removed"])
def test_nothing_is_shared_of_a_run_that_was_collected_meanwhile(store: Store, how: str) -> None:
    """Between being looked at and being forked: the fork would have steps without values. It is not recorded at all."""
    donor = begin(store)
    recorded(store, donor, record(step(0), definitions=(DEFINITION,)), succeed(0, 5), FinishRun(RunState.FAILED, NOW))
    [seen] = store.ended_runs(1e12, 0, 10)
    if how == "expired":
        assert store.expire_values(seen, NOW)
    else:
        store.remove_run(donor.run_id, dead, NOW, seen)
    with pytest.raises(RunConflict, match="begin it anew"):
        fork(store, donor, (0,))
    with pytest.raises(RunNotFound):
        store.find_run("fork")


def test_a_new_run_has_the_steps_that_it_shares(store: Store) -> None:
    """With seqs, keys, inputs, values and their order; without attempts; the donor keeps what it has."""
    donor = begin(store)
    steps = [step(0), step(1, 0, large()), step(2, 1), step(3)]
    recorded(store, donor, record(*steps, definitions=(DEFINITION,)), succeed(0, 5), succeed(1, 4, OTHER), fail(2, 6))
    recorded(store, donor, attempt(0, 1, "succeeded"))
    before = store.steps(donor.run_number)
    run = fork(store, donor, (0, 1)).run_number
    found = store.find_run("fork")
    assert (found.steps, found.token, found.state) == (20, 2, RunState.RUNNING)
    assert [(one.seq, one.key, one.state, one.attempts) for one in store.steps(run)] == [
        (0, steps[0].key, StepState.SUCCEEDED, 0),
        (1, steps[1].key, StepState.SUCCEEDED, 0),
    ]
    assert [(call.call, call.inputs) for call in store.recorded_calls(run)] == [
        (one.call, one.inputs) for one in steps[:2]
    ]
    assert store.values(run, [0, 1]) == store.values(donor.run_number, [0, 1])
    assert store.finish_order(run, [0, 1]) == {0: 5, 1: 4}
    assert store.definitions(run) == [DEFINITION]
    assert (store.attempts(run), store.events(run)) == ([], [])
    assert store.steps(donor.run_number) == before
    assert store.check()["integrity"] == "ok"


def test_what_is_reopened_waits_and_a_given_value_stands(store: Store) -> None:
    """An item of a map is done again, the map collects its items again; a value that was given has no call."""
    donor = begin(store)
    items = [step(seq) for seq in (2, 3)]
    recorded(store, donor, record(step(0), step(1, 0, kind=StepKind.MAP), definitions=(DEFINITION,)), succeed(0, 0))
    recorded(store, donor, record(*items), ExpandStep(1, 2, 2))
    recorded(store, donor, succeed(2, 1), succeed(3, 2), succeed(1, 3, value()._replace(items=(2, 2))))
    claim = fork(store, donor, (2,), reopened=(1, 3), values=((0, OTHER),), no_call=b"none")
    frontier = store.frontier(claim.run_number)
    assert [(one.seq, one.items, one.attempts) for one in frontier.steps] == [(1, (2, 2), 0), (3, None, 0)]
    assert frontier.ended_inputs == {0: StepState.SUCCEEDED, 2: StepState.SUCCEEDED}
    assert store.values(claim.run_number, [0])[0] == OTHER
    assert next(iter(store.recorded_calls(claim.run_number))).call == b"none"
    order = store.finish_order(claim.run_number, [0, 2])
    assert order[2] < order[0] < claim.token << 32
    recorded(store, claim, succeed(3, claim.token << 32))


@pytest.mark.parametrize(
    ("kept", "state", "calls"),
    [
        ((0, 1, 2, 3), 2, (3,)),  # all: as in the donor
        ((0, 1, 2), 2, ()),  # the state that was saved, and nothing after it
        ((0, 1), None, (1,)),  # the state that was saved is of a later call: from the creation on
    ],
)
def test_a_stateful_object_is_shared_as_far_as_its_calls(
    store: Store, kept: tuple[int, ...], state: int | None, calls: tuple[int, ...]
) -> None:
    """With the saved state, if it is not of a later call; with the calls that are not saved otherwise. So it is, too,
    where calls are dropped later."""
    donor = begin(store)
    made = [step(0, kind=StepKind.CREATE), *(step(seq, 0, kind=StepKind.METHOD) for seq in (1, 2, 3))]
    recorded(store, donor, record(*made, definitions=(DEFINITION,)), succeed(0, 0), changed(1, 1, 0))
    recorded(store, donor, changed(2, 2, 0, OTHER), changed(3, 3, 0))
    chained = tuple((0, seq) for seq in kept[1:])
    claim = fork(store, donor, kept, chained=chained)
    saved = store.saved_state(claim.run_number, 0)
    assert (saved.after, tuple(call.seq for call in saved.calls)) == (state, calls)
    recorded(store, claim, DropSteps((2, 3), ((0, 1),)))
    saved = store.saved_state(claim.run_number, 0)
    assert (saved.after, [call.seq for call in saved.calls]) == (None, [1])


def test_dropped_steps_make_room_for_the_same_keys(store: Store) -> None:
    """They go before everything else of their batch; a batch that is refused leaves them."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1, 0), definitions=(DEFINITION,)), succeed(0, 0), succeed(1, 1))
    again = step(2)._replace(key=step(1).key)
    assert write(store, claim, DropSteps((1,)), record(again), succeed(7, 3)) is not None
    assert [one.seq for one in store.steps(claim.run_number)] == [0, 1]
    claim = store.claim("7f3a", ME, dead)
    recorded(store, claim, DropSteps((1,)), record(again))
    assert [(one.seq, one.key) for one in store.steps(claim.run_number)] == [(0, step(0).key), (2, step(1).key)]
    assert list(store.edges(claim.run_number)) == []


def test_a_shared_run_needs_an_id_of_its_own(store: Store) -> None:
    """One that is taken is refused, and nothing is shared."""
    donor = begin(store)
    recorded(store, donor, record(step(0), definitions=(DEFINITION,)), succeed(0, 0))
    share = Share(donor.run_number, (0,), (), (), (), 1, 1)
    with pytest.raises(RunExists):
        store.create_run(new_run("7f3a"), None, share)
    assert len(store.steps(donor.run_number)) == 1
