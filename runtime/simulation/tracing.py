"""Events and actions as people read them: a task by its id, ids with dots, and nothing that is as it usually is.

May import nothing of ours but the core's words.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from dagengine.runtime.core.events import Capacity, Request


def shown(thing: Any) -> str:
    if isinstance(thing, Request):
        return f"task {_name(thing.id)}"
    if isinstance(thing, Capacity):
        return thing.name
    if hasattr(thing, "_fields"):
        defaults = thing._field_defaults
        parts = [
            f"{field}={shown(getattr(thing, field))}"
            for field in thing._fields
            if field not in defaults or getattr(thing, field) != defaults[field]
        ]
        return f"{type(thing).__name__}({', '.join(parts)})"
    if is_dataclass(thing):
        parts = [
            f"{field.name}={shown(getattr(thing, field.name))}"
            for field in fields(thing)
            if field.default is MISSING or getattr(thing, field.name) != field.default
        ]
        return f"{type(thing).__name__}({', '.join(parts)})"
    if isinstance(thing, tuple) and thing and all(isinstance(part, int) for part in thing):
        return _name(thing)
    if isinstance(thing, (list, tuple)):
        return f"[{', '.join(map(shown, thing))}]"
    if isinstance(thing, float):
        return f"{thing:.4f}"
    return f"{thing:,}" if isinstance(thing, int) and not isinstance(thing, bool) else repr(thing)


def _name(id_: tuple[int, ...]) -> str:
    return ".".join(map(str, id_))
