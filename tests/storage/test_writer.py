"""The writer's thread by itself: groups, their order with calls, and what a bug in a store does to its callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from dagengine.errors import InternalError
from dagengine.model import Claim
from dagengine.storage import writer
from dagengine.storage.writer import Batch, GroupWriter, Refusal, Refusals
from tests.storage.kit import PATIENCE, Outcome, event, record, step

Commit = Callable[[list[Batch], Refusals], list[Refusal | None]]

ONE = Claim(1, "one", 1)
TWO = Claim(2, "two", 1)


class Told:
    """A store that notes what it is told to commit, and can be made to wait and to fail."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.fail = False
        self.go_on = threading.Event()
        self.go_on.set()
        self.waits = threading.Event()

    def commit(self, batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        self.groups.append([batch.claim.run_number for batch in batches])
        self.waits.set()
        assert self.go_on.wait(PATIENCE)
        if self.fail:
            raise KeyError("a bug")
        return [refusals.get(batch.key) for batch in batches]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def group_writer(told: Told) -> Iterator[GroupWriter]:
    opened = GroupWriter(told.commit, "memory:")
    yield opened
    told.go_on.set()
    opened.close()


def hold_up(group_writer: GroupWriter, told: Told) -> None:
    """Leave the writer in a commit, until `told.go_on` is set."""
    told.go_on.clear()
    group_writer.write(ONE, [event("hold")], Outcome())
    assert told.waits.wait(PATIENCE)
    told.groups.clear()


def test_what_waits_is_one_group(group_writer: GroupWriter, told: Told) -> None:
    """All that came during a commit is in the next one."""
    hold_up(group_writer, told)
    last = Outcome()
    for claim in (TWO, ONE, TWO):
        group_writer.write(claim, [event("x")], last if claim is ONE else Outcome())
    told.go_on.set()
    last.wait()
    assert told.groups == [[2, 1, 2]]


def test_a_group_has_a_bound(group_writer: GroupWriter, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a group has its rows, what follows waits for the next one; steps count, not batches."""
    monkeypatch.setattr(writer, "GROUP_MAX", 4)
    hold_up(group_writer, told)
    last = Outcome()
    group_writer.write(ONE, [event("a"), event("b")], Outcome())
    group_writer.write(ONE, [record(step(0), step(1))], Outcome())
    group_writer.write(TWO, [record(*(step(seq) for seq in range(9)))], Outcome())
    group_writer.write(TWO, [event("c")], last)
    told.go_on.set()
    last.wait()
    assert told.groups == [[1, 1], [2], [2]]


def test_a_call_has_its_place_among_the_batches(group_writer: GroupWriter, told: Told) -> None:
    """What was handed over before a call is committed before it, and what comes after it, after."""
    hold_up(group_writer, told)
    seen: list[list[list[int]]] = []
    group_writer.write(ONE, [event("before")], Outcome())
    call = writer._Call(lambda: seen.append([*told.groups]))
    group_writer._put(call)
    group_writer.write(TWO, [event("after")], Outcome())
    told.go_on.set()
    assert call.ended.wait(PATIENCE)
    group_writer.close()
    assert seen == [[[1]]]
    assert told.groups == [[1], [2]]


def test_a_call_returns_and_raises_what_its_function_does(group_writer: GroupWriter) -> None:
    """The caller sees the result or the exception, though the function ran elsewhere."""
    assert group_writer.call(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        group_writer.call(lambda: 1 // 0)


def test_a_call_from_a_callback_does_not_wait_for_itself(group_writer: GroupWriter) -> None:
    """On the writer's own thread a call is made at once."""
    answers: list[int] = []
    last = Outcome()

    def done(_: object) -> None:
        answers.append(group_writer.call(lambda: 7))

    group_writer.write(ONE, [event("x")], done)
    group_writer.write(ONE, [event("x")], last)
    last.wait()
    assert answers == [7]


def test_a_bug_in_a_store_leaves_nobody_waiting(
    group_writer: GroupWriter, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody in the group is told; the runs in it are stopped, others go on."""
    told.fail = True
    first, later, other = Outcome(), Outcome(), Outcome()
    group_writer.write(ONE, [event("x")], first)
    assert isinstance(first.wait(), InternalError)
    assert "a group of writes failed" in caplog.text
    told.fail = False
    group_writer.write(ONE, [event("x")], later)
    group_writer.write(TWO, [event("x")], other)
    assert isinstance(later.wait(), InternalError)
    assert other.wait() is None


def test_a_new_claim_forgets_what_was_refused(group_writer: GroupWriter, told: Told) -> None:
    """The refusals of a run go with its old claims."""
    told.fail = True
    refused, again = Outcome(), Outcome()
    group_writer.write(ONE, [event("x")], refused)
    refused.wait()
    told.fail = False
    group_writer.call(lambda: group_writer.forget(1))
    group_writer.write(ONE, [event("x")], again)
    assert again.wait() is None


def test_closing_from_a_callback_does_not_wait_for_itself(told: Told) -> None:
    """The thread can't wait for its own end; it ends all the same."""
    closing = GroupWriter(told.commit, "memory:")
    closed = threading.Event()

    def done(_: object) -> None:
        closing.close()
        closed.set()

    closing.write(ONE, [event("x")], done)
    assert closed.wait(PATIENCE)
    closing.close()
    assert not closing._thread.is_alive()
