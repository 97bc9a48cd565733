"""Running seeds: one, many, a failing one again with a trace, and a failing one cut down to what it takes.

May import nothing of ours but the simulator's other modules and the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dagengine.runtime.core.machine import Scheduler
from dagengine.runtime.simulation.scenario import Scenario, make
from dagengine.runtime.simulation.world import Log, Report, World

Maker = Callable[[], Scheduler]

LARGE_TASKS = 50
"""Of a scenario: with fewer, the core's invariants are checked after each event; with more, after every third."""


def run(
    scenario: Scenario,
    trace: Callable[[str], None] | None = None,
    scheduler: Maker = Scheduler,
    check_every: int | None = None,
    record: bool = False,
) -> Report:
    """Raises what the run was stopped by: a Violation, or an error of the core's own."""
    if check_every is None:
        check_every = 1 if sum(len(unit.plans) for unit in scenario.units) < LARGE_TASKS else 3
    return World(scenario, check_every, trace, record, scheduler).run()


def trouble(scenario: Scenario, scheduler: Maker = Scheduler, check_every: int | None = None) -> str | None:
    """What stops the run, as one line; None: nothing does."""
    try:
        run(scenario, scheduler=scheduler, check_every=check_every)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def failing(seeds: Iterable[int], scheduler: Maker = Scheduler) -> list[tuple[int, str]]:
    """The seeds whose runs are stopped, and by what."""
    stopped = ((seed, trouble(make(seed), scheduler)) for seed in seeds)
    return [(seed, what) for seed, what in stopped if what is not None]


def shrink(scenario: Scenario, scheduler: Maker = Scheduler) -> Scenario:
    """The smallest part of a failing scenario that was found to fail as well; maybe in another way."""
    changed = True
    while changed:
        changed = False
        for unit in scenario.units:
            smaller = scenario.without({unit.number}, set())
            if smaller.units and trouble(smaller, scheduler) is not None:
                scenario, changed = smaller, True
        for place in reversed(range(len(scenario.faults))):
            smaller = scenario.without(set(), {place})
            if trouble(smaller, scheduler) is not None:
                scenario, changed = smaller, True
    return scenario


def replay(log: Log, scheduler: Maker = Scheduler) -> tuple[list[list[object]], str]:
    """The events of a recorded run, given to a new core: its answers, and the hash of what it then knows."""
    core = scheduler()
    answers: list[list[object]] = [list(core.apply(event, now)) for event, now in log]
    return answers, core.state_hash()
