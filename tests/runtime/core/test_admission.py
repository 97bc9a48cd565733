"""Who is admitted, and how room is made in an arena: tables of single events."""

from __future__ import annotations

import pytest

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from tests.runtime.core.world import UNIT, World, capacity, request

KIND = e.TaskKind
MB = 1_000_000


def of(actions: list[a.Action], kind: type) -> list[a.Action]:
    return [action for action in actions if type(action) is kind]


def test_six_slots() -> None:
    """Room for six objects, two tasks that need four each, eight objects made before: both finish, no object is brought
    back more often than it is read, and the two are never half served."""
    world = World(capacity(cpus=2, arena=6 * MB))
    for number in range(8):
        assert world.put((9, number), MB)
        world.moves()
    world.submit(request(100, 0, 1, 2, 3), request(101, 4, 5, 6, 7))
    served = 0
    while world.live:
        host = world.hosts[0]
        assert len(world.running()) <= 1
        admitted = [task for task in world.core.tasks.values() if task.extra is not None and task.extra.pins]
        assert len(admitted) <= 1
        if host.spilling or host.restoring:
            world.moves()
            continue
        assert world.running(), world.core.waits()
        world.finish(world.running()[0])
        served += 1
    assert served == 2
    assert world.restores <= 8
    assert [ended.outcome for ended in world.ended.values()] == ["done", "done"]


def test_room_is_granted_at_once_where_there_is_some() -> None:
    """The answer to RoomAsked comes with the same event."""
    world = World(capacity(arena=MB))
    world.submit(request(1, output=1))
    world.ask((1, 1), MB // 2)
    assert world.find((1, 1))[1].rooms
    world.finish((1, 1))
    assert world.hosts[0].arena == {(9, 1): MB // 2}


def test_the_object_that_is_read_last_is_spilled_first() -> None:
    """What the known graph needs soon stays; what nobody is known to read goes first."""
    world = World(capacity(cpus=1, arena=10 * MB))
    for number in range(3):
        world.put((9, number), 2 * MB)
    world.submit(request(1, output=1, plain=False), request(2, 1, 0), request(3, 2, 1))
    world.ask((1, 1), 4 * MB)
    (spill,) = [action for action in world.told if isinstance(action, a.Spill)]
    assert spill.objects == [(9, 2), (9, 0)]


def test_small_objects_are_spilled_together() -> None:
    """One Spill for many: they go into one file."""
    world = World(capacity(cpus=1, arena=100 * 20_000))
    for number in range(80):
        world.put((9, number), 20_000)
    world.submit(request(1, output=1))
    world.put((9, 100), 20_000)
    spills = [action for action in world.told if isinstance(action, a.Spill)]
    assert len(spills) == 1
    assert len(spills[0].objects) >= 10


def test_a_running_task_never_waits_for_room_that_nobody_can_free() -> None:
    """If all there is in the arena is read, its output goes straight to the spill space."""
    world = World(capacity(cpus=1, arena=MB))
    world.put((9, 0), 6 * MB // 10)
    world.submit(request(1, 0, output=1))
    world.ask((1, 1), 6 * MB // 10)
    assert of(world.told, a.Overflow) == [a.Overflow(0, 1, world.requests)]
    world.finish((1, 1))
    assert world.hosts[0].spilled == {(9, 1): 6 * MB // 10}


def test_an_output_larger_than_the_arena_goes_to_the_spill_space() -> None:
    """One object that is larger than everything is no reason to fail, nor is the expectation of one."""
    world = World(capacity(cpus=1, arena=MB))
    world.submit(request(1, output=1, expected=5 * MB))
    world.ask((1, 1), 5 * MB)
    assert of(world.told, a.Overflow)
    world.finish((1, 1))
    assert world.ended[1, 1].outcome == a.Outcome.DONE


def test_inputs_that_never_fit_together_end_the_task_with_the_figures() -> None:
    """Nobody waits for room that can't be: the end says how much is asked and how much there is."""
    world = World(capacity(cpus=1, arena=MB))
    for number in range(3):
        world.put((9, number), 4 * MB // 10)
        world.moves()
    world.submit(request(1, 0, 1, 2))
    ended = world.ended[1, 1]
    assert (ended.outcome, ended.started) == (a.Outcome.NO_ROOM, False)
    assert ended.facts == {"inputs": 12 * MB // 10, "arena": MB}


def test_arguments_leave_room_for_outputs() -> None:
    """A second task is not admitted if the arguments of both were more than 0.7 of the arena; alone it is."""
    world = World(capacity(cpus=2, arena=MB))
    world.put((9, 0), 35 * MB // 100)
    world.put((9, 1), 40 * MB // 100)
    world.submit(request(1, 0), request(2, 1))
    assert world.running() == [(1, 1)]
    world.finish((1, 1))
    assert world.running() == [(1, 2)]


def test_tasks_that_read_the_same_object_share_its_room() -> None:
    """Arguments count once, whoever reads them."""
    world = World(capacity(cpus=2, arena=MB))
    world.put((9, 0), 65 * MB // 100)
    world.submit(request(1, 0), request(2, 0))
    assert len(world.running()) == 2


def test_an_old_bundle_is_not_overtaken_by_younger_ones() -> None:
    """What needs most of the arena runs, although small ones never stop coming."""
    world = World(capacity(cpus=2, arena=MB))
    for number in range(3):
        world.put((9, number), MB // 10)
    world.put((9, 3), 6 * MB // 10)
    world.submit(request(1, 0), request(2, 3, 1, plain=True))
    number = 10
    while (1, 2) in world.live and (1, 2) not in world.running():
        number += 1
        assert number < 60, world.core.waits()
        world.submit(request(number, number % 2))
        world.now += 0.2
        for task in [task for task in world.running() if task != (1, 2)][:1]:
            world.finish(task)
        world.moves()
    assert (1, 2) in world.running()


def test_a_task_that_wants_all_cpus_is_overtaken_only_for_a_while() -> None:
    """Before it is old others may run beside it; then the node is kept for it."""
    world = World(capacity(cpus=2))
    world.submit(request(1, plain=False), request(2, need=e.Need(cpus=2 * UNIT), plain=False), request(3, plain=False))
    assert world.running() == [(1, 1), (1, 3)]
    number = 10
    while (1, 2) not in world.running():
        number += 1
        assert number < 40
        world.now += 0.3
        world.submit(request(number, plain=False))
        world.finish(world.running()[0])


def test_a_claim_is_no_wall_for_what_comes_first_anyway() -> None:
    """A higher priority still goes first on a node that an old task has claimed."""
    world = World(capacity(cpus=2))
    world.submit(request(1, plain=False), request(2, need=e.Need(cpus=2 * UNIT), plain=False))
    world.now = 5.0
    world.submit(request(3, plain=False))
    assert world.running() == [(1, 1)]
    world.submit(request(4, plain=False, priority=1))
    assert world.running() == [(1, 1), (1, 4)]


def test_a_durable_object_is_dropped_without_a_write() -> None:
    """Its artifact is mapped instead: no room, no spill, no restore."""
    world = World(capacity(cpus=1, arena=MB))
    world.put((9, 0), 7 * MB // 10)
    world.durable.add((9, 0))
    world.tell(e.Durable((9, 0)))
    world.put((9, 1), 7 * MB // 10)
    assert not of(world.told, a.Spill)
    assert list(world.hosts[0].arena) == [(9, 1)]
    world.submit(request(1, 0))
    assert world.running() == [(1, 1)]
    assert not world.restores


def test_a_put_waits_as_long_as_running_tasks_will_free_room() -> None:
    """Whoever puts is throttled, and told to go on when there is room."""
    world = World(capacity(cpus=1, arena=MB))
    world.put((9, 0), 6 * MB // 10)
    world.submit(request(1, 0))
    assert not world.put((9, 1), 6 * MB // 10)
    assert a.Throttle(True) in world.told
    world.tell(e.Freed([(9, 0)]))
    world.finish((1, 1))
    assert world.told[-1] == a.Throttle(False)
    assert world.store(world.requests)


def test_a_put_is_refused_when_the_spill_space_is_full() -> None:
    """With nothing that could free room: a clear end instead of waiting."""
    world = World(capacity(cpus=1, arena=MB))
    world.put((9, 0), 6 * MB // 10)
    world.requests += 1
    world.puts[world.requests] = ((9, 1), 6 * MB // 10)
    world.tell(e.RoomAsked(0, 1, world.requests, 6 * MB // 10))
    world.spilled(world.hosts[0], ok=False, full=True)
    assert of(world.told, a.Overflow) == [a.Overflow(0, 1, world.requests, refused=True)]


def test_a_full_spill_space_is_tried_again_after_a_while() -> None:
    """Others may have made room on the disk."""
    world = World(capacity(cpus=1, arena=MB))
    world.put((9, 0), 6 * MB // 10)
    world.requests += 1
    world.puts[world.requests] = ((9, 1), 6 * MB // 10)
    world.tell(e.RoomAsked(0, 1, world.requests, 6 * MB // 10))
    world.spilled(world.hosts[0], ok=False, full=True)
    world.wait(5.0)
    assert world.put((9, 2), 6 * MB // 10)
    assert (9, 0) in world.hosts[0].spilled


def test_what_nobody_needs_is_dropped() -> None:
    """Freed and read by nobody: its room is free at once, also that of what was spilled."""
    world = World(capacity(cpus=1, arena=MB))
    for number in range(3):
        world.put((9, number), 4 * MB // 10)
        world.moves()
    world.submit(request(1, 2))
    world.tell(e.Freed([(9, 0), (9, 1), (9, 2)]))
    assert list(world.hosts[0].arena) == [(9, 2)]
    assert not world.hosts[0].spilled
    world.finish((1, 1))
    assert not world.hosts[0].arena
    assert not world.core.directory.objects


def test_a_view_keeps_an_object_where_it_is() -> None:
    """Held objects stay in the arena until the last view is gone, also when they were freed."""
    world = World(capacity(cpus=1, arena=MB))
    world.put((9, 0), 4 * MB // 10)
    world.submit(request(1, 0))
    world.tell(e.Held(0, 1, ((9, 0),)))
    world.finish((1, 1))
    world.tell(e.Freed([(9, 0)]))
    world.put((9, 1), 7 * MB // 10)
    assert (9, 0) in world.hosts[0].arena
    world.tell(e.LetGo(0, 1, ((9, 0),)))
    assert (9, 0) not in world.hosts[0].arena


def test_a_reader_gets_a_spilled_object_brought_back() -> None:
    """Wanted is answered by Ready when the bytes are there and pinned."""
    world = World(capacity(cpus=1, arena=MB))
    for number in range(2):
        world.put((9, number), 6 * MB // 10)
    world.moves()
    assert (9, 0) in world.hosts[0].spilled
    world.tell(e.Wanted((9, 0), 0, 77))
    world.moves()
    assert world.ready == {77: True}
    assert (9, 0) in world.hosts[0].arena


def test_a_reader_of_an_object_larger_than_the_arena_reads_it_where_it_lies() -> None:
    """It is told at once: nothing could ever bring it into the arena."""
    world = World(capacity(cpus=1, arena=MB))
    world.put((9, 0), 5 * MB)
    world.tell(e.Wanted((9, 0), 0, 5))
    assert world.ready == {5: True}


@pytest.mark.parametrize("share", [UNIT // 2, UNIT // 4])
def test_shares_fill_one_gpu_before_they_touch_the_next(share: int) -> None:
    """So that whole devices stay whole."""
    world = World(capacity(cpus=8, devices=(e.Device(0, 100), e.Device(1, 100))))
    need = e.Need(cpus=0, gpus=share, gpu_memory=10)
    count = UNIT // share
    world.submit(*(request(number, need=need, plain=False) for number in range(count)))
    devices = {world.find((1, number))[1].lease.devices for number in range(count)}
    assert devices == {(0,)}
    world.submit(request(90, need=e.Need(cpus=0, gpus=UNIT), plain=False))
    assert world.find((1, 90))[1].lease.devices == (1,)


def test_gpu_memory_is_never_shared_across_devices() -> None:
    """Two devices of 100 bytes hold no task of 120."""
    world = World(capacity(cpus=8, devices=(e.Device(0, 100), e.Device(1, 100))))
    world.submit(request(1, need=e.Need(gpus=UNIT // 4, gpu_memory=60), plain=False))
    world.submit(request(2, need=e.Need(gpus=UNIT // 4, gpu_memory=60), plain=False))
    world.submit(request(3, need=e.Need(gpus=UNIT // 4, gpu_memory=60), plain=False))
    assert [world.find((1, number))[1].lease.devices for number in (1, 2)] == [(0,), (1,)]
    assert (1, 3) not in world.running()


def test_inputs_are_brought_while_no_cpu_is_free() -> None:
    """The next task need not wait for the disk once it has a cpu; until then it holds room, but no cpu."""
    world = World(capacity(cpus=1, arena=10 * MB))
    world.put((9, 0), 6 * MB)
    world.put((9, 1), 4 * MB)  # spills the first ahead of need
    world.moves()
    world.tell(e.Freed([(9, 1)]))
    world.submit(request(1, plain=False))
    world.submit(request(2, 0))
    assert (9, 0) in world.hosts[0].restoring
    world.moves()
    assert world.running() == [(1, 1)]
    assert world.core.nodes[0].ledger.cpus == 0
    world.finish((1, 1))
    assert world.running() == [(1, 2)]


def test_what_was_brought_ahead_makes_way_for_what_is_written() -> None:
    """A running task's output does not overflow because of a task that only waits for its cpu."""
    world = World(capacity(cpus=1, arena=10 * MB))
    world.put((9, 0), 6 * MB)
    world.put((9, 1), 4 * MB)
    world.moves()
    world.tell(e.Freed([(9, 1)]))
    world.submit(request(1, output=1, plain=False), request(2, 0))
    world.moves()
    world.ask((1, 1), 8 * MB)
    world.moves()
    assert world.find((1, 1))[1].rooms
    assert not of(world.told, a.Overflow)
