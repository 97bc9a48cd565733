"""Order, placement on several nodes, actors, groups, and what the watchdog says: tables of single events."""

from __future__ import annotations

import pytest

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.core.placement import misfit
from tests.runtime.core.world import UNIT, World, capacity, request

KIND = e.TaskKind
MB = 1_000_000


def create(number: int, **more: object) -> e.Request:
    return request(number, kind=KIND.CREATE, actor=(5, number), plain=False, **more)


def call(number: int, actor: int, *inputs: int, **more: object) -> e.Request:
    return request(number, *inputs, kind=KIND.METHOD, actor=(5, actor), need=e.Need(cpus=0), **more)


# ---- order --------------------------------------------------------------------------------------


def test_priority_then_the_longest_path_then_submission() -> None:
    """The order in which waiting tasks start."""
    world = World(capacity(cpus=1))
    world.submit(request(0, plain=False))
    world.submit(
        request(1, plain=False),
        request(2, plain=False, rank=3.0),
        request(3, plain=False, priority=1),
        request(4, plain=False, rank=3.0),
    )
    order = []
    while world.running():
        (task,) = world.running()
        order.append(task[1])
        world.finish(task)
    assert order == [0, 3, 2, 4, 1]


def test_priority_goes_before_order_across_classes() -> None:
    """Classes are asked by their first tasks, again after each lease."""
    world = World(capacity(cpus=1))
    world.submit(request(0, plain=False))
    half = e.Need(cpus=UNIT // 2)
    world.submit(
        request(1, need=half, plain=False), request(2, priority=2), request(3, need=half, plain=False, priority=1)
    )
    world.finish((1, 0))
    assert world.running() == [(1, 2)]
    world.finish((1, 2))
    assert world.running() == [(1, 3), (1, 1)]


def test_plain_tasks_are_leased_ahead_once_they_are_known_to_be_quick() -> None:
    """About 5 ms of work for each worker, so that the dispatcher can send ahead."""
    world = World(capacity(cpus=2))
    world.submit(*(request(number) for number in range(500)))
    assert len(world.running()) == 2
    for _ in range(30):
        world.finish(world.running()[0], seconds=0.0001)
    assert 20 <= len(world.running()) <= 101


def test_tasks_that_take_long_are_not_leased_ahead() -> None:
    """They stay movable."""
    world = World(capacity(cpus=2))
    world.submit(*(request(number) for number in range(50)))
    for _ in range(5):
        world.finish(world.running()[0], seconds=1.0)
    assert len(world.running()) == 2


def test_plain_work_is_shared_out_among_nodes() -> None:
    """Nobody gets all of it."""
    world = World(*(capacity(f"n{number}", cpus=2) for number in range(4)))
    world.submit(*(request(number) for number in range(8)))
    assert [len(host.attempts) for host in world.hosts.values()] == [2, 2, 2, 2]


def test_an_idle_node_takes_over_what_another_has_not_begun() -> None:
    """By Revoke; what comes back goes to the idle node."""
    world = World(capacity("zero", cpus=1))
    world.submit(*(request(number) for number in range(200)))
    for _ in range(60):
        world.finish(world.running()[0], seconds=0.0001)
    assert len(world.running()) > 20
    for task_id in list(world.core.tasks):
        if world.core.tasks[task_id].node is None:
            world.tell(e.Cancelled([task_id]))
    world.join(1, capacity("one", cpus=1))
    revoked = [action for action in world.told if isinstance(action, a.Revoke)]
    assert revoked
    for task_id, _ in revoked[0].attempts:
        world.give_back(task_id)
    assert world.hosts[1].attempts


# ---- placement ----------------------------------------------------------------------------------


def test_a_task_goes_to_where_its_bytes_are() -> None:
    """Most input bytes first."""
    world = World(*(capacity(f"n{number}") for number in range(3)))
    world.submit(request(1, output=1, need=e.Need(node="n2"), plain=False))
    world.make((1, 1), MB // 2)
    world.submit(request(2, 1))
    assert (1, 2) in world.hosts[2].attempts
    assert world.core.explain((1, 2))["placement"]["bring"] == 0


def test_a_named_node_is_kept_to_and_a_preferred_one_preferred() -> None:
    """Affinity, hard and soft."""
    world = World(capacity("n0", cpus=1), capacity("n1", cpus=1))
    hard, soft = e.Need(node="n1"), e.Need(node="n1", soft=True)
    world.submit(
        request(1, need=soft, plain=False), request(2, need=soft, plain=False), request(3, need=hard, plain=False)
    )
    assert list(world.hosts[1].attempts) == [(1, 1)]
    assert list(world.hosts[0].attempts) == [(1, 2)]
    world.finish((1, 1))
    assert list(world.hosts[1].attempts) == [(1, 3)]


@pytest.mark.parametrize(
    ("need", "said"),
    [
        (e.Need(cpus=8 * UNIT), "8 cpus, and the node with the most has 4"),
        (e.Need(memory=10**12), "1,000,000,000,000 bytes of memory, and the node with the most has 1,000"),
        (e.Need(gpus=2 * UNIT), "2 gpus, and the node with the most has 1"),
        (e.Need(gpus=UNIT // 2, gpu_memory=99), "99 bytes of memory on one gpu, and the node with the most has 50"),
        (e.Need(custom=(("tape", UNIT),)), "1 of 'tape', and the node with the most has 0"),
        (e.Need(node="mars"), "node 'mars', and there is none of that name (there are: big, gpu)"),
        (e.Need(cpus=4 * UNIT, gpus=UNIT), "no one node has all that a task asks for"),
        (e.Need(cpus=4 * UNIT), None),
        (e.Need(node="mars", soft=True), None),
    ],
)
def test_what_can_never_run_is_told_with_what_there_is(need: e.Need, said: str | None) -> None:
    """One line: what is asked for, and what exists."""
    nodes = [capacity("big", cpus=4, memory=1000), capacity("gpu", cpus=2, memory=1000, devices=(e.Device(0, 50),))]
    told = misfit(need, nodes)
    assert (told is None) if said is None else (told is not None and said in told)


# ---- streams and nested tasks ---------------------------------------------------------------------


def test_items_of_a_stream_are_read_before_it_ends() -> None:
    """Yielded makes objects; what the stream did not make by its end will never be."""
    world = World(capacity())
    world.submit(request(1, output=1, kind=KIND.STREAM, plain=False))
    world.submit(*(e.Request((1, 10 + i), 2, inputs=((9, 1, i),)) for i in range(3)))
    world.inline |= {(9, 1, 0), (9, 1, 1)}
    world.tell(e.Yielded(0, 1, (1, 1), 1, e.Made((9, 1, 0), 10)))
    assert (1, 10) in world.running()
    world.tell(e.Yielded(0, 1, (1, 1), 1, e.Made((9, 1, 1), 10)))
    world.finish((1, 1))
    assert world.ended[1, 12].outcome == "input"
    world.submit(e.Request((1, 20), 2, inputs=((9, 1, 7),)))
    assert world.ended[1, 20].outcome == "input"


def test_a_task_that_waits_inside_itself_holds_no_cpu() -> None:
    """Its children run; when it goes on the ledger may be overdrawn, and is right again later."""
    world = World(capacity(cpus=1))
    world.submit(request(1, plain=False))
    world.submit(request(2, output=2, plain=False), request(3, plain=False))
    world.tell(e.Blocked(0, 1, (1, 1), 1, ((9, 2),)))
    assert world.running() == [(1, 1), (1, 2)]
    world.tell(e.Unblocked(0, 1, (1, 1), 1))
    assert world.core.nodes[0].ledger.cpus == -UNIT
    world.finish((1, 2))
    assert world.running() == [(1, 1)]
    world.finish((1, 1))
    assert world.running() == [(1, 3)]


def test_a_cycle_of_blocked_tasks_is_told_once() -> None:
    """Each waits for what the other makes: nobody would ever go on."""
    world = World(capacity(cpus=2))
    world.submit(request(1, output=1, plain=False), request(2, output=2, plain=False))
    world.tell(e.Blocked(0, 1, (1, 1), 1, ((9, 2),)))
    world.tell(e.Blocked(0, 1, (1, 2), 1, ((9, 1),)))
    for _ in range(3):
        world.wait(1.0)
    cycles = [action.ids for action in world.told if isinstance(action, a.Cycle)]
    assert [set(cycle) for cycle in cycles] == [{(1, 1), (1, 2)}]
    assert "cycle" in world.core.waits()[1, 1]


# ---- actors ---------------------------------------------------------------------------------------


def test_calls_go_out_in_the_order_of_submission() -> None:
    """Also if the input of an early one comes late: the later ones wait behind it."""
    world = World(capacity())
    world.submit(create(1), call(2, 1, 7), call(3, 1), request(7, output=7, plain=False))
    world.finish((1, 1))
    assert (1, 3) not in world.running()
    world.finish((1, 7))
    assert [task for task in world.running() if task != (1, 1)] == [(1, 2), (1, 3)]


def test_an_actor_keeps_what_it_was_given_until_it_is_released() -> None:
    """Its cpu, also between calls; released politely it ends when it has nothing to do."""
    world = World(capacity(cpus=1))
    world.submit(create(1), call(2, 1), request(3, plain=False))
    world.finish((1, 1))
    assert (1, 3) not in world.running()
    world.tell(e.ActorReleased((5, 1)))
    assert (5, 1) in world.hosts[0].actors
    world.finish((1, 2))
    assert not world.hosts[0].actors
    assert world.running() == [(1, 3)]
    world.submit(call(4, 1))
    assert world.ended[1, 4].outcome == "actor"


def test_an_idle_actor_whose_process_dies_is_told() -> None:
    """And what it had is free."""
    world = World(capacity(cpus=1))
    world.submit(create(1), request(3, plain=False))
    world.finish((1, 1))
    world.lose_actor((5, 1))
    assert a.ActorGone((5, 1), 0) in world.told
    assert world.running() == [(1, 3)]


def test_calls_of_a_dead_actor_end_as_lost_or_without_having_begun() -> None:
    """The one that ran is lost, the others never began."""
    world = World(capacity())
    world.submit(create(1))
    world.finish((1, 1))
    world.submit(call(2, 1), call(3, 1), call(4, 1, 50))
    world.lose((1, 2))
    told = {ended.request.id[1]: (ended.outcome, ended.started) for ended in world.ended.values()}
    assert told == {1: ("done", True), 2: ("lost", True), 3: ("actor", False), 4: ("actor", False)}
    assert not [action for action in world.told if isinstance(action, a.ActorGone)]
    assert not world.core.actors.actors


def test_an_actor_that_can_not_be_made_ends_its_calls() -> None:
    """A constructor that raises is a CREATE that failed."""
    world = World(capacity())
    world.submit(create(1), call(2, 1))
    world.finish((1, 1), failed=True)
    assert world.ended[1, 2].outcome == "actor"


def test_many_calls_are_sent_ahead_but_not_all() -> None:
    """A death gives back at most so many."""
    world = World(capacity())
    world.submit(create(1), *(call(number, 1) for number in range(2, 402)))
    world.finish((1, 1))
    assert len(world.running()) == 256
    world.finish((1, 2))
    assert len(world.running()) == 256


# ---- groups ---------------------------------------------------------------------------------------


def _places(world: World) -> list[int]:
    (reserved,) = [action for action in world.told if isinstance(action, a.GroupReserved)]
    return [place[0] for place in reserved.places]


@pytest.mark.parametrize(
    ("strategy", "nodes"),
    [("pack", {0}), ("strict_pack", {0}), ("spread", {0, 1, 2}), ("strict_spread", {0, 1, 2})],
)
def test_where_bundles_go(strategy: str, nodes: set[int]) -> None:
    """Together, or apart."""
    world = World(*(capacity(f"n{number}", cpus=4) for number in range(3)))
    world.tell(e.GroupAsked((7, 1), (e.Need(),) * 3, strategy))
    assert set(_places(world)) == nodes


@pytest.mark.parametrize("strategy", ["strict_pack", "strict_spread"])
def test_a_strict_group_that_can_never_be_is_refused(strategy: str) -> None:
    """At once, with the reason."""
    world = World(*(capacity(f"n{number}", cpus=2) for number in range(2)))
    world.tell(e.GroupAsked((7, 1), (e.Need(),) * 3, strategy))
    (refused,) = [action for action in world.told if isinstance(action, a.GroupRefused)]
    assert strategy in refused.reason


def test_a_group_is_reserved_whole_or_not_at_all() -> None:
    """As long as one bundle has no place, nothing is taken."""
    world = World(capacity(cpus=2))
    world.submit(request(1, plain=False))
    world.tell(e.GroupAsked((7, 1), (e.Need(), e.Need()), "pack"))
    assert world.core.nodes[0].ledger.cpus == UNIT
    world.finish((1, 1))
    assert _places(world) == [0, 0]
    assert world.core.nodes[0].ledger.cpus == 0


def test_tasks_of_a_group_run_in_what_it_has() -> None:
    """And what it has is nobody else's, until it is released and its tasks have ended."""
    world = World(capacity(cpus=2))
    world.tell(e.GroupAsked((7, 1), (e.Need(), e.Need()), "pack"))
    inside = e.Need(group=(7, 1))
    world.submit(request(1, plain=False), *(request(number, need=inside, plain=False) for number in (2, 3, 4)))
    assert world.running() == [(1, 2), (1, 3)]
    world.tell(e.GroupReleased((7, 1)))
    assert world.ended[1, 4].outcome == "dropped"
    assert (1, 1) not in world.running()
    world.finish((1, 2))
    world.finish((1, 3))
    assert world.running() == [(1, 1)]


def test_a_released_group_ends_with_its_last_actor() -> None:
    """An actor keeps its bundle as long as it lives."""
    world = World(capacity(cpus=1))
    world.tell(e.GroupAsked((7, 1), (e.Need(),), "pack"))
    world.submit(create(1, need=e.Need(group=(7, 1))), request(2, plain=False))
    world.finish((1, 1))
    world.tell(e.GroupReleased((7, 1)))
    assert not world.running()
    world.tell(e.ActorReleased((5, 1)))
    assert world.running() == [(1, 2)]
    assert not world.core.groups.groups


def test_lost_bundles_are_placed_anew_and_the_others_stay() -> None:
    """A node's end moves only what was on it."""
    world = World(*(capacity(f"n{number}", cpus=1) for number in range(3)))
    world.tell(e.GroupAsked((7, 1), (e.Need(), e.Need()), "strict_spread"))
    world.told.clear()
    world.lose_host(1)
    assert _places(world) == [0, 2]


def test_an_old_group_is_not_kept_waiting_by_small_work() -> None:
    """Tasks that come later do not take what it needs."""
    world = World(capacity(cpus=2))
    world.submit(request(1, plain=False))
    world.tell(e.GroupAsked((7, 1), (e.Need(), e.Need()), "strict_pack"))
    number = 1
    for _ in range(30):
        number += 1
        world.now += 0.3
        world.submit(request(number, plain=False))
        if [action for action in world.told if isinstance(action, a.GroupReserved)]:
            return
        world.finish(world.running()[0])
    raise AssertionError("the group was never reserved")


# ---- what is waited for -----------------------------------------------------------------------------


def test_every_unfinished_task_has_a_reason() -> None:
    """For people, in one line each."""
    world = World(capacity(cpus=1, memory=100))
    world.submit(
        request(1, output=1, plain=False),
        request(2, 1),
        request(3, 99),
        request(4, need=e.Need(memory=50), plain=False),
        create(5),
        call(6, 5),
    )
    world.tell(e.Blocked(0, 1, (1, 1), 1, ((9, 4),)))
    waits = world.core.waits()
    assert set(waits) == set(world.live)
    assert "waits inside itself for (9, 4)" in waits[1, 1]
    assert "task (1, 1) makes" in waits[1, 2]
    assert "nobody who is known makes" in waits[1, 3]
    assert "runs" in waits[1, 4]
    assert "to be free" in waits[1, 5]
    assert "actor (5, 5) to be made" in waits[1, 6]
