"""Taking runs over: what is asked of the store, beside a run's frontier; and that an engine takes each only once.

May import errors, model, options, the pure core's words and the store's interface.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dagengine.core.cautious import UNKNOWN
from dagengine.core.compensation import Ending
from dagengine.errors import RunOwned
from dagengine.model import AttemptRecord, Frontier, StepKind
from dagengine.storage.interface import Store


class Hands:
    """The runs that an engine is just taking up, on whatever thread.

    The store refuses a run to others while its owner works on it; for the owner itself that is known only when the run
    is among its own. Without this, two threads between the claim and that moment would both have the run: a server that
    takes up a crashed child, and the child's parent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full: dict[str, object] = {}  # run id -> who takes it up

    @contextmanager
    def take(self, run_ids: Iterable[str]) -> Iterator[list[str]]:
        """Those of these runs that nobody else is taking up meanwhile."""
        who = object()
        with self._lock:
            taken = [run_id for run_id in dict.fromkeys(run_ids) if run_id not in self._full]
            self._full.update(dict.fromkeys(taken, who))
        try:
            yield taken
        finally:
            with self._lock:
                for run_id in taken:
                    if self._full.get(run_id) is who:
                        del self._full[run_id]

    def taken_up(self, run_id: str) -> None:
        """The run is among the engine's own. It may end at once, and be taken up again by another thread."""
        with self._lock:
            self._full.pop(run_id, None)


def in_other_hands(run_id: str) -> RunOwned:
    return RunOwned(f"run {run_id[:8]} is being taken up by this process", run_id=run_id, owner="this process")


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
