"""Thousands of simulated runs, each with its own work and faults: all must end, and nothing may be broken on the way."""

from __future__ import annotations

import pytest

from dagengine.runtime.simulation import running
from dagengine.runtime.simulation.scenario import FAULTS, FEATURES, FULL, make

SEEDS = 2_000
CHUNK = 25


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_seed_runs_to_a_clean_end(first: int) -> None:
    """Run one of them again with `python -m dagengine.runtime.simulation SEED`."""
    found = running.failing(range(first, first + CHUNK))
    assert not found, "\n".join(f"seed {seed}: {what}" for seed, what in found)


def test_the_seeds_use_every_feature_and_every_fault() -> None:
    """No generator has fallen silent: each feature and each fault is in many of the seeds."""
    counts = dict.fromkeys((*FEATURES, *FAULTS, FULL), 0)
    for seed in range(300):
        scenario = make(seed)
        for feature in scenario.features:
            counts[feature] += 1
    assert min(counts.values()) > 15, counts


def test_where_disks_stay_full_for_good_some_tasks_end_for_lack_of_room_and_every_run_ends() -> None:
    """Of the seeds whose disks are never healed, those that need it see the end that the grace time brings."""
    full = [seed for seed in range(1_000) if FULL in make(seed).features]
    ends = [running.run(make(seed), check_every=10).outcomes.get("stalled", 0) for seed in full]
    assert sum(ends) >= 3


@pytest.mark.parametrize("seed", range(40))
def test_a_recorded_run_replays_to_the_same_answers(seed: int) -> None:
    """The events of a run, given to a new core, lead to the same actions and to the same state."""
    report = running.run(make(seed), record=True)
    answers, state = running.replay(report.log)
    assert answers == report.answers
    assert state == report.hash


def test_a_seed_is_the_same_run_each_time() -> None:
    """A failure that was seen once can be seen again."""
    first, second = (running.run(make(11)) for _ in range(2))
    assert (first.events, first.seconds, first.hash) == (second.events, second.seconds, second.hash)


def test_without_faults_every_task_does_what_it_was_to_do() -> None:
    """Where nothing goes wrong and nobody cancels, every task is done, but for those whose inputs fit no arena, and what
    reads what those would have made."""
    calm = frozenset(FEATURES) - {"cancels", "failures", "timeouts", "cycle", "small arena", "actors"}
    for seed in range(20):
        report = running.run(make(seed, calm))
        others = set(report.outcomes) - {"done"}
        assert others in (set(), {"no room"}, {"no room", "input"}), (seed, report.outcomes)
        assert report.outcomes["done"] > 0
