"""What a task does with the world so that it counts once: parts that are remembered, checkpoints, jobs elsewhere.

Works within an attempt, by asking the engine (dagengine/questions.py). Where there is no run, in a unit test, say, the
same code does its work and remembers nothing.

    once       found? ──▶ that.  Else: call it ──▶ note what it returned, durable ──▶ return it
    external   handle noted? ──────────────────────────────────────────────┐
               intent noted? ──▶ find(key) ──▶ a job? ─▶ note its handle ──┼──▶ poll … ──▶ result
                    │ no              └ none, or no `find` ┐               │
                    └──▶ note the intent ──▶ submit(key) ◀─┘ ─▶ note handle ┘

May import errors, values, scopes and the runtime's way to whoever submitted.
"""

from __future__ import annotations

import inspect
import json
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from dagengine.errors import BadArguments, DefinitionError
from dagengine.runtime import current, owner
from dagengine.scopes import current_scope
from dagengine.values import encode

T = TypeVar("T")
H = TypeVar("H")

NAME_MAX: Final = 200
PROGRESS_MAX: Final = 4_096
"""Bytes of JSON. What a heartbeat says is for people, who look at a line of it."""

BEAT_SECONDS: Final = 1.0
"""Heartbeats come no closer than this; a shorter `heartbeat_timeout` has them come four times within it."""


class PendingType:
    """The type of `Pending`."""

    def __repr__(self) -> str:
        return "Pending"

    def __reduce__(self) -> str:
        return "Pending"


Pending: Final = PendingType()
"""What the `poll` of `context().external` returns as long as there is no result."""

_locks: WeakValueDictionary[Any, Any] = WeakValueDictionary()
_guard = threading.Lock()
_beats: dict[Any, float] = {}


class _Lock:
    def __init__(self) -> None:
        self.lock = threading.RLock()


def _in_attempt(what: str) -> bool:
    """Whether this is the code of a run's step. Raises DefinitionError where it can't be told, or can't be done."""
    facts = current.context.get()
    if facts is not None:
        if "transaction" in facts:
            raise DefinitionError(
                f"{what} in a transactional task: what it does counts once already, with context().connection."
            )
        return owner.within()
    if current_scope.get() is not None:
        raise DefinitionError(f"{what} in the body of a workflow: it is for tasks. In a body, call a task.")
    if current.link is not None:
        raise DefinitionError(
            f"{what} on a thread that the task has started: call it on the task's own, or start the thread with "
            "contextvars.copy_context().run."
        )
    return False


def _find(name: str) -> list[Any] | None:
    """[the value] that an attempt at this step has noted, or None."""
    found = owner.ask({"about": "find", "name": name})
    return None if found is None else [owner.open_value(found[0])]


def _save(name: str, value: Any, what: str, path: str) -> None:
    owner.ask({"about": "save", "name": name}, encode(value, what, path))


def _checked(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or not name.isprintable():
        raise BadArguments(f"the name {name!r:.100} has to be 1 to {NAME_MAX} printable characters.")
    return name


def _plain(function: object, what: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise BadArguments(
            f"{what} takes plain functions, and {function.__qualname__} is async. In an async task: await "
            f"asyncio.to_thread(context().{what.removesuffix('()')}, ...) with plain ones."
        )


def once(name: str, function: Callable[[], T]) -> T:
    """As Context.once."""
    _checked(name)
    _plain(function, "once()")
    if not _in_attempt("once()"):
        return function()
    memo = f"once:{name}"
    with _guard:
        alone = _locks.setdefault((current.task.get(), name), _Lock())
    with alone.lock:
        found = _find(memo)
        if found is not None:
            value: T = found[0]
            return value
        value = function()
        _save(memo, value, f"what once({name!r}) is to remember", "result")
        return value


def checkpoint(state: Any) -> None:
    """As Context.checkpoint."""
    if _in_attempt("checkpoint()"):
        _save("checkpoint", state, "the checkpoint", "state")


def restored(default: Any) -> Any:
    """As Context.restored."""
    if not _in_attempt("restored()"):
        return default
    found = _find("checkpoint")
    return default if found is None else found[0]


def external(
    key: str,
    submit: Callable[[str], H],
    poll: Callable[[H], T | PendingType],
    *,
    cancel: Callable[[H], object] | None = None,
    find: Callable[[str], H | None] | None = None,
    every: float = 10.0,
    name: str = "job",
) -> T:
    """As Context.external. `key`: the idempotency key for the job."""
    _checked(name)
    for given in (submit, poll, cancel, find):
        _plain(given, "external()")
    if not isinstance(every, (int, float)) or isinstance(every, bool) or not 0 <= every < float("inf"):
        raise BadArguments(f"every={every!r} has to be a number of seconds of at least 0.")
    job = _Job(key, submit, find, name) if _in_attempt("external()") else _Job(key, submit, find, None)
    try:
        handle = job.attach()
        while True:
            result = poll(handle)
            if not isinstance(result, PendingType):
                return result
            time.sleep(every)
    except current.Terminated:
        if cancel is not None and job.name is not None and owner.ask({"about": "ending"}):
            job.give_up(cancel)
        raise


class _Job:
    """A job elsewhere. `name`: under which it is noted; None: it is not."""

    def __init__(self, key: str, submit: Callable[[str], H], find: Callable[[str], H | None] | None, name: str | None):
        self.name = name
        self._key = key
        self._submit = submit
        self._find = find
        self._handle: list[Any] | None = None

    def attach(self) -> Any:
        """The job's handle: of the one that an earlier attempt has submitted, or of a new one."""
        if self.name is None:
            return self._submit(self._key)
        self._handle = _find(f"external:{self.name}:handle")
        if self._handle is None:
            self._handle = [self._found_or_new()]
            _save(f"external:{self.name}:handle", self._handle[0], "the handle of a job", "handle")
        return self._handle[0]

    def _found_or_new(self) -> Any:
        intent = f"external:{self.name}:intent"
        if _find(intent) is None:
            _save(intent, self._key, "the key of a job", "key")
        elif self._find is not None:
            handle = self._find(self._key)
            if handle is not None:
                return handle
        return self._submit(self._key)

    def give_up(self, cancel: Callable[[Any], object]) -> None:
        """The run is cancelled, and the job with it."""
        handle = self._handle[0] if self._handle is not None else None
        if handle is None and self._find is not None:
            handle = self._find(self._key)
        if handle is not None:
            cancel(handle)


def heartbeat(progress: Any, timeout: float | None) -> None:
    """As Context.heartbeat. `timeout`: the task's `heartbeat_timeout`."""
    task = current.task.get()
    if task is None or current.context.get() is None or not owner.within():
        return
    if len(json.dumps(progress, default=_no_json)) > PROGRESS_MAX:
        raise BadArguments(f"heartbeat() takes a short note on the progress: at most {PROGRESS_MAX:,} bytes of JSON.")
    now = time.monotonic()
    last = _beats.get(task)
    if last is not None and now - last < min(BEAT_SECONDS, (timeout or 4 * BEAT_SECONDS) / 4):
        return
    if len(_beats) > 64:
        _beats.clear()
    _beats[task] = now
    owner.tell({"about": "heartbeat", "progress": progress})


def _no_json(value: object) -> Any:
    raise BadArguments(f"heartbeat() takes a number, a text, or a small dict of them, not {type(value).__qualname__}.")
