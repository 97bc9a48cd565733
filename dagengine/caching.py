"""Looking for the values of steps in the cache, claiming what has to be computed, and waiting for who computes it.

    steps are LOOKING ─▶ keys (off the engine's thread: arguments are decoded) ─▶ entries
        a value, of the right age, whose bytes are there          ─▶ CacheHit
        nothing, or a claim of a run that nobody works on         ─▶ claimed ─▶ CacheMissed, kept with the step's end
        a claim of a step at work                                 ─▶ asked again when it ends (or after a while: it may
                                                                     be at work in another process)
        no key: a value among its inputs is not recorded, …       ─▶ CacheMissed, not kept

A key is made of the function's name and fingerprint, the arguments (refs by the digests of their values), the declared
environment and the scope. What cannot be answered, for whatever reason, is a miss: the step runs.

May import everything of the workflow layer but the engine.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from dagengine.cache_options import Cache
from dagengine.calls import ByDigest, argument_digests
from dagengine.core.events import CacheHit, CacheMissed, Event
from dagengine.core.states import Phase
from dagengine.errors import ArtifactDamaged, ArtifactMissing, DagengineError, RunNotFound
from dagengine.identity import is_alive
from dagengine.model import Definition, Input, PayloadInput, RunState, StepInput, Value
from dagengine.storage import caching
from dagengine.storage.caching import CacheEntry, Claimed
from dagengine.storage.origins import origin
from dagengine.values import decode

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine
    from dagengine.storage.interface import Store

AGAIN_SECONDS = (0.2, 5.0)
"""After what time, at first and at most, it is looked again whether a step of another process has ended."""

FAMILY_MAX = 1_000
"""Forks of forks that are followed to the run that they came from."""


@dataclass(slots=True)
class Wanted:
    """A step that is looking for its value."""

    driver: Driver
    seq: int
    key: str  # of the step
    call: bytes
    inputs: tuple[Input, ...]
    definition: Definition
    cache: Cache
    refresh: bool
    waited: float = 0.0
    parts: dict[str, str] = field(default_factory=dict)
    cache_key: str = ""
    scope: str = ""
    why_not: str = ""

    @property
    def claim(self) -> str:
        return claim_of(self.driver, self.seq)


class Caching:
    """Of one engine. `look` and `ended` are called on its thread; the rest is done on one of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[str, list[Wanted]] = {}  # by claim: of the step that computes it
        self._families: dict[str, str] = {}

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "cache")

    def close(self) -> None:
        if "_thread" in vars(self):
            self._thread.shutdown(cancel_futures=True)

    def look(self, driver: Driver, seqs: Sequence[int]) -> None:
        """Answer each with CacheHit or CacheMissed, now or later."""
        refresh = set(driver.record.facts.get("refresh", ()))
        wanted = []
        for seq in seqs:
            step = driver._core.steps[seq]
            definition = driver.definitions[step.definition]
            cache = driver._core.options[step.definition].cache
            assert isinstance(cache, Cache)
            assert step.call is not None
            anew = cache.refresh or bool(refresh & {"all", step.key, definition.name})
            wanted.append(Wanted(driver, seq, step.key, step.call, step.inputs, definition, cache, anew))
        self._thread.submit(self._look, driver, wanted)

    def ended(self, driver: Driver, seqs: Iterable[int]) -> None:
        """Steps of the run have ended: what waits for one of them looks again."""
        if self._waiting:
            for seq in seqs:
                self._again(claim_of(driver, seq))

    def _again(self, claim: str) -> None:
        looking: dict[Driver, list[Wanted]] = {}
        for wanted in self._waiting.pop(claim, ()):
            step = wanted.driver._core.steps.get(wanted.seq)
            if step is not None and step.phase is Phase.LOOKING and not wanted.driver.ended.is_set():
                looking.setdefault(wanted.driver, []).append(wanted)
        for driver, some in looking.items():
            self._thread.submit(self._look, driver, some)

    def _wait(self, wanted: Wanted, claim: str) -> None:
        """Look again when the step that computes the value ends, or after a while. On the engine's thread."""
        first, most = AGAIN_SECONDS
        waiting = self._waiting.setdefault(claim, [])
        waiting.append(wanted)
        if len(waiting) == 1:
            wanted.waited = min(most, wanted.waited * 2 or first)
            self._engine.after(wanted.waited, wanted.driver, lambda: self._again(claim))

    # ---- on the thread ------------------------------------------------------------------------

    def _look(self, driver: Driver, wanted: list[Wanted]) -> None:
        try:
            told = self._answers(driver, wanted)
        except Exception as error:  # a cache that can't be asked costs time, and nothing else
            why = f"the cache could not be asked: {type(error).__name__}: {error}"
            told = [_missed(one, "uncacheable", why) for one in wanted]
        if told:
            self._engine.tell(driver, told)

    def _answers(self, driver: Driver, wanted: list[Wanted]) -> list[Event]:
        store = self._engine.store
        _add_keys(store, driver.claim.run_number, [one for one in wanted if not one.cache_key], self._scope)
        told: list[Event] = [_missed(one, "uncacheable", one.why_not) for one in wanted if one.why_not]
        left = [one for one in wanted if not one.why_not]
        entries = caching.find(store, [one.cache_key for one in left])
        to_claim: list[tuple[Wanted, Claimed, str]] = []
        claimed: dict[str, str] = {}
        for one in left:
            entry = entries.get(one.cache_key)
            refused = self._refused(one, entry)
            if refused is None:
                assert entry is not None
                told.append(_hit(one, entry))
            elif refused == BUSY or one.cache_key in claimed:
                by = claimed[one.cache_key] if entry is None or one.cache_key in claimed else entry.mark
                self._engine.tell(driver, partial(self._wait, one, by))
            else:
                claimed[one.cache_key] = one.claim
                to_claim.append((one, Claimed(_claim_of(one), "" if entry is None else entry.mark), refused))
        made = caching.claim(store, [claim for _, claim, _ in to_claim]) if to_claim else set()
        for one, _, why in to_claim:
            if one.cache_key in made:
                outcome = "refresh" if one.refresh else "miss"
                told.append(_missed(one, outcome, why or self._nearest(one), one.cache_key))
            else:
                self._engine.tell(driver, partial(self._wait, one, one.cache_key))
        return told

    def _refused(self, wanted: Wanted, entry: CacheEntry | None) -> str | None:
        """None: the entry's value may be used. BUSY: it is being computed. Else why it has to be computed, or ""."""
        if entry is None:
            return ""
        value = entry.value
        if value is None:
            mine = entry.mark == wanted.claim
            return BUSY if not mine and is_at_work(self._engine.store, entry) else "nobody computes it any more"
        if wanted.refresh:
            return "it was asked to be computed anew"
        age = time.time() - entry.at
        if wanted.cache.max_age is not None and age > float(wanted.cache.max_age):  # type: ignore[arg-type]
            return f"the value of run {entry.of_run} is {age:.0f} s old, and may be {wanted.cache.max_age:g} s"
        try:
            self._verify(value)
        except (ArtifactMissing, ArtifactDamaged) as error:
            return f"the value of run {entry.of_run} can't be used: {error}"
        return None

    def _verify(self, value: Value) -> None:
        if value.inline is not None:
            found = hashlib.sha256(value.inline).hexdigest()
        else:
            path = self._engine.artifacts.local_path(value.digest, value.size)
            if not self._engine.keeping.must_verify(value.digest):
                return
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != value.digest:
            if value.inline is None:  # else it would be in the way of the same bytes, whole
                self._engine.artifacts.discard(value.digest, time.time() + 1, lambda: False)
            raise ArtifactDamaged(f"its bytes are not those of digest {value.digest[:12]}", digest=value.digest)

    def _scope(self, wanted: Wanted) -> str:
        if wanted.cache.scope == "project":
            return "project"
        if wanted.cache.scope == "run":
            return wanted.driver.run_id
        found = self._families.get(wanted.driver.run_id)
        if found is None:
            found = self._families[wanted.driver.run_id] = family_of(self._engine.store, wanted.driver.run_id)
        return found

    def _nearest(self, wanted: Wanted) -> str:
        """In what the nearest entry of the same task differs."""
        others = caching.of_task(self._engine.store, wanted.definition.name)
        if not others:
            return f"no value of {wanted.definition.name} was kept"
        nearest = min(others, key=lambda entry: len(_differing(entry.parts, wanted.parts)))
        parts = ", ".join(_differing(nearest.parts, wanted.parts)) or "its scope"
        return f"nearest is the value of run {nearest.of_run}, step {nearest.seq}, which differs in: {parts}"


BUSY = "busy"


def claim_of(driver: Driver, seq: int) -> str:
    return f"{driver.run_id}/{driver.claim.token}/{seq}"


def _add_keys(store: Store, run_number: int, wanted: list[Wanted], scope_of: Any) -> None:
    """Find the keys, or why there is none."""
    seqs = {item.seq for one in wanted for item in one.inputs if isinstance(item, StepInput)}
    values = values_of(store, run_number, seqs)
    for one in wanted:
        if not one.definition.fingerprint:
            one.why_not = "the code of its function is not known"
            continue
        try:
            found = [
                ByDigest(item.digest) if isinstance(item, PayloadInput) else values(item.seq) for item in one.inputs
            ]
            arguments = argument_digests(one.call, found, one.definition.options.get("parameters", ()))
        except _Unrecorded:
            one.why_not = "a value that it reads is not recorded (checkpoint=False)"
            continue
        except Exception as error:
            one.why_not = f"its arguments can't be read here: {type(error).__name__}: {error}"
            continue
        environment = {f"environment {name}": _digest(said) for name, said in environment_of(one.cache)}
        one.parts = {"function": one.definition.fingerprint, **arguments, **environment}
        one.scope = scope_of(one)
        one.cache_key = _digest((one.definition.name, one.scope, sorted(one.parts.items())))


class _Unrecorded(Exception):
    """A step has no recorded value."""


def values_of(store: Store, run_number: int, seqs: set[int]) -> Callable[[int], Any]:
    """What stands for a step's value in a key: a small value itself, so that it counts by what it is; a large one by its
    digest; of a list of steps' values, the list."""
    values = store.values(run_number, sorted(seqs))
    inner = {seq for value in values.values() if value.items is not None for seq in range(*_ends(value.items))}
    within = values_of(store, run_number, inner) if inner else None

    def value_of(seq: int) -> Any:
        value = values.get(seq)
        if value is not None and value.items is not None and within is not None:
            return [within(item) for item in range(*_ends(value.items))]
        if value is None or not value.digest:
            raise _Unrecorded
        return ByDigest(value.digest) if value.inline is None else decode(value.inline)

    return value_of


def _ends(items: tuple[int, int]) -> tuple[int, int]:
    first, count = items
    return first, first + count


def environment_of(cache: Cache) -> list[tuple[str, object]]:
    """The declared environment as it is here and now."""
    assert isinstance(cache.env, tuple)
    return [(part, os.environ.get(part)) if isinstance(part, str) else part for part in cache.env]


def family_of(store: Store, run_id: str) -> str:
    """The run that this one is a fork of a fork … of."""
    found = run_id
    for _ in range(FAMILY_MAX):
        try:
            before = store.find_run(found).forked_from
        except RunNotFound:
            break
        if before is None:
            break
        found = before
    return found


def is_at_work(store: Store, entry: CacheEntry) -> bool:
    """Whether the step that has claimed the entry may still come to its end."""
    run_id, token, _ = entry.mark.rsplit("/", 2)
    try:
        run = store.find_run(run_id)
    except RunNotFound:
        return False
    if run.state is not RunState.RUNNING or run.token != int(token) or run.lease_expired:
        return False
    return run.owner is not None and is_alive(run.owner)


def _digest(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [part for part in {**one, **other} if one.get(part) != other.get(part)]


def _claim_of(wanted: Wanted) -> CacheEntry:
    return CacheEntry(
        wanted.cache_key,
        wanted.definition.name,
        wanted.scope,
        wanted.claim,
        wanted.driver.run_id,
        wanted.seq,
        wanted.parts,
        time.time(),
        None,
        None,
        None,
    )


def _hit(wanted: Wanted, entry: CacheEntry) -> CacheHit:
    assert entry.value is not None
    source = {"by": "cache", "run": entry.of_run, "seq": entry.seq}
    said = caching.used(wanted.seq, wanted.cache_key, "hit", f"the value of run {entry.of_run}, step {entry.seq}")
    return CacheHit(wanted.seq, entry.value, (origin(wanted.seq, source), said))


def _missed(wanted: Wanted, outcome: str, why: str, key: str = "") -> CacheMissed:
    said = caching.used(wanted.seq, wanted.cache_key, outcome, why)
    return CacheMissed(wanted.seq, key, wanted.claim if key else "", (said,))


def entries_named(store: Store, name: str) -> list[CacheEntry]:
    """The entries whose key begins with `name`, or that are of the task of that name."""
    found = [entry for entry in caching.entries(store) if entry.task == name or entry.key.startswith(name)]
    if not found:
        raise DagengineError(
            f"there is nothing in the cache of a task or with a key {name}. To see: dagengine cache ls"
        )
    return found
