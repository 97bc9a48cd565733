"""What a task costs does not depend on how many there are, nor on how many nodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from dagengine.runtime.core.events import UNIT, Capacity, Request, Submitted
from dagengine.runtime.simulation.graphs import Graph, replay
from dagengine.runtime.simulation.light import LightWorld, Work


def _calls(what: Callable[[], object]) -> int:
    """How many functions it calls: a measure of work that is the same on a busy machine."""
    count = 0

    def tell(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    before = sys.getprofile()
    sys.setprofile(tell)
    try:
        what()
    finally:
        sys.setprofile(before)
    return count


def _independent(tasks: int, nodes: int) -> None:
    capacities = [Capacity(f"n{number}", 4 * UNIT, 1 << 36, 1 << 30, slots=4) for number in range(nodes)]
    world = LightWorld(capacities, batches=True)
    world.feed(Submitted([Request((0, number), number & 7, spec=Work(0.01)) for number in range(tasks)]))
    world.run(tasks)
    assert world.outcomes == {"done": tasks}


def _gather(width: int) -> None:
    parents: list[list[int]] = [[], *[[0] for _ in range(width)], [*range(1, width + 1)]]
    count = width + 2
    graph = Graph([f"{n}" for n in range(count)], parents, [0.001] * count, [100_000] * count)
    assert replay(graph, nodes=2, arena=1 << 34).outcomes == {"done": count}


def test_independent_tasks_cost_the_same_however_many_there_are() -> None:
    """Four times the tasks take four times the calls."""
    few, many = (_calls(partial(_independent, n, 50)) for n in (4_000, 16_000))
    assert many < 4.6 * few


def test_a_task_costs_the_same_on_a_thousand_nodes_as_on_ten() -> None:
    """Nothing looks at all nodes for each task; what each node costs by itself is joined in."""
    few, many = (_calls(partial(_independent, 16_000, n)) for n in (10, 1_000))
    assert many < 4 * few


def test_a_gather_costs_as_much_as_its_inputs() -> None:
    """A fan-in of 2,000 takes four times the calls of one of 500: each input is looked at so many times, not more."""
    few, many = (_calls(partial(_gather, n)) for n in (500, 2_000))
    assert many < 4.6 * few


def test_no_loop_that_is_hidden_from_the_count_grows_with_the_tasks() -> None:
    """The same in time of the processor: quadratic costs would be eight times as much. A processor that is shared may
    take several times as long for the same, so the best of three counts."""

    def seconds(tasks: int) -> float:
        began = time.process_time()
        _independent(tasks, 100)
        return time.process_time() - began

    assert any(seconds(80_000) < 8 * 3 * max(seconds(10_000), 0.01) for _ in range(3))
