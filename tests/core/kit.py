"""Driving a run core by hand: events in, actions out, and the invariants after each of them."""

from __future__ import annotations

from dagengine.core.actions import Actions
from dagengine.core.core import RunCore
from dagengine.core.events import BodyReturned, Event
from dagengine.core.invariants import check
from dagengine.model import StepState, Value
from dagengine.storage.writes import FinishStep

VALUE = Value("00", 1, b"x")
"""What a step is worth, where that does not matter."""


def go(core: RunCore, *events: Event) -> Actions:
    actions = core.apply(events, 0.0)
    check(core)
    return actions


def returned() -> BodyReturned:
    return BodyReturned(b"", ())


def ends(actions: Actions) -> dict[int, StepState]:
    """By seq: the ends that are to be recorded."""
    return {write.seq: write.state for write in actions.writes if isinstance(write, FinishStep)}
