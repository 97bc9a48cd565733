"""How long runs are kept, and collecting what nobody needs any more: their rows, their values, artifacts, logs.

    Retention       what may go, decided from a run's record alone (pure)
    collect()       one pass: bounded in time, to be done again, safe beside live runs

A pass goes from what is certain to what is looked for: what is left of removed runs; runs that are too old; values that
are; then artifacts and packs of code that no row names. Each of its steps is whole by itself, so a pass can be killed anywhere, and the next
one goes on. Runs that have not ended, and pinned ones, are never touched.

May import errors, model, config and the interfaces of storage.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagengine.identity import is_alive
from dagengine.model import RunRecord, RunState
from dagengine.storage.interface import ArtifactStore, RunFilter, Store, StoredArtifact

DAY = 86_400.0

GRACE_SECONDS = DAY
"""Artifacts that were put since are not collected: their bytes are durable before the row that names them, and whoever
writes the row may be slow, or stopped for a while."""

ASKED_AT_ONCE = 500
"""Digests that the store is asked about in one transaction: some milliseconds."""

RUNS_AT_ONCE = 200

SHARDS = tuple(f"{number:02x}" for number in range(256))

SUCCEEDED = (RunState.SUCCEEDED,)
UNSUCCESSFUL = (RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH, RunState.INTERRUPTED)
"""Ended, and could be resumed. Paused runs wait for a person, and are kept."""


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many seconds after a run's end things are kept; None: for ever.

    records: the run with all that is recorded of it
    payloads: the values of a run that succeeded; its record stays
    failed_payloads: the same of one that did not, and that can't be resumed from then on
    """

    records: float | None = 90 * DAY
    payloads: float | None = 14 * DAY
    failed_payloads: float | None = 30 * DAY

    def is_over(self, run: RunRecord, now: float) -> bool:
        """Whether the run may be removed."""
        return _older(run, self.records, now)

    def has_expired(self, run: RunRecord, now: float) -> bool:
        """Whether the run's values may go."""
        return _older(run, self.payloads if run.state in SUCCEEDED else self.failed_payloads, now)

    def least(self) -> float | None:
        """Seconds after which anything may go."""
        return min(
            (age for age in (self.records, self.payloads, self.failed_payloads) if age is not None), default=None
        )


def _older(run: RunRecord, age: float | None, now: float) -> bool:
    if age is None or run.state not in (*SUCCEEDED, *UNSUCCESSFUL):
        return False
    return now - (run.finished_at or run.created_at) > age


@dataclass(slots=True)
class Collected:
    """What a pass removed, or with `dry_run` would have. `complete`: it got through everything in its time."""

    dry_run: bool = False
    runs: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    artifacts: int = 0
    artifact_bytes: int = 0
    kept_artifacts: int = 0
    kept_bytes: int = 0
    packs: int = 0
    pack_bytes: int = 0
    temporary_files: int = 0
    processes: int = 0
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def collect(
    store: Store,
    artifacts: ArtifactStore,
    logs: Path | None,
    retention: Retention,
    *,
    seconds: float = 60.0,
    dry_run: bool = False,
    grace: float = GRACE_SECONDS,
    clock: Callable[[], float] = time.time,
) -> Collected:
    """One pass of at most about `seconds`. `logs`: the folder of the runs' logs, which go with them."""
    done = Collected(dry_run)
    over = time.monotonic() + seconds
    now = clock()

    def in_time() -> bool:
        done.complete = done.complete and time.monotonic() < over
        return done.complete

    if not dry_run:
        done.temporary_files = artifacts.sweep()
        done.processes = store.forget_processes(is_alive, now - GRACE_SECONDS)
        while in_time() and store.clear_removed():
            pass
    expired = store.expired_runs()
    for run in _old_runs(store, retention, now):
        if not in_time():
            break
        if retention.is_over(run, now):
            done.runs.append(run.id)
            if not dry_run:
                remove(store, logs, run, now)
        elif retention.has_expired(run, now) and run.number not in expired:
            done.expired.append(run.id)
            if not dry_run:
                store.expire_values(run.number, now)
    if not dry_run:
        while in_time() and (store.clear_removed() or store.clear_expired()):
            pass
    if in_time():
        _collect_code(store, done, now - grace, in_time)
    shards = random.sample(SHARDS, len(SHARDS))  # so that passes that end early get everywhere in the end
    if in_time():
        sweep = _Sweep(store, artifacts, store.payloads(), done, now - grace)
        for shard in shards:
            if not in_time():
                break
            sweep.shard(shard)
    return done


def _collect_code(store: Store, done: Collected, before: float, in_time: Callable[[], bool]) -> None:
    """Packs that neither a run nor a schedule names. Whoever begins a run renews its pack first; whoever forks one while
    we look is among the newest runs, which are asked for again."""
    from dagengine.storage.code import old_packs, packs_gone_on_with, remove_pack
    from dagengine.storage.schedules import all_rows

    old = old_packs(store, before)
    if not old:
        return
    named, last = store.codes()
    named |= packs_gone_on_with(store) | {str(row.settings["facts"].get("code")) for row in all_rows(store)}
    for digest in old.keys() - named:
        if not in_time():
            return
        newer, last = store.codes(last)
        named |= newer
        if digest not in named and (done.dry_run or remove_pack(store, digest, before)):
            done.packs += 1
            done.pack_bytes += old[digest]


def _old_runs(store: Store, retention: Retention, now: float) -> Iterator[RunRecord]:
    """Ended runs that may have something to lose, from the newest to the oldest."""
    least = retention.least()
    if least is None:
        return
    from dagengine.storage.lifetime_notes import pins

    pinned = pins(store)
    for state in (*SUCCEEDED, *UNSUCCESSFUL):
        before = now - least
        while True:
            found = store.runs(RunFilter((state,), before=before, limit=RUNS_AT_ONCE))
            yield from (run for run in found if run.number not in pinned)
            if len(found) < RUNS_AT_ONCE or found[-1].created_at == before:
                break
            before = found[-1].created_at


def remove(store: Store, logs: Path | None, run: RunRecord, at: float) -> None:
    """The run is gone, with its logs. Raises RunOwned, RunNotFound."""
    store.remove_run(run.id, is_alive, at)
    if logs is not None:
        with suppress(OSError):
            shutil.rmtree(logs / run.id)


@dataclass(slots=True)
class _Sweep:
    """Artifacts that were put before `before`, and that no row names: neither `payloads`, nor what the store is asked."""

    store: Store
    artifacts: ArtifactStore
    payloads: set[str]
    done: Collected
    before: float

    def shard(self, shard: str) -> None:
        asked: list[StoredArtifact] = []
        for artifact in self.artifacts.listed(shard):
            if artifact.put_at >= self.before or artifact.digest in self.payloads or not _is_digest(artifact.digest):
                self._keep(artifact)
                continue
            asked.append(artifact)
            if len(asked) == ASKED_AT_ONCE:
                self._discard(asked)
                asked = []
        if asked:
            self._discard(asked)

    def _keep(self, artifact: StoredArtifact) -> None:
        self.done.kept_artifacts += 1
        self.done.kept_bytes += artifact.size

    def _discard(self, asked: list[StoredArtifact]) -> None:
        needed = self.store.referenced([artifact.digest for artifact in asked])
        for artifact in asked:
            freed = 0 if artifact.digest in needed else self._remove(artifact)
            if freed:
                self.done.artifacts += 1
                self.done.artifact_bytes += freed
            else:
                self._keep(artifact)

    def _remove(self, artifact: StoredArtifact) -> int:
        digest = artifact.digest
        if self.done.dry_run:
            return artifact.size
        return self.artifacts.discard(digest, self.before, lambda: bool(self.store.referenced([digest])))


def _is_digest(text: str) -> bool:
    """What else lies there is not ours to remove."""
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)
