"""What every store promises of signals, and of runs that wait without a process."""

from __future__ import annotations

from dataclasses import replace

from dagengine.model import RunState, Value
from dagengine.storage.interface import Store
from dagengine.storage.signals import send, signals, take
from dagengine.storage.sleepers import awake, due, falls_asleep, next_due, sleeper, wake
from dagengine.storage.writes import FinishRun
from tests.storage.kit import ME, begin, new_run, recorded


def payload(text: str) -> Value:
    data = text.encode()
    return Value("ab" * 32, len(data), data)


def asleep(store: Store, run_id: str, wake_at: float | None, seen: int = 0) -> int:
    """A run that was let go of; its number."""
    claim = begin(store, run_id)
    recorded(store, claim, FinishRun(RunState.WAITING, 1.0), falls_asleep(run_id, wake_at, seen, None))
    return claim.run_number


def test_signals_are_kept_in_their_order_and_taken_once(store: Store) -> None:
    """One with an id that was sent before is no second one; one that was taken stays with the step that took it."""
    claim = begin(store)
    for id_, name in (("1", "paid"), ("2", "sent"), ("1", "paid"), ("3", "paid")):
        send(store, claim.run_number, claim.run_id, signal_id=id_, name=name, value=payload(id_), at=1.0)
    found = signals(store, claim.run_number)
    assert [(each.name, each.value, each.taken) for each in found] == [
        ("paid", payload("1"), None),
        ("sent", payload("2"), None),
        ("paid", payload("3"), None),
    ]
    recorded(store, claim, take(found[0].number, 7))
    recorded(store, claim, take(found[0].number, 8))
    assert [each.taken for each in signals(store, claim.run_number)] == [7, None, None]
    assert [each.name for each in signals(store, claim.run_number, after=found[1].number)] == ["paid"]


def test_a_run_that_waits_is_due_at_its_time(store: Store) -> None:
    """The longest due is first; one without a time is not due until something comes for it."""
    late, early, never = (asleep(store, name, at) for name, at in (("late", 30.0), ("early", 20.0), ("never", None)))
    assert next_due(store) == 20.0
    assert due(store, 19.0) == []
    assert [each.run for each in due(store, 30.0)] == [early, late]
    assert [each.run for each in due(store, 30.0, limit=1)] == [early]
    wake(store, never, "never")
    assert [each.run for each in due(store, 1.0)] == [never]
    assert store.find_run("never").state is RunState.WAITING


def test_a_signal_makes_a_waiting_run_due(store: Store) -> None:
    """Whoever wakes it finds the signal."""
    number = asleep(store, "7f3a", None)
    assert send(store, number, "7f3a", signal_id="1", name="paid", value=payload("x"), at=1.0) is not None
    assert [each.id for each in due(store, 0.0)] == ["7f3a"]


def test_a_signal_that_came_before_the_run_fell_asleep_is_not_slept_through(store: Store) -> None:
    """A run that has seen fewer signals than there are is due at once; one that has seen all is not."""
    claim = begin(store)
    number = send(store, claim.run_number, claim.run_id, signal_id="1", name="paid", value=payload("x"), at=1.0)
    recorded(store, claim, falls_asleep(claim.run_id, 50.0, 0, "me"))
    assert [each.wake_at for each in due(store, 1.0)] == [0.0]
    assert number is not None
    recorded(store, claim, falls_asleep(claim.run_id, 50.0, number, "me"))
    assert due(store, 49.0) == []
    assert sleeper(store, claim.run_number) == (claim.run_number, claim.run_id, 50.0, "me")


def test_a_run_that_was_to_be_cancelled_when_it_fell_asleep_is_due(store: Store) -> None:
    """Whether it has slept before or not: whoever takes it up hears of the request. Before that, nobody else is due."""
    other = asleep(store, "other", 50.0)
    claim = begin(store)
    for _ in range(2):
        assert store.request_cancel(claim.run_id, 2.0) is RunState.RUNNING
        recorded(store, claim, FinishRun(RunState.WAITING, 1.0), falls_asleep(claim.run_id, None, 2**31 - 1, None))
        assert [found.run for found in due(store, 0.0)] == [claim.run_number]
        claim = store.claim(claim.run_id, ME, lambda _: False, reopen=False)
        assert store.find_run(claim.run_id).cancel_requested_at == 2.0
        recorded(store, claim, awake())
    assert [found.run for found in due(store, 50.0)] == [other]


def test_a_sleeping_childs_cancel_makes_its_parent_due(store: Store) -> None:
    """In the transaction that ends the child: nobody works on it who would write the word. A parent that is gone is no matter."""
    parent = asleep(store, "parent", None)
    for name, above in (("child", "parent"), ("orphan", "gone")):
        claim = store.create_run(replace(new_run(name), facts={"parent": [above, 0]}), ME)
        assert claim is not None
        recorded(store, claim, FinishRun(RunState.WAITING, 1.0), falls_asleep(name, 50.0, 0, None))
    assert due(store, 1.0) == []
    assert store.request_cancel("orphan", 2.0) is RunState.CANCELLED
    assert due(store, 1.0) == []
    assert store.request_cancel("child", 2.0) is RunState.CANCELLED
    assert [found.run for found in due(store, 1.0)] == [parent]


def test_a_run_that_a_process_has_again_is_not_woken(store: Store) -> None:
    """What comes for it then is its owner's to see."""
    number = asleep(store, "7f3a", 5.0)
    claim = store.claim("7f3a", ME, lambda owner: False, reopen=False)
    assert claim.run_number == number
    recorded(store, claim, awake())
    wake(store, number, "7f3a")
    assert due(store, 100.0) == []
    assert next_due(store) is None
    assert sleeper(store, number) is None
