"""What every store promises of the end of runs: removed whole, expired values, and which artifacts are still named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dagengine.errors import RunConflict, RunNotFound, RunOwned
from dagengine.model import Claim, PayloadInput, RunState, StepInput, Value
from dagengine.storage.interface import EndedRun, RunFilter, Store
from dagengine.storage.lifetime_notes import pin, pins, unpin
from dagengine.storage.origins import origin, origins
from dagengine.storage.tags import tags_between
from dagengine.storage.writes import CloseBody, FinishRun
from tests.storage.kit import (
    DEFINITION,
    ME,
    NOW,
    alive,
    attempt,
    begin,
    changed,
    dead,
    digest_of,
    event,
    large,
    new_run,
    process,
    record,
    recorded,
    step,
    succeed,
)

BIG = Value(digest_of(b"big"), 1_000_000)


def clear(store: Store) -> int:
    """Clear away all that is left of removed runs; how often there was something."""
    times = 0
    while store.clear_removed():
        times += 1
    return times


def ended(store: Store, run_id: str = "7f3a") -> int:
    """A run with a bit of everything in it, which has ended; its number."""
    claim = begin(store, run_id)
    recorded(
        store,
        claim,
        record(step(0), step(1, 0, large()), definitions=(DEFINITION,)),
        attempt(0),
        succeed(0, 0, BIG),
        origin(0, {"by": "cache"}),
        changed(1, 1, 0, Value(digest_of(b"state"), 50_000)),
        event("run.started"),
        CloseBody(b"result", (StepInput(1), PayloadInput(digest_of(b"result"), 20_000))),
        FinishRun(RunState.SUCCEEDED, NOW),
    )
    return claim.run_number


def test_a_removed_run_is_gone_at_once(store: Store) -> None:
    """It is not found, not listed, and can't be claimed; its id may be used again, and nothing of it comes back."""
    number = ended(store)
    store.remove_run("7f3a", alive, NOW)
    assert store.runs(RunFilter()) == []
    with pytest.raises(RunNotFound):
        store.find_run("7f3a")
    with pytest.raises(RunNotFound):
        store.claim("7f3a", ME, dead)
    again = begin(store)
    assert again.run_number != number
    assert store.steps(again.run_number) == []
    clear(store)
    assert store.find_run("7f3a").number == again.run_number


def test_what_is_left_of_a_removed_run_is_cleared_away(store: Store) -> None:
    """Steps, attempts, events and side rows; those of other runs stay."""
    number, other = ended(store), ended(store, "8a11")
    store.remove_run("7f3a", alive, NOW)
    clear(store)
    assert store.steps(number) == []
    assert store.attempts(number) == []
    assert store.events(number) == []
    assert store.definitions(number) == []
    assert list(store.edges(number)) == []
    assert origins(store, number) == {}
    assert len(store.steps(other)) == 2
    assert origins(store, other) == {0: {"by": "cache"}}
    assert store.clear_removed() is False


def test_a_run_at_which_somebody_works_is_not_removed(store: Store) -> None:
    """Its owner is named; once that is dead, the run can be removed, and what the owner still writes is refused."""
    claim = begin(store)
    with pytest.raises(RunOwned):
        store.remove_run("7f3a", alive, NOW)
    store.remove_run("7f3a", dead, NOW)
    with pytest.raises(AssertionError, match="taken over"):
        recorded(store, claim, record(step(0), definitions=(DEFINITION,)))


def test_only_a_whole_id_removes(store: Store) -> None:
    """A prefix is not enough, and a run that is not there is said not to be."""
    ended(store)
    for wrong in ("7f", "none"):
        with pytest.raises(RunNotFound):
            store.remove_run(wrong, alive, NOW)
    assert store.find_run("7f3a").state is RunState.SUCCEEDED


def test_artifacts_are_known_by_who_names_them(store: Store) -> None:
    """Large values, arguments and states by rows; what runs themselves name, apart; what nobody names is not said."""
    ended(store)
    store.create_run(replace(new_run("9c00"), inputs=(PayloadInput(digest_of(b"argument"), 20_000),)), None)
    asked = [digest_of(name) for name in (b"big", b"large", b"state", b"value", b"nobody's")]
    assert store.referenced(asked) == {digest_of(b"big"), digest_of(b"large"), digest_of(b"state")}
    assert store.payloads() == {digest_of(b"result"), digest_of(b"argument")}
    store.remove_run("7f3a", alive, NOW)
    clear(store)
    assert store.referenced(asked) == set()
    assert store.payloads() == {digest_of(b"argument")}


def test_expired_values_keep_no_artifacts(store: Store) -> None:
    """The record stays, with digests and sizes; small values are cleared away; other runs keep theirs."""
    number, other = ended(store), begin(store, "8a11")
    recorded(store, other, record(step(0), definitions=(DEFINITION,)), succeed(0, 0, BIG))
    [seen] = [run for run in store.ended_runs(NOW + 1, 0, 10) if run.number == number]
    assert store.expire_values(seen, NOW)
    assert store.expired_runs() == {number: NOW}
    asked = [digest_of(b"big"), digest_of(b"large")]
    assert store.referenced(asked) == {digest_of(b"big")}
    assert store.payloads() == set()
    assert store.clear_expired() is True
    assert store.clear_expired() is False
    values = store.values(number, [0, 1])
    assert all(value.inline is None and value.digest for value in values.values())
    assert len(store.steps(number)) == 2


def seen_of(store: Store, run_id: str) -> EndedRun:
    """The run as a collector sees it."""
    [found] = [run for run in store.ended_runs(1e12, 0, 100) if run.id == run_id]
    return found


def test_ended_runs_come_in_order_and_without_those_that_are_kept(store: Store) -> None:
    """By number, page by page; not what is under way, waits, is paused, pinned, or was begun too late."""
    numbers = [ended(store, name) for name in ("aa", "bb", "cc")]
    begin(store, "live")
    store.create_run(new_run("queued"), None)
    recorded(store, begin(store, "paused"), FinishRun(RunState.PAUSED, NOW))
    recorded(store, begin(store, "failed"), FinishRun(RunState.FAILED, NOW + 5))
    pin(store, numbers[1], NOW, "ada", "")
    found = store.ended_runs(NOW + 1, 0, 100)
    assert [run.id for run in found] == ["aa", "cc", "failed"]
    assert found[0] == EndedRun(numbers[0], "aa", RunState.SUCCEEDED, 1, NOW, NOW, 2)
    assert found[2].finished_at == NOW + 5
    assert [run.id for run in store.ended_runs(NOW + 1, numbers[0], 1)] == ["cc"]
    assert store.ended_runs(NOW, 0, 100) == []


def test_what_changed_since_it_was_seen_is_kept(store: Store) -> None:
    """A run that was resumed, or pinned, between being looked at and being collected loses nothing."""
    for name in ("claimed", "pinned"):
        recorded(store, begin(store, name), FinishRun(RunState.FAILED, NOW))
    claimed, pinned = seen_of(store, "claimed"), seen_of(store, "pinned")
    recorded(store, store.claim("claimed", ME, dead), FinishRun(RunState.FAILED, NOW))
    pin(store, pinned.number, NOW, "ada", "")
    for seen in (claimed, pinned):
        assert store.expire_values(seen, NOW) is False
        with pytest.raises(RunConflict, match="it is kept"):
            store.remove_run(seen.id, dead, NOW, seen)
    assert store.expired_runs() == {}
    assert {run.id for run in store.runs(RunFilter())} == {"claimed", "pinned"}


def test_a_run_whose_values_have_expired_is_not_claimed(store: Store) -> None:
    """It could not go on; one line says what can be done instead. Nor is it one of many that are claimed at once."""
    recorded(store, begin(store, "old"), FinishRun(RunState.FAILED, NOW))
    recorded(store, begin(store, "new"), FinishRun(RunState.INTERRUPTED, NOW))
    assert store.expire_values(seen_of(store, "old"), NOW)
    with pytest.raises(RunConflict, match="dagengine rerun old"):
        store.claim("old", ME, dead)
    claims = store.claim_all(["old", "new"], ME, lambda run, owner: False)
    assert isinstance(claims["old"], RunConflict)
    assert isinstance(claims["new"], Claim)
    assert store.find_run("old").state is RunState.FAILED


def test_the_artifacts_of_a_run_are_listed(store: Store) -> None:
    """Of steps, calls and saved states, with their sizes."""
    number = ended(store)
    found = dict(store.artifacts_of(number))
    assert found == {digest_of(b"big"): 1_000_000, digest_of(b"large"): 1 << 20, digest_of(b"state"): 50_000}
    assert list(store.artifacts_of(number + 1)) == []


def test_runs_are_found_by_their_tags(store: Store) -> None:
    """With a text, or with any; several have to fit; they go with the run."""
    for name, tags in (("one", {"env": "prod", "team": "data"}), ("two", {"env": "test"}), ("three", {})):
        store.create_run(replace(new_run(name), facts={"tags": tags}), None)

    def found(*tags: tuple[str, str | None]) -> set[str]:
        return {run.id for run in store.runs(RunFilter(tags=tags))}

    assert found() == {"one", "two", "three"}
    assert found(("env", None)) == {"one", "two"}
    assert found(("env", "prod")) == found(("env", "prod"), ("team", None)) == {"one"}
    assert found(("env", "test"), ("team", None)) == found(("colour", None)) == set()
    assert {run.id for run in store.runs(RunFilter((RunState.PENDING,), "nightly", tags=(("env", "test"),)))} == {"two"}
    number = store.find_run("one").number
    assert tags_between(store, 1, 99)[number] == {"env": "prod", "team": "data"}
    store.remove_run("one", dead, NOW)
    clear(store)
    assert number not in tags_between(store, 1, 99)


def test_processes_that_own_nothing_are_forgotten(store: Store) -> None:
    """The owner of a run is kept, dead or not; of the others the dead, or, where there are leases, the silent."""
    if store.url == "memory:":
        return  # a process is known by its runs
    done, going = begin(store, "done"), store.create_run(new_run("going"), process("other"))
    assert going is not None
    recorded(store, done, FinishRun(RunState.SUCCEEDED, NOW))
    later = 1e12
    assert store.forget_processes(alive if store.lease is None else dead, later if store.lease is None else NOW) == 0
    assert store.forget_processes(dead, later) == 1
    assert store.forget_processes(dead, later) == 0
    assert store.find_run("going").owner == process("other")
    begin(store, "again")
    assert store.find_run("again").owner == ME


def test_a_pin_is_kept_until_it_is_taken_off(store: Store) -> None:
    """With who wants it and why; a second one replaces it; it goes with its run."""
    number = ended(store)
    pin(store, number, NOW, "ada", "the paper")
    pin(store, number, NOW, "ada", "the thesis")
    assert pins(store)[number].why == "the thesis"
    unpin(store, number)
    assert pins(store) == {}
    pin(store, number, NOW, "ada", "")
    store.remove_run("7f3a", alive, NOW)
    clear(store)
    assert pins(store) == {}
