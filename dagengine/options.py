"""What can be said of a task or of one call of it, validated when it is said. May import errors,
validation and what is said of caches.

Options are recorded with a run's definitions, as JSON without the defaults; a predicate on exceptions is code, and
stays with the function.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from dagengine.cache_options import Cache, cache_option
from dagengine.errors import BadOption
from dagengine.validation import check_flag, check_integer, check_known, check_number

RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

PRIORITY_MAX = 1_000_000

ELSEWHERE = "elsewhere://"
"""Recorded in place of the URL of `transactional`."""

_URL = re.compile(r"[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://")


@dataclass(frozen=True, slots=True)
class Options:
    """Of a task.

    retries: further attempts after one that failed (an exception, a timeout)
    retry_delay: seconds before the first retry
    backoff: what the delay is multiplied by for each further retry
    max_delay: seconds; no delay is longer
    jitter: share by which a delay is varied at random, 0 to 1, so that retries of many steps don't come together
    retry_on: exception type, tuple of types, or predicate; an exception that does not match is not retried
    timeout: seconds for one attempt, or None
    cpus: workers' worth of processor; memory: bytes that an attempt may need (0: not said)
    gpus: a share of one device if below 1, else whole devices; gpu_memory: bytes on each of them
    resources: amounts of what a machine was declared to have: {"licence": 1}; kept as sorted pairs
    priority: higher goes first among the steps that are ready
    node: the name of the machine to run on
    grace: seconds that an attempt has to end by itself, once it is asked to, before it is killed
    checkpoint: whether the value is recorded. If not, it lives in the memory for objects (or spilled), and is made
        again from its recorded inputs if it is lost
    cache: whether calls with the same code, arguments and declared environment share one value (`Cache`)
    max_depth: how deep the call may be among calls that were deferred by deferred ones
    version: part of the function's fingerprint: another one says that its results are others, though its code may not
    at_most_once: start a step once, and never again by itself, even where nobody knows what it did
    heartbeat_timeout: seconds for which an attempt may be silent (`context().heartbeat()`) before it is ended, or None
    transactional: give the task `context().connection`, whose transaction commits with the record of what it returned:
        True: on the store's database; a SQLAlchemy URL: on that one
    undo: a task that undoes what this one did: called with its result and its arguments when the run is compensated
    name: in step keys instead of the function's name
    key: in place of the ordinal, for one call
    """

    retries: int = 0
    retry_delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 300.0
    jitter: float = 0.1
    retry_on: RetryOn | None = None
    timeout: float | None = None
    cpus: float = 1.0
    memory: int = 0
    gpus: float = 0.0
    gpu_memory: int = 0
    resources: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    priority: int = 0
    node: str | None = None
    grace: float = 2.0
    checkpoint: bool = True
    cache: Cache | bool | None = None
    at_most_once: bool = False
    heartbeat_timeout: float | None = None
    transactional: bool | str = False
    undo: Any = None
    max_depth: int = 1_000
    version: str | None = None
    name: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        check_integer("retries", self.retries, 0)
        check_number("retry_delay", self.retry_delay, 0)
        check_number("backoff", self.backoff, 1)
        check_number("max_delay", self.max_delay, 0)
        check_number("jitter", self.jitter, 0, 1)
        if self.timeout is not None:
            check_number("timeout", self.timeout, 0, above=True)
        check_number("cpus", self.cpus, 0, above=True)
        check_integer("memory", self.memory, 0)
        check_number("gpus", self.gpus, 0)
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise BadOption(f"gpus={self.gpus!r}: below 1 it is a share of one device, above it whole devices.")
        check_integer("gpu_memory", self.gpu_memory, 0)
        if self.gpu_memory and not self.gpus:
            raise BadOption("gpu_memory= is memory on the device of gpus=: say that, too; gpus=0.01 shares a device.")
        object.__setattr__(self, "resources", _amounts(self.resources))
        check_integer("priority", self.priority, -PRIORITY_MAX, PRIORITY_MAX)
        _label("node", self.node)
        check_number("grace", self.grace, 0)
        self._check_effects()
        object.__setattr__(self, "cache", cache_option(self.cache))
        if self.cache is not None:
            self._check_cache()
        check_integer("max_depth", self.max_depth, 1)
        _label("version", self.version)
        _label("name", self.name)
        _label("key", self.key)
        if self.key is not None and self.key.isdigit():
            raise BadOption(f"key={self.key!r} would look like an ordinal. Put a letter into it.")
        if self.retry_on is not None and not (callable(self.retry_on) or isinstance(self.retry_on, tuple)):
            raise BadOption("retry_on takes an exception type, a tuple of them, or a predicate on the exception.")

    def _check_effects(self) -> None:
        check_flag("checkpoint", self.checkpoint)
        check_flag("at_most_once", self.at_most_once)
        if self.at_most_once and self.retries:
            raise BadOption(
                f"at_most_once=True starts a step once, so there are no retries={self.retries}. Leave out one of them."
            )
        if self.heartbeat_timeout is not None:
            check_number("heartbeat_timeout", self.heartbeat_timeout, 0, above=True)
        if not isinstance(self.transactional, bool) and (
            not isinstance(self.transactional, str) or not _URL.match(self.transactional)
        ):
            raise BadOption(
                "transactional= has to be True, for the store's own database, or a SQLAlchemy URL: "
                "postgresql+psycopg://me@host/database."
            )
        if self.undo is not None and not isinstance(getattr(self.undo, "settings", None), Options):
            raise BadOption(f"undo={self.undo!r} is not a task. Decorate it with @task.")
        needs = [name for name in ("at_most_once", "transactional", "undo") if getattr(self, name)]
        if needs and not self.checkpoint:
            raise BadOption(f"{needs[0]}= needs checkpoint=True: a value that is not recorded may be made again.")

    def _check_cache(self) -> None:
        if not self.checkpoint:
            raise BadOption("cache= keeps recorded values, and checkpoint=False records none: say one of them.")
        effect = next((name for name in ("at_most_once", "transactional", "undo") if getattr(self, name)), None)
        if effect is not None:
            raise BadOption(f"{effect}= says that the task changes something, which a value from the cache= does not.")

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after failure number `failures` (1, 2, …). `chance`: a random number in [0, 1)."""
        try:
            delay = self.retry_delay * self.backoff ** (failures - 1)
        except OverflowError:
            delay = math.inf
        return min(delay, self.max_delay) * (1 + self.jitter * (2 * chance - 1))

    def retriable(self, error: BaseException) -> bool:
        """Whether `retry_on` lets this exception be retried."""
        if self.retry_on is None:
            return True
        if isinstance(self.retry_on, (type, tuple)):
            return isinstance(error, self.retry_on)
        return bool(self.retry_on(error))

    def to_json(self) -> dict[str, Any]:
        """For the record: without what is code, and without the passwords in URLs."""
        values = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("retry_on", "key", "undo") and getattr(self, field.name) != field.default
        }
        if isinstance(self.cache, Cache):
            values["cache"] = self.cache.to_json()
        if isinstance(self.transactional, str):
            values["transactional"] = ELSEWHERE
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Options:
        return cls(
            **{name: value for name, value in values.items() if name not in ("undo", "detached", "child", "parameters")}
        )

    def changed(self, **changes: Any) -> Options:
        """A copy with changes. Raises BadOption for an unknown name, with the nearest known one."""
        check_known(changes, (field.name for field in fields(self)))
        return replace(self, **changes)


def _amounts(value: object) -> tuple[tuple[str, float], ...]:
    """`resources` as sorted pairs; it is a mapping where users write it, and a list of lists in JSON."""
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        amounts = sorted((name, amount) for name, amount in pairs)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise BadOption(f'resources={value!r} has to name amounts: {{"licence": 1}}.') from None
    for name, amount in amounts:
        _label("resources", name)
        check_number(f"resources[{name!r}]", amount, 0, above=True)
    return tuple(amounts)


def _label(name: str, value: object) -> None:
    if value is None:
        return
    if (
        not isinstance(value, str)
        or not value
        or len(value) > 200
        or any(c in "/[]" or not c.isprintable() for c in value)
    ):
        raise BadOption(f"{name}={value!r} has to be 1 to 200 printable characters without / [ ].")
