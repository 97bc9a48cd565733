"""Runs of one engine beside each other: what a run's idle stateful object holds must not be waited for by another for ever.

A stateful object keeps its worker and its devices also while it has nothing to do. Within a run the core sees to it that
such an object gives way (core/actors.py); a run knows nothing of others, so between runs the engine looks: when an attempt
has waited for a while, and it asks for devices or named resources, or nothing else of its run goes on, the idle objects
of the other runs give way. Their state is on record: the next call has them built again.

Only on the engine's thread. May import the run core and what it imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagengine.core.core import RunCore
from dagengine.core.events import PatienceOver
from dagengine.core.states import Phase

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine

PATIENCE_SECONDS: Final = 1.0


class Neighbours:
    """Of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cores: dict[Driver, RunCore] = {}
        self._watched: set[Driver] = set()

    def submitted(self, driver: Driver, core: RunCore) -> None:
        """The run has handed attempts to the runtime."""
        self._cores[driver] = core
        if len(self._cores) > 1 and driver not in self._watched and self._others(driver):
            self._watch(driver, core)

    def forget(self, driver: Driver) -> None:
        """The run is not this engine's any more."""
        self._cores.pop(driver, None)
        self._watched.discard(driver)

    def _others(self, driver: Driver) -> list[tuple[Driver, RunCore]]:
        """Runs that have stateful objects."""
        return [(other, core) for other, core in self._cores.items() if other is not driver and core.instances]

    def _watch(self, driver: Driver, core: RunCore) -> None:
        self._watched.add(driver)
        waited = _waiting(core)
        self._engine.after(PATIENCE_SECONDS, driver, lambda: self._look(driver, core, waited))

    def _look(self, driver: Driver, core: RunCore, waited: set[tuple[int, int]]) -> None:
        self._watched.discard(driver)
        others = self._others(driver)
        still = waited & _waiting(core)
        if not others or not (still or _waiting(core)):
            return
        if still and (_is_stuck(core) or any(_wants_more(core, seq) for seq, _ in still)):
            for other, _ in others:
                self._engine.tell(other, [PatienceOver(others=True)])
        self._watch(driver, core)


def _waiting(core: RunCore) -> set[tuple[int, int]]:
    """Attempts that the runtime has, and has not started."""
    return {(step.seq, step.attempt) for step in core.steps.values() if step.phase is Phase.SUBMITTED}


def _is_stuck(core: RunCore) -> bool:
    return not any(step.phase is Phase.RUNNING for step in core.steps.values())


def _wants_more(core: RunCore, seq: int) -> bool:
    """Than a cpu, which others give back."""
    options = core.options[core.steps[seq].definition]
    return bool(options.gpus or options.gpu_memory or options.resources)
