"""Who works off an engine's messages: one at a time, in order, on the thread that costs least."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from dagengine.turns import BATCH, LITTLE, Turns

PATIENCE = 300.0


class Desk:
    """Notes who works off what. `held`: a turn with "hold" in it waits until it is let go."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.by: list[str] = []
        self.turns = Turns[int](self.work, self.pause, "engine")
        self.paused: SimpleQueue[float | None] = SimpleQueue()
        self.pauses: list[float] = []  # seconds, one for each time that it sleeps; then for ever
        self.hold: int | None = None
        self.held, self.go_on = threading.Event(), threading.Event()
        self.sooner = False
        self.twice = threading.Lock()
        self.told = threading.Condition()

    def work(self, messages: list[int]) -> bool:
        assert self.twice.acquire(blocking=False), "two turns at once"
        try:
            if self.hold in messages:
                self.held.set()
                assert self.go_on.wait(PATIENCE)
            with self.told:
                self.done += messages
                self.by.append(threading.current_thread().name)
                self.told.notify_all()
        finally:
            self.twice.release()
        return self.sooner

    def pause(self) -> float | None:
        seconds = self.pauses.pop(0) if self.pauses else None
        self.paused.put(seconds)
        return seconds

    def await_done(self, count: int) -> None:
        with self.told:
            assert self.told.wait_for(lambda: len(self.done) >= count, PATIENCE)

    def await_asleep(self) -> None:
        self.paused.get(timeout=PATIENCE)
        with self.turns._turn:  # it asks for how long in a turn of its own, which it still has to leave
            pass


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Open, and asleep."""
    made = Desk()
    made.turns.start()
    made.await_asleep()
    yield made
    made.go_on.set()
    made.turns.close()


def test_what_is_put_is_worked_off_by_the_engines_thread(desk: Desk) -> None:
    """Whoever puts a message has better things to do."""
    desk.turns.put(1)
    desk.await_done(1)
    assert set(desk.by) == {"engine"}


def test_what_is_offered_to_an_idle_engine_is_worked_off_at_once(desk: Desk) -> None:
    """By whoever brings it: when `offer` returns it is done, and the engine's thread has slept on."""
    desk.turns.offer(1)
    assert (desk.done, desk.by) == ([1], [threading.current_thread().name])
    assert desk.paused.empty()


def test_what_is_offered_in_a_turn_waits_for_it_and_comes_in_order(desk: Desk) -> None:
    """Two turns are never taken at once, and nothing is forgotten."""
    desk.hold = 1
    desk.turns.put(1)
    assert desk.held.wait(PATIENCE)
    for number in (2, 3, 4):
        desk.turns.offer(number)
    assert desk.done == []
    desk.go_on.set()
    desk.await_done(4)
    assert desk.done == [1, 2, 3, 4]


def test_a_busy_engine_is_not_helped(desk: Desk) -> None:
    """Where more than a little waits, the engine's thread takes it: who brings messages goes on bringing them."""
    desk.hold = 0
    desk.turns.put(0)
    assert desk.held.wait(PATIENCE)
    desk.hold = None
    for number in range(1, LITTLE + 2):
        desk.turns.put(number)
    desk.go_on.set()
    desk.await_done(LITTLE + 2)
    assert set(desk.by) == {"engine"}


def test_a_turn_that_was_taken_elsewhere_tells_the_engines_thread_of_new_times(desk: Desk) -> None:
    """It sleeps until a time that it knew when it fell asleep; there is an earlier one now."""
    desk.sooner = True
    desk.turns.offer(1)
    desk.await_asleep()
    assert desk.by[0] == threading.current_thread().name


def test_when_its_time_comes_the_engine_takes_a_turn_without_messages() -> None:
    """That is how timers are looked at."""
    desk = Desk()
    desk.pauses = [0.0]
    desk.turns.start()
    desk.await_asleep()
    desk.await_asleep()
    assert (desk.done, desk.by) == ([], ["engine"])
    desk.turns.close()


def test_what_was_put_before_the_end_is_worked_off(desk: Desk) -> None:
    """Also where it takes several turns; what is offered after it is nobody's."""
    desk.hold = 0
    desk.turns.put(0)
    assert desk.held.wait(PATIENCE)
    for number in range(1, 2 * BATCH):
        desk.turns.put(number)
    desk.go_on.set()
    desk.turns.close()
    assert desk.done == list(range(2 * BATCH))
    desk.turns.offer(-1)
    assert desk.done[-1] == 2 * BATCH - 1


def test_many_who_offer_at_once_lose_nothing_and_keep_their_order(desk: Desk) -> None:
    """Each thread's messages come in the order in which it brought them."""
    count, threads = 500, 4

    def bring(first: int) -> None:
        for number in range(first, first + count):
            (desk.turns.offer if number % 3 else desk.turns.put)(number)

    all_of_them = [threading.Thread(target=bring, args=(1_000 * each,)) for each in range(threads)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join(PATIENCE)
    desk.await_done(count * threads)
    for each in range(threads):
        brought = [number for number in desk.done if number // 1_000 == each]
        assert brought == list(range(1_000 * each, 1_000 * each + count))
