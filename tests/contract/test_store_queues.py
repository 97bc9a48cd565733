"""Queues as rows, on every store: who is taken, who waits, and that two who take at once don't take the same."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from dagengine.errors import RunExists, RunNotFound
from dagengine.storage import queues
from dagengine.storage.interface import Store
from dagengine.storage.queue_rules import QueueSettings
from dagengine.storage.queues import STARTED, WAITING, Entry
from tests.storage.kit import new_run


def _submit(store: Store, *entries: Entry, replace: bool = False) -> None:
    for entry in entries:
        store.create_run(new_run(entry.id), None, also=partial(_put, store, entry, replace))


def _put(store: Store, entry: Entry, replace: bool, connection: object) -> None:
    queues.put(store, connection, entry, replace)


def _stands(store: Store, entry: Entry, replace: bool = False) -> str:
    with pytest.raises(queues.Stands) as told:
        _submit(store, entry, replace=replace)
    with pytest.raises(RunNotFound):
        store.find_run(entry.id)
    return told.value.entry.id


def _ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def test_a_run_waits_from_when_it_is_recorded(store: Store) -> None:
    """One that can't be recorded has no place in a queue."""
    _submit(store, Entry("a"))
    with pytest.raises(RunExists):
        _submit(store, Entry("a", priority=9))
    assert queues.due_queues(store, 10.0) == ["default"]
    assert queues.take(store, "default", "S", 5, 10.0).runs == ("a",)
    assert queues.counts(store) == {"default": (0, 1)}
    entry = queues.entry_of(store, "a")
    assert entry is not None
    assert (entry.state, entry.server, entry.started_at) == (STARTED, "S", 10.0)


def test_priority_goes_before_age_and_nobody_goes_before_his_time(store: Store) -> None:
    """The greatest priority first, then the oldest; `next_due` says when to look again."""
    old, young = Entry("old", submitted_at=1.0), Entry("young", submitted_at=2.0)
    urgent, later = Entry("urgent", priority=5, submitted_at=3.0), Entry("later", priority=9, not_before=50.0)
    _submit(store, young, old, urgent, later)
    assert [queues.place_of(store, entry) for entry in (later, urgent, old, young)] == [0, 1, 2, 3]
    assert queues.next_due(store, 10.0) == 50.0
    assert queues.take(store, "default", "S", 2, 10.0).runs == ("urgent", "old")
    assert queues.take(store, "default", "S", 9, 10.0).runs == ("young",)
    assert queues.take(store, "default", "S", 9, 50.0).runs == ("later",)
    assert queues.next_due(store, 50.0) is None


def test_the_places_of_many_are_those_of_each(store: Store) -> None:
    """Of a few they are counted; of many the queue is read once. The story: a list of 33,000 that waited counted all of
    them for each."""
    for queue in ("q", "r"):
        queues.save_queue(store, queue, QueueSettings())
    entries = [
        Entry(f"{n:03}", "qr"[n % 2], priority=n % 3, submitted_at=float(n % 7)) for n in range(queues.COUNTED + 20)
    ]
    _submit(store, *entries)
    found = queues.entries_of(store, [entry.id for entry in entries] + ["unknown"])
    assert len(found) == len(entries)
    counted = {entry.id: queues.place_of(store, entry) for entry in entries}
    assert queues.places(store, found) == counted
    assert queues.places(store, found[:5]) == {entry.id: counted[entry.id] for entry in found[:5]}
    assert sorted(counted.values()) == sorted(2 * list(range(len(entries) // 2)))


def test_what_is_given_back_waits_again(store: Store) -> None:
    """Only what the server had taken itself; its place under the limits is free."""
    queues.save_queue(store, "q", QueueSettings(concurrency=2))
    _submit(store, *(Entry(f"r{n}", "q", submitted_at=float(n)) for n in range(4)))
    assert queues.take(store, "q", "S", 1, 10.0).runs == ("r0",)
    assert queues.take(store, "q", "T", 5, 10.0).runs == ("r1",)
    queues.give_back(store, ["r0", "r1", "r2"], "S")
    assert queues.counts(store) == {"q": (3, 1)}
    assert queues.take(store, "q", "T", 5, 11.0).runs == ("r0",)


def test_limits_count_those_under_way_until_they_are_over(store: Store) -> None:
    """Everywhere, with one server and with one key; a key at its limit holds up nobody else."""
    queues.save_queue(store, "q", QueueSettings(concurrency=4, per_worker=3, per_key=1))
    keys = ["x", "x", "x", "y", None, None, None]
    _submit(store, *(Entry(f"r{n}", "q", key=key, submitted_at=float(n)) for n, key in enumerate(keys)))
    assert queues.take(store, "q", "S", 9, 10.0).runs == ("r0", "r3", "r4")
    assert queues.take(store, "q", "S", 9, 10.0).runs == ()
    assert queues.take(store, "q", "T", 9, 10.0).runs == ("r5",)
    assert queues.take(store, "q", "U", 9, 10.0).runs == ()
    queues.remove(store, ["r0", "r3"], STARTED)
    assert queues.take(store, "q", "U", 9, 10.0).runs == ("r1", "r6")
    assert _ids(queues.entries(store, WAITING, "q")) == ["r2"]


def test_a_key_with_many_waiting_does_not_hide_the_others(store: Store) -> None:
    """Also where more of them wait than are looked at in one go."""
    queues.save_queue(store, "q", QueueSettings(per_key=2))

    def fill(connection: object) -> None:
        for n in range(queues.PAGE + 20):
            fields = Entry(f"r{n:04}", "q", key="full", submitted_at=float(n), state=WAITING)._asdict()
            queues._ADD(connection, **fields, rank=-fields.pop("priority"))  # type: ignore[arg-type]

    store.side(fill)
    _submit(store, Entry("other", "q", key="y", submitted_at=1e6))
    assert queues.take(store, "q", "S", 9, 10.0).runs == ("r0000", "r0001", "other")


def test_a_rate_lets_so_many_begin_and_says_when_the_next_may(store: Store) -> None:
    """The bucket is kept in the queue's row, so it holds for all servers together, and over their ends."""
    queues.save_queue(store, "q", QueueSettings(rate=(2, 10.0)))
    _submit(store, *(Entry(f"r{n}", "q", submitted_at=float(n)) for n in range(6)))
    first = queues.take(store, "q", "S", 9, 100.0)
    assert first.runs == ("r0", "r1")
    assert first.again_at == pytest.approx(105.0, abs=0.01)
    assert queues.take(store, "q", "T", 9, 102.0).runs == ()
    assert queues.take(store, "q", "T", 9, 105.01).runs == ("r2",)
    assert queues.take(store, "q", "T", 9, 1000.0).runs == ("r3", "r4")
    queues.save_queue(store, "q", QueueSettings(paused=True))
    assert queues.take(store, "q", "T", 9, 2000.0).runs == ()
    queues.save_queue(store, "q", QueueSettings())
    assert queues.take(store, "q", "T", 9, 2000.0).runs == ("r5",)


def test_one_of_a_kind_waits_or_runs_at_a_time(store: Store) -> None:
    """A second one with the same `dedup` is told of the first, or replaces it while it only waits."""
    _submit(store, Entry("a", dedup="D"), Entry("other"))
    assert _stands(store, Entry("b", dedup="D")) == "a"
    assert queues.entry_of(store, "b") is None
    _submit(store, Entry("c", dedup="D"), replace=True)
    assert _ids(queues.entries(store, queues.DROPPED)) == ["a"]
    assert set(queues.take(store, "default", "S", 9, 1.0).runs) == {"c", "other"}
    assert _stands(store, Entry("d", dedup="D")) == "c"
    assert _stands(store, Entry("d", dedup="D"), replace=True) == "c"
    queues.remove(store, ["c"], STARTED)
    _submit(store, Entry("d", dedup="D"))


def test_only_one_takes_over_from_a_dead_server(store: Store) -> None:
    """Who comes second is told so."""
    _submit(store, Entry("a"))
    queues.take(store, "default", "dead", 1, 1.0)
    assert queues.hand_over(store, "a", "dead", "S")
    assert not queues.hand_over(store, "a", "dead", "T")
    assert queues.entries(store, STARTED)[0].server == "S"


def test_a_purge_drops_what_waits_and_leaves_what_runs(store: Store) -> None:
    """A queue that does not exist can't be added to."""
    _submit(store, Entry("a"), Entry("b", submitted_at=1.0))
    queues.take(store, "default", "S", 1, 10.0)
    assert queues.drop_waiting(store, "default") == ["b"]
    assert _ids(queues.entries(store, STARTED)) == ["a"]
    queues.remove(store, ["b"], queues.DROPPED)
    assert queues.entry_of(store, "b") is None
    with pytest.raises(queues.NoQueue):
        _submit(store, Entry("c", "nowhere"))
    with pytest.raises(RunNotFound):
        store.find_run("c")


def test_servers_that_take_at_once_keep_the_limits_together(store: Store) -> None:
    """Four threads take and finish sixty runs: each is taken once, and no key is ever under way twice."""
    queues.save_queue(store, "q", QueueSettings(concurrency=3, per_key=1))
    _submit(store, *(Entry(f"r{n}", "q", key=f"k{n % 4}", submitted_at=float(n)) for n in range(60)))
    under_way: list[str] = []
    taken: list[str] = []
    wrong: list[str] = []
    lock = threading.Lock()

    def serve(name: str) -> None:
        while True:
            with lock:
                if len(taken) >= 60:
                    return
            for run in queues.take(store, "q", name, 2, 10.0).runs:
                key = f"k{int(run[1:]) % 4}"
                with lock:
                    taken.append(run)
                    if key in under_way or len(under_way) >= 3:
                        wrong.append(run)
                    under_way.append(key)
                with lock:
                    under_way.remove(key)
                queues.remove(store, [run], STARTED)

    threads = [threading.Thread(target=serve, args=(f"S{n}",), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(taken) == sorted(f"r{n}" for n in range(60))
    assert wrong == []
