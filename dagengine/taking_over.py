"""What is asked of the store when a run is taken over, beside its frontier.

May import model, options, the pure core's words and the store's interface.
"""

from __future__ import annotations

from dagengine.core.cautious import UNKNOWN
from dagengine.core.compensation import Ending
from dagengine.model import AttemptRecord, Frontier, StepKind
from dagengine.storage.interface import Store


def vanished_attempts(store: Store, run_number: int, frontier: Frontier) -> dict[int, AttemptRecord]:
    """Of unfinished steps that are started at most once: the last attempt, where nobody knows how it ended."""
    cautious = {found.number for found in frontier.definitions if found.options.get("at_most_once")}
    if not cautious:
        return {}
    vanished = {}
    for step in frontier.steps:
        if step.definition in cautious and step.kind is not StepKind.MAP and step.attempts:
            attempts = store.attempts(run_number, seq=step.seq)
            if attempts and attempts[-1].outcome in (None, UNKNOWN):
                vanished[step.seq] = attempts[-1]
    return vanished


def compensation_of(store: Store, run_number: int, frontier: Frontier) -> Ending | None:
    """How the run ends when it is compensated; None: it is not being compensated."""
    if not any("undo" in found.options for found in frontier.definitions):
        return None
    from dagengine.storage.compensation import requested

    return requested(store, run_number)
