"""Whatever happens to a small cluster: the invariants hold after each event, everything ends, nothing is left."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagengine.runtime.core.machine import Scheduler
from tests.runtime.core.life import Life

STEPS = st.lists(st.integers(0, (1 << 20) - 1), max_size=80)


@settings(max_examples=60)
@given(STEPS, st.integers(1, 3))
def test_every_life_with_faults_ends_and_leaves_nothing(steps: list[int], nodes: int) -> None:
    """Lost workers and nodes, failing moves, damaged bytes, lack of memory: after healing all has ended once."""
    life = Life(nodes)
    life.live(steps)
    life.heal()


@settings(max_examples=40)
@given(STEPS, st.integers(1, 3))
def test_a_life_without_faults_loses_nothing(steps: list[int], nodes: int) -> None:
    """When nobody dies, no attempt is lost and no object either."""
    life = Life(nodes, faults=False)
    life.live(steps)
    life.heal()
    assert not life.world.lost
    assert not [ended for ended in life.world.ended.values() if ended.outcome in ("lost", "memory", "timed out")]


@pytest.mark.parametrize("seed", range(40))
def test_long_lives_end(seed: int) -> None:
    """Longer than hypothesis makes them."""
    chance = random.Random(seed)
    life = Life(1 + seed % 3, faults=seed % 2 == 0)
    life.live(chance.randrange(1 << 20) for _ in range(250))
    life.heal()


@pytest.mark.parametrize("seed", range(6))
def test_the_same_events_give_the_same_actions_and_the_same_state(seed: int) -> None:
    """A recorded list of events replays: so each failure in the field becomes a test."""
    chance = random.Random(1000 + seed)
    life = Life(3)
    life.live(chance.randrange(1 << 20) for _ in range(150))
    again, told = Scheduler(), []
    for event, now in life.world.log:
        told += again.apply(event, now)
    assert told == life.world.told
    assert again.state_hash() == life.world.core.state_hash()
