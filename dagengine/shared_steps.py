"""What a forked run shares with its donor, while its body is called.

The shared steps are recorded in the run before its body is called for the first time, with seqs below `below`. A step that
the body then calls as it is recorded *stands*. One that it calls differently is done anew: it is dropped from the run's
record, with everything that was made from it, before the new call is recorded under the same key; and what the body never
called is dropped when it returns. A crash in between leaves shared steps that were not asked for yet, as before.

On the body's thread. May import errors, model, sharing, the events of the core and storage's interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from dagengine.core.events import SharedDropped
from dagengine.errors import RunConflict
from dagengine.model import Frontier, RecordedCall, RunRecord
from dagengine.sharing import Sharing
from dagengine.storage.interface import Store


def fork_facts(run: RunRecord) -> dict[str, Any] | None:
    """What is known of a fork: `below`, `order`, and what was asked for; None of a run that is none."""
    found = run.facts.get("fork")
    return found if isinstance(found, dict) else None


class SharedSteps:
    """Of one forked run, in the hands of its owner. `frontier`: as its owner has found the run."""

    def __init__(
        self, store: Store, run: RunRecord, frontier: Frontier | None, post: Callable[[SharedDropped], None]
    ) -> None:
        facts = fork_facts(run) or {}
        self._store = store
        self._run = run
        self._post = post
        self._below = int(facts.get("below", 0))
        self._given = frozenset(facts.get("given", ()))
        self._asked: set[int] = set()
        self._dropped: set[int] = set()
        self._unfinished = {step.seq for step in frontier.steps} if frontier is not None else set()

    def has(self, seq: int) -> bool:
        return seq < self._below

    def stands(self, recorded: RecordedCall, same: bool) -> bool:
        """Whether the shared step is what the body calls now. `same`: the same function with the same arguments.

        Raises RunConflict where a map of which only some items are done anew would have to be done whole.
        """
        if recorded.seq in self._dropped:
            return False
        if same or recorded.seq in self._given:
            self._asked.add(recorded.seq)
            return True
        self._drop([recorded.seq])
        return False

    def leave(self, calls: Iterable[RecordedCall]) -> None:
        """The body returns. `calls`: what is recorded and was not asked for; with it goes what was made from it."""
        gone = [call.seq for call in calls if self.has(call.seq) and call.seq not in self._dropped]
        self._drop([seq for seq in gone if not self._called_by_kept(seq, set(gone))])

    def _called_by_kept(self, seq: int, gone: set[int]) -> bool:
        """Whether a step that stays has called it, and not the body."""
        caller = self._graph.caller(seq)
        while caller is not None and caller in gone:
            caller = self._graph.caller(caller)
        return caller is not None

    @cached_property
    def _graph(self) -> Sharing:
        return Sharing(self._store.steps(self._run.number), self._store.edges(self._run.number))

    def _drop(self, seqs: list[int]) -> None:
        dropped: set[int] = set()
        chained: tuple[tuple[int, int], ...] = ()
        for seq in seqs:
            if seq not in self._dropped:
                found = self._graph.also(seq, self._dropped)
                more = {one for one in found.dropped if self.has(one)}
                self._dropped |= more
                dropped |= more
                chained += found.chained
        if dropped & self._unfinished:
            key = self._graph.steps[min(dropped & self._unfinished)].key
            raise RunConflict(
                f"the fork was to do single items of {key} anew, which is now made from other values."
                " Fork from the map itself, or from what it reads.",
                run_id=self._run.id,
            )
        if dropped:
            kept = tuple((made, call) for made, call in dict.fromkeys(chained) if call not in self._dropped)
            gone = tuple(sorted(dropped))
            self._post(SharedDropped(gone, tuple(self._graph.steps[seq].task for seq in gone), kept))
