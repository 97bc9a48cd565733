"""What can be said of a task's cache, validated when it is said. May import errors and units only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from inspect import Parameter, Signature
from typing import Any

from dagengine.errors import BadOption
from dagengine.units import parse_duration

SCOPES = ("run", "family", "project")

EnvironmentValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Cache:
    """A task whose values are used again by calls with the same code, arguments and environment.

    scope: who shares them: all runs of the store ("project"), the forks of one run ("family"), or one run ("run")
    max_age: how old a value may be: seconds, "7d", a timedelta; None: any age
    env: what else the value depends on: names of environment variables, or names with values, such as a data version
    refresh: compute anew, and replace what is kept
    """

    scope: str = "project"
    max_age: float | str | timedelta | None = None
    env: Mapping[str, EnvironmentValue] | Iterable[str] = ()
    refresh: bool = False

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise BadOption(f"cache scope={self.scope!r} has to be one of {', '.join(SCOPES)}.")
        if self.max_age is not None:
            object.__setattr__(self, "max_age", _age(self.max_age))
        object.__setattr__(self, "env", _environment(self.env))
        if not isinstance(self.refresh, bool):
            raise BadOption(f"cache refresh={self.refresh!r} has to be True or False.")

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"scope": self.scope, "max_age": self.max_age, "env": _said(self.env)}
        return {**said, "refresh": self.refresh}


def cache_option(value: object) -> Cache | None:
    """The option `cache` of a task, as it is written or recorded. Raises BadOption."""
    if value is None or value is False:
        return None
    if value is True:
        return Cache()
    if isinstance(value, Cache):
        return value
    if isinstance(value, dict):  # recorded
        return Cache(**value)
    raise BadOption(f"cache={value!r} has to be True, False or a Cache(scope=, max_age=, env=, refresh=).")


def _age(value: object) -> float:
    try:
        seconds = float(parse_duration(value))  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise BadOption(f'cache max_age={value!r} is no length of time, as in 3600 or "7d": {error}') from None
    if not math.isfinite(seconds) or seconds <= 0:
        raise BadOption(f"cache max_age={value!r} has to be more than nothing.")
    return seconds


def _environment(value: object) -> tuple[tuple[str, EnvironmentValue] | str, ...]:
    """Names, and (name, value) pairs, in order. A name alone is a variable, read when the value is looked for."""
    if isinstance(value, str):
        raise BadOption(f"cache env={value!r} has to be a list of names, or a dict of names with values.")
    parts = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(parts, Iterable):
        raise BadOption(f"cache env={value!r} has to be a list of names, or a dict of names with values.")
    found: list[tuple[str, EnvironmentValue] | str] = []
    for part in parts:
        if isinstance(part, str):
            found.append(part)
            continue
        if not isinstance(part, (tuple, list)) or len(part) != 2:
            raise BadOption(
                f"cache env: {part!r} is no name of an environment variable. For values, give a dict of names."
            )
        name, said = part
        if not isinstance(name, str):
            raise BadOption(f"cache env: the name {name!r} has to be a text.")
        if said is not None and type(said) not in (str, int, float, bool):
            raise BadOption(
                f"cache env: {name} is of type {type(said).__qualname__}, which has no lasting hash. Give a text or a"
                " number in its place, such as its version or digest."
            )
        found.append((name, said))
    return tuple(sorted(found, key=lambda part: part if isinstance(part, str) else part[0]))


def _said(env: object) -> list[Any]:
    assert isinstance(env, tuple)
    return [part if isinstance(part, str) else list(part) for part in env]


def parameters_of(signature: Signature) -> list[str | None]:
    """Under which names the positional arguments of a call stand in its key: `f(1)` and `f(x=1)` are the same. None for one
    that can't be given by name."""
    named, unnamed = Parameter.POSITIONAL_OR_KEYWORD, Parameter.POSITIONAL_ONLY
    found = [parameter for parameter in signature.parameters.values() if parameter.kind in (named, unnamed)]
    return [parameter.name if parameter.kind is named else None for parameter in found]
