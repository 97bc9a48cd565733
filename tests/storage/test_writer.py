"""The writer's thread by itself: groups, their order with calls, and what a bug in a store does to its callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from dagengine.errors import InternalError
from dagengine.model import Claim
from dagengine.storage import writer
from dagengine.storage.writer import LITTLE, Batch, Finish, GroupWriter, Refusal, Refusals
from tests.storage.kit import PATIENCE, Outcome, elsewhere, event, record, step

Commit = Callable[[list[Batch], Refusals], list[Refusal | None]]

ONE = Claim(1, "one", 1)
TWO = Claim(2, "two", 1)


class Told:
    """A store that notes what it is told to commit, and can be made to wait and to fail. `begun`: on which threads."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun: list[threading.Thread] = []
        self.begins = True
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

    def begin(self, batch: Batch, refusals: Refusals) -> Finish | None:
        if not self.begins:
            return None
        self.begun.append(threading.current_thread())
        return lambda: self.commit([batch], refusals)


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


# ---- what is sent off by whoever writes -----------------------------------------------------


@pytest.fixture
def sending(told: Told) -> Iterator[GroupWriter]:
    """Of a store that can send a batch off without waiting."""
    opened = GroupWriter(told.commit, "memory:", told.begin)
    yield opened
    told.go_on.set()
    opened.close()


def put_elsewhere(group_writer: GroupWriter, claim: Claim, outcome: Outcome, rows: int = 1) -> threading.Thread:
    """Write on a thread of its own, which is returned."""

    def put() -> threading.Thread:
        group_writer.write(claim, [event("x") for _ in range(rows)], outcome)
        return threading.current_thread()

    return elsewhere(put)


def test_what_is_written_while_the_thread_sleeps_is_sent_off_by_whoever_writes(
    sending: GroupWriter, told: Told
) -> None:
    """Its end is waited for, and told, by the thread."""
    outcome = Outcome()
    writer = put_elsewhere(sending, ONE, outcome)
    assert outcome.wait() is None
    assert told.begun == [writer]
    assert outcome.thread is sending._thread
    assert told.groups == [[1]]


def test_what_comes_while_the_thread_is_at_it_waits_for_its_turn(sending: GroupWriter, told: Told) -> None:
    """The connection is the thread's until it has found nothing more; what came meanwhile is one group."""
    told.go_on.clear()
    first, last = Outcome(), Outcome()
    put_elsewhere(sending, ONE, first)
    assert told.waits.wait(PATIENCE)
    put_elsewhere(sending, TWO, Outcome())
    put_elsewhere(sending, ONE, last)
    assert len(told.begun) == 1
    told.go_on.set()
    last.wait()
    assert told.groups == [[1], [2, 1]]
    assert len(told.begun) == 1


def test_a_call_comes_after_what_was_sent_off_before_it(sending: GroupWriter, told: Told) -> None:
    """It may look at what was written."""
    told.go_on.clear()
    put_elsewhere(sending, ONE, Outcome())
    seen: list[list[list[int]]] = []
    call = writer._Call(lambda: seen.append([*told.groups]))
    sending._put(call)
    told.go_on.set()
    assert call.ended.wait(PATIENCE)
    assert seen == [[[1]]]


def test_what_can_not_be_sent_off_is_committed(sending: GroupWriter, told: Told) -> None:
    """Because the store says so, because it is much, or because a signal might interrupt who writes."""
    told.begins = False
    outcomes = [Outcome(), Outcome(), Outcome()]
    put_elsewhere(sending, ONE, outcomes[0])
    outcomes[0].wait()
    told.begins = True
    put_elsewhere(sending, ONE, outcomes[1], rows=LITTLE + 1)
    outcomes[1].wait()
    sending.write(ONE, [event("x")], outcomes[2])
    outcomes[2].wait()
    assert told.begun == []
    assert told.groups == [[1], [1], [1]]


def test_many_who_write_at_once_lose_nothing_and_keep_their_order(sending: GroupWriter, told: Told) -> None:
    """Each thread's batches are committed in the order in which it wrote them; never two transactions at once."""
    count, threads = 300, 4
    alone = threading.Lock()
    done: list[tuple[int, int]] = []
    all_done = threading.Event()
    commit = told.commit

    def once(batches: list[Batch], refusals: Refusals) -> list[Refusal | None]:
        assert alone.acquire(blocking=False), "two transactions at once"
        try:
            return commit(batches, refusals)
        finally:
            alone.release()

    told.commit = once  # type: ignore[method-assign]

    def put(each: int) -> None:
        for number in range(count):
            sending.write(Claim(each, "run", 1), [event("x")], lambda _, number=number: note(each, number))  # type: ignore[misc]

    def note(each: int, number: int) -> None:
        done.append((each, number))
        if len(done) == count * threads:
            all_done.set()

    writers = [threading.Thread(target=put, args=(each,)) for each in range(threads)]
    for each in writers:
        each.start()
    assert all_done.wait(PATIENCE)
    for each in writers:
        each.join()
    for number in range(threads):
        assert [of for by, of in done if by == number] == list(range(count))
