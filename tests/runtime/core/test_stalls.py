"""What would wait for ever for room, because nothing can be spilled any more, ends; and nothing ends that need not."""

from __future__ import annotations

from dagengine.runtime.core import events as e
from dagengine.runtime.core.limits import STALL_BUSY, STALL_SECONDS
from dagengine.runtime.protocol import TaskId
from tests.runtime.core.world import World, capacity, request

MB = 1_000_000


def full_world(cpus: int = 2) -> World:
    """Three objects of 2 MB, and room for two of them: object 0 is spilled, and nothing else can be."""
    world = World(capacity(cpus=cpus, arena=5 * MB))
    for number in range(3):
        assert world.put((9, number), 2 * MB)
    world.moves()
    assert (9, 0) in world.hosts[0].spilled
    return world


def pass_time(world: World, seconds: float) -> None:
    """All that is to be spilled meanwhile is refused: the disk is full."""
    host = world.hosts[0]
    end = world.core.now + seconds
    while world.core.now < end:
        world.wait(1.0)
        while host.spilling:
            world.spilled(host, ok=False, full=True)


def outcomes(world: World) -> dict[TaskId, str]:
    return {task: ended.outcome for task, ended in world.ended.items()}


def test_a_task_whose_input_finds_no_room_ends_after_the_grace_time_with_figures() -> None:
    """Until then it waits; what it is told names what there is, what is missing, and what can't be written."""
    world = full_world()
    world.submit(request(1, 0))
    pass_time(world, STALL_SECONDS - 2)
    assert not world.ended
    assert "room" in world.core.waits()[1, 1]
    pass_time(world, 4)
    assert outcomes(world) == {(1, 1): "stalled"}
    facts = world.ended[1, 1].facts or {}
    assert (facts["needed"], facts["arena"], facts["unwritten"]) == (2 * MB, 5 * MB, 4 * MB)
    assert facts["seconds"] >= STALL_SECONDS


def test_room_that_comes_in_time_ends_the_wait() -> None:
    """Somebody frees an object: the task runs, and nothing ends later."""
    world = full_world()
    world.submit(request(1, 0))
    pass_time(world, STALL_SECONDS / 2)
    world.tell(e.Freed([(9, 1)]))
    world.moves()
    assert world.running() == [(1, 1)]
    world.finish((1, 1))
    pass_time(world, 2 * STALL_SECONDS)
    assert outcomes(world) == {(1, 1): "done"}


def test_while_anything_runs_it_waits_longer() -> None:
    """What runs may be what would free the room, when it has ended."""
    world = full_world()
    world.submit(request(7), request(1, 0))
    pass_time(world, (STALL_BUSY - 1) * STALL_SECONDS)
    assert not world.ended
    world.finish((1, 7))
    pass_time(world, STALL_SECONDS + 2)
    assert outcomes(world) == {(1, 7): "done", (1, 1): "stalled"}


def test_many_that_wait_end_in_growing_numbers_the_youngest_first() -> None:
    """Of thirty all end within seconds of the first, and the oldest last, so that it may go on with what is freed."""
    world = full_world()
    world.submit(*(request(number, 0) for number in range(30)))
    pass_time(world, STALL_SECONDS + 8)
    assert set(outcomes(world).values()) == {"stalled"}
    assert len(world.ended) == 30
    assert [number for _, number in world.ended][:2] == [29, 28]
    assert list(world.ended)[-1] == (1, 0)


def test_a_task_whose_inputs_are_there_is_none_of_those() -> None:
    """It runs in the arena that nothing leaves any more."""
    world = full_world()
    world.submit(request(1, 0), request(2, 1, 2))
    pass_time(world, 1)
    assert world.running() == [(1, 2)]
