"""Python text, written so that people can read and change it: expressions over several lines where one is too long.

Pure: values in, text out. What has no literal of its own is refused, never guessed. Imports nothing of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PosixPath
from typing import Any

WIDTH = 110

_PLAIN = (bool, int, bytes, type(None))


class Code(str):
    """A piece of Python, as it is."""

    __slots__ = ()


class NoLiteral(Exception):
    """There is no literal for a value. Says what it is."""


def literal(value: Any, *, templated: bool = False) -> Any:
    """The value as `written` takes it: of lists, tuples, dicts, and Code. Raises NoLiteral.

    templated: Airflow takes its texts for templates, so those that would not come through as they are say so.
    """
    if isinstance(value, Code) or type(value) in _PLAIN:
        return value
    if type(value) is float:
        if not math.isfinite(value):
            return Code(f'float("{value}")')
        return value
    if type(value) is str:
        if templated and ("{" in value or value.endswith("\n")):
            return Code(f"literal({text(value)})")
        return value
    if type(value) in (list, tuple):
        return type(value)(literal(part, templated=templated) for part in value)
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                raise NoLiteral(f"a dict whose keys are not text ({key!r:.50})")
        return {key: literal(part, templated=templated) for key, part in value.items()}
    kind = type(value)
    if kind in (Path, PosixPath):
        return Code(f"Path({text(str(value))})")
    raise NoLiteral(f"an object of {kind.__module__}.{kind.__qualname__}")


def written(value: Any, indent: int = 0, used: int = 0) -> str:
    """The expression. indent: spaces before what stands on lines of its own; used: characters before it on its line."""
    flat = _flat(value)
    if len(flat) + indent + used <= WIDTH or not isinstance(value, (list, tuple, dict)) or not value:
        return flat
    inner = " " * (indent + 4)
    if isinstance(value, dict):
        parts = [f"{_flat(key)}: {written(part, indent + 4, len(_flat(key)) + 3)}" for key, part in value.items()]
    else:
        parts = [written(part, indent + 4, 1) for part in value]
    opening, closing = {list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}")}[type(value)]
    body = "".join(f"{inner}{part},\n" for part in parts)
    return f"{opening}\n{body}{' ' * indent}{closing}"


def called(function: str, args: Sequence[Any], keywords: dict[str, Any], indent: int = 0, used: int = 0) -> str:
    """A call, over several lines where it is too long for one."""
    flat = [_flat(value) for value in args] + [f"{name}={_flat(value)}" for name, value in keywords.items()]
    line = f"{function}({', '.join(flat)})"
    if len(line) + indent + used <= WIDTH:
        return line
    inner = " " * (indent + 4)
    parts = [written(value, indent + 4, 1) for value in args]
    parts += [f"{name}={written(value, indent + 4, len(name) + 2)}" for name, value in keywords.items()]
    return f"{function}(\n{''.join(f'{inner}{part},' + chr(10) for part in parts)}{' ' * indent})"


def text(value: str) -> str:
    """A text in double quotes, as people write it."""
    plain = repr(value)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain


def _flat(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_flat(key)}: {_flat(part)}' for key, part in value.items())}}}"
    return repr(value)
