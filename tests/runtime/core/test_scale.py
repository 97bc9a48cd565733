"""Costs grow with the work, and nothing recurses: deep chains, wide fans, many classes. Counted, not timed."""

from __future__ import annotations

import sys

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.core.invariants import check
from dagengine.runtime.core.machine import Scheduler
from tests.runtime.core.world import capacity

DEEP = 100_000


def scheduler(nodes: int = 1, cpus: int = 2, arena: int = 1_000_000) -> Scheduler:
    core = Scheduler()
    for number in range(nodes):
        core.apply(e.NodeJoined(number, capacity(f"n{number}", cpus=cpus, arena=arena)), 0.0)
    return core


def run_out(core: Scheduler, actions: list[a.Action]) -> list[a.Ended]:
    """Every lease ends at once, inline; returns the ends in their order."""
    ended = []
    while True:
        ended += [action for action in actions if isinstance(action, a.Ended)]
        runs = [action for action in actions if isinstance(action, a.Run)]
        if not runs:
            return ended
        actions = []
        for run in runs:
            results = []
            for request, attempt, *_ in run.leases:
                made = (e.Made(request.output, 10),) if request.output is not None else ()
                results.append(e.Done(request.id, attempt, 0.0001, made))
            actions += core.apply(e.Finished(run.node, run.epoch, results), 0.0)


def chain(length: int) -> list[e.Request]:
    return [
        e.Request((1, i), 1, inputs=((9, i - 1),) if i else (), output=(9, i), rank=float(length - i))
        for i in range(length)
    ]


def test_a_chain_of_100_000_runs_in_order() -> None:
    """Each task after the one whose result it reads."""
    core = scheduler()
    ended = run_out(core, core.apply(e.Submitted(chain(DEEP)), 0.0))
    assert [end.request.id[1] for end in ended] == list(range(DEEP))
    core.apply(e.Freed([(9, i) for i in range(DEEP)]), 0.0)
    assert not core.directory.objects
    assert not core.tasks


def test_the_failure_of_the_first_ends_a_chain_of_100_000() -> None:
    """Iteratively: no stack is deep enough for recursion here."""
    assert sys.getrecursionlimit() < DEEP
    core = scheduler()
    core.apply(e.Submitted(chain(DEEP)), 0.0)
    actions = core.apply(e.Finished(0, 1, [e.Done((1, 0), 1, 0.1, failed=True)]), 0.0)
    assert sum(isinstance(action, a.Ended) and action.outcome == a.Outcome.INPUT for action in actions) == DEEP - 1
    assert not core.tasks


def test_lineage_of_20_000_is_climbed_without_recursion() -> None:
    """The node that had every object is lost; the last is wanted: all are made again, the first one first."""
    length = 20_000
    core = scheduler(2, arena=10**12)
    there = e.Need(node="n1", soft=True)
    for i in range(length):
        inputs = ((9, i - 1),) if i else ()
        core.apply(e.Submitted([e.Request((1, i), 1, there, inputs, (9, i), plain=False)]), 0.0)
        core.apply(e.RoomAsked(1, 1, i, 20_000, (1, i), 1), 0.0)
        core.apply(e.Finished(1, 1, [e.Done((1, i), 1, 0.1, (e.Made((9, i), 20_000, i),))]), 0.0)
    core.apply(e.Freed([(9, i) for i in range(length - 1)]), 0.0)
    core.apply(e.NodeLost(1, 1), 0.0)
    actions = core.apply(e.Wanted((9, length - 1), 0, 1), 0.0)
    assert [run.leases[0].request.id for run in actions if isinstance(run, a.Run)] == [(1, 0)]
    assert len(core.tasks) == length
    run_out(core, actions)
    assert core.directory.objects.keys() == {(9, length - 1)} | core.lineage.ghosts.keys()


def test_a_chain_of_cycles_is_searched_without_recursion() -> None:
    """waits() of a deep graph whose first task waits for what nobody makes."""
    core = scheduler()
    requests = chain(DEEP)
    requests[0].inputs = ((8, 8),)
    core.apply(e.Submitted(requests), 0.0)
    waits = core.waits()
    assert len(waits) == DEEP
    assert "nobody who is known makes" in waits[1, 0]


def test_a_gather_of_many_inputs_costs_each_input_once() -> None:
    """One task that reads 20,000 objects: it is looked at when the last of them exists, not at each."""
    wide = 20_000
    core = scheduler()
    made = [e.Request((1, i), 1, output=(9, i)) for i in range(wide)]
    gather = e.Request((2,), 2, inputs=tuple((9, i) for i in range(wide)), output=(9, wide))
    looks = 0
    place = core.lives.unblock

    def counted(task: object) -> None:
        nonlocal looks
        looks += getattr(task, "request").id == (2,)  # noqa: B009 - any task
        place(task)  # type: ignore[arg-type]

    core.lives.unblock = counted  # type: ignore[method-assign]
    ended = run_out(core, core.apply(e.Submitted([*made, gather]), 0.0))
    assert len(ended) == wide + 1
    assert looks == 1


def test_a_fan_of_readers_ends_without_rest() -> None:
    """One object that 20,000 tasks read: what remembers its readers shrinks with them."""
    wide = 20_000
    core = scheduler()
    requests = [e.Request((1,), 1, output=(9,))] + [e.Request((2, i), 2, inputs=((9,),)) for i in range(wide)]
    run_out(core, core.apply(e.Submitted(requests), 0.0))
    assert len(core.directory.objects[(9,)].readers) <= 16
    check(core)


def test_ended_tasks_leave_nothing() -> None:
    """No table of the core grows with the number of tasks that were."""
    core = scheduler(3)
    for turn in range(50):
        run_out(core, core.apply(e.Submitted([e.Request((turn, i), i % 3) for i in range(100)]), float(turn)))
        needs = [e.Request((turn, 1000 + i), 7, e.Need(memory=10 + i % 2), plain=False) for i in range(10)]
        run_out(core, core.apply(e.Submitted(needs), float(turn)))
    assert not core.tasks
    assert not core.directory.objects
    assert len(core._klasses) <= 3
    assert len(core.timers) <= 1


def test_a_full_cluster_is_not_searched_for_each_new_task() -> None:
    """A class that fits nowhere waits; more tasks of it cost no look at any node."""
    core = scheduler(200, cpus=1)
    core.apply(e.Submitted([e.Request((1, i), 1, plain=False) for i in range(300)]), 0.0)
    looks = 0
    is_open = core.leasing.open

    def counted(node: object) -> bool:
        nonlocal looks
        looks += 1
        return is_open(node)  # type: ignore[arg-type]

    core.leasing.open = counted  # type: ignore[method-assign]
    for i in range(300, 400):
        core.apply(e.Submitted([e.Request((1, i), 1, plain=False)]), 0.0)
    assert looks == 0
