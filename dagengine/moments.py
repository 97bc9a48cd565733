"""What a body may ask of the world: the time, chance, to sleep, and for events. Outside of a run it is the plain thing.

In a body each is a step. `now`, `random` and `uuid` are recorded when they are called and answered from the record when
the body is called again. `sleep`, `timer` and `wait_event` survive whatever happens: a timer is due a fixed time after it
was recorded, an event is kept from when it was sent. A run that only waits is let go of and costs nothing meanwhile.

    sleep("1d")                                       the body waits
    first([fetch(url), timer("30s")])                 a ref, beside others
    wait_event("paid", timeout="7d", default=None)    what `dagengine signal RUN paid 12.50` sends

May import errors, model, refs, scopes, units and values.
"""

from __future__ import annotations

import random as chance
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from dagengine.errors import BadArguments, DefinitionError
from dagengine.model import INLINE_LIMIT, StepKind
from dagengine.refs import Ref, body_of
from dagengine.scopes import Scope, current_scope
from dagengine.units import parse_duration
from dagengine.values import encode

T = TypeVar("T")
Duration = str | float | timedelta

EVENT_NAME = 200
"""Characters of an event's name."""


class _NoOptions:
    def to_json(self) -> dict[str, Any]:
        return {}


class Builtin:
    """What a step of this module is a call of."""

    settings = _NoOptions()

    def __init__(self, name: str) -> None:
        self.name = name
        self.__name__ = name
        self.__qualname__ = name
        self.__module__ = __name__


_NOW, _RANDOM, _UUID = Builtin("now"), Builtin("random"), Builtin("uuid")
_SLEEP, _TIMER, _EVENT = Builtin("sleep"), Builtin("timer"), Builtin("event")


# ---- values that the body computes itself -----------------------------------------------------


def now() -> datetime:
    """The time, in UTC. In a body: when it was first asked for."""
    scope = current_scope.get()
    seconds = time.time() if scope is None else _known(scope, _NOW, scope.body.stage.now)
    return datetime.fromtimestamp(seconds, UTC)


def random() -> float:
    """A random number in [0, 1). In a body: always the same one; `random.Random(dagengine.random())` makes more of it."""
    scope = current_scope.get()
    return chance.random() if scope is None else _known(scope, _RANDOM, chance.random)


def uuid() -> UUID:
    """A random UUID. In a body: always the same one."""
    scope = current_scope.get()
    return uuid4() if scope is None else _known(scope, _UUID, uuid4)


def _known(scope: Scope, called: Builtin, compute: Callable[[], T]) -> T:
    value: T = scope.body.known(scope.key(called.name), called, compute)
    return value


# ---- time -------------------------------------------------------------------------------------


def sleep(duration: Duration) -> None:
    """Wait for so long: `"1d"`, `"1h30m"`, seconds, or a timedelta. Raises BadArguments.

    In an async body this blocks the other branches: use `aio.sleep`.
    """
    seconds = _seconds(duration, "sleep")
    scope = current_scope.get()
    if scope is None:
        time.sleep(seconds)
        return
    ref = _timer(scope, _SLEEP, seconds)
    body_of(ref).wait([ref])[0].value()


def timer(duration: Duration) -> Any:
    """A ref, to None, that is there after so long: to be waited for with others. Outside of a run: None, at once."""
    seconds = _seconds(duration, "timer")
    scope = current_scope.get()
    return None if scope is None else _timer(scope, _TIMER, seconds)


def start_sleep(duration: Duration) -> Ref | float:
    """For `aio.sleep`: the ref to wait for, or outside of a run the seconds."""
    seconds = _seconds(duration, "sleep")
    scope = current_scope.get()
    return seconds if scope is None else _timer(scope, _SLEEP, seconds)


def _timer(scope: Scope, called: Builtin, seconds: float) -> Ref:
    return scope.body.call_outside(scope.key(called.name), StepKind.TIMER, called, (seconds,))


def _seconds(duration: Duration, what: str) -> float:
    try:
        return float(parse_duration(duration))
    except (ValueError, TypeError):
        raise BadArguments(
            f"{what}({duration!r}): say how long, from 0 on, in seconds or as in '90s', '1h30m', '2d'."
        ) from None


# ---- events -----------------------------------------------------------------------------------


class _Missing:
    def __repr__(self) -> str:
        return "raise EventTimeout"


MISSING: Any = _Missing()


def event(name: str, timeout: Duration | None = None, default: Any = MISSING) -> Any:
    """A ref to what is sent to this run under that name: the first that nobody else in the run was given.

    After `timeout`, it is `default`, or fails with EventTimeout. Only in a body; raises DefinitionError elsewhere.
    """
    check_name(name)
    return start_event(name, name, timeout, default)


def wait_event(name: str, timeout: Duration | None = None, default: Any = MISSING) -> Any:
    """Wait for what is sent to this run under that name: `dagengine signal RUN NAME [PAYLOAD]`, or `signal`.

    After `timeout` the answer is `default`, or EventTimeout is raised. In an async body: `aio.wait_event`.
    """
    ref = event(name, timeout, default)
    return body_of(ref).wait([ref])[0].value()


def start_event(name: str, shown: str, timeout: Duration | None, default: Any = MISSING, kind: str = "event") -> Ref:
    """Begin to wait for the event `name`, in a key with `shown` in it."""
    scope = current_scope.get()
    if scope is None:
        raise DefinitionError(f"{kind} {shown!r} can only be waited for in the body of a workflow's run.")
    facts: dict[str, Any] = {}
    if timeout is not None:
        facts["timeout"] = _seconds(timeout, f"timeout of {kind} {shown!r}: ")
    if default is not MISSING:
        facts["default"] = _small(default, shown)
    return scope.body.call_outside(scope.key(f"{shown}.{kind}"), StepKind.EVENT, _EVENT, (name,), **facts)


def _small(default: Any, name: str) -> bytes:
    encoded = encode(default, f"the default of event {name!r}")
    if encoded.placeholders or encoded.size > INLINE_LIMIT:
        raise BadArguments(f"the default of event {name!r} has to be a small value, and no ref.")
    return encoded.to_bytes()


def check_name(name: object) -> None:
    """Raises BadArguments if this is no name for an event."""
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= EVENT_NAME
        or not name.isprintable()
        or any(character in "/[]:" for character in name)
    ):
        raise BadArguments(f"{name!r:.100} can't name an event: use 1 to {EVENT_NAME} printable characters, no / [ ] :")
