"""The end of runs in the store in memory: removed whole, or only their values; and which artifacts are still referred to.

May import nothing of ours but model, the interface and modules of storage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from dagengine.model import PayloadInput, ProcessRecord, RunState
from dagengine.storage.interface import EndedRun
from dagengine.storage.lifetime_notes import (
    NOTE_EXPIRED,
    expired_runs,
    forget_run,
    next_expired,
    note_cleared,
    payloads_of_side_tables,
    pins,
)
from dagengine.storage.lookup import run_changed, run_owned
from dagengine.storage.memory_run import Run
from dagengine.storage.writer import GroupWriter

T = TypeVar("T")

ENDED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH, RunState.INTERRUPTED)


class MemoryLifetime:
    """What the store in memory does of the interface's section on lifetime."""

    _lock: threading.RLock
    _runs: dict[str, Run]
    _by_number: dict[int, Run]
    _writer: GroupWriter

    def side(self, work: Callable[[Any], T], write: bool = True) -> T:
        raise NotImplementedError

    def _reading(self) -> threading.RLock:
        raise NotImplementedError

    def _whole(self, run_id: str) -> Run:
        raise NotImplementedError

    def remove_run(
        self, run_id: str, alive: Callable[[ProcessRecord], bool], at: float, seen: EndedRun | None = None
    ) -> None:
        def remove() -> None:
            with self._lock:
                run = self._whole(run_id).record
                if run.state is RunState.RUNNING and run.owner is not None and alive(run.owner):
                    raise run_owned(run_id, run.owner)
                if seen is not None and not self._is(seen):
                    raise run_changed(run_id)
                del self._runs[run_id], self._by_number[run.number]
                forget_run(self, run.number)

        self._writer.call(remove)

    def _is(self, seen: EndedRun) -> bool:
        """Whether the run is as it was seen, and not pinned."""
        run = self._by_number.get(seen.number)
        same = run is not None and (run.record.token, run.record.state) == (seen.token, seen.state)
        return same and seen.number not in pins(self)

    def clear_removed(self) -> bool:
        return False

    def expire_values(self, run: EndedRun, at: float) -> bool:
        def expire() -> bool:
            with self._lock:
                if not self._is(run):
                    return False
                self.side(lambda connection: NOTE_EXPIRED(connection, run=run.number, at=at, cleared=0), write=False)
                return True

        return self._writer.call(expire)

    def clear_expired(self) -> bool:
        found = next_expired(self)
        if found is None:
            return False
        with self._reading():
            run = self._by_number.get(found)
            for step in run.steps.values() if run else ():
                if step.value is not None:
                    step.value = step.value._replace(inline=None)
        note_cleared(self, found)
        return True

    def expired_runs(self) -> dict[int, float]:
        return expired_runs(self)

    def ended_runs(self, before: float, after: int, limit: int) -> list[EndedRun]:
        pinned = pins(self)
        with self._reading():
            records = [run.record for number, run in sorted(self._by_number.items()) if number > after]
        return [
            EndedRun(run.number, run.id, run.state, run.token, run.created_at, run.finished_at, run.steps)
            for run in records
            if run.state in ENDED and run.created_at < before and run.number not in pinned
        ][:limit]

    def artifacts_of(self, run_number: int) -> Iterator[tuple[str, int]]:
        with self._reading():
            run = self._by_number.get(run_number)
            named = list(run.artifacts()) if run else []
        yield from named

    def referenced(self, digests: Iterable[str]) -> set[str]:
        expired = self.expired_runs()
        with self._reading():
            runs = [run for number, run in self._by_number.items() if number not in expired]
            named = {digest for run in runs for digest, _ in run.artifacts()}
        return named.intersection(digests)

    def payloads(self) -> set[str]:
        expired = self.expired_runs()
        with self._reading():
            records = [run.record for number, run in self._by_number.items() if number not in expired]
        named = {
            part.digest
            for run in records
            for part in (*run.inputs, *run.result_inputs)
            if isinstance(part, PayloadInput)
        }
        return named | payloads_of_side_tables(self)

    def codes(self, after: int = 0) -> tuple[set[str], int]:
        with self._reading():
            records = [run.record for number, run in self._by_number.items() if number > after]
        found = {run.code for run in records if run.code is not None}
        return found, max((run.number for run in records), default=after)

    def forget_processes(self, alive: Callable[[ProcessRecord], bool], at: float) -> int:
        return 0  # a process is known by the runs that it owns
