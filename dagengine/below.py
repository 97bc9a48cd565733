"""The child runs of a run that ends before them: an attached child does not outlive its parent.

    cancelled, or its time is up ─▶ no child is begun any more ─▶ [each is asked to stop, durably] ─▶ the run's end is written

In this order, so that a crash leaves no child that goes on for a parent that is over: either the parent has not ended, and
whoever takes it up hears of the request and asks its children again; or all of them have been asked, and whoever takes up
one of them hears of that. A run that nobody works on is cancelled at once, then its children are; there, to cancel it again
finds those that were left out.

`Below` belongs to one driver; its methods are for the engine's thread, but for `begin`. May import everything of the
workflow layer that the driver may.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from dagengine.afterwards import OVER
from dagengine.children import child_id
from dagengine.continuing import find, last_of
from dagengine.core.states import Stop
from dagengine.core.step import Step
from dagengine.errors import RunError
from dagengine.model import RunRecord, StepKind, StepRecord, StepState
from dagengine.storage.interface import Store
from dagengine.storage.writes import FinishRun, Write

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine


class Below:
    """What one run has begun."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._over = False  # no child is begun any more
        self._asking = 0  # times that this is under way
        self._held: Callable[[], None] | None = None  # writes the run's end

    def begin(self, work: Callable[[], None]) -> None:
        """Begin a child, or go on with it, unless the run is over. On a helper thread."""
        with self._lock:
            if not self._over:
                work()

    def stop(self, steps: Iterable[Step], why: Stop) -> None:
        """The run is being stopped. If that ends it, its attached children are cancelled."""
        if why not in (Stop.CANCEL, Stop.TIMEOUT):
            return
        here = {child_id(self._driver.run_id, step.seq) for step in steps if self._ends_with(step, why)}
        if here or self._driver.stage.replayed_below:
            self._ask(here)

    def taken_over(self) -> None:
        """The run was being undone when its process died: it may not have asked all of its children."""
        self._ask(set())

    def _ask(self, here: set[str]) -> None:
        self._asking += 1
        self._driver.engine.helpers.work_for(self._driver, partial(self._ask_all, here))

    def _ends_with(self, step: Step, why: Stop) -> bool:
        ends = (StepState.CANCELLED, None) if why is Stop.TIMEOUT else (StepState.CANCELLED,)
        if step.kind is not StepKind.CHILD or step.end not in ends:
            return False
        return not self._driver.definitions[step.definition].options.get("detached")

    def _ask_all(self, here: set[str]) -> None:
        """`here`: children of steps that the core knows. Those of steps that were cancelled before are in the record only."""
        driver, engine = self._driver, self._driver.engine
        with self._lock:  # one that is being begun is there when this has it
            self._over = True
        found = [find(engine.store, run_id) for run_id in here]
        if driver.stage.replayed_below:
            found += children_of(engine.store, driver.record)
        for child in found:
            if child is not None:
                with contextlib.suppress(RunError):  # it has ended, or another process has just taken it up
                    engine.cancel(last_of(engine.store, child).id)
        engine.tell(driver, self._asked)

    def holds(self, writes: list[Write], write: Callable[[list[Write]], None]) -> bool:
        """Whether this batch ends the run, and has to wait for what its children are asked; it is written then."""
        if not self._asking or not any(isinstance(part, FinishRun) for part in writes):
            return False
        self._held = partial(write, writes)
        return True

    def _asked(self) -> None:
        self._asking -= 1
        if not self._asking and self._held is not None:
            self._held()


def forsake(engine: Engine, run: RunRecord, superseded: Iterable[tuple[StepRecord, str]]) -> None:
    """Cancel the child runs of steps in whose places others were adopted: nobody waits for them any more."""
    for step, _ in superseded:
        child = find(engine.store, child_id(run.id, step.seq)) if step.kind is StepKind.CHILD else None
        if child is not None and child.state not in OVER:
            engine.cancel(child.id)


def cancel_below(store: Store, parent: RunRecord, at: float) -> Iterator[RunRecord]:
    """Ask the unfinished attached children of a run that nobody works on to stop, and theirs, also those of one that was
    cancelled before: whoever did that may have died before it was done. Yields each that had not ended, as it was."""
    todo = [parent]
    while todo:
        for child in children_of(store, todo.pop()):
            todo.append(child)
            if child.state not in OVER:
                store.request_cancel(child.id, at)
                yield child


def children_of(store: Store, run: RunRecord) -> list[RunRecord]:
    """The runs that its unfinished or cancelled steps have started, and that are attached to it."""
    detached = {found.number for found in store.definitions(run.number) if found.options.get("detached")}
    steps = store.steps(run.number, states=(StepState.WAITING, StepState.CANCELLED))
    seqs = [step.seq for step in steps if step.kind is StepKind.CHILD and step.definition not in detached]
    found = (find(store, child_id(run.id, seq)) for seq in seqs)
    return [last_of(store, child) for child in found if child is not None]
