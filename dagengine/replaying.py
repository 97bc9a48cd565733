"""What is recorded of a body's calls, when it is called again: each call is found by its key, and held against the record.

May import errors, model, calls, ends, scopes and, for types, stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dagengine.calls import same_call, show_call
from dagengine.ends import BodyStopped
from dagengine.model import Definition, Failure, Input, RecordedCall, StepKind
from dagengine.scopes import outside

if TYPE_CHECKING:
    from dagengine.stages import ReplayStage


class Mismatched(BodyStopped):
    """The body called something else than what is recorded. Carries the failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Replay:
    """Recorded calls by key, read in the order of recording, which is close to the order in which they are asked for."""

    def __init__(self, stage: ReplayStage, recorded: Iterator[RecordedCall]) -> None:
        self._stage = stage
        self._recorded = recorded
        self._passed: dict[str, RecordedCall] = {}

    def answer(
        self, key: str, kind: StepKind, definition: int, call: bytes, inputs: tuple[Input, ...]
    ) -> RecordedCall | None:
        """The recorded step that this call is; None if there is none, or only one that was shared and is not any more.

        Raises Mismatched if another call is recorded in this run under the key.
        """
        recorded = self._find(key)
        if recorded is None:
            return None
        was, now = self._stage.definitions[recorded.definition], self._stage.definitions[definition]
        before, after = (recorded.call, recorded.inputs), (call, inputs)
        same = was.name == now.name and recorded.kind is kind
        with outside():
            same = same and same_call(before, after, self._stage.reader.payload)
        shared = self._stage.shared
        if shared is not None and shared.has(recorded.seq):
            return recorded if shared.stands(recorded, same and _same_function(was, now)) else None
        if not same:
            raise self._mismatch(recorded, show_call(was.name, before), show_call(now.name, after))
        return recorded

    def end(self) -> None:
        """The body has returned: what it has not asked for is no part of it any more."""
        left = [*self._passed.values(), *(call for call in self._recorded if not _is_item(call))]
        self._stage.leave(left)

    def _find(self, key: str) -> RecordedCall | None:
        if key in self._passed:
            return self._passed.pop(key)
        for call in self._recorded:
            if call.key == key:
                return call
            if not _is_item(call):
                self._passed[call.key] = call
        return None

    def _mismatch(self, recorded: RecordedCall, before: str, after: str) -> Mismatched:
        stage, key, seq = self._stage, recorded.key, recorded.seq
        message = (
            f"{key} was recorded as another call than the code makes now; the record stands. Put the code back as it"
            f" was, or fork the run, or let today's calls replace the recorded ones: dagengine resume {stage.run_id[:8]}"
            " --adopt. If the body calls other things after a failure, name its calls: options(key=...)."
        )
        facts = {
            "key": key,
            "difference": f"- {before}\n+ {after}",
            "step": key,
            "seq": seq,
            "below": stage.replayed_below,
        }
        return Mismatched(Failure("mismatch", "dagengine.errors.RunMismatch", message, facts=facts))


def _is_item(call: RecordedCall) -> bool:
    """Items of a map are not called by the body."""
    return ".map[" in call.key.rpartition("/")[0]


def _same_function(was: Definition, now: Definition) -> bool:
    """Of two of one name, one of them a shared step's.

    Where the name leads to it, it is the one function of that name in the run's code. If that is not what the step ran, the
    donor had gone on with other code and kept the step, and so does the fork: one that was to take today's code has dropped
    what differs when it was made. Of what travels by value there may be several.
    """
    if was.reference == now.reference and not {"pickled", "change"} & now.reference.keys():
        return True
    return len({was.fingerprint, now.fingerprint} - {""}) < 2
