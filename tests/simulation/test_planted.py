"""The simulator finds what it is there to find: each planted bug, within a bounded number of seeds.

It has to see them from outside: the core's own invariants are not checked here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dagengine.runtime.core.events import Request, Submitted
from dagengine.runtime.simulation import running
from dagengine.runtime.simulation.graphs import capacity
from dagengine.runtime.simulation.light import LightWorld, Work
from dagengine.runtime.simulation.scenario import make
from tests.simulation import planted

SEEDS = 400
"""A bug that takes more of them than this would be found too late to be of use."""

NEVER = 1 << 30
"""Events between two checks of the core's invariants: more than a run has."""

Plant = Callable[[planted.Patch], None]


@pytest.mark.parametrize("plant", planted.BY_SEEDS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_from_outside(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the nodes, the judge, the values, or because the run does not end; and the same seed passes without the bug."""
    plant(monkeypatch)
    stopped = (seed for seed in range(SEEDS) if running.trouble(make(seed), check_every=NEVER) is not None)
    seed = next(stopped, None)
    assert seed is not None, f"{SEEDS} seeds don't find that {plant.__name__}"
    monkeypatch.undo()
    assert running.trouble(make(seed), check_every=NEVER) is None, f"seed {seed} fails without the bug as well"


def _order() -> list[tuple[int, float, int]]:
    """How tasks of different priorities and ranks begin on one worker: (priority, rank, number) of each."""
    world = LightWorld(capacity(1, 1, 1 << 30), watch=True)
    requests = [
        Request((0, number), 0, priority=number % 3, rank=float(number % 5), spec=Work(0.05)) for number in range(60)
    ]
    world.feed(Submitted(requests))
    world.run(len(requests))
    return [
        (request.priority, request.rank, request.id[1])
        for request in sorted(requests, key=lambda request: world.starts[request.id])
    ]


def _in_order() -> bool:
    begun = _order()
    return begun == sorted(begun, key=lambda task: (-task[0], -task[1], task[2]))


def test_what_goes_first_is_what_should() -> None:
    """Priority, then the longest path, then the order of submission."""
    assert _in_order()


@pytest.mark.parametrize("plant", planted.BY_ORDER, ids=lambda plant: plant.__name__)
def test_a_planted_bug_in_the_order_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only goes first or last wrongly breaks nothing; the order shows it."""
    plant(monkeypatch)
    assert not _in_order()


def test_there_are_many_planted_bugs() -> None:
    """Each of them once."""
    plants = [*planted.BY_SEEDS, *planted.BY_ORDER]
    assert len(plants) == len(set(plants)) >= 25


def test_a_failing_scenario_is_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it still fails, and nothing more can be left out."""
    planted.a_spilled_object_is_dropped_twice(monkeypatch)
    seed = next(seed for seed in range(SEEDS) if running.trouble(make(seed), check_every=NEVER) is not None)
    whole = make(seed)
    small = running.shrink(whole)
    assert running.trouble(small) is not None
    assert len(small.units) + len(small.faults) <= len(whole.units) + len(whole.faults)
    for unit in small.units:
        less = small.without({unit.number}, set())
        assert not less.units or running.trouble(less) is None
    for place in range(len(small.faults)):
        assert running.trouble(small.without(set(), {place})) is None
