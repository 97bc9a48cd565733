"""Tasks that kill their workers, again and again, are not given a further one.

A task is known by its function and the part of its id that its attempts share. Only deaths count that a process brings
upon itself: nobody is blamed for a SIGKILL or SIGTERM, which others send, or for the kernel's lack of memory.

May import nothing of ours but model and runtime modules.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from dagengine.model import Failure
from dagengine.runtime.protocol import TaskId, TaskSpec

DEATHS: Final = 3

REMEMBERED: Final = 10_000
"""Tasks that have killed a worker, the latest. One that was forgotten gets three more."""

_BY_OTHERS: Final = ("SIGKILL", "SIGTERM")


class Quarantine:
    def __init__(self) -> None:
        self._deaths: OrderedDict[tuple[int, TaskId], tuple[int, Failure]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._deaths)

    def died(self, spec: TaskSpec, failure: Failure) -> Failure:
        """An attempt died by itself with this failure. The failure to tell."""
        signal = failure.facts.get("signal")
        if (
            failure.facts.get("oom")
            or signal in _BY_OTHERS
            or ("signal" not in failure.facts and "exit" not in failure.facts)
        ):
            return failure
        key = _key(spec)
        count = self._deaths.pop(key, (0, failure))[0] + 1
        if count >= DEATHS:
            failure = _quarantined(failure, count)
        self._deaths[key] = count, failure
        if len(self._deaths) > REMEMBERED:
            self._deaths.popitem(last=False)
        return failure

    def refuses(self, spec: TaskSpec) -> Failure | None:
        """Why the task is not to run again, if so."""
        count, failure = self._deaths.get(_key(spec), (0, None))
        return failure if count >= DEATHS else None

    def ended(self, spec: TaskSpec) -> None:
        """An attempt came to its end without killing anybody."""
        self._deaths.pop(_key(spec), None)


def _key(spec: TaskSpec) -> tuple[int, TaskId]:
    return spec.function, spec.id[:-1] if len(spec.id) > 1 else spec.id


def _quarantined(failure: Failure, count: int) -> Failure:
    how = failure.facts.get("signal") or f"exit status {failure.facts.get('exit')}"
    return Failure(
        failure.kind,
        failure.type,
        f"quarantined after killing {count} workers with {how}: it is not run again. Find out what in it does that",
        retriable=False,
        facts={**failure.facts, "quarantined": count},
    )
