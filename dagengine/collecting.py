"""Collecting what nobody needs any more: rows of runs, their values, artifacts, logs, packs of code.

    collect()       one pass: bounded in time, to be done again, safe beside live runs

A pass goes from what is certain to what is looked for: what is left of removed runs; runs that are too old, or too many;
values that are; then artifacts and packs of code that no row names; and if what is needed is still too much, the values of
the runs that were begun first. Each of its steps is whole by itself, so a pass can be killed anywhere, and the next one goes
on. Runs that have not ended, and pinned ones, are never touched.

May import errors, model, tags, retention, identity and the interfaces of storage.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagengine.errors import RunConflict, RunNotFound, RunOwned
from dagengine.identity import is_alive
from dagengine.model import RunState
from dagengine.retention import DAY, Retention
from dagengine.storage.interface import ArtifactStore, EndedRun, Store, StoredArtifact
from dagengine.tags import Wanted, fits

GRACE_SECONDS = DAY
"""Artifacts that were put since are not collected: their bytes are durable before the row that names them, and whoever
writes the row may be slow, or stopped for a while. And no run that ended since goes for want of room."""

ASKED_AT_ONCE = 500
"""Digests that the store is asked about in one transaction: some milliseconds."""

RUNS_AT_ONCE = 1_000

SHARDS = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class Only:
    """Which runs a pass may touch: in one of these states, with all of these tags; none: any."""

    states: tuple[RunState, ...] = ()
    tags: Wanted = ()

    def has(self, run: EndedRun, tags: Mapping[str, str]) -> bool:
        return (not self.states or run.state in self.states) and fits(tags, self.tags)


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
    needed_bytes: int = 0  # of artifacts that are named; only known where there is a limit to it
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
    only: Only | None = None,
    grace: float = GRACE_SECONDS,
    clock: Callable[[], float] = time.time,
) -> Collected:
    """One pass of at most about `seconds`. `logs`: the folder of the runs' logs, which go with them. `only`: leave other
    runs alone."""
    one = _Pass(
        store,
        artifacts,
        logs,
        retention,
        only or Only(),
        clock(),
        grace,
        time.monotonic() + seconds,
        Collected(dry_run),
    )
    one.go()
    return one.done


@dataclass(slots=True)
class _Pass:
    store: Store
    artifacts: ArtifactStore
    logs: Path | None
    retention: Retention
    only: Only
    now: float
    grace: float
    over: float
    done: Collected

    def go(self) -> None:
        store, done = self.store, self.done
        if not done.dry_run:
            done.temporary_files = self.artifacts.sweep()
            done.processes = store.forget_processes(is_alive, self.now - self.grace)
            self._clear(store.clear_removed)
        expired = set(store.expired_runs())
        self._old(expired)
        self._too_many()
        if not done.dry_run:
            self._clear(store.clear_removed)
            self._clear(store.clear_expired)
        if self.in_time():
            _collect_code(store, done, self.now - self.grace, self.in_time)
        self._sweep()
        if done.complete and self._too_large(expired) and not done.dry_run:
            self._clear(store.clear_expired)
            self._sweep()

    def in_time(self) -> bool:
        self.done.complete = self.done.complete and time.monotonic() < self.over
        return self.done.complete

    def _clear(self, some: Callable[[], bool]) -> None:
        while self.in_time() and some():
            pass

    # ---- runs ---------------------------------------------------------------------------

    def _runs(self, before: float) -> Iterator[tuple[EndedRun, Mapping[str, str]]]:
        """Ended runs that were begun before then, those that were begun first first, with their tags."""
        from dagengine.storage.tags import tags_between

        after = 0
        while found := self.store.ended_runs(before, after, RUNS_AT_ONCE):
            tags = tags_between(self.store, found[0].number, found[-1].number)
            for run in found:
                if not self.in_time():
                    return
                own = tags.get(run.number, {})
                if self.only.has(run, own):
                    yield run, own
            after = found[-1].number

    def _old(self, expired: set[int]) -> None:
        """Runs and values that have been kept long enough."""
        least = self.retention.least()
        if least is None:
            return
        for run, tags in self._runs(self.now - least):
            if self.retention.is_over(run, self.now, tags):
                self._remove(run)
            elif run.number not in expired and self.retention.has_expired(run, self.now, tags):
                self._expire(run)
                expired.add(run.number)

    def _too_many(self) -> None:
        """The runs that were begun first, until the store holds no more steps than it may."""
        most = self.retention.records_max
        if most is None or not self.in_time():
            return
        steps = self.store.figures().steps
        if self.done.dry_run:  # what would be gone by now
            removed = set(self.done.runs)
            steps -= sum(run.steps for run, _ in self._runs(self.now) if run.id in removed)
        known = set(self.done.runs)
        for run, tags in self._runs(self.now - self.grace):
            if steps <= most:
                return
            if run.id in known or not self._may_go(run, tags, records=True):
                continue
            self._remove(run)
            steps -= run.steps

    def _too_large(self, expired: set[int]) -> bool:
        """Expire values of the runs that were begun first, until no more bytes of artifacts are needed than may be.
        Whether any were."""
        most = self.retention.payloads_max
        needed = self.done.needed_bytes
        if most is None or needed <= most:
            return False
        gone = set(self.done.runs)
        elsewhere = self.store.payloads()
        before = len(self.done.expired)
        for run, tags in self._runs(self.now - self.grace):
            if needed <= most:
                break
            if run.number in expired or run.id in gone or not self._may_go(run, tags, records=False):
                continue
            named = dict(self.store.artifacts_of(run.number))
            self._expire(run)
            # Others may name the same ones, and keep them: of a dry run nobody knows.
            kept = elsewhere | (set() if self.done.dry_run else self.store.referenced(named))
            needed -= sum(size for digest, size in named.items() if digest not in kept)
        return len(self.done.expired) > before

    def _may_go(self, run: EndedRun, tags: Mapping[str, str], *, records: bool) -> bool:
        """Whether the run can go for want of room."""
        ended = run.finished_at or run.created_at
        return ended < self.now - self.grace and self.retention.may_be_sacrificed(run, tags, records=records)

    def _remove(self, run: EndedRun) -> None:
        if not self.done.dry_run:
            try:
                remove(self.store, self.logs, run.id, self.now, run)
            except (RunConflict, RunNotFound, RunOwned):  # since it was looked at, somebody has resumed or removed it
                return
        self.done.runs.append(run.id)

    def _expire(self, run: EndedRun) -> None:
        if not self.done.dry_run and not self.store.expire_values(run, self.now):
            return
        self.done.expired.append(run.id)

    # ---- artifacts ----------------------------------------------------------------------

    def _sweep(self) -> None:
        """Artifacts that no row names."""
        if not self.in_time():
            return
        done = self.done
        done.kept_artifacts = done.kept_bytes = done.needed_bytes = 0
        weigh = self.retention.payloads_max is not None
        sweep = _Sweep(self.store, self.artifacts, self.store.payloads(), done, self.now - self.grace, weigh)
        for shard in random.sample(SHARDS, len(SHARDS)):  # so that passes that end early get everywhere in the end
            if not self.in_time():
                break
            sweep.shard(shard)


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


def remove(store: Store, logs: Path | None, run_id: str, at: float, seen: EndedRun | None = None) -> None:
    """The run is gone, with its logs. Raises RunOwned, RunNotFound; RunConflict if it is not as it was `seen`, or pinned."""
    store.remove_run(run_id, is_alive, at, seen)
    if logs is not None:
        with suppress(OSError):
            shutil.rmtree(logs / run_id)


@dataclass(slots=True)
class _Sweep:
    """Artifacts that were put before `before`, and that no row names: neither `payloads`, nor what the store is asked."""

    store: Store
    artifacts: ArtifactStore
    payloads: set[str]
    done: Collected
    before: float
    weigh: bool  # also what is too young to go is asked about: how much is needed

    def shard(self, shard: str) -> None:
        asked: list[StoredArtifact] = []
        for artifact in self.artifacts.listed(shard):
            young = artifact.put_at >= self.before and not self.weigh
            if young or artifact.digest in self.payloads or not _is_digest(artifact.digest):
                self._keep(artifact, needed=artifact.digest in self.payloads)
                continue
            asked.append(artifact)
            if len(asked) == ASKED_AT_ONCE:
                self._discard(asked)
                asked = []
        if asked:
            self._discard(asked)

    def _keep(self, artifact: StoredArtifact, needed: bool) -> None:
        self.done.kept_artifacts += 1
        self.done.kept_bytes += artifact.size
        self.done.needed_bytes += artifact.size if needed else 0

    def _discard(self, asked: list[StoredArtifact]) -> None:
        needed = self.store.referenced([artifact.digest for artifact in asked])
        for artifact in asked:
            stays = artifact.digest in needed or artifact.put_at >= self.before
            freed = 0 if stays else self._remove(artifact)
            if freed:
                self.done.artifacts += 1
                self.done.artifact_bytes += freed
            else:
                self._keep(artifact, needed=artifact.digest in needed)

    def _remove(self, artifact: StoredArtifact) -> int:
        digest = artifact.digest
        if self.done.dry_run:
            return artifact.size
        return self.artifacts.discard(digest, self.before, lambda: bool(self.store.referenced([digest])))


def _is_digest(text: str) -> bool:
    """What else lies there is not ours to remove."""
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)
