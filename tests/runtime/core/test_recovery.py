"""Lost workers, nodes and objects: tables of single events."""

from __future__ import annotations

import pytest

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from tests.runtime.core.world import World, capacity, request

MB = 1_000_000


def test_a_lost_attempt_is_made_again_after_a_pause_that_grows() -> None:
    """As often as the task says, then it is told as lost."""
    world = World(capacity())
    world.submit(request(1, losses=2))
    delays = []
    for _ in range(2):
        world.lose((1, 1))
        retried = [action for action in world.told if isinstance(action, a.Retried)][-1]
        delays.append(retried.delay)
        assert (1, 1) not in world.running()
        world.wait(retried.delay)
        assert (1, 1) in world.running()
    world.lose((1, 1))
    assert world.ended[1, 1].outcome == a.Outcome.LOST
    assert world.ended[1, 1].attempt == 3
    assert 0.15 <= delays[0] <= 0.25
    assert 0.3 <= delays[1] <= 0.5


def test_a_task_without_losses_is_told_as_lost_at_once() -> None:
    """Then whoever submitted decides."""
    world = World(capacity())
    world.submit(request(1))
    world.lose((1, 1))
    assert world.ended[1, 1].outcome == a.Outcome.LOST


def test_news_of_an_old_attempt_are_dropped() -> None:
    """A result that comes after its attempt was given up changes nothing."""
    world = World(capacity())
    world.submit(request(1, losses=1))
    world.lose((1, 1))
    world.wait(1.0)
    before = world.core.state_hash()
    assert world.tell(e.Finished(0, 1, [e.Done((1, 1), 1, 0.1)])) == []
    assert world.core.state_hash() == before
    world.finish((1, 1))
    assert world.ended[1, 1].attempt == 2


def test_news_of_an_old_epoch_are_dropped() -> None:
    """A node that was given up can say what it likes."""
    world = World(capacity("zero"), capacity("one"))
    world.submit(*(request(number, plain=False, losses=1) for number in range(4)))
    there = list(world.hosts[1].attempts)
    assert there
    world.lose_host(1)
    world.join(1, capacity("one"))
    world.wait(1.0)
    assert world.tell(e.Finished(1, 1, [e.Done(there[0], 1, 0.1)])) == []
    assert there[0] in world.live


def test_a_silent_node_gets_nothing_new_and_is_given_up_later() -> None:
    """Suspect after 3 s, dead after 10 s, fenced; its attempts go elsewhere."""
    world = World(capacity("zero"), capacity("one"))
    world.tell(e.NodeHeard(1, 1))
    world.submit(*(request(number, plain=False, losses=1) for number in range(2)))
    lost = list(world.hosts[1].attempts)
    assert lost
    for _ in range(4):
        world.wait(1.0)
    world.submit(*(request(number, plain=False) for number in range(10, 16)))
    assert list(world.hosts[1].attempts) == lost
    world.hosts[1].attempts.clear()
    for _ in range(8):
        world.wait(1.0)
    assert a.Fence(1, 1) in world.told
    assert set(world.core.nodes) == {0}
    world.tell(e.NodeHeard(1, 1))
    assert set(world.core.nodes) == {0}


def test_a_node_that_is_heard_again_is_trusted_again() -> None:
    """A pause is no death."""
    world = World(capacity("zero", cpus=1), capacity("one", cpus=1))
    world.tell(e.NodeHeard(1, 1))
    for _ in range(4):
        world.wait(1.0)
    world.submit(*(request(number, plain=False) for number in range(2)))
    assert not world.hosts[1].attempts
    world.tell(e.NodeHeard(1, 1))
    assert world.hosts[1].attempts


def test_a_lost_object_is_read_from_another_copy() -> None:
    """Nothing is made again as long as somebody has the bytes."""
    world = World(capacity("zero", cpus=1), capacity("one", cpus=1))
    world.submit(request(1, output=1, need=e.Need(node="one"), plain=False))
    world.make((1, 1), MB // 10)
    world.submit(request(2, 1, need=e.Need(node="zero"), plain=False))
    world.moves()
    world.finish((1, 2))
    world.lose_host(1)
    world.submit(request(3, 1))
    assert world.running() == [(1, 3)]
    assert not world.lost


def test_a_lost_object_is_made_again_when_somebody_needs_it_and_not_before() -> None:
    """By the request that made it once; nobody is told of that task's second end."""
    world = World(capacity("zero"), capacity("one"))
    world.submit(request(1, output=1, need=e.Need(node="one", soft=True), plain=False))
    world.make((1, 1), MB // 10)
    assert (9, 1) in world.hosts[1].arena
    world.lose_host(1)
    assert not world.running()
    world.submit(request(2, 1))
    assert world.running() == [(1, 1)]
    ended = dict(world.ended)
    world.live[1, 1] = request(1)  # an Ended of it would be noticed
    world.make((1, 1), MB // 10)
    del world.live[1, 1]
    assert world.ended == ended
    assert world.running() == [(1, 2)]


def _chain(world: World, length: int) -> None:
    """length objects, each made from the one before, all but the last freed."""
    for number in range(length):
        inputs = (number - 1,) if number else ()
        world.submit(request(number, *inputs, output=number, need=e.Need(node="one", soft=True), plain=False))
        world.make((1, number), 20_000)
        if number:
            world.tell(e.Freed([(9, number - 1)]))


def test_ancestors_that_are_gone_are_made_again_as_well() -> None:
    """As far up as it has to be, in order, and forgotten again after."""
    world = World(capacity("zero"), capacity("one"))
    _chain(world, 6)
    world.lose_host(1)
    world.submit(request(100, 5))
    made = []
    while (1, 100) not in world.running():
        (task,) = world.running()
        made.append(task[1])
        world.live[task] = request(task[1])
        world.make(task, 20_000)
        del world.live[task]
    assert made == [0, 1, 2, 3, 4, 5]
    world.finish((1, 100))
    world.tell(e.Freed([(9, 5)]))
    assert not world.core.directory.objects
    assert not world.hosts[0].arena


def test_a_durable_ancestor_stops_the_climb() -> None:
    """What can be mapped from an artifact is not made again."""
    world = World(capacity("zero"), capacity("one"))
    for number in range(4):
        inputs = (number - 1,) if number else ()
        world.submit(request(number, *inputs, output=number, need=e.Need(node="one", soft=True), plain=False))
        world.make((1, number), 20_000)
    world.durable.add((9, 2))
    world.tell(e.Durable((9, 2)))
    world.lose_host(1)
    world.submit(request(100, 3))
    assert world.running() == [(1, 3)]


def test_what_was_put_and_is_lost_ends_its_readers() -> None:
    """Nobody can make it again: Lost is told, and tasks that read it end, one after the other."""
    world = World(capacity("zero"))
    world.put((9, 0), MB // 2)
    world.submit(request(1, 0, output=1), request(2, 1, output=2), request(3, 2))
    host, lease = world.hosts[0], world.find((1, 1))[1].lease
    world.tell(e.Damaged(0, 1, (9, 0)))
    del host.attempts[1, 1]
    world.tell(e.AttemptReturned(0, 1, (1, 1), lease.attempt))
    assert world.lost == {(9, 0)}
    outcomes = [(ended.request.id[1], ended.outcome, ended.cause) for ended in world.ended.values()]
    assert outcomes == [(1, "input", (9, 0)), (2, "input", (9, 1)), (3, "input", (9, 2))]


def test_a_damaged_spill_file_is_made_again() -> None:
    """Restored says that the bytes are bad: the producer runs again."""
    world = World(capacity("zero", arena=MB))
    world.submit(request(1, output=1))
    world.make((1, 1), 6 * MB // 10)
    world.put((9, 50), 6 * MB // 10)
    world.moves()
    world.submit(request(2, 1))
    while world.hosts[0].spilling:
        world.spilled(world.hosts[0])
    world.restored(world.hosts[0], (9, 1), ok=False)
    assert world.running() == [(1, 1)]


def test_a_producer_that_fails_ends_its_readers() -> None:
    """An object that its task did not make will never be; later readers end as well."""
    world = World(capacity())
    world.submit(request(1, output=1), request(2, 1, output=2), request(3, 2))
    world.finish((1, 1), failed=True)
    assert [ended.outcome for ended in world.ended.values()] == ["done", "input", "input"]
    world.submit(request(4, 1))
    assert world.ended[1, 4].outcome == "input"


def test_a_failing_fetch_is_not_repeated_without_a_pause() -> None:
    """0.2 s, doubling; after three failures the copy is taken for lost."""
    world = World(capacity("zero", cpus=1), capacity("one", cpus=1))
    world.submit(request(1, output=1, need=e.Need(node="one"), plain=False))
    world.make((1, 1), MB // 10)
    world.submit(request(2, 1, need=e.Need(node="zero"), plain=False))
    for _ in range(3):
        fetches = len([action for action in world.told if isinstance(action, a.Fetch)])
        world.fetched(world.hosts[0], (9, 1), ok=False)
        assert len([action for action in world.told if isinstance(action, a.Fetch)]) == fetches
        world.wait(5.0)
    assert world.running() == [(1, 1)]


def test_the_largest_overshoot_is_killed_when_memory_runs_out() -> None:
    """With more room it is tried again; the last task of a node fails with the figures."""
    world = World(capacity(cpus=2, memory=1000))
    world.submit(request(1, need=e.Need(memory=400), plain=False, losses=1))
    world.submit(request(2, need=e.Need(memory=100), plain=False, losses=1))
    usage = [e.Usage((1, 1), 1, 450), e.Usage((1, 2), 1, 520)]
    world.tell(e.MemoryHigh(0, 1, 970, 1000, usage))
    assert a.Kill(0, 1, (1, 2), 1, "memory") in world.told
    world.lose((1, 2), ours=True)
    world.wait(1.0)
    assert (1, 2) not in world.running()  # 520 x 1.2 do not fit beside 400
    world.finish((1, 1))
    lease = world.find((1, 2))[1].lease
    assert lease.memory == 624
    world.tell(e.MemoryHigh(0, 1, 990, 1000, [e.Usage((1, 2), lease.attempt, 990)]))
    world.lose((1, 2), ours=True)
    assert world.ended[1, 2].outcome == a.Outcome.TOO_LARGE
    assert world.ended[1, 2].facts == {"memory": 990, "limit": 1000, "neighbours": 0}


def test_no_leases_while_memory_is_short() -> None:
    """Above 0.80 nothing begins, until the pressure is over."""
    world = World(capacity(cpus=2, memory=1000))
    world.tell(e.MemoryHigh(0, 1, 850, 1000, []))
    world.submit(request(1))
    assert not world.running()
    world.tell(e.MemoryHigh(0, 1, 500, 1000, []))
    assert world.running() == [(1, 1)]


def test_a_cancelled_attempt_that_ends_well_all_the_same_is_dropped_with_what_it_made() -> None:
    """Its output is delivered to nobody."""
    world = World(capacity())
    world.submit(request(1, output=1), request(2, 1))
    world.tell(e.Cancelled([(1, 1)], force=True))
    assert a.Kill(0, 1, (1, 1), 1, "cancelled") in world.told
    world.make((1, 1), MB // 10)
    assert world.ended[1, 1].outcome == "dropped"
    assert world.ended[1, 2].outcome == "input"
    assert not world.hosts[0].arena


@pytest.mark.parametrize("force", [False, True])
def test_cancelling_drops_what_waits(force: bool) -> None:
    """Waiting, queued: gone at once; what reads it ends too."""
    world = World(capacity(cpus=1))
    world.submit(request(1, output=1, plain=False), request(2, plain=False), request(3, 1))
    world.tell(e.Cancelled([(1, 2), (1, 3)], force))
    assert {ended.request.id: ended.outcome for ended in world.ended.values()} == {
        (1, 2): "dropped",
        (1, 3): "dropped",
    }


def test_a_running_task_is_left_unless_forced() -> None:
    """Asked to give it back only if it has not begun."""
    world = World(capacity())
    world.submit(request(1))
    world.tell(e.Cancelled([(1, 1)]))
    assert not [action for action in world.told if isinstance(action, a.Kill)]
    world.finish((1, 1))
    assert world.ended[1, 1].outcome == "done"


def test_closing_drops_what_has_not_begun() -> None:
    """And later submissions; what runs may end, or with force is killed."""
    world = World(capacity(cpus=1))
    world.submit(request(1, plain=False), request(2, plain=False))
    world.tell(e.Closing())
    assert world.ended[1, 2].outcome == "dropped"
    world.submit(request(3))
    assert world.ended[1, 3].outcome == "dropped"
    world.tell(e.Closing(force=True))
    assert a.Kill(0, 1, (1, 1), 1, "cancelled") in world.told
